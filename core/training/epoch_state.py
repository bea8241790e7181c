"""Where a training stands within its epoch: what the steps have added up to so far, and how long they took."""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Any

from torchdeck.core.training.window import AccumulationWindow


@dataclass
class EpochState:
    """The sums over the epoch's steps up to the last summary, and the seconds of training in it."""

    #: Each step's loss times what it counts for, and the sum of what they count for (see AccumulationWindow).
    loss: float = 0.0
    weight: float = 0.0
    #: Right answers, where they are counted, and samples.
    right: float = 0.0
    samples: float = 0.0
    #: Seconds before the run was interrupted.
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Seconds of training in this epoch, those before an interruption as well and pauses not."""
        return self.seconds_before + time.monotonic() - self.began

    def add(self, window: AccumulationWindow) -> tuple[float, float, list[float]]:
        """Add what the window holds; returns its loss (the mean by weight), its right answers and each step's loss.

        The losses are added one after the other, so that the sums are the same wherever a window ends. This waits for
        the device.
        """
        read = window.read()
        total = counted = 0.0
        for loss, weight in zip(read.losses, read.weights, strict=True):
            part = loss * weight if weight else 0.0  # where all targets are ignored there is no loss
            total += part
            counted += weight
            self.loss += part
            self.weight += weight
        self.right += read.right
        self.samples += window.samples
        return total / counted if counted else math.nan, read.right, read.losses

    def metrics(self, counts_right: bool) -> dict[str, float]:
        """The epoch's mean loss (by weight) and, where right answers are counted, its accuracy."""
        found = {"loss": self.loss / self.weight if self.weight else math.nan}
        if counts_right:
            found["accuracy"] = self.right / self.samples
        return found

    def state_dict(self, window: AccumulationWindow) -> dict[str, Any]:
        """What a checkpoint keeps; the steps since the last summary, which ``window`` holds, are counted in."""
        so_far = dataclasses.replace(self)
        so_far.add(window)
        return {
            "epoch_sums": [so_far.loss, so_far.right, so_far.samples, so_far.weight],
            "epoch_seconds": self.seconds(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint in mid-epoch was."""
        self.loss, self.right, self.samples, *weight = (float(v) for v in state["epoch_sums"])
        self.weight = weight[0] if weight else self.samples  # before losses had weights they were means over samples
        self.seconds_before = float(state["epoch_seconds"])
