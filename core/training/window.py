"""What has happened since the last summary; it stays on the device until it is read."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from torchdeck.core.training.losses import classes_of, predicted

#: Seconds after which a summary is due even if few steps were done.
PATIENCE = 1.0


class AccumulationWindow:
    """What has happened since the last summary; it stays on the device until it is read."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew, after a summary."""
        self.losses: list[Tensor] = []
        #: What each step's loss counts for: its samples, or the weights of its targets (on the device).
        self.weights: list[Tensor | int] = []
        #: Logits and targets of each batch, in classification: what is right is counted once a summary, not every step.
        self.outputs: list[tuple[Tensor, Tensor]] = []
        self.samples = 0
        self.waited = 0.0
        self.began = time.perf_counter()

    def add(self, loss: Tensor, samples: int, weight: Tensor | int) -> None:
        """One more step: its loss (on the device), how many samples it saw, and what it counts for."""
        self.losses.append(loss)
        self.weights.append(weight)
        self.samples += samples

    def read(self, sums: list[float]) -> tuple[float, float, list[float]]:
        """The window's loss (the mean by weight), its right answers, and the loss of each step. Loss times weight, right
        answers, samples and weight are added to ``sums``, too.

        They are added one step after the other, so that the sums are the same wherever a window ends. This waits for
        the device.
        """
        losses = torch.stack(self.losses).tolist() if self.losses else []
        right = 0.0
        if self.outputs:
            logits, targets = (torch.cat(part) for part in zip(*self.outputs, strict=True))
            right = float((predicted(logits) == classes_of(targets)).sum())
        total = counted = 0.0
        for loss, weight in zip(losses, self._read_weights(), strict=True):
            part = loss * weight if weight else 0.0  # where all targets are ignored there is no loss
            total += part
            counted += weight
            sums[0] += part
            sums[3] += weight
        sums[1] += right
        sums[2] += self.samples
        return total / counted if counted else math.nan, right, losses

    def _read_weights(self) -> list[float]:
        if self.weights and isinstance(self.weights[0], Tensor):
            return torch.stack([torch.as_tensor(w) for w in self.weights]).tolist()
        return [float(w) for w in self.weights]

    def overdue(self) -> bool:
        """Whether the last summary is so long ago that another is due, however few steps were done."""
        return time.perf_counter() - self.began >= PATIENCE
