"""The raw data that an experiment names, and the one read last, which the trials of a search share."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch.utils.data import Dataset

from torchdeck.core.data.infer import Hints
from torchdeck.core.data.items import Layout
from torchdeck.core.data.samples import first_sample
from torchdeck.core.data.source import Arrays, Samples, Source, Streamed
from torchdeck.core.data.user_data import load_user
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.data_schema import Data


class _Kept:
    """The source that was read last, for the trials of a search, which all train on the same."""

    users = 0
    key = ""
    source: Source | None = None


@contextmanager
def keeping_source() -> Iterator[None]:
    """As long as this lasts, arrays from the catalog that were read last are not read again (from any thread)."""
    _Kept.users += 1
    try:
        yield
    finally:
        _Kept.users -= 1
        if not _Kept.users:
            _Kept.source = None


def load_source(data: Data, hints: Hints, mode: str = "RGB") -> Source:
    """The raw data that ``data.name`` points to; ``hints``: what is known of the task; ``mode``: that of PIL in which
    image files are read.

    Raises UserError when they are not there or damaged.
    """
    key = f"{data.name} {data.root} {data.num_classes} {data.resolved()} {hints.task}"
    if _Kept.users and _Kept.source is not None and _Kept.key == key:
        return _Kept.source
    source = as_task(_read_source(data, hints, mode), hints)
    if _Kept.users and data.entry() is not None and isinstance(source.train, Arrays):
        _Kept.key, _Kept.source = key, source
    return source


def _read_source(data: Data, hints: Hints, mode: str) -> Source:
    entry = data.entry()
    if entry is None:
        return load_user(data, hints)
    factory = entry.load_factory()
    offered = {
        "name": entry.name,
        "root": data.root,
        "download": data.download,
        "num_classes": data.num_classes,
        "mode": mode,
        **data.resolved(),
    }
    takes = inspect.signature(factory).parameters
    return factory(**{name: value for name, value in offered.items() if name in takes})


#: Tasks that any data can be used for: they make their own targets, or take items as they are.
_OF_ANY = ("reconstruction", "contrastive", "own", "lightning")


def as_task(source: Source, hints: Hints) -> Source:
    """The source for the task that was asked for, where it can be used for that; else as it is."""
    if hints.task == "reconstruction":
        return _of_inputs(source)
    if hints.task in ("auto", source.task):
        return source
    if hints.task not in _OF_ANY:
        return source
    return replace(source, task=hints.task)


def _of_inputs(source: Source) -> Source:
    """The inputs alone, which are the targets; that others are not used is told."""
    if first_sample(source.train, source.layout)[1] is None:
        return replace(source, task="reconstruction")
    if isinstance(source.train, Streamed):
        raise UserError(
            f"task.name = 'reconstruction': the items of the stream {source.place!r} hold targets; give inputs alone.",
            field="task.name",
        )
    parts = {
        name: replace(part, y=None) if isinstance(part, Arrays) else Samples(Inputs(part.dataset, source.layout))
        for name, part in source.parts.items()
    }
    note = f"The targets of {source.place!r} are not used: the input is the target (task.name = 'reconstruction')."
    return replace(
        source,
        task="reconstruction",
        train=parts["train"],
        val=parts.get("val"),
        test=parts.get("test"),
        class_names=(),
        layout=Layout(where=source.layout.where),
        notes=(*source.notes, note),
    )


class Inputs(Dataset):
    """The inputs of a data set without its targets."""

    def __init__(self, dataset: Any, layout: Layout) -> None:
        self._dataset, self._layout = dataset, layout
        #: Of image files: whether they are decoded here, and their paths.
        self.decodes, self.samples = getattr(dataset, "decodes", False), getattr(dataset, "samples", None)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any]:
        return (self._layout.split(self._dataset[index])[0],)
