"""Classes are names, never positions: those of the data, and how they are found among those that a model knows."""

from __future__ import annotations

import torch
from torch import Tensor

from torchdeck.core import catalog
from torchdeck.core.data.infer import are_whole
from torchdeck.core.data.items import tensors_in
from torchdeck.core.data.source import Arrays, DataInfo, Part, Source
from torchdeck.core.data.tables import label_of
from torchdeck.core.errors import UserError, count
from torchdeck.core.experiment.data_schema import Data

#: Targets that are looked at together.
_AT_ONCE = 4096


def class_names(source: Source, data: Data) -> tuple[str, ...]:
    """The names of the classes, with those that data.num_classes adds.

    Raises UserError when the data have more classes than data.num_classes.
    """
    kind = catalog.find("task", source.task).fact("targets")
    if kind not in ("classes", "class_map", "boxes"):
        return source.class_names
    names = source.class_names
    if data.num_classes and data.num_classes > len(names):
        free = (str(i) for i in range(data.num_classes) if str(i) not in names)
        return (*names, *(next(free) for _ in range(data.num_classes - len(names))))
    if data.num_classes and data.num_classes < len(names):
        raise UserError(
            f"data.num_classes = {data.num_classes}, but {data.name!r} has {len(names)} classes.",
            field="data.num_classes",
        )
    return names


def check(source: Source, name: str, classes: int, training: bool = True, ignored: int = -100) -> None:
    """Raises UserError for data that can't be trained on, or not be evaluated: empty, not finite, with wrong labels.
    ``ignored``: the class of pixels and tokens that do not count."""
    where = f"data.name = {name!r}"
    kind = catalog.find("task", source.task).fact("targets")
    if training and source.task in ("classification", "segmentation") and classes < 2:
        raise UserError(
            f"{where} has {count(classes, 'class')}; two or more are needed to learn anything.", field="data.name"
        )
    for part in source.parts.values():
        if not len(part):
            raise UserError(f"{where} is empty.", field="data.name")
        if isinstance(part, Arrays) and source.plain and part.x.is_floating_point():
            rows = torch.isfinite(part.x.reshape(len(part), -1)).all(1)
            if not rows.all():
                at = int((~rows).nonzero()[0])
                raise UserError(f"{where}: {place_of_row(part, at)} holds NaN or infinite values.", field="data.name")
        if source.tokens and isinstance(part, Arrays):
            _check_tokens(part, source.tokens, where)
        if source.task == "classification" and part.targets is not None and part.targets.numel() == len(part):
            _check_labels(part, part.targets.reshape(-1), classes, where)
        if isinstance(part, Arrays) and part.targets is not None:
            _check_each(part, part.targets, kind, classes, ignored, where)
    targets = source.train.targets
    if training and source.task == "classification" and targets is not None and targets.unique().numel() < 2:
        raise UserError(f"{where}: all samples are of one class; two or more are needed to learn anything.")


def _check_each(part: Arrays, y: Tensor, kind: str, classes: int, ignored: int, where: str) -> None:
    """Masks, classes of tokens and labels of 0 and 1, whose first wrong sample is named."""
    if kind == "class_map" and isinstance(part.x, Tensor) and part.x.ndim == 4:
        sizes = tuple(part.x.shape[-2:]), tuple(y.shape[-2:])
        if y.ndim < 3 or sizes[0] != sizes[1] or y.numel() != len(y) * sizes[0][0] * sizes[0][1]:
            raise UserError(f"{where}: the images are {list(part.x.shape[1:])} and the masks {list(y.shape[1:])}.")
    if kind not in ("class_map", "labels"):
        return
    for begin in range(0, len(y), _AT_ONCE):
        some = y[begin : begin + _AT_ONCE]
        right = (some == 0) | (some == 1)
        if kind == "class_map":
            right = ((some >= 0) & (some < classes) & (some == some.floor() if some.is_floating_point() else True)) | (
                some == ignored
            )
        if not right.all():
            at = begin + int((~right).nonzero()[0, 0])
            place = f"{where}: {place_of_row(part, at)}"
            check_labels(y[at], place) if kind == "labels" else check_map(y[at], classes, ignored, place)


def check_labels(y: Tensor, where: str) -> None:
    """Raises UserError for labels that are something else than 0 and 1."""
    wrong = y[(y != 0) & (y != 1)]
    if len(wrong):
        raise UserError(f"{where} holds the label {float(wrong[0]):.4g}; each of several labels is 0 or 1.")


def check_map(y: Tensor, classes: int, ignored: int, where: str) -> None:
    """Raises UserError for a class beyond those of the data in a mask, or among the classes of tokens."""
    wrong = y[(y != ignored) & ((y < 0) | (y >= classes))]
    if y.is_floating_point() and not len(wrong) and bool((y != y.round()).any()):
        raise UserError(f"{where} holds {float(y[y != y.round()][0]):.4g}, which is not the number of a class.")
    if len(wrong):
        value = int(wrong[0])
        raise UserError(
            f"{where} holds the class {value}; with {classes} classes it must be between 0 and {classes - 1} "
            f"(task.args.ignore_index = {value} leaves it out)."
        )


def _check_labels(part: Part, y: Tensor, classes: int, where: str) -> None:
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise wrong_label(f"{where}: {place_of_row(part, at)}", int(y[at]), classes)


def _check_tokens(part: Arrays, tokens: int, where: str) -> None:
    for t in tensors_in(part.x):
        wrong = (t < 0) | (t >= tokens)
        if wrong.any():
            at = wrong.nonzero()[0]
            raise wrong_token(f"{where}: {place_of_row(part, int(at[0]))}", int(t[tuple(at)]), tokens)


def wrong_token(sample: str, token: int, tokens: int) -> UserError:
    """What is told of a sample with a token that is none of the vocabulary's."""
    return UserError(
        f"{sample} holds the token {token}; with a vocabulary of {tokens} it must be between 0 and {tokens - 1} "
        "(data.num_classes says how many tokens there are).",
        field="data.num_classes",
    )


def check_class(y: Tensor, classes: int, where: str) -> None:
    """Raises UserError for a target of one number that is not the number of a class; ``where``: without its S."""
    if not are_whole(y):
        raise UserError(f"The target of s{where} is {float(y):.6g}, which is not the number of a class.")
    if not 0 <= int(y) < classes:
        raise wrong_label(f"S{where}", int(y), classes)


def wrong_label(sample: str, label: int, classes: int) -> UserError:
    """What is told of a sample whose label is none of the classes' numbers."""
    more = " (data.num_classes says how many there are)"
    if label < 0:
        more = " (task.name = 'regression' takes targets as numbers)"
    return UserError(
        f"{sample} has the label {label}; with {classes} classes it must be between 0 and {classes - 1}{more}."
    )


def place_of_row(part: Part, index: int) -> str:
    """Where a sample is: its row in the file, its own file, or its number."""
    if isinstance(part, Arrays):
        return f"sample {index}" if part.rows is None else f"row {part.rows[index]}"
    files = getattr(part.dataset, "samples", None)
    if getattr(part.dataset, "decodes", False) and isinstance(files, list):
        return repr(files[index][0])
    return f"sample {index}"


def order_of_classes(source: Source, classes: tuple[str, ...], trained: DataInfo, name: str) -> Tensor | None:
    """For each class of the data its number in the training; None where they are the same.

    Raises UserError for a class that the model does not know, naming it and where it is first met. Classes that the
    data name but have no sample of are no matter; their number is -1. Where the targets are not known beforehand, a
    sample of such a class is refused when it is read.
    """
    if classes == trained.class_names:
        return None
    exact = {c: number for number, c in enumerate(trained.class_names)}
    known = {label_of(c): number for number, c in enumerate(trained.class_names)}
    numbers = [exact.get(c, known.get(label_of(c), -1)) for c in classes]
    for number, found in enumerate(numbers):
        if found < 0 and (place := _first_of(source, number)) is not None:
            shown = ", ".join(trained.class_names[:12]) + (" ..." if len(trained.class_names) > 12 else "")
            raise UserError(
                f"data.name = {name!r} has the class {classes[number]!r}, which the model was not trained on "
                f"({place}); it knows {shown}.",
                field="data.name",
            )
    return torch.tensor(numbers)


def _first_of(source: Source, number: int) -> str | None:
    """Where a class is first met; None when it has no sample, as far as that is known."""
    for part in source.parts.values():
        at = torch.zeros(0) if part.targets is None else (part.targets == number).nonzero()
        if len(at):
            return place_of_row(part, int(at[0, 0]))
    return None
