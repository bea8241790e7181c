"""Data sets that are read sample by sample: ImageFolder, FakeData and the user's own Dataset."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from core import usercode
from core.data.source import Arrays, Part, Samples, Source, Task, targets_of
from core.errors import UserError

#: Attributes under which data sets are used to keep the targets of all samples.
_TARGETS = ("targets", "labels", "y")


def load_image_folder(path: str) -> Source:
    """torchvision's ImageFolder; ``train`` and ``test`` (or ``val``) below ``path`` are taken apart.

    Raises UserError when there is no such folder, no class folder in it or no image in one.
    """
    from torchvision.datasets import ImageFolder

    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.args.path = {path!r} is not a folder.")
    inner = folder / "train"
    tests = [folder / name for name in ("test", "val", "valid") if (folder / name).is_dir()]
    try:
        train = ImageFolder(str(inner if inner.is_dir() else folder))
        test = ImageFolder(str(tests[0])) if inner.is_dir() and tests else None
    except (FileNotFoundError, OSError) as error:
        raise UserError(f"data.args.path = {path!r}: {str(error).splitlines()[0]}") from None
    if test is not None and test.classes != train.classes:
        raise UserError(f"{str(tests[0])!r} has other class folders than {str(inner)!r}.")

    def part(dataset: Any) -> Samples:
        return Samples(dataset, torch.tensor(dataset.targets))

    return Source(
        part(train), part(test) if test else None, "classification", True, tuple(train.classes), place=str(folder)
    )


def load_fake(size: int, image_size: tuple[int, ...], num_classes: int) -> Source:
    """torchvision's FakeData."""
    from torchvision.datasets import FakeData

    if len(image_size) != 3:
        raise UserError(f"data.args.image_size = {list(image_size)} must be channels, height and width.")
    dataset = FakeData(size, image_size, num_classes)
    return Source(Samples(dataset), None, "classification", True, tuple(map(str, range(num_classes))), place="made up")


def load_user(reference: str, args: dict[str, Any], num_classes: int | None) -> Source:
    """The user's own Dataset class, or function that returns one, or a (train, test) pair of them.

    A class with a parameter ``train`` (bool) or ``split`` (text) gives both sets, as torchvision's do.

    Raises UserError when it gives no map-style data set of (input, target) pairs.
    """
    target = usercode.load(reference, "data.name")
    if isinstance(target, Dataset):
        made, test = target, None
    else:
        if not callable(target):
            raise UserError(f"data.name = {reference!r} is a {type(target).__name__}, not a Dataset class.")
        made, test = _make(target, args)
        if isinstance(made, tuple | list) and len(made) == 2:
            made, test = made
    train_part = _part(made, reference)
    test_part = _part(test, reference) if test is not None else None
    sample, label = first_sample(train_part, reference)
    task, classes = _classes(made, train_part, label, num_classes, reference)
    shape = np.shape(sample)
    image = len(shape) >= 2 or not isinstance(sample, torch.Tensor | np.ndarray | list | tuple | float | int)
    return Source(train_part, test_part, task, image, classes, place=reference)


def _make(target: Any, args: dict[str, Any]) -> tuple[Any, Any]:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    for name, values in (("train", (True, False)), ("split", ("train", "test"))):
        if name in parameters and name not in args:
            train, test = (usercode.call(target, args | {name: value}, "data") for value in values)
            return train, test
    return usercode.call(target, args, "data"), None


def _part(dataset: Any, reference: str) -> Part:
    if isinstance(dataset, IterableDataset):
        raise UserError(
            f"data.name = {reference!r} is an IterableDataset; exact resume needs a data set with __len__ and "
            "__getitem__."
        )
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"data.name = {reference!r} gave a {type(dataset).__name__}; a Dataset with __len__ and __getitem__ is "
            "needed."
        )
    with usercode.user_errors():
        length = len(dataset)
    if not length:
        raise UserError(f"data.name = {reference!r} is empty: its length is 0.")
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        return Arrays(dataset.tensors[0], targets_of(dataset.tensors[1], reference)[1])
    return Samples(dataset, _known_targets(dataset))


def _known_targets(dataset: Any) -> torch.Tensor | None:
    for name in _TARGETS:
        values = getattr(dataset, name, None)
        if values is None or callable(values):
            continue
        try:
            tensor = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError):
            continue
        if tensor.ndim and len(tensor) == len(dataset):
            return tensor
    return None


def first_sample(part: Part, reference: str) -> tuple[Any, Any]:
    """The first (input, target) pair.

    Raises UserError when it isn't a pair.
    """
    if isinstance(part, Arrays):
        return part.x[0], part.y[0]
    with usercode.user_errors():
        item = part.dataset[0]
    return pair(item, reference)


def pair(item: Any, reference: str) -> tuple[Any, Any]:
    """An item as (input, target): a tuple, or a dict with an input and a target among the usual keys.

    Raises UserError when it is neither.
    """
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    if isinstance(item, dict):
        x = next((item[k] for k in ("x", "input", "inputs", "image", "img", "pixel_values") if k in item), None)
        y = next((item[k] for k in ("y", "target", "label", "labels", "targets") if k in item), None)
        if x is not None and y is not None:
            return x, y
    shown = f"keys {', '.join(map(str, item))}" if isinstance(item, dict) else type(item).__name__
    raise UserError(f"An item of {reference!r} must be an (input, target) pair, but is a {shown}.")


def _classes(
    dataset: Any, part: Part, label: Any, num_classes: int | None, reference: str
) -> tuple[Task, tuple[str, ...]]:
    value = torch.as_tensor(label)
    if value.dtype.is_floating_point:
        return "regression", ()
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and names:
        return "classification", tuple(map(str, names))
    if num_classes:
        return "classification", tuple(map(str, range(num_classes)))
    targets = part.targets
    if targets is None:
        targets = _read_targets(part, reference)
    return "classification", tuple(map(str, range(int(targets.max()) + 1)))


def _read_targets(part: Part, reference: str) -> torch.Tensor:
    if len(part) > 20_000:
        raise UserError(
            f"data.name = {reference!r} has {len(part):,} samples and neither 'targets' nor 'classes'; set "
            "data.num_classes, rather than reading them all to count."
        )
    assert isinstance(part, Samples)
    with usercode.user_errors():
        return torch.as_tensor([int(pair(part.dataset[i], reference)[1]) for i in range(len(part))])
