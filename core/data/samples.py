"""The user's own Dataset: taken as it is, with its own validation and test sets where it has them; and FakeData."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from torchdeck.core import usercode
from torchdeck.core.data.probe import equal, is_random, seeded
from torchdeck.core.data.source import Arrays, Part, Samples, Source, Task, targets_of
from torchdeck.core.data.tables import label_of, narrowed, sorted_names
from torchdeck.core.errors import UserCodeError, UserError
from torchdeck.core.machine import children

#: Attributes under which data sets are used to keep the targets of all samples.
_TARGETS = ("targets", "labels", "y")

#: Keys under which dicts are used to hold input and target.
_INPUT_KEYS = ("x", "input", "inputs", "image", "img", "pixel_values")
_TARGET_KEYS = ("y", "target", "label", "labels", "targets")

#: What a tuple of data sets holds, in this order.
_PARTS = ("train", "val", "test")

#: Samples that are read to learn their classes.
_READ = 20_000


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


def load_user(reference: str, args: dict[str, Any], num_classes: int | None) -> Source:
    """The user's own Dataset, its class, or a function that returns one, or (train, val) or (train, val, test) of them.

    A class with a parameter ``train`` (bool) gives training and test set, as torchvision's do; one with ``split`` (text)
    is asked for train, val (valid, validation) and test.

    Raises UserError when it gives no map-style data set of (input, target) pairs.
    """
    children.start_tracker()  # user code may start a Pool
    target = usercode.load(reference, "data.name")
    notes: list[str] = []
    if isinstance(target, tuple | list) and 2 <= len(target) <= 3:
        made = dict(zip(_PARTS, target, strict=False))
    elif isinstance(target, Dataset):
        made = {"train": target}
    elif callable(target):
        made, notes = _make(target, args, reference)
    elif hasattr(target, "__len__") and hasattr(target, "__getitem__"):
        made = {"train": target}
    else:
        raise UserError(
            f"data.name = {reference!r} is a {type(target).__name__}, not a Dataset class.", field="data.name"
        )
    parts = {name: _part(dataset, reference) for name, dataset in made.items()}
    sample, label = first_sample(parts["train"], reference)
    task, classes, parts = _classes(made["train"], parts, label, num_classes, reference, notes)
    shape = np.shape(sample)
    known = torch.Tensor | np.ndarray | list | tuple | float | int | str | bytes | dict | None
    image = len(shape) >= 2 or not isinstance(sample, known)
    if task == "regression" and parts["train"].targets is not None and _only_0_and_1(parts["train"].targets):
        notes.append(
            f"The targets of {reference!r} are floats 0 and 1, taken as numbers; give whole numbers for classes."
        )
    return Source(
        parts["train"],
        parts.get("test"),
        task,
        image,
        classes,
        place=reference,
        val=parts.get("val"),
        notes=tuple(notes),
    )


def _only_0_and_1(targets: torch.Tensor) -> bool:
    return bool(((targets == 0) | (targets == 1)).all())


def _make(target: Any, args: dict[str, Any], reference: str) -> tuple[dict[str, Any], list[str]]:
    """The parts that the user's class or function gives, and what to say of them."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    if "train" in parameters and "train" not in args:
        return {
            name: usercode.call(target, {**args, "train": name == "train"}, "data") for name in ("train", "test")
        }, []
    if "split" in parameters and "split" not in args:
        return _splits(target, args, reference)
    made = usercode.call(target, args, "data")
    if isinstance(made, tuple | list) and 2 <= len(made) <= 3:
        return dict(zip(_PARTS, made, strict=False)), []
    return {"train": made}, []


def _splits(target: Any, args: dict[str, Any], reference: str) -> tuple[dict[str, Any], list[str]]:
    made = {"train": usercode.call(target, {**args, "split": "train"}, "data")}
    notes = []
    for part, names in (("test", ("test",)), ("val", ("val", "valid", "validation"))):
        reasons: list[str] = []
        for name in names:
            try:
                made[part] = usercode.call(target, {**args, "split": name}, "data")
                break
            except UserCodeError as error:
                if not _no_such_split(error.__cause__, name):
                    raise
                reasons.append(f"{type(error.__cause__).__name__}: {error.__cause__}")
        if part not in made:
            notes.append(f"{reference!r} gives no split {names[0]!r} ({reasons[0]}).")
    for other in ("test", "train"):
        # A class that knows two splits may give one of them for any other name.
        if "val" in made and other in made and _alike(made["val"], made[other]):
            del made["val"]
            notes.append(
                f"{reference!r}: split='val' gives the same samples as {other!r}; validation is cut from the "
                "training set instead."
            )
    return made, notes


def _no_such_split(error: BaseException | None, name: str) -> bool:
    """Whether a data set raised this because it has no split of that name, rather than while it read one.

    Each library words it in its own way, with a plain ValueError most often.
    """
    if isinstance(error, KeyError):
        return error.args == (name,)
    if isinstance(error, ValueError):
        return name in str(error) or "split" in str(error).lower()
    return isinstance(error, AssertionError | NotImplementedError)


def _alike(one: Any, other: Any) -> bool:
    """Whether two data sets give the same samples, also where they change them at random."""
    with usercode.user_errors():
        if len(one) != len(other) or not len(one):
            return False
        return all(equal(_drawn(one, i), _drawn(other, i)) for i in {0, len(one) // 2, len(one) - 1})


def _drawn(dataset: Any, index: int) -> Any:
    with seeded(0):
        return dataset[index]


def _part(dataset: Any, reference: str) -> Part:
    if isinstance(dataset, IterableDataset):
        raise UserError(
            f"data.name = {reference!r} is an IterableDataset; exact resume needs a data set with __len__ and "
            "__getitem__.",
            field="data.name",
        )
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"data.name = {reference!r} gave a {type(dataset).__name__}; a Dataset with __len__ and __getitem__ is "
            "needed.",
            field="data.name",
        )
    with usercode.user_errors():
        length = len(dataset)
    if not length:
        raise UserError(f"data.name = {reference!r} is empty: its length is 0.", field="data.name")
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        x, y = dataset.tensors
        return Arrays(narrowed(x) if x.dtype == torch.float64 else x, targets_of(y, reference)[1])
    return Samples(dataset, _known_targets(dataset, reference))


def _known_targets(dataset: Any, reference: str) -> torch.Tensor | None:
    """The targets of all samples, where the data set keeps them under a usual name and they are those it gives."""
    for name in _TARGETS:
        values = getattr(dataset, name, None)
        if values is None or callable(values):
            continue
        try:
            tensor = torch.as_tensor(np.asarray(values) if isinstance(values, list | tuple) else values)
        except (TypeError, ValueError, RuntimeError):
            continue
        if tensor.ndim and len(tensor) == len(dataset) and _are_given(dataset, tensor, reference):
            return tensor
    return None


def _are_given(dataset: Any, targets: torch.Tensor, reference: str) -> bool:
    for index in {0, len(targets) // 2, len(targets) - 1}:
        with usercode.user_errors():
            _, label = pair(dataset[index], reference)
        try:
            given = torch.as_tensor(label)
        except (TypeError, ValueError, RuntimeError):
            return False
        if given.numel() != targets[index].numel() or not torch.allclose(
            given.double().reshape(-1), targets[index].double().reshape(-1)
        ):
            return False
    return True


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
                    f"An item of {reference!r} holds {', '.join(map(repr, others))} beside the input {x!r} and the target "
                    f"{y!r}, which the model would not get; give (input, target) pairs, the input one tensor."
                )
            return item[x], item[y]
    shown = type(item).__name__
    if isinstance(item, dict):
        shown = f"dict with the keys {', '.join(map(str, item))}"
    elif isinstance(item, tuple | list):
        shown = f"{shown} of {len(item)}"
    raise UserError(f"An item of {reference!r} must be an (input, target) pair, but is a {shown}.")


def _classes(
    dataset: Any,
    parts: dict[str, Part],
    label: Any,
    num_classes: int | None,
    reference: str,
    notes: list[str],
) -> tuple[Task, tuple[str, ...], dict[str, Part]]:
    """The task, the names of the classes, and the parts, with texts as class numbers."""
    names = getattr(dataset, "classes", None)
    names = tuple(map(str, names)) if isinstance(names, list | tuple) and names else ()
    if isinstance(label, str | bytes):
        names = names or sorted_names({label_of(v) for part in parts.values() for v in _labels(part, reference)})
        index = {name: number for number, name in enumerate(names)}
        return "classification", names, {n: Samples(_Named(p.dataset, index, reference)) for n, p in parts.items()}  # type: ignore[union-attr]
    value = _as_target(label, reference)
    if value.dtype.is_floating_point:
        return "regression", (), parts
    if names:
        return "classification", names, parts
    if num_classes:
        return "classification", tuple(map(str, range(num_classes))), parts
    if value.dtype == torch.bool:
        return "classification", ("False", "True"), parts
    targets = parts["train"].targets
    if targets is None:
        labels = _labels(parts["train"], reference)
        targets = torch.tensor([_class_number(v, at, reference) for at, v in enumerate(labels)])
    found = targets.unique()
    if len(found) <= int(targets.max()):
        notes.append(
            f"The labels of {reference!r} leave gaps: {len(found)} are in use, of the {int(targets.max()) + 1} classes from 0 "
            f"to {int(targets.max())} that the model tells apart."
        )
    return "classification", tuple(map(str, range(int(targets.max()) + 1))), parts


def _as_target(label: Any, reference: str) -> torch.Tensor:
    """Raises UserError for a target that is no class and no number."""
    where = f"The target of the first sample of {reference!r}"
    if label is None:
        raise UserError(f"{where} is None; a class number, a name or numbers are needed.")
    if isinstance(label, dict):
        keys = ", ".join(map(str, label))
        raise UserError(f"{where} is a dict with the keys {keys}; a class number, a name or numbers are needed.")
    try:
        value = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{where} is a {type(label).__name__}; a class number, a name or numbers are needed.") from None
    if value.dtype.is_complex or (value.numel() > 1 and not value.dtype.is_floating_point):
        raise UserError(
            f"{where} holds {'complex' if value.dtype.is_complex else 'whole'} numbers of the shape {list(value.shape)}; one "
            "class number is needed, or floats (several labels are floats 0 and 1, with a loss of your own)."
        )
    return value


def _labels(part: Part, reference: str) -> Sequence[Any]:
    """The labels of all samples, read one by one."""
    if isinstance(part, Arrays):
        return part.y.tolist()
    if len(part) > _READ:
        raise UserError(
            f"data.name = {reference!r} has {len(part):,} samples and neither 'targets' nor 'classes'; set "
            "data.num_classes, rather than reading them all to count.",
            field="data.name",
        )
    return [_label(part.dataset, index, reference) for index in range(len(part))]


def _label(dataset: Dataset, index: int, reference: str) -> Any:
    try:
        with usercode.user_errors():
            return pair(dataset[index], reference)[1]
    except UserCodeError as error:
        raise UserCodeError(f"Sample {index} of {reference!r}: {error}") from error.__cause__


def _class_number(label: Any, index: int, reference: str) -> int:
    """Raises UserError for a label that is none, though the first sample's is."""
    try:
        value = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        value = torch.empty(0)
    if value.numel() != 1 or value.is_floating_point() or value.is_complex():
        raise UserError(
            f"Sample {index} of {reference!r} has the label {label!r}; the first sample's is a class number, and so must be "
            "all others."
        )
    return int(value)


class _Named(Dataset):
    """A data set whose targets are names of classes, given as their numbers."""

    def __init__(self, dataset: Dataset, index: dict[str, int], reference: str) -> None:
        self._dataset, self._index, self._reference = dataset, index, reference

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, at: int) -> tuple[Any, int]:
        x, label = pair(self._dataset[at], self._reference)
        number = self._index.get(str(label), self._index.get(label_of(label)))
        if number is None:
            raise UserError(
                f"Sample {at} of {self._reference!r} has the label {label!r}, which is none of its classes."
            )
        return x, number


def augments(part: Part, indices: torch.Tensor) -> bool:
    """Whether a data set of the user's changes its samples at random: tried on the first of them."""
    if not isinstance(part, Samples) or not len(indices):
        return False
    with usercode.user_errors():
        return is_random(functools.partial(part.dataset.__getitem__, int(indices[0])))
