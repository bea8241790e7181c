"""A stream of your own: items that are iterated and not indexed, and a state from which a resumed run goes on.

torchdeck --batch --set data.name=examples/my_stream.py:both --set trainer.steps=500
"""

import math
import random
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset


class Rings(IterableDataset):
    """Points on one of two rings, without end or a given number of them. Every worker and process may iterate it whole:
    the batches are shared out by torchdeck."""

    def __init__(self, count: int | None = None, seed: int = 0) -> None:
        self.count, self.seed, self.epoch = count, seed, 0
        self.begin = self.at = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each pass: other points in each."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        self.at, self.begin = self.begin, 0
        while self.count is None or self.at < self.count:
            self.at += 1
            draw = random.Random(f"{self.seed} {self.epoch} {self.at}")
            ring, angle = draw.randrange(2), draw.uniform(0, 2 * math.pi)
            radius = 1 + ring + draw.gauss(0, 0.1)
            yield torch.tensor([radius * math.cos(angle), radius * math.sin(angle)]), ring

    def state_dict(self) -> dict[str, int]:
        """Where it is; without it, a resumed run reads the stream again up to its place."""
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass begins there."""
        self.begin = state["at"]


def both() -> tuple[Rings, Rings]:
    """A stream to train on, and one that ends to validate on."""
    return Rings(), Rings(500, seed=1)
