"""A LightningModule as it is: its training_step, validation_step and test_step, without a Lightning Trainer.

Interface: lightning.ai/docs/pytorch/stable/common/lightning_module.html.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.batches import Batch
from torchdeck.core.errors import UserError
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.lightning_log import Log, Logged
from torchdeck.core.tasks.lightning_refusals import refuse_unsupported
from torchdeck.core.tasks.lightning_trainer import LightningTrainer
from torchdeck.core.tasks.metrics import Metric
from torchdeck.core.usercode import user_errors


class LightningTask(Task):
    """The steps of a LightningModule, and its hooks in the order in which Lightning calls them."""

    resizes = False
    keeps_modes = True

    def begin(self) -> None:
        """Look at the module, and stand in for its trainer."""
        self.module: Any = self._net
        refuse_unsupported(self._net, self._experiment.model.name)
        options = self._experiment.trainer
        self.trainer = LightningTrainer(options.accumulate, options.clip_norm, self._experiment.tracking.every_steps)
        self.trainer.strategy.module = self.module
        self.log = Log()
        self.trainer.callback_metrics = self.log.callback_metrics
        #: Whether the module calls backward and its optimizers' steps itself.
        self.makes_own_backward = not self.module.automatic_optimization
        #: val or test, while such a set is evaluated.
        self._part = "val"
        self._evaluated = 0
        #: The number of the batch of training within its epoch.
        self.number = 0
        #: What ``self.optimizers()`` gives.
        self.given_optimizers: Any = None
        #: Whether training_step returned None, which leaves the batch out.
        self.leaves_out = False
        #: What training_step returned.
        self._returned: Any = None
        self._logged = Logged(self.log)
        #: Metrics of the training, while a set is evaluated.
        self._in_training: dict[str, Any] = {}
        self._training: Any = None
        #: Called once the first hooks were, with what a checkpoint kept of the module.
        self.once_began: Callable[[], None] | None = None

    def planned(self, trainer: Any) -> None:
        """How long the training will be, which setup and configure_optimizers may ask for."""
        self._training = trainer
        data, options = trainer.data, trainer.experiment.trainer
        stand_in = self.trainer
        stand_in.max_epochs, stand_in.max_steps = trainer.total_epochs, options.steps or -1
        stand_in.num_training_batches, stand_in.estimated_stepping_batches = len(data.train), trainer.total_steps
        stand_in.num_val_batches = [] if data.val is None else [len(data.val)]

    # --- a step ----------------------------------------------------------------------------------------------------

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """The step of the module, in training or in evaluation, as its mode is. ``net`` is the module, or what calls
        its training_step (among several processes)."""
        module = module_of(net)
        training = module.training and torch.is_grad_enabled()
        self.log.mode = "train" if training else self._part
        with self.attached(module):
            if training:
                number = self.number
                returned = net(batch.given, number) if net is not module else self.train_step(module, batch.given)
                self.leaves_out, self._returned = returned is None, returned
                return self._trained(returned, batch.size)
            return self._judged(self._evaluate(module, self.transferred(module, batch).given), batch.size)

    def train_step(self, module: Any, batch: Any) -> Any:
        """What training_step returns."""
        return _called(module.training_step, batch, self.number)

    def transferred(self, module: Any, batch: Batch) -> Batch:
        """The batch as the hooks around its way to the device make it."""
        given = batch.given
        for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):
            if has(module, hook):
                given = _called(getattr(module, hook), given, 0)
        return batch if given is batch.given else batch._replace(whole=given)

    def _evaluate(self, module: Any, batch: Any) -> Any:
        hook = "test" if self._part == "test" and has(module, "test_step") else "validation"
        if hook == "validation" and not has(module, "validation_step"):
            return _called(module.training_step, batch, self._evaluated)
        module_hook(module, f"on_{hook}_batch_start", batch, self._evaluated, 0)
        returned = _called(getattr(module, f"{hook}_step"), batch, self._evaluated)
        module_hook(module, f"on_{hook}_batch_end", returned, batch, self._evaluated, 0)
        self._evaluated += 1
        return returned

    def _trained(self, returned: Any, size: int) -> Step:
        """What training_step returned, and what was logged meanwhile. The loss is what is learned from."""
        parts = self.log.take()
        self.log.step_made(parts, size)
        loss = _loss_in(returned)
        if loss is not None:
            parts.pop("loss", None)
            return Step(None, None, size, loss.reshape(()).float(), parts)
        return Step(None, None, size, parts.pop("loss", None) if self.makes_own_backward else None, parts)

    def _judged(self, returned: Any, size: int) -> Step:
        """What a step of evaluation logged; what it returned is a loss where it says so, or logs nothing."""
        parts = self.log.take()
        loss = parts.pop("loss", None)
        if loss is None and (isinstance(returned, Mapping) or not (parts or self.log.metrics)):
            loss = _loss_in(returned)
            loss = None if loss is None else loss.reshape(()).float()
        return Step(None, None, size, loss, parts)

    def add_loss(self, step: Step) -> None:
        """Raises UserError for a training_step without a loss."""
        if step.loss is None:
            raise UserError(
                f"training_step of {self._experiment.model.name!r} returned no loss; it is needed (a tensor of one "
                "number, or a dict with 'loss').",
                field="model.name",
            )

    @contextmanager
    def attached(self, module: Any) -> Iterator[None]:
        """While this lasts, ``self.log`` of the module is ours; nothing of it is left in the module."""
        if "log" in module.__dict__:
            yield
            return
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
        self._logged = Logged(self.log)
        return [self._logged]

    @property
    def figures(self) -> tuple[str, ...]:
        """None that are known beforehand."""
        return ()

    def check(self, step: Step) -> None:
        """Whatever it gives is right; the loss decides, or the first figure that it logs."""
        if step.loss is None:
            self.decides = next(iter((*step.parts, *self.log.metrics)), "loss")

    def epoch_figures(self) -> dict[str, float]:
        """What the module logged while training, where its steps' means are not what it asked for."""
        return self.log.epoch_figures()

    # --- hooks -----------------------------------------------------------------------------------------------------

    def fit_began(self, trainer: Any) -> None:
        """Before the first step."""
        self._see(trainer)
        self.number = trainer.step % trainer.epoch_length * trainer.experiment.trainer.accumulate
        self.trainer.should_stop = False
        self._hooks("on_fit_start", "on_train_start")
        if self.once_began is not None:
            self.once_began()
            self.once_began = None

    def epoch_began(self, trainer: Any) -> None:
        """Before the first step of an epoch."""
        self._see(trainer)
        self.number = 0
        self._hooks("on_train_epoch_start")

    def _hooks(self, *names: str) -> None:
        self.log.mode, self.log.in_step = "train", False
        with self.attached(self.module):
            for name in names:
                module_hook(self.module, name)

    def step_began(self, batch: Batch) -> None:
        """Before a batch of training."""
        self.log.mode, self.log.in_step = "train", True
        self.trainer.is_last_batch = self.number + 1 == self.trainer.num_training_batches
        with self.attached(self.module):
            module_hook(self.module, "on_train_batch_start", batch.given, self.number)

    def step_ended(self, batch: Batch, share: float = 1.0) -> None:
        """After what was done with the batch; ``share``: what its loss counts for in the step."""
        told = dict(self._returned) if isinstance(self._returned, Mapping) else {"loss": self._returned}
        if isinstance(told.get("loss"), Tensor):
            told["loss"] = told["loss"].detach() * share
        told = {} if self._returned is None else told
        self._returned = None
        with self.attached(self.module):
            module_hook(self.module, "on_train_batch_end", told, batch.given, self.number)
        self.log.step_ended(batch.size)
        self.log.in_step = False
        self.number += 1
        if self.trainer.should_stop:
            self._training.total_steps = self._training.step + 1  # this step is not counted yet

    def evaluation_began(self, net: Any, part: str) -> None:
        """Before the first batch of an evaluation on ``part`` of the data."""
        self._part, self._evaluated = part, 0
        self.log.mode, self.log.in_step = part, False
        self.log.take()
        self._logged = Logged(self.log)
        self._in_training = {figure: self.log.metrics.pop(figure) for figure in [*self.log.metrics]}
        if part == "val":
            self.module.on_validation_model_zero_grad()
        self.trainer.training = False
        self.trainer.validating, self.trainer.testing = part == "val", part == "test"
        name = "test" if part == "test" else "validation"
        with self.attached(module_of(net)):
            for hook in (f"on_{name}_start", f"on_{name}_epoch_start"):
                module_hook(module_of(net), hook)

    def evaluation_ended(self, net: Any) -> dict[str, Tensor]:
        """After its last batch; returns what its last hooks have logged."""
        name = "test" if self._part == "test" else "validation"
        self.log.told(self._part, self._logged.so_far())
        with self.attached(module_of(net)):
            for hook in (f"on_{name}_epoch_end", f"on_{name}_end"):
                module_hook(module_of(net), hook)
        late = self.log.take()
        self.log.told(self._part, {figure: float(value) for figure, value in late.items()} | self.log.peeked())
        self.trainer.training = True
        self.trainer.validating = self.trainer.testing = False
        return late

    def evaluated(self) -> None:
        """Once the figures of an evaluation are made: metrics that go on over an epoch of training are there again."""
        self.log.metrics.update(self._in_training)

    def epoch_ended(self, trainer: Any, train: Mapping[str, float], val: Mapping[str, float]) -> dict[str, float]:
        """After an epoch and its validation; what the last hook logs."""
        self.log.told("train", train)
        self._hooks("on_train_epoch_end")
        if self.trainer.should_stop:
            trainer.total_steps = trainer.step
        late = {name: float(value) for name, value in self.log.take().items()} | self.log.computed()
        self.log.told("train", late)
        return late

    def fit_ended(self) -> None:
        """After the last step."""
        self._hooks("on_train_end", "on_fit_end")

    def _see(self, trainer: Any) -> None:
        """What of the training a module may read."""
        self.trainer.current_epoch = trainer.step // trainer.epoch_length
        if not self.makes_own_backward:
            self.trainer.global_step = trainer.step


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


def make_layers(module: Any, wanted: Collection[str]) -> None:
    """Call the hooks in which a module may make layers, where it has not all those that weights are ``wanted`` for."""
    for hook, args in (("configure_model", ()), ("setup", ("test",)), ("setup", ("fit",))):
        if set(wanted) <= set(module.state_dict()):
            return
        module._trainer = LightningTrainer(1, None)
        with user_errors():
            module_hook(module, hook, *args)
        module._trainer = None


def _called(function: Callable[..., Any], *args: Any) -> Any:
    """Call with as many arguments as it takes: steps and hooks may leave out batch_idx and what follows."""
    import inspect

    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return function(*args)
    taken = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return function(*args[:taken])


def has(module: Any, name: str) -> bool:
    """Whether the user's class defines a step or a hook, and not only Lightning's own."""
    kind = next((k for k in type(module).__mro__ if name in vars(k)), None)
    return kind is not None and not kind.__module__.startswith(("lightning.pytorch.core.", "pytorch_lightning.core."))


def _loss_in(returned: Any) -> Tensor | None:
    """The loss in what a step returned."""
    loss = returned.get("loss") if isinstance(returned, Mapping) else returned
    return loss if isinstance(loss, Tensor) and loss.numel() == 1 else None
