"""Where a training stands within its epoch: what the steps have added up to so far, and how long they took."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torchdeck.core.training.window import AccumulationWindow


@dataclass
class Mean:
    """A mean by weight that is added up value by value, so that it is the same wherever a window ends."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, values: Sequence[float], weights: Sequence[float]) -> None:
        """More values; one without weight has no value (where all targets are ignored there is no loss)."""
        for value, weight in zip(values, weights, strict=True):
            self.total += value * weight if weight else 0.0
            self.weight += weight

    @property
    def value(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.weight if self.weight else math.nan


@dataclass
class EpochState:
    """The sums over the epoch's steps up to the last summary, and the seconds of training in it."""

    loss: Mean = field(default_factory=Mean)
    #: The parts of the loss, and what else a step tells, by name.
    parts: dict[str, Mean] = field(default_factory=dict)
    #: Right answers, where they are counted, and answers in all.
    right: float = 0.0
    counted: float = 0.0
    #: Seconds before the run was interrupted.
    seconds_before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Seconds of training in this epoch, those before an interruption as well and pauses not."""
        return self.seconds_before + time.monotonic() - self.began

    def add(self, window: AccumulationWindow) -> tuple[dict[str, float], list[float]]:
        """Add what the window holds; returns its figures (the loss and its parts as means by weight, the accuracy where
        right answers are counted) and each step's loss. This waits for the device."""
        read = window.read()
        here = EpochState()
        for state in (self, here):
            state.loss.add(read.losses, read.weights)
            for name, values in read.parts.items():
                state.parts.setdefault(name, Mean()).add(values, read.part_weights[name])
            state.right += read.right
            state.counted += read.counted
        return here.metrics(), read.losses

    def metrics(self) -> dict[str, float]:
        """The mean loss, its parts, and where right answers are counted the accuracy."""
        found = {"loss": self.loss.value} | {name: part.value for name, part in self.parts.items()}
        if self.counted:
            found["accuracy"] = self.right / self.counted
        return found

    def state_dict(self, window: AccumulationWindow) -> dict[str, Any]:
        """What a checkpoint keeps; the steps since the last summary, which ``window`` holds, are counted in."""
        so_far = copy.deepcopy(self)
        so_far.add(window)
        return {
            "epoch_sums": [so_far.loss.total, so_far.right, so_far.counted, so_far.loss.weight],
            "epoch_parts": {name: [part.total, part.weight] for name, part in so_far.parts.items()},
            "epoch_seconds": self.seconds(),
        }

    def load_state_dict(self, state: dict[str, Any], counts: bool) -> None:
        """Back to where a checkpoint in mid-epoch was; ``counts``: whether right answers are counted."""
        total, self.right, self.counted, *weight = (float(v) for v in state["epoch_sums"])
        # Before losses had weights they were means over samples, all of which were counted.
        self.loss = Mean(total, weight[0] if weight else self.counted)
        if not counts:  # of old samples were told there, also where nothing was counted
            self.right = self.counted = 0.0
        self.parts = {name: Mean(*map(float, part)) for name, part in state.get("epoch_parts", {}).items()}
        self.seconds_before = float(state["epoch_seconds"])
