"""The columns of a list of runs, on the screen and on the command line."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment.metric_names import metric
from torchdeck.core.runs.rows import FIELDS, Row
from torchdeck.core.text import SHARES, duration, number, printable
from torchdeck.tui.drawing.sparkline import scale_of, sparkline

#: A sign for each status: it tells it without colour.
SIGNS = {"running": "●", "done": "✓", "pruned": "✂", "stopped": "■", "failed": "✗", "dead": "✗", "events": "≈"}

SPARK = 12


@dataclass(frozen=True)
class Column:
    """One column: its name is what ``Row.value`` knows."""

    name: str
    title: str
    text: Callable[[Row], str]
    right: bool = False
    #: Characters, at most.
    width: int = 24


def size(count: float) -> str:
    """Bytes in words: 1.2 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def value_text(name: str, value: Any) -> str:
    """A value of a run as it is read."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return printable(", ".join(map(str, value)))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        what = metric(name)[1]
        if what in SHARES:
            return f"{value:.2%}"
        return number(value) if what in ("loss", "rmse", "mae", "r2", "result") else f"{value:.4g}"
    return printable(str(value))


def result_text(row: Row) -> str:
    """The best value of the watched metric."""
    return value_text(row.watched, row.result) if not math.isnan(row.result) else ""


def _best(row: Row) -> str:
    text = result_text(row)
    return f"{text} (test)" if text and row.validated_on == "test" else text


def _epoch(row: Row) -> str:
    if row.foreign:
        return f"step {row.step:,}" if row.step else ""
    return f"{row.epoch}/{row.epochs}" if row.epochs else str(row.epoch)


def ago(moment: float) -> str:
    """How long ago that was (seconds since 1970), in one unit: 3d; empty for no moment at all."""
    if not moment:
        return ""
    seconds = time.time() - moment
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


_COLUMNS = {
    "status": Column("status", "status", lambda r: f"{SIGNS.get(r.status, '?')} {printable(r.status)}", width=9),
    "name": Column("name", "run", lambda r: printable(r.title or r.name), width=34),
    "data": Column("data", "data", lambda r: printable(r.data.rpartition(":")[2]), width=16),
    "model": Column("model", "model", lambda r: printable(r.model), width=14),
    "epoch": Column("epoch", "epoch", _epoch, right=True, width=11),
    "best": Column("best", "best", _best, right=True, width=13),
    "watched": Column("watched", "metric", lambda r: printable(r.watched_text), width=15),
    "curve": Column("curve", "curve", lambda r: sparkline(r.curve, SPARK, scale_of([r.curve])), width=SPARK),
    "duration": Column("duration", "time", lambda r: duration(r.seconds) if r.seconds else "", right=True, width=9),
    "created": Column("created", "age", lambda r: ago(r.created), right=True, width=5),
    "size": Column("size", "size", lambda r: size(r.size), right=True, width=9),
    "tags": Column("tags", "tags", lambda r: printable(" ".join(r.tags)), width=16),
}

DEFAULT = (
    "status",
    "name",
    "best",
    "curve",
    "data",
    "model",
    "lr",
    "epoch",
    "duration",
    "last_accuracy",
    "test_accuracy",
    "device",
    "size",
    "tags",
)


def column(name: str) -> Column:
    """The column of that name: one of ours, or any field, metric or hyperparameter."""
    if name in _COLUMNS:
        return _COLUMNS[name]
    titles = {"last_accuracy": "last acc", "test_accuracy": "test acc"}

    def text(row: Row) -> str:
        return value_text(name, row.value(name))

    number_like = name not in FIELDS or name in ("epochs", "step")
    return Column(name, titles.get(name, name), text, right=number_like, width=16)


def chosen(names: Sequence[str], rows: Sequence[Row]) -> list[Column]:
    """The columns of these names.

    Raises UserError for a name that no run has.
    """
    for name in names:
        if name not in _COLUMNS and name not in DEFAULT and rows and all(row.value(name) is None for row in rows):
            known = {*_COLUMNS, *(n for row in rows for n in row.names())}
            if name not in known:
                raise UserError(f"No run has {name!r}; {did_you_mean(name, sorted(known))}")
    return [column(name) for name in names]


def on_one_scale(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns with curves that can be compared: those of one metric share a scale."""
    curves: dict[str, list[Sequence[float]]] = {}
    for row in rows:
        curves.setdefault(row.watched, []).append(row.curve)
    scales = {watched: scale_of(found) for watched, found in curves.items()}

    def text(row: Row) -> str:
        return sparkline(row.curve, SPARK, scales[row.watched])

    return [replace(c, text=text) if c.name == "curve" else c for c in columns]


def filled(columns: Sequence[Column], rows: Sequence[Row]) -> list[Column]:
    """The columns that say something of at least one run."""
    return [c for c in columns if c.name in ("status", "name") or any(c.text(row) for row in rows)]
