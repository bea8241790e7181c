"""Items of detection: an image and a dict of its boxes and labels, as torchvision's detectors take them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchdeck.core import usercode
from torchdeck.core.data.infer import as_values
from torchdeck.core.data.source import Part, Source
from torchdeck.core.data.transforms import as_tensor, to_unit
from torchdeck.core.errors import UserCodeError, UserError

#: What class 0 is called: torchvision's detectors keep it for what is no object.
BACKGROUND = "background"
#: Samples that are read to learn their classes.
_READ = 20_000


def as_item(item: tuple[Any, Any]) -> tuple[Any, Any]:
    """(image, target) with the image as a tensor of floats, pictures and bytes from 0 to 1, and what the target holds
    as tensors where it can be."""
    image, target = item
    if target is not None:
        target = {key: _as_told(str(key), value) for key, value in target.items()}
    return to_unit(as_tensor(image)), target


def is_ready(image: Any) -> bool:
    """Whether an image is as the model takes it."""
    return isinstance(image, Tensor) and image.is_floating_point()


def _as_told(key: str, value: Any) -> Any:
    values = None if isinstance(value, str) else as_values(value)
    if values is None:
        return value
    if key == "boxes":
        return values.float().reshape(-1, 4) if not values.numel() else values.float()
    return values.long() if key == "labels" else values


def check_item(image: Any, target: Any, classes: int, where: str) -> None:
    """Raises UserError for boxes that are none: of another form, outside of the image, without area, of a class that
    there is not."""
    if not (isinstance(target, Mapping) and "boxes" in target and "labels" in target):
        raise UserError(f"{where}: its target is a {type(target).__name__}; a dict with boxes and labels is needed.")
    boxes, labels = as_values(target["boxes"]), as_values(target["labels"])
    if boxes is None or labels is None:
        raise UserError(f"{where}: its boxes and labels are no numbers.")
    if boxes.numel() == 0 and labels.numel() == 0:
        return
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.ndim != 1 or len(boxes) != len(labels):
        raise UserError(
            f"{where}: its boxes are {list(boxes.shape)} and its labels {list(labels.shape)}; boxes [N, 4] (left, top, "
            "right, bottom) and labels [N] are needed."
        )
    if labels.is_floating_point() and not torch.equal(labels, labels.round()):
        raise UserError(f"{where}: its labels hold {float(labels[labels != labels.round()][0]):g}, which is no class.")
    for key in ("masks", "area", "iscrowd", "keypoints"):
        values = as_values(target[key]) if key in target else None
        if values is not None and values.ndim and len(values) != len(boxes):
            raise UserError(f"{where}: it has {len(boxes)} boxes, and {key} for {len(values)}; one for each is needed.")
    height, width = _size_of(image)
    _check_boxes(boxes.double(), height, width, where)
    wrong = (labels < 0) | (labels >= classes) if classes else labels < 0
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise UserError(
            f"{where}: box {at} has the label {int(labels[at])}; with {classes} classes, the background among them, it "
            f"must be between 0 and {classes - 1} (data.num_classes says how many there are).",
            field="data.num_classes",
        )


def _size_of(image: Any) -> tuple[int, int]:
    if hasattr(image, "getbands"):
        return image.height, image.width
    shape = tuple(np.shape(image))
    return (shape[0], shape[1]) if isinstance(image, np.ndarray) and shape[-1] in (1, 3, 4) else shape[-2:]


def _check_boxes(boxes: Tensor, height: int, width: int, where: str) -> None:
    left, top, right, bottom = boxes.unbind(1)
    finite = torch.isfinite(boxes).all(1)
    area = (right > left) & (bottom > top)
    # Half a pixel beyond is what rounding makes.
    inside = (left >= -0.5) & (top >= -0.5) & (right <= width + 0.5) & (bottom <= height + 0.5)
    for right_ones, what in (
        (finite, "is not finite"),
        (area, "has no area: left, top, right, bottom are needed, in pixels"),
        (inside, f"lies outside of the image, {width} wide and {height} high"),
    ):
        if not right_ones.all():
            at = int((~right_ones).nonzero()[0])
            shown = ", ".join(f"{v:g}" for v in boxes[at].tolist())
            raise UserError(f"{where}: box {at} ({shown}) {what}.")


def class_names_of_boxes(source: Source, names: tuple[str, ...], num_classes: int | None) -> tuple[str, ...]:
    """The names of the classes by their numbers, the background, 0, among them: those that the data set names, whose
    first is the background where it is called so or where there are as many as the greatest label; else numbers, up to
    data.num_classes or the greatest label.

    Raises UserError where there is no box at all.
    """
    if names and names[0].strip("_").lower() == BACKGROUND:
        return names
    if names and num_classes == len(names) + 1:
        return (BACKGROUND, *names)
    if names and num_classes == len(names):
        return names
    if num_classes and not names:
        return (BACKGROUND, *map(str, range(1, num_classes)))
    greatest = max((int(labels.max()) for labels in _labels(source) if labels.numel()), default=-1)
    if greatest < 0:
        raise UserError(f"No sample of {source.place!r} has a box; there is nothing to learn.", field="data.name")
    if names:
        return names if greatest < len(names) else (BACKGROUND, *names)
    return (BACKGROUND, *map(str, range(1, greatest + 1)))


def _labels(source: Source) -> Iterator[Tensor]:
    for part in source.parts.values():
        if len(part) > _READ:
            raise UserError(
                f"data.name = {source.place!r} has {len(part):,} samples and does not tell how many classes there are; "
                "set data.num_classes (the background counts), rather than reading them all to count.",
                field="data.num_classes",
            )
        yield from _labels_of(part, source)


def _labels_of(part: Part, source: Source) -> Iterator[Tensor]:
    for index in range(len(part)):
        try:
            with usercode.user_errors():
                target = source.layout.split(part.dataset[index])[1]  # type: ignore[union-attr]
        except UserCodeError as error:
            raise UserCodeError(f"Sample {index} of {source.place!r}: {error}") from error.__cause__
        values = as_values(target["labels"]) if isinstance(target, Mapping) and "labels" in target else None
        yield torch.zeros(0) if values is None else values


def listed(items: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any] | None]:
    """Items as a batch: a list of images, of any sizes, and a list of targets."""
    images, targets = [image for image, _ in items], [target for _, target in items]
    return images, None if all(target is None for target in targets) else targets
