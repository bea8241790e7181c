"""The scalars in TensorBoard's event files: straight from the records, tailed, in bounded memory.

An event is a protocol buffer (tensorboard/compat/proto/event.proto): wall_time = 1, step = 2, summary = 5, session_log
= 7; a summary's value: tag = 1, simple_value = 2, tensor = 8, metadata = 9. Events of one tag and one length have the
same layout, so that one of them is parsed and the others are read as columns of a matrix.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torchdeck.core.series import LIMIT, Series
from torchdeck.core.tracking.files import event_files
from torchdeck.core.tracking.records import Bytes, Group, RecordFile

Floats = NDArray[np.float64]

#: Layouts of one length that are looked for before the rest is parsed one by one.
_LAYOUTS = 256

#: tensorflow/core/framework/types.proto: DT_FLOAT, DT_DOUBLE, DT_HALF.
_DTYPES = {1: "<f4", 2: "<f8", 19: "<f2"}


@dataclass(frozen=True)
class _Value:
    """A scalar in an event, and where its bytes are."""

    tag: str
    place: int
    dtype: str


@dataclass
class _Layout:
    """What one event says, and which of its bytes differ in others of the same layout."""

    #: Places of the bytes of the wall time, and of the step.
    time: int = -1
    step: tuple[int, int] = (-1, -1)
    values: list[_Value] = field(default_factory=list)
    #: Events at or after this step are to be forgotten: a writer began anew (SessionLog.START).
    begins_anew: bool = False

    def step_of(self, row: bytes) -> int:
        """The step of an event."""
        return _varint(row, self.step[0])[0] if self.step[0] >= 0 else 0


@dataclass(frozen=True)
class _Points:
    """Scalars of one tag as they came: where in the file, step, wall time, value."""

    order: NDArray[np.int64]
    steps: Floats
    times: Floats
    values: Floats


class EventReader:
    """The scalars below one directory, of all its event files (not of folders within): ``poll`` reads what is new.

    Several files are one run, in the order of their names, which begin with the time. Points of several writers, or of
    one that goes back, are all kept, by step. Only where a writer says that it began anew (SessionLog.START, which
    SummaryWriter writes for ``purge_step``) what was read before and lies at or after that step is forgotten, as in
    TensorBoard. A file that was cut or replaced is read again, and with it the others.
    """

    def __init__(self, folder: Path, limit: int = LIMIT) -> None:
        """``limit``: points of a series before neighbours are joined."""
        self.folder = folder
        self._limit = limit
        self.series: dict[str, Series] = {}
        #: Wall time of the first and of the newest event, in seconds since 1970; 0 before there is one.
        self.began, self.newest = 0.0, 0.0
        self._files: dict[str, RecordFile] = {}

    @property
    def damaged(self) -> int:
        """Bytes that were passed over because their checksum is wrong."""
        return sum(file.damaged for file in self._files.values())

    def poll(self) -> bool:
        """Read what was written since the last call; tells whether there was anything.

        Raises OSError when the directory can't be read; a file that has gone is passed over.
        """
        changed = False
        if any(file.replaced() for file in self._files.values()):
            self._files, self.series, self.began, self.newest = {}, {}, 0.0, 0.0
            changed = True
        for name in event_files(self.folder):
            file = self._files.setdefault(name, RecordFile(self.folder / name))
            try:
                for groups in file.poll():
                    changed = True
                    self._take(groups)
            except FileNotFoundError:
                continue
        return changed

    def _take(self, groups: list[Group]) -> None:
        points: dict[str, list[_Points]] = {}
        restarts: list[tuple[int, int]] = []
        for group in groups:
            for layout, rows, order in _by_layout(group):
                if layout.begins_anew:
                    restarts += zip(order.tolist(), [layout.step_of(r.tobytes()) for r in rows], strict=True)
                elif layout.values:
                    self._columns(layout, rows, order, points)
        for tag, parts in points.items():
            self._extend(tag, parts, restarts)
        for _, step in restarts:
            for tag, series in self.series.items():
                if tag not in points:
                    series.drop_from(step)

    def _columns(
        self, layout: _Layout, rows: Bytes, order: NDArray[np.int64], points: dict[str, list[_Points]]
    ) -> None:
        times = _numbers(rows, layout.time, "<f8") if layout.time >= 0 else np.zeros(len(rows))
        steps = _varints(rows, *layout.step)
        if len(times):
            self.began = min(self.began or math.inf, float(times.min()))
            self.newest = max(self.newest, float(times.max()))
        for value in layout.values:
            numbers = _numbers(rows, value.place, value.dtype) if value.place >= 0 else np.zeros(len(rows))
            points.setdefault(value.tag, []).append(_Points(order, steps, times, numbers))

    def _extend(self, tag: str, parts: list[_Points], restarts: list[tuple[int, int]]) -> None:
        series = self.series.setdefault(tag, Series(self._limit))
        if len(parts) == 1:
            one = parts[0]
        else:
            sort = np.argsort(np.concatenate([p.order for p in parts]), kind="stable")
            one = _Points(
                *(
                    np.concatenate([getattr(p, name) for p in parts])[sort]
                    for name in ("order", "steps", "times", "values")
                )
            )
        keep = np.ones(len(one.order), dtype=bool)
        for place, step in restarts:
            series.drop_from(step)
            keep &= ~((one.order < place) & (one.steps >= step))
        if keep.any():
            series.extend(one.steps[keep], one.times[keep] - self.began, one.values[keep])


# --- records of one length -------------------------------------------------------------------------------------------


def _by_layout(group: Group) -> Iterator[tuple[_Layout, Bytes, NDArray[np.int64]]]:
    """The records of a group, those of one layout together. What is no event, or holds no scalar, is left out."""
    rows, order = group.rows, group.order
    for _ in range(_LAYOUTS):
        if not len(rows):
            return
        first = rows[0].tobytes()
        layout = _parse(first)
        if layout is None:
            rows, order = rows[1:], order[1:]
            continue
        alike = _alike(rows, first, layout)
        if alike.all():
            yield layout, rows, order
            return
        yield layout, rows[alike], order[alike]
        rows, order = rows[~alike], order[~alike]
    for row, place in zip(rows, order.tolist(), strict=True):
        layout = _parse(row.tobytes())
        if layout is not None:
            yield layout, row[None], np.array([place])


def _alike(rows: Bytes, first: bytes, layout: _Layout) -> NDArray[np.bool_]:
    """Which rows differ from the first in nothing but wall time, step and values."""
    fixed = np.ones(len(first), dtype=bool)
    if layout.time >= 0:
        fixed[layout.time : layout.time + 8] = False
    for value in layout.values:
        if value.place >= 0:
            fixed[value.place : value.place + int(value.dtype[2])] = False
    start, end = layout.step
    if start >= 0:
        fixed[start:end] = False
    template = np.frombuffer(first, dtype=np.uint8)
    alike = np.ones(len(rows), dtype=bool)
    for place in np.flatnonzero(fixed).tolist():
        alike &= rows[:, place] == template[place]
    for place in range(start, end):  # a step must have as many bytes as the first has
        alike &= (rows[:, place] >= 0x80) == (place < end - 1)
    return alike


def _numbers(rows: Bytes, place: int, dtype: str) -> Floats:
    width = int(dtype[2])
    return np.ascontiguousarray(rows[:, place : place + width]).view(dtype).reshape(-1).astype(np.float64)


def _varints(rows: Bytes, start: int, end: int) -> Floats:
    if start < 0:
        return np.zeros(len(rows))
    steps = np.zeros(len(rows), dtype=np.uint64)
    for place in range(start, end):
        steps |= (rows[:, place] & 0x7F).astype(np.uint64) << np.uint64(7 * (place - start))
    return steps.view(np.int64).astype(np.float64)


# --- one record ------------------------------------------------------------------------------------------------------


class _Malformed(Exception):
    """Not a protocol buffer."""


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Malformed
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, and where the content begins and ends."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, stop = _varint(data, at)
        elif kind == 1:
            stop = at + 8
        elif kind == 2:
            length, at = _varint(data, at)
            stop = at + length
        elif kind == 5:
            stop = at + 4
        else:
            raise _Malformed
        if stop > end:
            raise _Malformed
        yield key >> 3, kind, at, stop
        at = stop


def _parse(data: bytes) -> _Layout | None:
    """The layout of an event; None for what is none."""
    layout = _Layout()
    try:
        for number, kind, start, end in _fields(data, 0, len(data)):
            if number == 1 and kind == 1:
                layout.time = start
            elif number == 2 and kind == 0:
                layout.step = (start, end)
            elif number == 5 and kind == 2:
                for inner, _, a, b in _fields(data, start, end):
                    if inner == 1 and (value := _scalar(data, a, b)) is not None:
                        layout.values.append(value)
            elif number == 7 and kind == 2:
                layout.begins_anew = any(
                    n == 1 and _varint(data, a)[0] == 1 for n, _, a, _ in _fields(data, start, end)
                )
    except (_Malformed, UnicodeDecodeError):
        return None
    return layout


def _scalar(data: bytes, start: int, end: int) -> _Value | None:
    tag, place, dtype, plugin, tensor = "", None, "<f4", "", None
    for number, kind, a, b in _fields(data, start, end):
        if number == 1 and kind == 2:
            tag = data[a:b].decode()
        elif number == 2 and kind == 5:
            place = a
        elif number == 8 and kind == 2:
            tensor = (a, b)
        elif number == 9 and kind == 2:
            plugin = _plugin(data, a, b)
    if place is None and tensor is not None and plugin in ("scalars", ""):
        place, dtype = _tensor_scalar(data, *tensor)
    return None if place is None or not tag else _Value(tag, place, dtype)


def _plugin(data: bytes, start: int, end: int) -> str:
    for number, _, a, b in _fields(data, start, end):
        if number == 1:
            for inner, _, c, d in _fields(data, a, b):
                if inner == 1:
                    return data[c:d].decode()
    return ""


def _tensor_scalar(data: bytes, start: int, end: int) -> tuple[int | None, str]:
    """Where the number of a tensor of one element is (TensorProto: dtype = 1, shape = 2, tensor_content = 4, float_val
    = 5, double_val = 6); place -1 for a zero, which proto3 leaves out."""
    dtype, place, width = 0, None, 0
    for number, kind, a, b in _fields(data, start, end):
        if number == 1 and kind == 0:
            dtype = _varint(data, a)[0]
        elif number == 2 and kind == 2:
            sizes = [
                _varint(data, c)[0]
                for n, _, x, y in _fields(data, a, b)
                if n == 2
                for i, _, c, _ in _fields(data, x, y)
                if i == 1
            ]
            if math.prod(sizes) != 1:
                return None, "<f4"
        elif number in (4, 5, 6):
            place, width = a, b - a
    kind_ = _DTYPES.get(dtype)
    if kind_ is None:
        return None, "<f4"
    if place is None:
        return -1, kind_
    return (place, kind_) if width == struct.calcsize({"<f4": "f", "<f8": "d", "<f2": "e"}[kind_]) else (None, kind_)
