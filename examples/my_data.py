"""A data set of your own: any map-style Dataset of (input, target) pairs.

With a parameter ``train`` it gives both the training and the test set, as torchvision's do.

torchdeck --batch --set data.name=examples/my_data.py:Spirals --set data.args.samples=3000
"""

import math

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Spirals(Dataset):
    """Points on three interleaved spirals; the class is the spiral."""

    classes = ("first", "second", "third")

    def __init__(self, train: bool = True, samples: int = 1500, noise: float = 0.05) -> None:
        generator = torch.Generator().manual_seed(0 if train else 1)
        self.targets = torch.randint(3, (samples,), generator=generator)
        radius = torch.rand(samples, generator=generator)
        angle = 4 * radius + self.targets * (2 * math.pi / 3) + noise * torch.randn(samples, generator=generator)
        self.points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.targets[index]
