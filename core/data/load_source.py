"""The raw data that an experiment names, and the one read last, which the trials of a search share."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from torchdeck.core.data.source import Arrays, Source
from torchdeck.core.data.user_data import load_user
from torchdeck.core.experiment.schema import Data


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


def load_source(data: Data, mode: str = "RGB") -> Source:
    """The raw data that ``data.name`` points to; ``mode``: that of PIL in which image files are read.

    Raises UserError when they are not there or damaged.
    """
    key = f"{data.name} {data.root} {data.num_classes} {data.resolved()}"
    if _Kept.users and _Kept.source is not None and _Kept.key == key:
        return _Kept.source
    source = _read_source(data, mode)
    if _Kept.users and data.entry() is not None and isinstance(source.train, Arrays):
        _Kept.key, _Kept.source = key, source
    return source


def _read_source(data: Data, mode: str) -> Source:
    entry = data.entry()
    if entry is None:
        return load_user(data.name, data.args, data.num_classes)
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
