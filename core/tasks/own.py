"""A step of the user's own, or a model that gives its loss itself."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core import usercode
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.tasks.base import Step, Task, floats
from torchdeck.core.tasks.training_loss import TrainingLoss

#: Keys of what a step returns that are its outputs and targets, for metrics.
_OUTPUTS = ("outputs", "logits", "output", "preds", "predictions")
_TARGETS = ("targets", "target", "labels", "y")


class OwnTask(Task):
    """``task.step``: a function of (model, batch) that returns the loss, or a dict with ``loss`` (or several losses,
    which are added up), any further figures, ``outputs`` and ``targets``. Without a step the model or a loss of the
    user's makes it."""

    resizes = False

    def begin(self) -> None:
        """Load the step."""
        self._reference = self._experiment.task.step
        self._step = usercode.with_writer(usercode.load(self._reference, "task.step")) if self._reference else None
        if self._step is not None and not callable(self._step):
            raise UserError(f"task.step = {self._reference!r} is not a function.", field="task.step")
        self._check_signature()

    def _check_signature(self) -> None:
        """Raises UserError for a step that can't be called with what it gets."""
        if self._step is None:
            return
        gets = ("models", "optimizers", "batch") if self.makes_own_steps else ("model", "batch")
        try:
            inspect.signature(self._step).bind(*gets)
        except TypeError as error:
            raise UserError(
                f"task.step = {self._reference!r} can't be called with ({', '.join(gets)}): {error}; a step takes "
                "(model, batch), or (models, optimizers, batch) where it makes its own optimizer steps.",
                field="task.step",
            ) from None
        except ValueError:  # its signature can't be looked at
            return

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """Run the step, which gives the loss."""
        if self._step is None:
            return super().forward(net, batch)
        try:
            returned = self._step(net, batch.given)
        except RuntimeError as error:
            if _came_from_backward(error):
                raise UserError(
                    f"task.step = {self._reference!r} calls backward() itself: a step of (model, batch) returns the "
                    "loss, of which backward is called for it (in evaluation, while the model does not train, it is "
                    "not); one of (models, optimizers, batch) makes its own optimizer steps.",
                    field="task.step",
                ) from error
            raise
        return self._read(returned, batch)

    def _read(self, returned: Any, batch: Batch) -> Step:
        """What a step returned.

        Raises UserError where there is no loss in it.
        """
        if isinstance(returned, Tensor) and _is_scalar(returned):
            return Step(None, self.targets(batch), batch.size, returned.reshape(()).float())
        if not isinstance(returned, Mapping):
            raise UserError(
                f"task.step = {self._reference!r} returned {_shown(returned)}; the loss is needed (a tensor of one "
                "number), or a dict with it.",
                field="task.step",
            )
        scalars = {str(k): _scalar(v) for k, v in returned.items() if _is_scalar(v)}
        loss = scalars.pop("loss", None)
        if loss is None:
            losses = {name: value for name, value in scalars.items() if "loss" in name.lower()}
            if not losses or "loss" in returned:
                raise self._lacks_loss(returned)
            loss = torch.stack([value.float() for value in losses.values()]).sum()
        outputs = next((returned[key] for key in _OUTPUTS if key in returned), None)
        targets = next((returned[key] for key in _TARGETS if key in returned), self.targets(batch))
        return Step(floats(outputs), targets, batch.size, loss.float(), scalars)

    def _lacks_loss(self, returned: Mapping[Any, Any]) -> UserError:
        """What is wrong with a dict that a step returned."""
        if "loss" in returned:
            what = f"a dict whose 'loss' is {_shown(returned['loss'])}; a tensor of one number is needed"
        else:
            keys = f"a dict with the keys {', '.join(map(str, returned))}" if returned else "an empty dict"
            what = f"{keys}; 'loss' is needed, or several whose names hold 'loss', which are added up"
        return UserError(f"task.step = {self._reference!r} returned {what}.", field="task.step")

    def check(self, step: Step) -> None:
        """Nothing is known of the outputs: the loss is what counts."""


class StepsTask(OwnTask):
    """``task.step``, called with (models, optimizers, batch): it makes its own optimizer steps and returns a dict of
    losses and other figures, each of which is charted. It can't be evaluated."""

    makes_own_steps = True
    #: The shape of one sample of what the first part of the model is called with, which is exported; None where that is
    #: not one tensor.
    part_input: tuple[int, ...] | None = None

    def run(self, models: nn.Module, optimizers: Any, batch: Batch) -> Step:
        """One call of the step, which changes the weights.

        Raises UserError where it does not return a loss.
        """
        assert self._step is not None
        step = self._read(self._step(models, optimizers, batch.given), batch)
        assert step.loss is not None
        step.loss = step.loss.detach().to(self._device)
        step.parts = {name: part.detach().to(self._device, torch.float32) for name, part in step.parts.items()}
        return step

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """Raises UserError: what changes the weights is no evaluation."""
        raise UserError(
            f"task.step = {self._reference!r} makes its own optimizer steps, so that it can't be evaluated; take the "
            "model from the checkpoint (torchdeck export) for that.",
            field="task.step",
        )


def own_task(
    experiment: Experiment,
    info: DataInfo,
    net: nn.Module,
    loss: TrainingLoss | None,
    device: torch.device,
    warn: Callable[[str], None] = lambda text: None,
) -> OwnTask:
    """The task of a step of the user's own, by what it is called with."""
    kind = StepsTask if usercode.makes_own_steps(experiment.task.step) else OwnTask
    return kind(experiment, info, net, loss, device, warn)


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scalar(value: Any) -> Tensor:
    return value.reshape(()) if isinstance(value, Tensor) else torch.tensor(float(value))


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return "a complex number" if value.is_complex() else f"a tensor of the shape {list(value.shape)}"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _came_from_backward(error: BaseException) -> bool:
    """Whether it was raised in a ``backward()`` that somebody called."""
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(code is torch.autograd.backward.__code__ for code in frames)
