"""Masks lie over their images, and boxes around what they show."""

from __future__ import annotations

import torch

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.source import DataInfo
from torchdeck.core.session.annotated import pictures, words


def test_a_mask_tints_what_counts_and_leaves_the_ground() -> None:
    info = DataInfo("x", "segmentation", (1, 4, 4), 2, ("ground", "cat"))
    image = torch.linspace(0, 1, 16).reshape(1, 1, 4, 4)
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    mask[0, 1:3, 1:3] = 1
    drawn = pictures(Batch(image, mask, 1), info)

    assert drawn is not None
    changed = (drawn[0] - image[0]).abs().sum(0) > 1e-6
    assert torch.equal(changed, mask[0] == 1)
    assert words(mask, info) == ["ground, cat"]


def test_boxes_of_images_of_several_sizes_are_drawn_and_counted() -> None:
    info = DataInfo("x", "detection", (), 3, ("background", "cat", "dog"))
    images = [torch.zeros(3, 10, 12), torch.zeros(3, 8, 20)]
    images[0][0, 0, 0] = images[1][0, 0, 0] = 1
    boxes = [torch.tensor([[2.0, 2, 6, 7], [5, 5, 9, 9]]), torch.zeros(0, 4)]
    labels = [torch.tensor([1, 1]), torch.zeros(0, dtype=torch.long)]
    targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
    drawn = pictures(Batch(images, targets, 2), info)

    assert drawn is not None and drawn.shape == (2, 3, 10, 20)
    assert bool((drawn[0, :, 2, 2:7] > 0).any(0).all())  # the upper edge of the first box
    assert float(drawn[1, :, 1:].max()) == 0
    assert words(targets, info) == ["2 cat", "no box"]


def test_labels_are_named() -> None:
    info = DataInfo("x", "multilabel", (4,), 3, ("red", "green", "blue"))
    assert words(torch.tensor([[1.0, 0, 1], [0, 0, 0]]), info) == ["red, blue", ""]
