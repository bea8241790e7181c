"""What has happened since the last summary; it stays on the device until it is read."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from core.training.losses import classes_of, predicted

#: Seconds after which a summary is due even if few steps were done.
PATIENCE = 1.0


class Window:
    """What has happened since the last summary; it stays on the device until it is read."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew, after a summary."""
        self.losses: list[Tensor] = []
        self.sizes: list[int] = []
        #: Logits and targets of each batch, in classification: what is right is counted once a summary, not every step.
        self.outputs: list[tuple[Tensor, Tensor]] = []
        self.samples = 0
        self.waited = 0.0
        self.began = time.perf_counter()

    def add(self, loss: Tensor, samples: int) -> None:
        """One more step: its loss (on the device) and how many samples it saw."""
        self.losses.append(loss)
        self.sizes.append(samples)
        self.samples += samples

    def read(self, sums: list[float]) -> tuple[float, float, list[float]]:
        """Loss times samples and right answers of the window, and the loss of each step; added to ``sums``, too.

        They are added one step after the other, so that the sums are the same wherever a window ends. This waits for
        the device.
        """
        losses = torch.stack(self.losses).tolist() if self.losses else []
        right = 0.0
        if self.outputs:
            logits, targets = (torch.cat(part) for part in zip(*self.outputs, strict=True))
            right = float((predicted(logits) == classes_of(targets)).sum())
        total = 0.0
        for loss, size in zip(losses, self.sizes, strict=True):
            total += loss * size
            sums[0] += loss * size
        sums[1] += right
        sums[2] += self.samples
        return total, right, losses

    def overdue(self) -> bool:
        """Whether the last summary is so long ago that another is due, however few steps were done."""
        return time.perf_counter() - self.began >= PATIENCE
