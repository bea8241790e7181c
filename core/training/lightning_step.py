"""The steps of a LightningModule: its own optimizers and schedulers, its hooks, automatic and manual optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.batches import Batch
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import distributed
from torchdeck.core.tasks.base import Step
from torchdeck.core.tasks.lightning import LightningTask, module_hook, module_of
from torchdeck.core.training.own_schedules import TorchSchedule, build_schedule, is_judged
from torchdeck.core.training.schedules import Scheduler
from torchdeck.core.training.step import NotFinite, OptimizerStep, ema_state, load_ema
from torchdeck.core.training.stepping import Groups, StepOptimizer
from torchdeck.core.training.window import AccumulationWindow


class _TrainingStep(nn.Module):
    """Calls a module's training_step as its forward, for DistributedDataParallel, which averages gradients there."""

    def __init__(self, module: nn.Module, task: LightningTask) -> None:
        super().__init__()
        self.lightning_module = module
        self._task = task

    def forward(self, batch: Any, number: int) -> Any:
        return self._task.train_step(self.lightning_module, batch)


class Configured:
    """What configure_optimizers of a module gave: optimizers, and schedulers with what goes with each."""

    def __init__(self, module: Any, name: str) -> None:
        """Raises UserError for what is none of the forms that Lightning documents."""
        self._name = name
        self.optimizers: list[torch.optim.Optimizer] = []
        self.schedulers: list[dict[str, Any]] = []
        made = module.configure_optimizers()
        if made is None:
            return
        several = isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], tuple | list)
        if several:
            for optimizer in made[0]:
                self._add(optimizer)
            for scheduler in made[1]:
                self._add_scheduler(scheduler)
            return
        for one in made if isinstance(made, tuple | list) else [made]:
            self._add(one)

    def _add(self, one: Any) -> None:
        if isinstance(one, Mapping):
            self._add(one.get("optimizer"))
            scheduler = one.get("lr_scheduler")
            if scheduler is not None:
                self._add_scheduler(scheduler, one.get("monitor"))
            return
        if not isinstance(one, torch.optim.Optimizer):
            raise UserError(
                f"configure_optimizers of {self._name!r} gave a {type(one).__name__} where an optimizer is needed.",
                field="model.name",
            )
        self.optimizers.append(one)

    def _add_scheduler(self, scheduler: Any, monitor: str | None = None) -> None:
        config = dict(scheduler) if isinstance(scheduler, Mapping) else {"scheduler": scheduler}
        if not callable(getattr(config.get("scheduler"), "step", None)):
            raise UserError(
                f"configure_optimizers of {self._name!r} gave a {type(config.get('scheduler')).__name__} where a "
                "scheduler is needed.",
                field="model.name",
            )
        self.schedulers.append({"interval": "epoch", "frequency": 1, "monitor": monitor} | config)


class LightningStep(OptimizerStep):
    """Automatic optimisation: what Lightning's loop does with the loss of training_step, hook by hook."""

    task: LightningTask

    def __init__(
        self,
        experiment: Experiment,
        net: nn.Module,
        task: LightningTask,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> None:
        """Raises UserError for several optimizers, which need manual optimisation."""
        if experiment.trainer.compile:
            raise UserError(
                "trainer.compile: compile inside the LightningModule (in configure_model, say).",
                field="trainer.compile",
            )
        self._configured = _configure(task, experiment.model.name)
        if len(self._configured.optimizers) > 1:
            raise UserError(
                f"configure_optimizers of {experiment.model.name!r} gave {len(self._configured.optimizers)} "
                "optimizers; several need manual optimisation (self.automatic_optimization = False).",
                field="model.name",
            )
        super().__init__(experiment, net, task, device, tell)
        task.trainer.optimizers[:] = [self.optimizer]
        self._number = 0

    def distribute(self, net: nn.Module) -> nn.Module:
        """Gradients are averaged after the forward of a DistributedDataParallel: that is training_step."""
        return net if distributed.world().size == 1 else super().distribute(_TrainingStep(net, self.task))

    def build_optimizer(self, experiment: Experiment, net: nn.Module, own: list[nn.Parameter]) -> torch.optim.Optimizer:
        """That of configure_optimizers; the experiment's where there is none."""
        if self._configured.optimizers:
            return self._configured.optimizers[0]
        return super().build_optimizer(experiment, net, own)

    def build_schedule(
        self, experiment: Experiment, total: int, per_epoch: int, tell: Callable[[str], None]
    ) -> Scheduler | TorchSchedule:
        """That of configure_optimizers; the experiment's where the optimizer is, too."""
        if not self._configured.optimizers:
            return super().build_schedule(experiment, total, per_epoch, tell)
        return _schedule(self._configured, self.optimizer, total, per_epoch, experiment, self.task)

    def _change(self, batches: list[Batch], window: AccumulationWindow, done: float, measures: bool) -> None:
        module = self.task.module
        samples = sum(batch.size for batch in batches)
        steps: list[Step] = []

        def closure() -> Tensor:
            """Forward and backward of the step's batches; Lightning gives the same to optimizer_step."""
            steps.clear()
            loss = sum(self._backward(batch, at, samples, steps) for at, batch in enumerate(batches))
            self._check.learns()
            self._clip_and_measure(measures)
            return loss  # type: ignore[return-value]

        own_step = type(module).optimizer_step.__qualname__.split(".")[0] != "LightningModule"
        if own_step and not self.scaler.is_enabled():
            module.optimizer_step(self.task.trainer.current_epoch, self._number, self.optimizer, closure)
            loss = sum(step.loss.detach() * (step.size / samples) for step in steps if step.loss is not None)
        else:
            loss = closure()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        parts = {name: part for step in steps for name, part in step.parts.items()}
        window.add(torch.as_tensor(loss).detach(), samples, samples, parts)
        for at, (step, batch) in enumerate(zip(steps, batches, strict=True)):
            self.task.step_ended(step, batch, self._number + at)
        self._number += len(batches)

    def _backward(self, batch: Batch, at: int, samples: int, steps: list[Step]) -> Tensor:
        module = self.task.module
        self.task.step_began(batch, self._number + at)
        with self.autocast():
            step = self.task.forward(self.compiling.forward, batch)
            self.task.add_loss(step)
            loss = self._check.has_graph(step.loss) * (batch.size / samples)
        if self._device.type == "cpu" and not math.isfinite(loss.item()):
            raise NotFinite(loss.item())
        if at == 0:
            module_hook(module, "on_before_zero_grad", self.optimizer)
            self.optimizer.zero_grad(set_to_none=True)
        module_hook(module, "on_before_backward", loss)
        module.backward(self.scaler.scale(loss))
        module_hook(module, "on_after_backward")
        steps.append(step)
        return loss.detach()

    def _clip_and_measure(self, wanted: bool) -> None:
        module = self.task.module
        self.scaler.unscale_(self.optimizer)
        module_hook(module, "on_before_optimizer_step", self.optimizer)
        if type(module).configure_gradient_clipping.__qualname__.split(".")[0] == "LightningModule":
            super()._clip_and_measure(wanted)
            return
        module.configure_gradient_clipping(self.optimizer, self._limit, None)

    def epoch_began(self) -> None:
        """Batches are counted within an epoch."""
        self._number = 0


class LightningManualStep:
    """Manual optimisation: training_step calls backward and its optimizers' steps itself."""

    channels_last = sharded = False

    def __init__(
        self,
        experiment: Experiment,
        net: nn.Module,
        task: LightningTask,
        device: torch.device,
        tell: Callable[[str], None],
    ) -> None:
        """Raises UserError for options that such a module has to see to itself. ``tell`` hears what is taken for the
        loss."""
        from torchdeck.core.machine import devices
        from torchdeck.core.training.ema import build_ema

        options, name = experiment.trainer, experiment.model.name
        for key, value in (("accumulate", options.accumulate > 1), ("compile", bool(options.compile))):
            if value:
                raise UserError(
                    f"trainer.{key}: {name!r} optimises by hand (automatic_optimization = False) and has to see to "
                    "that itself.",
                    field=f"trainer.{key}",
                )
        self.net, self.task, self._device = net, task, device
        self.precision = devices.precision(options.precision, device)
        if self.precision.scaler:
            raise UserError(
                f"trainer.precision: fp16 needs a gradient scaler, which {name!r}, optimising by hand, does not have; "
                "set fp32 or bf16.",
                field="trainer.precision",
            )
        self._configured = _configure(task, name)
        if not self._configured.optimizers:
            raise UserError(
                f"{name!r} optimises by hand, but its configure_optimizers gives no optimizer.", field="model.name"
            )
        self._optimizers = [StepOptimizer(o, device, False, options.clip_norm) for o in self._configured.optimizers]
        task.trainer.optimizers[:] = self._configured.optimizers
        task.trainer.strategy._lightning_optimizers = self._optimizers
        task.given_optimizers = self._optimizers[0] if len(self._optimizers) == 1 else self._optimizers
        task.trainer.lr_scheduler_configs[:] = [_Config(one["scheduler"]) for one in self._configured.schedulers]
        self.optimizer = Groups(self._optimizers)
        self.ema = build_ema(net, options.ema)
        self._number = 0
        self._tell: Callable[[str], None] | None = tell

    def __call__(self, batches: list[Batch], window: AccumulationWindow, done: float, measures: bool) -> None:
        """One call of training_step."""
        (batch,) = batches
        self.task.step_began(batch, self._number)
        with self.autocast():
            step = self.task.forward(self.net, batch)
        loss = self._loss(step)
        told = {"loss": loss, **step.parts}
        if self._device.type == "cpu":
            for name, value in told.items():
                if not math.isfinite(float(value)):
                    raise NotFinite(float(value), name, changed=True)
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        window.add(loss, batch.size, batch.size, {n: v.detach() for n, v in step.parts.items()})
        self.task.step_ended(step, batch, self._number)
        self._number += 1

    def _loss(self, step: Step) -> Tensor:
        """What training_step returned, else the first loss that it logged.

        Raises UserError where it does neither.
        """
        if step.loss is not None:
            return step.loss.detach()
        name = next((name for name in step.parts if "loss" in name.lower()), None)
        if name is None:
            raise UserError("training_step neither returns a loss nor logs one (self.log('..._loss', ...)).")
        if self._tell is not None:
            self._tell(f"What is told as the loss is {name!r}, the first one that training_step logs.")
            self._tell = None
        return step.parts[name].detach()

    def build_schedule(
        self, experiment: Experiment, total: int, per_epoch: int, tell: Callable[[str], None]
    ) -> Scheduler | TorchSchedule:
        """None of ours: the module steps its schedulers itself."""
        constant = experiment.schedule.model_copy(update={"name": "constant", "args": {}})
        return _LeftAlone(constant, self.optimizer, total, per_epoch)

    def autocast(self) -> Any:
        """Compute in the precision of the training."""
        from contextlib import nullcontext

        if self.precision.dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.precision.dtype)

    def take_gradient_norm(self) -> float | None:
        """Not measured."""
        return None

    def epoch_began(self) -> None:
        """Batches are counted within an epoch."""
        self._number = 0

    def state_dict(self) -> dict[str, Any]:
        """All that steps change, for a checkpoint. It shares the live tensors."""
        return {
            "model": self.net.state_dict(),
            "loss": None,
            "ema": ema_state(self.ema),
            "optimizer": [one.state_dict() for one in self._optimizers],
            "schedulers": [one["scheduler"].state_dict() for one in self._configured.schedulers],
            "scaler": {},
        }

    def load_weights(self, weights: dict[str, Any]) -> None:
        """The weights of a checkpoint."""
        self.net.load_state_dict(weights)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""
        self.load_weights(state["model"])
        load_ema(self.ema, state["ema"])
        for one, kept in zip(self._optimizers, state["optimizer"], strict=True):
            rates = [group["lr"] for group in kept["optimizer"]["param_groups"]]
            one.load_state_dict(kept)
            for group, rate in zip(one.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        for config, kept in zip(self._configured.schedulers, state["schedulers"], strict=True):
            config["scheduler"].load_state_dict(kept)


class _LeftAlone(Scheduler):
    """Learning rates that somebody else moves; a hand on them moves all in proportion."""

    def set(self, step: int) -> None:
        """Nothing."""

    def set_learning_rate(self, value: float, step: int) -> None:
        """Make the first one ``value``."""
        factor = value / self.learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] *= factor


class _Config:
    """What of Lightning's record of a scheduler ``self.lr_schedulers()`` reads."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def _configure(task: LightningTask, name: str) -> Configured:
    module = module_of(task.module)
    module._trainer = task.trainer
    module_hook(module, "prepare_data")
    module_hook(module, "setup", "fit")
    module_hook(module, "configure_model")
    return Configured(module, name)


def _schedule(
    configured: Configured,
    optimizer: torch.optim.Optimizer,
    total: int,
    per_epoch: int,
    experiment: Experiment,
    task: LightningTask,
) -> Scheduler | TorchSchedule:
    """The scheduler of configure_optimizers, or a constant rate.

    Raises UserError for several.
    """
    constant = experiment.schedule.model_copy(update={"name": "constant", "args": {}})
    if not configured.schedulers:
        return build_schedule(constant, optimizer, total, per_epoch)
    if len(configured.schedulers) > 1:
        raise UserError(
            f"configure_optimizers of {experiment.model.name!r} gave {len(configured.schedulers)} schedulers for one "
            "optimizer; torch.optim.lr_scheduler.ChainedScheduler makes one of several.",
            field="model.name",
        )
    config = configured.schedulers[0]
    scheduler, judged = config["scheduler"], is_judged(config["scheduler"])
    every = int(config["frequency"]) * (1 if config["interval"] == "step" else per_epoch)
    monitor = config.get("monitor")
    return TorchSchedule(lambda mode: scheduler, optimizer, every, False, judged, None, figure=monitor)
