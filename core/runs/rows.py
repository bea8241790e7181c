"""A run as one row of a list: what is shown, sorted and filtered by. Made from run.json, or from event files."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from torchdeck.core.experiment.metric_names import metric
from torchdeck.core.experiment.renamed import current_key
from torchdeck.core.runs import labels as labels_of
from torchdeck.core.runs.directory import RunInfo

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One run. Metrics that are not there are left out; times are seconds since 1970, durations seconds."""

    path: Path
    #: running, done, pruned, stopped, failed, dead; events: another tool's.
    status: str
    title: str = ""
    data: str = ""
    model: str = ""
    device: str = ""
    created: float = 0.0
    seconds: float = 0.0
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    #: What it was validated on: validation, or test, the test set itself.
    validated_on: str = ""
    #: The watched metric, and whether more of it is better.
    watched: str = ""
    higher: bool = False
    #: Metrics of the last epoch, of the best one (validation), and of the test set.
    last: Metrics = field(default_factory=dict)
    best: Metrics = field(default_factory=dict)
    test: Metrics = field(default_factory=dict)
    train: Metrics = field(default_factory=dict)
    #: The watched metric over the epochs, thinned.
    curve: tuple[float, ...] = ()
    #: The experiment, flat: ``optimizer.lr`` and so on.
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    note: str = ""
    archived: bool = False
    #: Bytes on disk.
    size: int = 0
    message: str = ""

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def foreign(self) -> bool:
        """Whether another tool wrote it."""
        return self.status == "events"

    @property
    def result(self) -> float:
        """The best value of the watched metric; NaN when there is none, or none that is finite."""
        return (self.best or self.last).get(self.watched, math.nan)

    @property
    def watched_text(self) -> str:
        """The watched metric as it is read: marked where it is of the test set, which has chosen the best epoch."""
        return f"{self.watched} (test)" if self.validated_on == "test" else self.watched

    def value(self, name: str) -> Any:
        """A field, metric or hyperparameter by the name a user gives it; None when the run has none.

        ``val_acc`` and ``acc`` are the best epoch's on the validation set, ``last_acc`` the last one's, ``test_acc``
        the test set's; ``lr`` is ``optimizer.lr`` where no other key ends in lr.
        """
        lower = name.lower()
        if lower in FIELDS:
            value = getattr(self, FIELDS[lower])
            return value if not (isinstance(value, float) and math.isnan(value)) else None
        if name in self.hyperparameters:
            return self.hyperparameters[name]
        part, what = metric(name)
        groups = {
            "": (self.best, self.last),
            "val": (self.best, self.last),
            "best": (self.best,),
            "last": (self.last,),
            "test": (self.test,),
            "train": (self.train,),
        }[part]
        for group in groups:
            for key in (what, name, f"{part}/{what}"):
                if key in group:
                    return group[key]
        ends = [k for k in self.hyperparameters if k.rpartition(".")[2] == lower]
        return self.hyperparameters[min(ends, key=lambda k: (k.count("."), k))] if ends else None

    def names(self) -> set[str]:
        """All names that ``value`` knows for this run."""
        found = set(FIELDS) | set(self.hyperparameters) | {k.rpartition(".")[2] for k in self.hyperparameters}
        for part, group in (("val", self.best or self.last), ("test", self.test), ("train", self.train)):
            found |= {f"{part}_{key}" for key in group} | set(group)
        return found


#: What a user calls a field, and its name here.
FIELDS = {
    "status": "status",
    "name": "name",
    "title": "title",
    "data": "data",
    "model": "model",
    "device": "device",
    "created": "created",
    "duration": "seconds",
    "epoch": "epoch",
    "epochs": "epochs",
    "step": "step",
    "tag": "tags",
    "tags": "tags",
    "note": "note",
    "archived": "archived",
    "size": "size",
    "result": "result",
    "best": "result",
    "message": "message",
}


def run_row(info: RunInfo, now: float) -> Row:
    """The row of one of our runs; what is missing in run.json is missing in the row."""
    said = labels_of.read_labels(info.path)
    get = info.values.get
    ended = _float(get("ended")) or _float(get("heartbeat"))
    if info.status == "running":
        ended = now
    begun = _float(get("resumed")) if info.status in ("running", "dead") else 0.0
    seconds = _float(get("seconds"))
    if not seconds or begun:
        seconds += max(0.0, ended - (begun or _float(get("created"))))
    tags = said.tags if said.tags is not None else _texts(get("tags"))
    note = said.note if said.note is not None else _text(get("note"))
    best = _metrics(get("best"))
    return Row(
        path=info.path,
        status=info.status,
        title=said.title or "",
        data=_text(get("data")),
        model=_text(get("model")).rpartition(":")[2],
        device=_text(get("device")),
        created=_float(get("created")),
        validated_on=_text(get("validated_on")),
        seconds=seconds,
        epoch=_int(get("epoch")),
        epochs=_int(get("epochs")),
        step=_int(get("step")),
        watched=_text(get("best_metric")),
        higher=get("higher_is_better") is True,
        last=_metrics(get("val")),
        best=best,
        test=_metrics(get("test")),
        train=_metrics(get("train")),
        curve=_curve(get("curve")),
        hyperparameters={current_key(key): value for key, value in _flat(get("hyperparameters")).items()},
        tags=tags,
        note=note,
        archived=said.archived,
        size=size_of(info.path),
        message=_text(get("message")),
    )


def row_json(row: Row) -> dict[str, Any]:
    """Everything of a row as plain JSON values."""
    return {f.name: str(row.path) if f.name == "path" else _plain(getattr(row, f.name)) for f in fields(row)}


def from_json(values: Mapping[str, Any], path: Path) -> Row:
    """A row as ``to_json`` gave it.

    Raises TypeError, KeyError or ValueError for anything else.
    """
    row = Row(**{**values, "path": path})
    if not isinstance(row.status, str) or not all(
        isinstance(v, dict) for v in (row.last, row.best, row.hyperparameters)
    ):
        raise ValueError
    return replace(row, tags=tuple(row.tags), curve=tuple(row.curve))


def size_of(folder: Path) -> int:
    """Bytes that a folder takes on disk: files with several names (hard links) count once, links are not followed."""
    total, seen, waiting = 0, set(), [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    stat = entry.stat(follow_symlinks=False)
                    if stat.st_nlink > 1:
                        if (stat.st_dev, stat.st_ino) in seen:
                            continue
                        seen.add((stat.st_dev, stat.st_ino))
                    total += stat.st_size
        except OSError:
            continue
    return total


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _metrics(value: Any) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {k: float(v) for k, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _curve(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(float(p[1]) for p in value if isinstance(p, list) and len(p) == 2 and isinstance(p[1], int | float))


def _flat(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return {k: v for k, v in value.items() if isinstance(v, bool | int | float | str)}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
