"""A step of the user's own that makes its own backward passes and optimizer steps, as GANs and actor-critic need."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from torchdeck.core.data.batches import Batch
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices, distributed
from torchdeck.core.tasks.own import StepsTask
from torchdeck.core.training.ema import build_ema
from torchdeck.core.training.optimizers import build_optimizer
from torchdeck.core.training.own_schedules import TorchSchedule, build_schedule
from torchdeck.core.training.schedules import Scheduler
from torchdeck.core.training.step import NotFinite, ema_state, load_ema
from torchdeck.core.training.stepping import Groups, Optimizers, StepOptimizer
from torchdeck.core.training.window import AccumulationWindow

#: What the one optimizer of a model without parts is kept as.
_ALL = "model"


class ManualStep:
    """What a step of the user's own changes (weights, its optimizers, average); it is called as an OptimizerStep is.

    Without parts the step gets the model and one optimizer; else both by the names of the parts: those of
    [model.parts], or the children of a module of the user's that [optimizer.parts] names.
    """

    channels_last = sharded = False

    def __init__(self, experiment: Experiment, net: nn.Module, task: StepsTask, device: torch.device) -> None:
        """Raises UserError for options that such a step has to see to itself."""
        _refuse(experiment)
        options = experiment.trainer
        self.net, self.task = net, task
        self.precision = devices.precision(options.precision, device)
        self._device = device
        self._optimizers = {
            name: StepOptimizer(optimizer, device, self.precision.scaler, options.clip_norm)
            for name, optimizer in _build_optimizers(experiment, net, device).items()
        }
        self._by_parts = bool(experiment.model.parts or experiment.optimizer.parts)
        given = list(self._optimizers.values())
        self._given: Any = Optimizers(self._optimizers) if self._by_parts else given[0]
        self.optimizer = Groups(given)
        self.ema = build_ema(net, options.ema)
        #: The names of what the last call told.
        self.figures: tuple[str, ...] = ()
        if options.compile is True:
            for part in net.children() if self._by_parts else [net]:
                part.compile()

    def __call__(self, batches: list[Batch], window: AccumulationWindow, done: float, measures: bool) -> None:
        """One call of the user's step with the one batch of ``batches``, told to ``window``.

        Raises NotFinite for a figure that is no number: the weights may have been changed by then.
        """
        (batch,) = batches
        for optimizer in self._optimizers.values():
            optimizer.measures, optimizer.gradient_norm = measures, None
        with self.autocast():
            step = self.task.run(self.net, self._given, batch)
        assert step.loss is not None
        told = {"loss": step.loss, **step.parts}
        self.figures = tuple(told)
        if self._device.type == "cpu":
            for name, value in told.items():
                if not math.isfinite(float(value)):
                    raise NotFinite(float(value), name, changed=True)
        distributed.share_buffers(self.net)
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        window.add(step.loss, batch.size, batch.size, step.parts)

    def build_schedule(
        self, experiment: Experiment, total: int, per_epoch: int, tell: Callable[[str], None]
    ) -> Scheduler | TorchSchedule:
        """The schedule of the learning rates of all optimizers."""
        return build_schedule(experiment.schedule, self.optimizer, total, per_epoch, tell)

    def epoch_began(self) -> None:
        """An epoch begins with the next step."""

    @property
    def has_stepped(self) -> bool:
        """Whether any optimizer has made a step."""
        return any(one.steps for one in self._optimizers.values())

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the precision of the training."""
        if self.precision.dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.precision.dtype)

    def take_gradient_norm(self) -> float | None:
        """The norm of the gradients of all optimizers' last steps, where it was measured; waits for the device."""
        norms = [one.gradient_norm for one in self._optimizers.values() if one.gradient_norm is not None]
        for one in self._optimizers.values():
            one.gradient_norm = None
        return float(torch.stack(norms).norm()) if norms else None

    def state_dict(self) -> dict[str, Any]:
        """All that steps change, for a checkpoint. It shares the live tensors."""
        return {
            "model": self.net.state_dict(),
            "loss": None,
            "ema": ema_state(self.ema),
            "optimizer": {name: one.state_dict() for name, one in self._optimizers.items()},
            "scaler": {},
        }

    def load_weights(self, weights: dict[str, Any]) -> None:
        """The weights of a checkpoint."""
        self.net.load_state_dict(weights)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was; the optimizers' options stay those of the experiment.

        Raises UserError for an average that was not kept before, and what torch raises where the state does not fit.
        """
        self.load_weights(state["model"])
        load_ema(self.ema, state["ema"])
        for name, one in self._optimizers.items():
            one.load_state_dict(state["optimizer"][name])


def _refuse(experiment: Experiment) -> None:
    """Raises UserError for options that a step which makes its own optimizer steps has to see to itself."""
    options, step = experiment.trainer, experiment.task.step
    if options.accumulate > 1:
        raise UserError(
            f"trainer.accumulate = {options.accumulate}: task.step = {step!r} makes its own optimizer steps; let it "
            "step once in so many batches instead.",
            field="trainer.accumulate",
        )
    if options.compile == "auto":
        raise UserError(
            f"trainer.compile = 'auto' is not measured for task.step = {step!r}, which makes its own optimizer steps; "
            "set true or false.",
            field="trainer.compile",
        )


def _build_optimizers(
    experiment: Experiment, net: nn.Module, device: torch.device
) -> Mapping[str, torch.optim.Optimizer]:
    """An optimizer for each part that has something to train.

    Raises UserError for a part that is none, and where nothing is left to train.
    """
    options = experiment.optimizer
    if not (experiment.model.parts or options.parts):
        return {_ALL: build_optimizer(options, net, device)}
    children = dict(net.named_children())
    unknown = next((name for name in options.parts if name not in children), None)
    if unknown is not None:
        raise UserError(
            f"optimizer.parts.{unknown}: model.name = {experiment.model.name!r} has no module {unknown!r}; it has "
            f"{', '.join(children)}.",
            field=f"optimizer.parts.{unknown}",
        )
    direct = [name for name, p in net.named_parameters(recurse=False) if p.requires_grad]
    if direct:
        raise UserError(
            f"optimizer.parts: the parameter {direct[0]!r} belongs to no part of the model, so that no optimizer "
            "would train it.",
            field="optimizer.parts",
        )
    trained = {n: m for n, m in children.items() if any(p.requires_grad for p in m.parameters())}
    if not trained:
        raise UserError("The model has no parameter to train.")
    return {name: build_optimizer(options.of_part(name), part, device) for name, part in trained.items()}


def tell(experiment: Experiment, figures: tuple[str, ...], watched: str, warn: Callable[[str], None]) -> None:
    """What such a step means for a run, in a sentence."""
    warn(
        f"task.step = {experiment.task.step!r} makes its own optimizer steps and can't be evaluated: all samples are "
        f"trained on, and the best epoch is chosen by {watched} of the training (trainer.monitor; there are "
        f"{', '.join(figures)})."
    )
