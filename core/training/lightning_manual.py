"""The step of a LightningModule that optimises by hand: training_step calls backward and its optimizers' steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.batches import Batch
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices
from torchdeck.core.tasks.base import Step
from torchdeck.core.tasks.lightning import LightningTask
from torchdeck.core.training.ema import build_ema
from torchdeck.core.training.lightning_configured import configure
from torchdeck.core.training.lightning_memory import Memory
from torchdeck.core.training.lightning_optimizer import LightningOptimizer
from torchdeck.core.training.lightning_step import remember
from torchdeck.core.training.own_schedules import TorchSchedule, load_plain_state, plain_state
from torchdeck.core.training.schedules import Scheduler
from torchdeck.core.training.step import NotFinite, ema_state, load_ema
from torchdeck.core.training.stepping import Groups
from torchdeck.core.training.window import AccumulationWindow


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
        self._configured = configure(task, name, device)
        for note in self._configured.notes:
            tell(note)
        if not self._configured.optimizers:
            raise UserError(
                f"{name!r} optimises by hand, but its configure_optimizers gives no optimizer.", field="model.name"
            )
        self._optimizers = [LightningOptimizer(o, device, task, options.clip_norm) for o in self._configured.optimizers]
        task.trainer.optimizers[:] = self._configured.optimizers
        task.given_optimizers = self._optimizers[0] if len(self._optimizers) == 1 else self._optimizers
        task.trainer.lr_scheduler_configs[:] = self._configured.schedulers
        self.optimizer = Groups(list(self._optimizers))
        self.ema = build_ema(net, options.ema)
        self._memory = Memory(task.module)
        self._tell: Callable[[str], None] | None = tell

    def __call__(self, batches: list[Batch], window: AccumulationWindow, done: float, measures: bool) -> None:
        """One call of training_step."""
        module = self.task.module
        with self.task.attached(module):
            batch = self.task.transferred(module, batches[0])
            self.task.step_began(batch)
            with self.autocast():
                step = self.task.forward(self.net, batch)
            loss = self._loss(step)
            if self._device.type == "cpu":
                for name, value in {"loss": loss, **step.parts}.items():
                    if not math.isfinite(float(value)):
                        raise NotFinite(float(value), name, changed=True)
            if self.ema is not None:
                self.ema.update_parameters(self.net)
            window.add(loss, batch.size, batch.size, {n: v.detach() for n, v in step.parts.items()})
            self.task.step_ended(batch)

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

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in the precision of the training."""
        if self.precision.dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self.precision.dtype)

    def take_gradient_norm(self) -> float | None:
        """Not measured."""
        return None

    def epoch_began(self) -> None:
        """An epoch begins with the next step."""

    def state_dict(self) -> dict[str, Any]:
        """All that steps change, for a checkpoint. It shares the live tensors."""
        return {
            "model": self.net.state_dict(),
            "loss": None,
            "ema": ema_state(self.ema),
            "optimizer": [one.state_dict() for one in self._optimizers],
            "schedulers": [plain_state(one.scheduler) for one in self._configured.schedulers],
            "scaler": {},
            "module": self._memory.state_dict(),
            "log": self.task.log.state_dict(),
        }

    def load_weights(self, weights: dict[str, Any]) -> None:
        """The weights of a checkpoint."""
        self.net.load_state_dict(weights)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""
        self.load_weights(state["model"])
        load_ema(self.ema, state["ema"])
        for one, kept in zip(self._optimizers, state["optimizer"], strict=True):
            one.load_state_dict(kept)
        self.task.trainer.global_step = sum(one.steps for one in self._optimizers)
        for config, kept in zip(self._configured.schedulers, state["schedulers"], strict=True):
            load_plain_state(config.scheduler, kept)
        remember(self._memory, self.task, state)


class _LeftAlone(Scheduler):
    """Learning rates that somebody else moves; a hand on them moves all in proportion."""

    def set(self, step: int) -> None:
        """Nothing."""

    def set_learning_rate(self, value: float, step: int) -> None:
        """Make the first one ``value``."""
        factor = value / self.learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] *= factor
