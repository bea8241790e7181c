"""The schedulers of a LightningModule, stepped where Lightning's loop steps them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from torchdeck.core import usercode
from torchdeck.core.errors import UserError, first_line
from torchdeck.core.tasks.lightning import LightningTask
from torchdeck.core.training.lightning_configured import Scheduled
from torchdeck.core.training.own_schedules import load_plain_state, plain_state


class LightningSchedules:
    """Schedulers of configure_optimizers, with the interface of Scheduler. Learning rates that the module sets itself
    stay; a hand on them multiplies what the schedulers say from then on."""

    def __init__(self, task: LightningTask, optimizer: torch.optim.Optimizer, schedulers: list[Scheduled]) -> None:
        self._task, self._optimizer, self._schedulers = task, optimizer, schedulers
        self._scale = 1.0

    def set(self, step: int) -> None:
        """Nothing: they are stepped after what they follow."""

    def batch_ended(self, number: int, last: bool) -> None:
        """After the optimizer's step with batch ``number`` of the epoch, the last or not; on_train_batch_end comes
        later."""
        self._update("step", number + 1, False)
        if last:
            self._update("epoch", self._task.trainer.current_epoch + 1, False)

    def batch_judged(self, number: int) -> None:
        """After on_train_batch_end: those that go by a figure."""
        self._update("step", number + 1, True)

    def epoch_ended(self, value: float, higher_is_better: bool, figures: Mapping[str, float]) -> bool:
        """After on_train_epoch_end; tells whether the first learning rate was cut.

        Raises UserError where the figure that one goes by is not there.
        """
        before = self.learning_rate()
        self._update("epoch", self._task.trainer.current_epoch + 1, True)
        return self.learning_rate() < before

    def _update(self, interval: str, count: int, judged: bool) -> None:
        """Step those of the interval whose turn it is (lightning.pytorch.loops.training_epoch_loop)."""
        for one in self._schedulers:
            if one.reduce_on_plateau != judged or one.interval != interval or count % one.frequency:
                continue
            value = self._figure(one) if judged else None
            if judged and value is None:
                continue
            self._step(one.scheduler, value)

    def _figure(self, one: Scheduled) -> Any:
        metrics = self._task.trainer.callback_metrics
        found = metrics.get(one.monitor or "")
        if found is None and one.strict:
            raise UserError(
                f"The scheduler of configure_optimizers goes by {one.monitor!r}, which is not logged; there are "
                f"{', '.join(metrics) or 'none'}.",
                field="model.name",
            )
        return found

    def _step(self, scheduler: Any, value: Any) -> None:
        module = self._task.module
        try:
            with usercode.user_errors(), self._task.attached(module), self._unscaled():
                module.lr_scheduler_step(scheduler, value)
        except (ValueError, RuntimeError, TypeError, KeyError) as error:  # torch's own: of the user's it is told above
            raise UserError(
                f"{type(scheduler).__name__} of configure_optimizers raised {type(error).__name__}: "
                f"{first_line(error)}.",
                field="model.name",
            ) from error

    @contextmanager
    def _unscaled(self) -> Iterator[None]:
        """A scheduler sees the learning rates that it has set itself."""
        if self._scale == 1.0:
            yield
            return
        for group in self._optimizer.param_groups:
            group["lr"] = group["lr"] / self._scale
        yield
        for group in self._optimizer.param_groups:
            group["lr"] = group["lr"] * self._scale

    def learning_rate(self) -> float:
        """The learning rate of the first group as it stands."""
        return float(self._optimizer.param_groups[0]["lr"])

    def set_learning_rate(self, value: float, step: int) -> None:
        """Make it ``value``, and follow the schedulers in proportion from here."""
        now = self.learning_rate()
        if not now:
            raise UserError("The learning rate is 0 here; nothing is in proportion to it.")
        self._scale *= value / now
        for group in self._optimizer.param_groups:
            group["lr"] = group["lr"] * (value / now)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs; the learning rates stand in the optimizer's state."""
        return {"schedulers": [plain_state(one.scheduler) for one in self._schedulers], "scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""
        for one, kept in zip(self._schedulers, state["schedulers"], strict=True):
            load_plain_state(one.scheduler, kept)
        self._scale = state["scale"]
