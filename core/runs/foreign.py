"""Runs of other tools: any folder with TensorBoard events, as Lightning, Keras and SummaryWriter leave them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from torchdeck.core.experiment.metric_names import canonical, higher_is_better
from torchdeck.core.runs import labels as labels_of
from torchdeck.core.runs.rows import Row, size_of
from torchdeck.core.series import LIMIT, Series
from torchdeck.core.tracking.files import parts_of
from torchdeck.core.tracking.reader import EventReader

#: What is watched where a run does not say: the first of these that it has.
_WATCHED = ("val/accuracy", "val/loss", "train/accuracy", "train/loss")

#: Numbers of a curve in a list.
CURVE = 64


class EventRun:
    """The scalars of a run of another tool; ``poll`` reads what is new. Folders named after parts are one run."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        """``limit``: points of a series before neighbours are joined."""
        self.path = path
        self._readers = {
            part: EventReader(path / name if name else path, limit) for name, part in parts_of(path).items()
        }

    def poll(self) -> bool:
        """Read what was written since; tells whether there was anything.

        Raises OSError when the directory can't be read.
        """
        return any([reader.poll() for reader in self._readers.values()])

    @property
    def damaged(self) -> int:
        """Bytes that were passed over because their checksum is wrong."""
        return sum(reader.damaged for reader in self._readers.values())

    @property
    def span(self) -> tuple[float, float]:
        """Wall time of the first and of the newest event."""
        began = [r.began for r in self._readers.values() if r.began]
        return (min(began, default=0.0), max((r.newest for r in self._readers.values()), default=0.0))

    def series(self) -> dict[str, Series]:
        """The scalars by name: ``train/loss``, ``val/accuracy``, and what names no part as it is."""
        found: dict[str, Series] = {}
        for part, reader in self._readers.items():
            for tag, series in reader.series.items():
                found.setdefault(canonical(tag, part), series)
        return found


def foreign_row(path: Path) -> Row:
    """The row of such a run.

    Raises OSError when it can't be read.
    """
    run = EventRun(path)
    run.poll()
    series = run.series()
    began, newest = run.span
    said = labels_of.read_labels(path)
    watched = next((name for name in _WATCHED if name in series), next(iter(series), ""))
    part, _, metric = watched.rpartition("/")
    higher = higher_is_better(watched)
    last: dict[str, float] = {}
    best: dict[str, float] = {}
    train: dict[str, float] = {}
    test: dict[str, float] = {}
    for name, one in series.items():
        if not len(one):
            continue
        of, _, what = name.rpartition("/")
        group = {"train": train, "test": test, "val": last}.get(of)
        if group is None:
            last[name] = one.last
            continue
        group[what] = one.last
        if of == (part or of):
            with np.errstate(all="ignore"):
                values = one.high if higher_is_better(what) else one.low
                good = values[np.isfinite(values)]
            if len(good):
                best[what] = float(good.max() if higher_is_better(what) else good.min())
    last, best, train, test = ({k: v for k, v in m.items() if math.isfinite(v)} for m in (last, best, train, test))
    return Row(
        path=path,
        status="events",
        title=said.title or "",
        created=began,
        seconds=max(0.0, newest - began),
        step=int(max((one.steps[-1] for one in series.values() if len(one)), default=0)),
        watched=metric,
        higher=higher,
        last=last or train,
        best=best,
        train=train,
        test=test,
        curve=thinned(series[watched]) if watched else (),
        tags=said.tags or (),
        note=said.note or "",
        archived=said.archived,
        size=size_of(path),
        message=f"{run.damaged:,} damaged bytes were passed over" if run.damaged else "",
    )


def thinned(series: Series) -> tuple[float, ...]:
    """At most ``CURVE`` means of neighbours, for a sparkline."""
    values = series.mean[np.isfinite(series.mean)]
    if len(values) <= CURVE:
        return tuple(values.tolist())
    return tuple(float(part.mean()) for part in np.array_split(values, CURVE))
