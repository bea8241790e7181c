"""What has happened since the last summary; it stays on the device until it is read."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from torchdeck.core.training.losses import classes_of, predicted

#: Seconds after which a summary is due even if few steps were done.
PATIENCE = 1.0


@dataclass(frozen=True)
class WindowContents:
    """What a window held: the loss of each step, what it counts for, and the right answers of all."""

    losses: list[float]
    weights: list[float]
    right: float


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

    def read(self) -> WindowContents:
        """What it holds, on the CPU; this waits for the device."""
        losses = torch.stack(self.losses).tolist() if self.losses else []
        right = 0.0
        if self.outputs:
            logits, targets = (torch.cat(part) for part in zip(*self.outputs, strict=True))
            right = float((predicted(logits) == classes_of(targets)).sum())
        return WindowContents(losses, self._read_weights(), right)

    def _read_weights(self) -> list[float]:
        if self.weights and isinstance(self.weights[0], Tensor):
            return torch.stack([torch.as_tensor(w) for w in self.weights]).tolist()
        return [float(w) for w in self.weights]

    def overdue(self) -> bool:
        """Whether the last summary is so long ago that another is due, however few steps were done."""
        return time.perf_counter() - self.began >= PATIENCE
