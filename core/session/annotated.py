"""Samples as pictures with what they are labelled with: masks laid over images, boxes around things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.source import DataInfo

#: Red, green, blue of classes 1, 2, ...: Okabe and Ito's, which are told apart by the colour-blind too.
_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_IGNORED = (127, 127, 127)
#: The share of a mask's colour in a pixel.
_SHARE = 0.55


def pictures(sample: Batch, info: DataInfo, side: int | None = None, written: bool = False) -> Tensor | None:
    """The images of a sample [N, 3, H, W] from 0 to 1, each stretched to its own range, with masks laid over them or
    boxes around what they show; None where there are no images. ``side``: the longer side of what is returned, at most;
    images of several sizes are padded. ``written``: whether the names of classes stand at the boxes."""
    images = _images(sample)
    if not images or not all(isinstance(x, Tensor) and x.ndim == 3 and x.shape[0] in (1, 3) for x in images):
        return None
    drawn = []
    for at, image in enumerate(images):
        target = None if sample.y is None else sample.y[at]
        drawn.append(_smaller(_with_target(_stretched(image), target, info, written), side))
    height, width = (max(x.shape[axis] for x in drawn) for axis in (1, 2))
    sheet = torch.zeros(len(drawn), 3, height, width)
    for at, image in enumerate(drawn):
        sheet[at, :, : image.shape[1], : image.shape[2]] = image
    return sheet


def _images(sample: Batch) -> list[Any]:
    """The images of each sample: its views side by side, and of several inputs the one that is an image."""
    x = sample.x
    parts = list(x.values()) if isinstance(x, Mapping) else x
    if isinstance(parts, Tensor):
        return list(parts)
    if not isinstance(parts, list | tuple):
        return []
    stacked = [part for part in parts if isinstance(part, Tensor) and part.ndim == 4 and len(part) == sample.size]
    if not stacked:
        return list(parts)
    alike = len(stacked) == len(parts) and len({part.shape for part in stacked}) == 1
    return list(torch.cat(stacked, 3)) if alike else list(stacked[0])


def _stretched(image: Tensor) -> Tensor:
    image = image.detach().float().cpu()
    low, high = image.min(), image.max()
    return ((image - low) / (high - low).clamp(min=1e-6)).expand(3, -1, -1)


def _smaller(image: Tensor, side: int | None) -> Tensor:
    longest = max(image.shape[-2:])
    if side is None or longest <= side:
        return image
    size = [max(1, round(n * side / longest)) for n in image.shape[-2:]]
    return interpolate(image[None], size=size, mode="area")[0]


def _with_target(image: Tensor, target: Any, info: DataInfo, written: bool) -> Tensor:
    if info.task == "segmentation" and isinstance(target, Tensor):
        mask = target.reshape(target.shape[-2:]).long()
        return _under_mask(image, mask, info.classes) if mask.shape == image.shape[1:] else image
    if info.task == "detection" and isinstance(target, dict) and len(target["boxes"]):
        return _with_boxes(image, target, info, written)
    return image


def _under_mask(image: Tensor, mask: Tensor, classes: int) -> Tensor:
    """Class 0, mostly the ground, stays as it is."""
    colours = torch.tensor([_COLOURS[(n - 1) % len(_COLOURS)] for n in range(1, max(classes, 2))]) / 255
    counted = (mask >= 0) & (mask < classes)
    tint = colours[torch.where(counted & (mask > 0), mask - 1, 0)].permute(2, 0, 1)
    tint = torch.where(counted, tint, torch.tensor(_IGNORED)[:, None, None] / 255)
    return torch.where(mask == 0, image, (1 - _SHARE) * image + _SHARE * tint)


def _with_boxes(image: Tensor, target: dict[str, Tensor], info: DataInfo, written: bool) -> Tensor:
    from torchvision.utils import draw_bounding_boxes

    labels = target["labels"].tolist()
    drawn = draw_bounding_boxes(
        (image * 255).to(torch.uint8),
        target["boxes"].cpu(),
        labels=[name_of(n, info) for n in labels] if written else None,
        colors=[_COLOURS[(n - 1) % len(_COLOURS)] for n in labels],
    )
    return drawn.float() / 255


def name_of(label: int, info: DataInfo) -> str:
    """What a class is called."""
    return info.class_names[label] if 0 <= label < info.classes else str(label)


def words(targets: Any, info: DataInfo) -> list[str]:
    """What the targets of a few samples say, in words: labels that are there, boxes by class, classes of a mask."""
    if info.task == "multilabel":
        return [
            ", ".join(n for n, there in zip(info.class_names, row.reshape(-1).tolist(), strict=False) if there)
            for row in targets
        ]
    if info.task == "detection":
        return [_counted(one["labels"].tolist(), info) for one in targets] if targets else []
    if info.task == "segmentation":
        return [
            ", ".join(name_of(n, info) for n in mask.unique().tolist() if 0 <= n < info.classes) for mask in targets
        ]
    return []


def _counted(labels: list[int], info: DataInfo) -> str:
    found = Counter(name_of(n, info) for n in labels)
    return ", ".join(name if n == 1 else f"{n} {name}" for name, n in found.items()) or "no box"
