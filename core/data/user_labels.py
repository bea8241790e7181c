"""What the labels of the user's data say: the task, the classes and their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from torchdeck.core import usercode
from torchdeck.core.data.samples import pair
from torchdeck.core.data.source import Arrays, Part, Samples, Task
from torchdeck.core.data.tables import label_of, sorted_names
from torchdeck.core.errors import UserCodeError, UserError

#: Samples that are read to learn their classes.
_READ = 20_000


def classes_and_task(
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
            f"The labels of {reference!r} leave gaps: {len(found)} are in use, of the {int(targets.max()) + 1} "
            f"classes from 0 to {int(targets.max())} that the model tells apart."
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
            f"{where} holds {'complex' if value.dtype.is_complex else 'whole'} numbers of the shape "
            f"{list(value.shape)}; one "
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
            f"Sample {index} of {reference!r} has the label {label!r}; the first sample's is a class number, and "
            "so must be all others."
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
