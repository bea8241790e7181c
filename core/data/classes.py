"""Classes are names, never positions: those of the data, and how they are found among those that a model knows."""

from __future__ import annotations

import torch
from torch import Tensor

from torchdeck.core import catalog
from torchdeck.core.data.items import tensors_in
from torchdeck.core.data.source import Arrays, DataInfo, Part, Source
from torchdeck.core.data.tables import label_of
from torchdeck.core.errors import UserError, count
from torchdeck.core.experiment.schema import Data


def class_names(source: Source, data: Data) -> tuple[str, ...]:
    """The names of the classes, with those that data.num_classes adds.

    Raises UserError when the data have more classes than data.num_classes.
    """
    kind = catalog.find("task", source.task).fact("targets")
    if kind not in ("classes", "class_map"):
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


def check(source: Source, name: str, classes: int, training: bool = True) -> None:
    """Raises UserError for data that can't be trained on, or not be evaluated: empty, not finite, with wrong labels."""
    where = f"data.name = {name!r}"
    if training and source.task == "classification" and classes < 2:
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
        if source.task == "classification" and part.targets is not None:
            _check_labels(part, part.targets, classes, where)
    targets = source.train.targets
    if training and source.task == "classification" and targets is not None and targets.unique().numel() < 2:
        raise UserError(f"{where}: all samples are of one class; two or more are needed to learn anything.")


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


def wrong_label(sample: str, label: int, classes: int) -> UserError:
    """What is told of a sample whose label is none of the classes' numbers."""
    return UserError(f"{sample} has the label {label}; with {classes} classes it must be between 0 and {classes - 1}.")


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
            return place_of_row(part, int(at[0]))
    return None
