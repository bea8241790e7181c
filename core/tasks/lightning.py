"""A LightningModule as it is: its training_step, validation_step and test_step, without a Lightning Trainer.

Interface: lightning.ai/docs/pytorch/stable/common/lightning_module.html.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.batches import Batch
from torchdeck.core.errors import UserError
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.lightning_log import Log, Logged
from torchdeck.core.tasks.lightning_trainer import LightningTrainer, refuse_unsupported
from torchdeck.core.tasks.metrics import Metric


class LightningTask(Task):
    """The steps of a LightningModule, and its hooks in the order in which Lightning calls them."""

    resizes = False

    def begin(self) -> None:
        """Look at the module, and stand in for its trainer."""
        self.module: Any = self._net
        refuse_unsupported(self._net, self._experiment.model.name)
        options = self._experiment.trainer
        self.trainer = LightningTrainer(options.accumulate, options.clip_norm)
        self.log = Log()
        #: Whether the module calls backward and its optimizers' steps itself.
        self.makes_own_backward = not self.module.automatic_optimization
        #: val or test, while such a set is evaluated.
        self._part = "val"
        self._batch = 0
        #: What ``self.optimizers()`` gives, in manual optimisation.
        self.given_optimizers: Any = None

    # --- a step ----------------------------------------------------------------------------------------------------

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """The step of the module, in training or in evaluation, as its mode is. ``net`` is the module, or what calls
        its training_step (among several processes)."""
        module = module_of(net)
        self.log.mode = "train" if module.training else self._part
        with self._attached(module):
            if module.training and torch.is_grad_enabled():
                returned = net(batch.given, self._batch) if net is not module else self.train_step(module, batch.given)
            else:
                returned = self._evaluate(module, batch.given)
        return self._read(returned, batch.size)

    def train_step(self, module: Any, batch: Any) -> Any:
        """What training_step returns."""
        return _called(module.training_step, batch, self._batch)

    def _evaluate(self, module: Any, batch: Any) -> Any:
        hook = "test" if self._part == "test" and _has(module, "test_step") else "validation"
        if hook == "validation" and not _has(module, "validation_step"):
            return _called(module.training_step, batch, self._batch)
        module_hook(module, f"on_{hook}_batch_start", batch, self._batch, 0)
        returned = _called(getattr(module, f"{hook}_step"), batch, self._batch)
        module_hook(module, f"on_{hook}_batch_end", returned, batch, self._batch, 0)
        self._batch += 1
        return returned

    def _read(self, returned: Any, size: int) -> Step:
        """What a step returned, and what it logged meanwhile."""
        parts = self.log.take()
        loss = returned.get("loss") if isinstance(returned, Mapping) else returned
        if isinstance(loss, Tensor) and loss.numel() == 1:
            parts.pop("loss", None)
            return Step(None, None, size, loss.reshape(()).float(), parts)
        return Step(None, None, size, parts.pop("loss", None), parts)

    def add_loss(self, step: Step) -> None:
        """Raises UserError for a training_step without a loss."""
        if step.loss is None:
            raise UserError(
                f"training_step of {self._experiment.model.name!r} returned no loss; it is needed (a tensor of one "
                "number, or a dict with 'loss').",
                field="model.name",
            )

    @contextmanager
    def _attached(self, module: Any) -> Iterator[None]:
        """While this lasts, ``self.log`` of the module is ours; nothing of it is left in the module."""
        own: dict[str, Any] = {"log": self.log.log, "log_dict": self.log.log_dict}
        if self.given_optimizers is not None:
            own["optimizers"] = lambda use_pl_optimizer=True: self.given_optimizers
        module.__dict__.update(own)
        module._trainer = self.trainer
        try:
            yield
        finally:
            for name in own:
                module.__dict__.pop(name, None)

    # --- figures ---------------------------------------------------------------------------------------------------

    def metrics(self, step: Step, samples: int) -> list[Metric]:
        """What the module logs, and its loss."""
        return [Logged(self.log)]

    @property
    def figures(self) -> tuple[str, ...]:
        """None that are known beforehand."""
        return ()

    def check(self, step: Step) -> None:
        """Whatever it gives is right; the loss decides, or the first figure that it logs."""
        if step.loss is None:
            self.decides = next(iter((*step.parts, *self.log.metrics)), "loss")

    def epoch_figures(self) -> dict[str, float]:
        """The metrics that the module logged while training, over the epoch."""
        return self.log.computed()

    # --- hooks -----------------------------------------------------------------------------------------------------

    def fit_began(self, trainer: Any) -> None:
        """Before the first step."""
        self._see(trainer)
        with self._attached(self.module):
            for hook in ("on_fit_start", "on_train_start"):
                module_hook(self.module, hook)

    def epoch_began(self, trainer: Any) -> None:
        """Before the first step of an epoch."""
        self._see(trainer)
        with self._attached(self.module):
            module_hook(self.module, "on_train_epoch_start")

    def step_began(self, batch: Batch, number: int) -> None:
        """Before a batch of training, the ``number``-th of its epoch."""
        self._batch = number
        with self._attached(self.module):
            module_hook(self.module, "on_train_batch_start", batch.given, number)

    def step_ended(self, step: Step, batch: Batch, number: int) -> None:
        """After the optimizer's step."""
        self.trainer.global_step += 1
        with self._attached(self.module):
            module_hook(self.module, "on_train_batch_end", {"loss": step.loss}, batch.given, number)

    def evaluation_began(self, net: Any, part: str) -> None:
        """Before the first batch of an evaluation on ``part`` of the data."""
        self._part, self._batch = part, 0
        self.log.mode = part
        self.log.take()
        self.trainer.training, self.trainer.validating = False, part == "val"
        name = "test" if part == "test" else "validation"
        with self._attached(module_of(net)):
            for hook in (f"on_{name}_start", f"on_{name}_epoch_start"):
                module_hook(module_of(net), hook)

    def evaluation_ended(self, net: Any) -> dict[str, Tensor]:
        """After its last batch; returns what its last hooks have logged."""
        name = "test" if self._part == "test" else "validation"
        with self._attached(module_of(net)):
            for hook in (f"on_{name}_epoch_end", f"on_{name}_end"):
                module_hook(module_of(net), hook)
        self.trainer.training, self.trainer.validating = True, False
        return self.log.take()

    def epoch_ended(self, trainer: Any, figures: Mapping[str, float]) -> dict[str, float]:
        """After an epoch and its validation; what the last hook logs."""
        named = {self.log.names.get(("val", n), n): torch.tensor(v) for n, v in figures.items()}
        self.trainer.callback_metrics.update(named)
        self.log.mode = "train"
        with self._attached(self.module):
            module_hook(self.module, "on_train_epoch_end")
        if self.trainer.should_stop:
            trainer.total_steps = trainer.step
        return {name: float(value) for name, value in self.log.take().items()}

    def fit_ended(self) -> None:
        """After the last step."""
        with self._attached(self.module):
            for hook in ("on_train_end", "on_fit_end"):
                module_hook(self.module, hook)

    def _see(self, trainer: Any) -> None:
        """What of the training a module may read."""
        length = trainer.epoch_length * trainer.experiment.trainer.accumulate
        self.trainer.current_epoch = trainer.step // trainer.epoch_length
        self.trainer.global_step = trainer.step
        self.trainer.max_epochs, self.trainer.max_steps = trainer.total_epochs, trainer.total_steps
        self.trainer.num_training_batches, self.trainer.estimated_stepping_batches = length, trainer.total_steps


def module_of(net: Any) -> Any:
    """The LightningModule in what is called: itself, or what a wrapper of it holds."""
    for name in ("module", "lightning_module"):
        inner = getattr(net, name, None)
        if isinstance(inner, nn.Module) and not hasattr(net, "training_step"):
            return module_of(inner)
    return net


def module_hook(module: Any, name: str, *args: Any) -> Any:
    """Call a hook of the module with as many of ``args`` as it takes."""
    function = getattr(module, name, None)
    return _called(function, *args) if callable(function) else None


def _called(function: Callable[..., Any], *args: Any) -> Any:
    """Call with as many arguments as it takes: steps and hooks may leave out batch_idx and what follows."""
    import inspect

    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return function(*args)
    taken = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return function(*args[:taken])


def _has(module: Any, name: str) -> bool:
    """Whether the user's class defines a step that LightningModule leaves empty."""
    kind = next((k for k in type(module).__mro__ if name in vars(k)), None)
    return kind is not None and kind.__name__ != "LightningModule"
