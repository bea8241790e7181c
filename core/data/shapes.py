"""Images of circles, squares and triangles before a coloured ground with noise, drawn as they are needed: with a mask,
or with boxes. And samples with several labels each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchdeck.core.data.boxes import BACKGROUND
from torchdeck.core.data.source import Arrays, Samples, Source

#: An image, its mask, boxes and labels.
Drawn = tuple[np.ndarray, np.ndarray, list[list[int]], list[int]]

SHAPES = ("circle", "square", "triangle")


def draw(random: np.random.Generator, side: int, most: int) -> Drawn:
    """An image [3, side, side] of bytes, its mask [side, side] (0: the ground), and the boxes (left, top, right,
    bottom) and classes of one to ``most`` shapes that do not touch each other."""
    ground, ys, xs = random.integers(0, 160, 3), *np.mgrid[:side, :side]
    mask, boxes, labels = np.zeros((side, side), np.uint8), [], []
    image = np.broadcast_to(ground[:, None, None], (3, side, side)).astype(np.float32).copy()
    for _ in range(int(random.integers(1, most + 1))):
        size = int(random.integers(side // 5, side // 2))
        top, left = (int(v) for v in random.integers(0, side - size, 2))
        label = int(random.integers(1, len(SHAPES) + 1))
        inside = _inside(label, ys - top, xs - left, size)
        if mask[max(top - 1, 0) : top + size + 1, max(left - 1, 0) : left + size + 1].any():
            continue
        colour = (ground + random.integers(60, 196, 3)) % 256
        image[:, inside], mask[inside] = colour[:, None], label
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        boxes.append([int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
        labels.append(label)
    image += random.normal(0, 12, image.shape)
    return image.clip(0, 255).astype(np.uint8), mask, boxes, labels


def _inside(label: int, y: np.ndarray, x: np.ndarray, size: int) -> np.ndarray:
    """The pixels of a shape in the square of that size at (0, 0)."""
    within = (y >= 0) & (y < size) & (x >= 0) & (x < size)
    middle = (size - 1) / 2
    if label == 1:
        return within & ((y - middle) ** 2 + (x - middle) ** 2 <= (size / 2) ** 2)
    if label == 2:
        return within
    return within & (np.abs(x - middle) <= (y + 1) / 2)


def load_masks(samples: int, size: int, seed: int) -> Source:
    """Images and masks as tensors."""
    random = np.random.default_rng(seed)
    drawn = [draw(random, size, 3)[:2] for _ in range(samples)]
    images, masks = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    return Source(Arrays(images, masks), None, "segmentation", True, ("ground", *SHAPES), place="drawn")


class Boxed(Dataset):
    """Images with a dict of boxes and labels."""

    def __init__(self, samples: int, size: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self._items = []
        for _ in range(samples):
            image, _, boxes, labels = draw(random, size, 3)
            self._items.append((torch.from_numpy(image), torch.tensor(boxes).float(), torch.tensor(labels)))

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, boxes, labels = self._items[index]
        return image.float() / 255, {"boxes": boxes, "labels": labels}


def load_boxes(samples: int, size: int, seed: int) -> Source:
    """Images and boxes, read one by one."""
    dataset = Boxed(samples, size, seed)
    return Source(Samples(dataset), None, "detection", True, (BACKGROUND, *SHAPES), place="drawn", plain=False)


def load_multilabel(samples: int, features: int, labels: int, seed: int) -> Source:
    """scikit-learn's ``make_multilabel_classification``: bags of words, each of several topics."""
    from sklearn.datasets import make_multilabel_classification

    x, y = make_multilabel_classification(samples, features, n_classes=labels, n_labels=2, random_state=seed)
    names = tuple(f"topic {i}" for i in range(labels))
    return Source(
        Arrays(torch.from_numpy(x).float(), torch.from_numpy(y)), None, "multilabel", False, names, place="scikit-learn"
    )
