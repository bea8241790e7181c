"""What the labels of the user's data say: the classes and their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchdeck.core import catalog, usercode
from torchdeck.core.data.boxes import class_names_of_boxes, is_ready
from torchdeck.core.data.infer import are_whole, as_values
from torchdeck.core.data.items import Layout
from torchdeck.core.data.source import Arrays, Part, Samples, Source, Streamed
from torchdeck.core.data.tables import label_of, sorted_names
from torchdeck.core.data.vocabulary import vocabulary_of
from torchdeck.core.errors import UserCodeError, UserError

#: Samples that are read to learn their classes.
_READ = 20_000


def with_classes(
    source: Source,
    dataset: Any,
    label: Any,
    num_classes: int | None,
    reference: str,
    notes: list[str],
    collated: bool = False,
) -> Source:
    """The source with the names of its classes, as its task has such, and texts as class numbers. ``dataset`` is what
    the user gave for training, ``label`` its first target; ``collated``: whether a collate function of the user's gets
    the items as they are.

    Raises UserError for labels that are none.
    """
    names = _kept_names(dataset, source.layout)
    kind = catalog.find("task", source.task).fact("targets")
    if kind == "classes" and collated and isinstance(label, str | bytes):
        return _as_collated(source, names, num_classes)
    if kind == "classes":
        return _with_class_numbers(source, label, names, num_classes, reference, notes)
    if kind == "tokens":
        return _with_vocabulary(source, dataset, num_classes)
    if kind == "labels":
        found = as_values(label)
        count = found.numel() if found is not None else 1
        return replace(source, class_names=names if len(names) == count else _numbered(count))
    if kind == "boxes":
        if not is_ready(source.layout.split(dataset[0])[0]):
            notes.append(f"Images of {reference!r} become tensors with values from 0 to 1.")
        return replace(source, class_names=class_names_of_boxes(source, names, num_classes))
    if kind == "class_map" and not names:
        count = num_classes or _greatest(source, lambda part: _maps(part, source, reference)) + 1
        return replace(source, class_names=_numbered(count))
    return replace(source, class_names=names if kind == "class_map" else ())


def _kept_names(dataset: Any, layout: Layout) -> tuple[str, ...]:
    """The names of the classes that a data set keeps: as ``classes``, or with the column that is the target (a
    ClassLabel of Hugging Face's ``datasets``)."""
    names = getattr(dataset, "classes", None)
    features = getattr(dataset, "features", None)
    if names is None and isinstance(features, Mapping):
        column = layout.target_of(features)
        feature = features.get(column)
        names = getattr(getattr(feature, "feature", feature), "names", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) and names else ()


def _as_collated(source: Source, names: tuple[str, ...], num_classes: int | None) -> Source:
    """The source whose collate function makes class numbers of names.

    Raises UserError where nothing tells how many classes there are.
    """
    if not (names or num_classes):
        raise UserError(
            f"The labels of {source.place!r} are texts, of which the collate function makes numbers; set "
            "data.num_classes to how many there are.",
            field="data.num_classes",
        )
    return replace(source, class_names=names or _numbered(num_classes or 0))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _with_vocabulary(source: Source, dataset: Any, num_classes: int | None) -> Source:
    """What tokens stand for, and how many there are: told, or one more than the greatest that occurs."""
    vocabulary, codec = vocabulary_of(dataset)
    source = replace(source, vocabulary=vocabulary, codec=codec)
    told = num_classes or getattr(dataset, "vocab_size", None)
    if told is None and callable(getattr(dataset, "get_vocab_size", None)):
        told = dataset.get_vocab_size()
    if isinstance(told, int) or vocabulary:
        return replace(source, tokens=told if isinstance(told, int) else len(vocabulary))
    greatest = _greatest(source, lambda part: _inputs(part, source))
    return replace(source, tokens=greatest + 1)


def _greatest(source: Source, values: Callable[[Part], Iterable[Tensor]]) -> int:
    """The greatest number in all parts, which are read for it.

    Raises UserError where they are too many to read.
    """
    found = 0
    for part in source.parts.values():
        if isinstance(part, Samples) and len(part) > _READ:
            tokens = source.task == "language"
            raise UserError(
                f"data.name = {source.place!r} has {len(part):,} samples and does not tell how many "
                f"{'tokens' if tokens else 'classes'} there are; set data.num_classes"
                f"{' (or model.args.vocab_size)' if tokens else ''}, rather than reading them all to count.",
                field="data.num_classes",
            )
        found = max(found, *(int(v.max()) for v in values(part) if v.numel()), 0)
    return found


def _maps(part: Part, source: Source, reference: str) -> Iterator[Tensor]:
    """The targets of a part; what the loss ignores is usually 255 or negative, and no class."""
    everything = [part.y] if isinstance(part, Arrays) else (_label(part.dataset, i, source) for i in range(len(part)))
    for label in everything:
        values = as_values(label)
        if values is None or not are_whole(values):
            raise UserError(f"The targets of {reference!r} are no whole numbers; a class number is needed for each.")
        yield values[(values != 255) & (values >= 0)]


def _inputs(part: Part, source: Source) -> Iterator[Tensor]:
    if isinstance(part, Arrays):
        yield part.x
        return
    for index in range(len(part)):
        with usercode.user_errors():
            inputs = source.layout.split(part.dataset[index])[0]
            values = as_values(inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs)
        if values is not None:
            yield values


def _with_class_numbers(
    source: Source, label: Any, names: tuple[str, ...], num_classes: int | None, reference: str, notes: list[str]
) -> Source:
    if isinstance(label, str | bytes):
        names = names or sorted_names({label_of(v) for part in source.parts.values() for v in _labels(part, source)})
        return _with_numbers_for(source, names)
    value = _as_target(label, reference)
    if value.ndim == 1 and len(value) > 1:  # a number for each class
        return replace(source, class_names=names if len(names) == len(value) else _numbered(len(value)))
    if names:
        return replace(source, class_names=names)
    if num_classes:
        return replace(source, class_names=_numbered(num_classes))
    if value.dtype == torch.bool:
        return replace(source, class_names=("False", "True"))
    targets = source.train.targets
    if targets is None:
        labels = _labels(source.train, source)
        targets = torch.tensor([_class_number(v, at, reference) for at, v in enumerate(labels)])
        source = _keeping(source, targets, reference)
    found = targets.unique()
    if len(found) <= int(targets.max()):
        notes.append(
            f"The labels of {reference!r} leave gaps: {len(found)} are in use, of the {int(targets.max()) + 1} "
            f"classes from 0 to {int(targets.max())} that the model tells apart."
        )
    return replace(source, class_names=_numbered(int(targets.max()) + 1))


def _keeping(source: Source, targets: Tensor, reference: str) -> Source:
    """The source with the classes that were read, for a sampler or a loss that weighs them; without them where they are
    not the same each time."""
    train = source.train
    if not isinstance(train, Samples) or isinstance(train, Streamed):
        return source
    again = {at: _label(train.dataset, at, source) for at in {0, len(targets) // 2, len(targets) - 1}}
    if any(_class_number(label, at, reference) != int(targets[at]) for at, label in again.items()):
        return source
    return replace(source, train=replace(train, targets=targets))


def _with_numbers_for(source: Source, names: tuple[str, ...]) -> Source:
    index = {name: number for number, name in enumerate(names)}
    parts: dict[str, Part] = {
        part: Samples(_Named(samples.dataset, index, source.layout))  # type: ignore[union-attr]
        for part, samples in source.parts.items()
    }
    return replace(
        source,
        class_names=names,
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        layout=Layout(where=source.layout.where),
    )


def _as_target(label: Any, reference: str) -> torch.Tensor:
    """Raises UserError for a target that is no class and no number."""
    where = f"The target of the first sample of {reference!r}"
    if label is None:
        raise UserError(f"{where} is None; a class number, a name or numbers are needed.")
    try:
        value = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"{where} is a {type(label).__name__}; a class number, a name or numbers are needed.") from None
    if value.dtype.is_complex:
        raise UserError(f"{where} holds complex numbers; a class number is needed.")
    return value


def _labels(part: Part, source: Source) -> Sequence[Any]:
    """The labels of all samples, read one by one."""
    if isinstance(part, Arrays):
        return part.y.tolist()
    if len(part) > _READ:
        raise UserError(
            f"data.name = {source.place!r} has {len(part):,} samples and neither 'targets' nor 'classes'; set "
            "data.num_classes, rather than reading them all to count.",
            field="data.name",
        )
    return [_label(part.dataset, index, source) for index in range(len(part))]


def _label(dataset: Dataset, index: int, source: Source) -> Any:
    try:
        with usercode.user_errors():
            return source.layout.split(dataset[index])[1]
    except UserCodeError as error:
        raise UserCodeError(f"Sample {index} of {source.place!r}: {error}") from error.__cause__


def _class_number(label: Any, index: int, reference: str) -> int:
    """Raises UserError for a label that is none, though the first sample's is."""
    try:
        value = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        value = torch.empty(0)
    if value.numel() != 1 or value.is_complex() or not are_whole(value):
        shown = f"holds numbers of the shape {list(value.shape)}" if value.numel() > 1 else f"is {_shown(label)}"
        raise UserError(
            f"The target of sample {index} of {reference!r} {shown}; in classification each is a class number."
        )
    return int(value)


def _shown(label: Any) -> str:
    return f"{label.item():.6g}" if isinstance(label, Tensor) and label.numel() == 1 else repr(label)


class _Named(Dataset):
    """A data set whose targets are names of classes, given as their numbers."""

    def __init__(self, dataset: Dataset, index: dict[str, int], layout: Layout) -> None:
        self._dataset, self._index, self._layout = dataset, index, layout

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, at: int) -> tuple[Any, int]:
        x, label = self._layout.split(self._dataset[at])
        number = self._index.get(str(label), self._index.get(label_of(label)))
        if number is None:
            raise UserError(
                f"Sample {at} of {self._layout.where!r} has the label {label!r}, which is none of its classes."
            )
        return x, number
