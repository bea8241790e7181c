"""The metric that decides: which epoch is the best so far, and when early stopping ends the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torchdeck.core.errors import TrainingError, UserError
from torchdeck.core.experiment.metric_names import watched
from torchdeck.core.experiment.schema import Experiment


class Monitor:
    """The monitored metric and its best epoch so far."""

    def __init__(self, experiment: Experiment, auto: str, direction: Callable[[str], bool | None]) -> None:
        """``auto``: the metric where the user names none. ``direction``: whether more of a metric is better, by the
        metric itself; None where it does not tell."""
        self._chosen = experiment.trainer.monitor
        self._patience = experiment.trainer.early_stopping
        self._own = experiment.tracking.metric_names
        self._direction = direction
        self.auto = auto
        self.best_value: float | None = None
        #: The loss of the best epoch, which decides between equal values.
        self.best_loss: float | None = None
        self.best_epoch = 0
        #: Epochs since the last progress.
        self.bad_epochs = 0

    @property
    def name(self) -> str:
        """The metric's name."""
        name = watched(self._chosen)[0]
        return self.auto if name == "auto" else name

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better.

        Raises UserError where neither the name, nor the metric itself, nor the user tells.
        """
        chosen = self._chosen
        higher = watched(self.name if chosen == "auto" else chosen, self._own)[1]
        if higher is None:
            higher = self._direction(self.name)
        if higher is None:
            raise UserError(
                f"trainer.monitor = {chosen!r}: it is not known whether more of it is better; write 'maximize "
                f"{chosen}' or 'minimize {chosen}'.",
                field="trainer.monitor",
            )
        return higher

    def value(self, metrics: dict[str, float]) -> float:
        """Its value among ``metrics``.

        Raises TrainingError where it is not among them.
        """
        if self.name not in metrics:
            raise TrainingError(f"trainer.monitor = {self.name!r} is not measured; choose from {', '.join(metrics)}.")
        return metrics[self.name]

    def epoch_ended(self, epoch: int, value: float, loss: float) -> bool:
        """Take in the value and the loss of an epoch; tells whether it is the best so far."""
        if not self._is_better(value, loss):
            self.bad_epochs += 1
            return False
        tied = value == self.best_value
        self.best_value, self.best_loss, self.best_epoch = value, loss, epoch
        self.bad_epochs = self.bad_epochs + 1 if tied else 0  # a tie is no progress
        return True

    def _is_better(self, value: float, loss: float) -> bool:
        """Whether an epoch is the best so far; of equal ones the one with the lower loss is. Infinity is the best
        where more is better, -infinity where less is; NaN and the other infinity are never the best."""
        higher = self.higher_is_better
        if math.isnan(value) or value == (-math.inf if higher else math.inf):
            return False
        if self.best_value is None:
            return True
        if value == self.best_value:
            return self.best_loss is not None and loss < self.best_loss
        return value > self.best_value if higher else value < self.best_value

    @property
    def stops(self) -> bool:
        """Whether early stopping ends the run here."""
        return self._patience > 0 and self.bad_epochs >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "value": self.best_value,
            "loss": self.best_loss,
            "epoch": self.best_epoch,
            "bad_epochs": self.bad_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""
        self.best_value, self.best_epoch, self.bad_epochs = state["value"], state["epoch"], state["bad_epochs"]
        self.best_loss = state.get("loss")
