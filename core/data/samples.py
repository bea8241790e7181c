"""The user's own Dataset: taken as it is, with its own validation and test sets where it has them; and FakeData."""

from __future__ import annotations

import functools
from typing import Any

import torch

from torchdeck.core import usercode
from torchdeck.core.data.probe import is_random
from torchdeck.core.data.source import Arrays, Part, Samples, Source
from torchdeck.core.errors import UserError

#: Keys under which dicts are used to hold input and target.
_INPUT_KEYS = ("x", "input", "inputs", "image", "img", "pixel_values")
_TARGET_KEYS = ("y", "target", "label", "labels", "targets")


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


def first_sample(part: Part, reference: str) -> tuple[Any, Any]:
    """The first (input, target) pair.

    Raises UserError when it isn't a pair.
    """
    return sample_at(part, 0, reference)


def sample_at(part: Part, index: int, reference: str) -> tuple[Any, Any]:
    """One (input, target) pair, as the data give it.

    Raises UserError when it isn't a pair.
    """
    if isinstance(part, Arrays):
        return part.x[index], part.y[index]
    with usercode.user_errors():
        item = part.dataset[index]
    return pair(item, reference)


def pair(item: Any, reference: str) -> tuple[Any, Any]:
    """An item as (input, target): a tuple, or a dict with an input and a target among the usual keys, and nothing else.

    Raises UserError when it is neither: nothing of an item is dropped in silence.
    """
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, dict):
        x = next((k for k in _INPUT_KEYS if k in item), None)
        y = next((k for k in _TARGET_KEYS if k in item), None)
        if x is not None and y is not None:
            others = [str(k) for k in item if k not in (x, y)]
            if others:
                raise UserError(
                    f"An item of {reference!r} holds {', '.join(map(repr, others))} beside the input {x!r} and "
                    f"the target "
                    f"{y!r}, which the model would not get; give (input, target) pairs, the input one tensor."
                )
            return item[x], item[y]
    shown = type(item).__name__
    if isinstance(item, dict):
        shown = f"dict with the keys {', '.join(map(str, item))}"
    elif isinstance(item, tuple | list):
        shown = f"{shown} of {len(item)}"
    raise UserError(f"An item of {reference!r} must be an (input, target) pair, but is a {shown}.")


def augments(part: Part, indices: torch.Tensor) -> bool:
    """Whether a data set of the user's changes its samples at random: tried on the first of them."""
    if not isinstance(part, Samples) or not len(indices):
        return False
    with usercode.user_errors():
        return is_random(functools.partial(part.dataset.__getitem__, int(indices[0])))
