"""What has happened since the last summary; it stays on the device until it is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: Seconds after which a summary is due even if few steps were done.
PATIENCE = 1.0


@dataclass(frozen=True)
class WindowContents:
    """What a window held: the loss of each step and what it counts for, the parts of the losses, and right answers."""

    losses: list[float]
    weights: list[float]
    #: The parts of each step's loss, by name: each has as many values as there were steps that had it.
    parts: dict[str, list[float]] = field(default_factory=dict)
    #: What each of these values counts for.
    part_weights: dict[str, list[float]] = field(default_factory=dict)
    right: float = 0.0
    #: How many answers there were.
    counted: float = 0.0


class AccumulationWindow:
    """What has happened since the last summary; it stays on the device until it is read."""

    def __init__(self, count_right: Callable[[list[Any]], tuple[float, float]]) -> None:
        """``count_right``: counts right answers and all in what was kept (Task.count_right)."""
        self._count_right = count_right
        self.restart()

    def restart(self) -> None:
        """Begin anew, after a summary."""
        self.losses: list[Tensor] = []
        #: What each step's loss counts for: its samples, or the weights of its targets (on the device).
        self.weights: list[Tensor | int] = []
        self.parts: dict[str, list[tuple[int, Tensor]]] = {}
        #: What the task keeps of each batch to count right answers: once a summary, not every step.
        self.kept: list[Any] = []
        self.samples = 0
        self.waited = 0.0
        self.began = time.perf_counter()

    def add(self, loss: Tensor, samples: int, weight: Tensor | int, parts: Mapping[str, Tensor]) -> None:
        """One more step: its loss (on the device), how many samples it saw, what it counts for, and its parts."""
        for name, part in parts.items():
            self.parts.setdefault(name, []).append((len(self.losses), part))
        self.losses.append(loss)
        self.weights.append(weight)
        self.samples += samples

    def read(self) -> WindowContents:
        """What it holds, on the CPU; this waits for the device."""
        losses = torch.stack(self.losses).tolist() if self.losses else []
        weights = self._read_weights()
        right, counted = self._count_right(self.kept) if self.kept else (0.0, 0.0)
        parts = {name: torch.stack([v for _, v in found]).tolist() for name, found in self.parts.items()}
        part_weights = {name: [weights[at] for at, _ in found] for name, found in self.parts.items()}
        return WindowContents(losses, weights, parts, part_weights, right, counted)

    def _read_weights(self) -> list[float]:
        if self.weights and isinstance(self.weights[0], Tensor):
            return torch.stack([torch.as_tensor(w) for w in self.weights]).tolist()
        return [float(w) for w in self.weights]

    def overdue(self) -> bool:
        """Whether the last summary is so long ago that another is due, however few steps were done."""
        return time.perf_counter() - self.began >= PATIENCE
