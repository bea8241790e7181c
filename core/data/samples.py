"""The user's own Dataset: taken as it is, with its own validation and test sets where it has them; and FakeData."""

from __future__ import annotations

import functools
from typing import Any

import torch

from torchdeck.core import usercode
from torchdeck.core.data.items import Layout, map_tensors
from torchdeck.core.data.probe import is_random
from torchdeck.core.data.source import Arrays, Part, Samples, Source
from torchdeck.core.errors import UserError


def load_fake(size: int, image_size: tuple[int, ...], num_classes: int) -> Source:
    """torchvision's FakeData."""
    from torchvision.datasets import FakeData

    if len(image_size) != 3:
        raise UserError(
            f"data.args.image_size = {list(image_size)} must be channels, height and width.",
            field="data.args.image_size",
        )
    dataset = FakeData(size, image_size, num_classes)
    return Source(Samples(dataset), None, "classification", True, tuple(map(str, range(num_classes))), place="made up")


def first_sample(part: Part, layout: Layout) -> tuple[Any, Any]:
    """The inputs and the target of the first sample."""
    return sample_at(part, 0, layout)


def sample_at(part: Part, index: int, layout: Layout) -> tuple[Any, Any]:
    """The inputs and the target of one sample, as the data give them; the target None where there is none.

    Raises UserError for a key that an item has not.
    """
    if isinstance(part, Arrays):
        return map_tensors(lambda t: t[index], part.x), map_tensors(lambda t: t[index], part.y)
    with usercode.user_errors():
        item = part.dataset[index]
    return layout.split(item)


def augments(part: Part, indices: torch.Tensor) -> bool:
    """Whether a data set of the user's changes its samples at random: tried on the first of them."""
    if not isinstance(part, Samples) or not len(indices):
        return False
    with usercode.user_errors():
        return is_random(functools.partial(part.dataset.__getitem__, int(indices[0])))
