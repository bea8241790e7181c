"""Masks move with their images: an image that is its own mask stays so, whatever moves its pixels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchdeck.core.data import transforms
from torchdeck.core.data.masks import Together, mask_ops, moved, nearest, refuse_unable
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.data_schema import Transform

ON_BATCH = [
    {"name": "RandomHorizontalFlip"},
    {"name": "RandomVerticalFlip", "p": 0.7},
    {"name": "RandomCrop", "size": [6, 9], "padding": 2},
    {"name": "RandomCrop", "size": 8, "padding": 1, "padding_mode": "reflect"},
    {"name": "CenterCrop", "size": [14, 6]},
]
ON_SAMPLE = [
    {"name": "RandomRotation", "degrees": 45},
    {"name": "RandomAffine", "degrees": 20, "translate": [0.2, 0.2]},
    {"name": "Pad", "padding": 2},
    *ON_BATCH,
]


def drawn(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of classes 1 to 9, and images of the same numbers; 0 is what comes from outside."""
    masks = torch.randint(1, 10, (n, 10, 12), generator=torch.Generator().manual_seed(3))
    return masks[:, None].float(), masks


@pytest.mark.parametrize("given", ON_BATCH, ids=lambda g: g["name"])
def test_a_batch(given: dict[str, Any]) -> None:
    chosen = [Transform.model_validate(given)]
    generator = torch.Generator().manual_seed(5)
    ops = transforms.batch_transform(chosen, torch.device("cpu"))
    x, y = moved(*drawn(8), ops, mask_ops(chosen, 255), generator)

    assert torch.equal(x[:, 0], torch.where(y == 255, 0, y).float())
    assert not torch.equal(x[:1].expand_as(x), x)


@pytest.mark.parametrize("given", ON_SAMPLE, ids=lambda g: g["name"])
def test_a_sample(given: dict[str, Any]) -> None:
    torch.manual_seed(7)
    image, mask = (part[0] for part in drawn(1))
    x, y = Together([Transform.model_validate(given)], 255)(image, mask)
    assert torch.equal(x[0], torch.where(y == 255, 0, y).float())


def test_a_cut_that_is_resized_shows_the_same_place() -> None:
    """Where the image is of one class around a pixel, so is the mask there."""
    torch.manual_seed(1)
    mask = torch.zeros(24, 24, dtype=torch.long)
    mask[:, 12:] = 1
    x, y = Together([Transform.model_validate({"name": "RandomResizedCrop", "size": 16})], 255)(
        mask[None].float(), mask
    )
    assert torch.equal(y, (x[0] > 0.5).long())


def test_nearest_takes_the_class_at_the_centre_of_each_new_pixel() -> None:
    mask = torch.arange(36).reshape(6, 6)
    assert torch.equal(nearest(mask, (2, 3)), mask[1::3, 1::2])
    assert torch.equal(nearest(mask, (12, 12)), mask.repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize("name", ["AutoAugment", "RandAugment", "TrivialAugmentWide"])
def test_what_can_not_move_masks_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} moves the pixels"):
        refuse_unable([Transform.model_validate({"name": name})])
