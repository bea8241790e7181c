"""A plane with two named axes on which points, lines and shades are laid: what pictures of a study are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from torchdeck.core.series import Floats
from torchdeck.tui.drawing.axes import Tick, log_ticks, ticks
from torchdeck.tui.drawing.canvas import PlotWindow, curve, points

#: From bad to good.
SHADES = " ░▒▓█"


@dataclass(frozen=True)
class Scale:
    """An axis: numbers from ``low`` to ``high``, perhaps by their logarithms, or kinds, each with a place of its
    own."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    kinds: tuple[str, ...] = ()
    unit: str = "number"

    def place(self, values: Sequence[float | str | None]) -> Floats:
        """Where values are, in units that the axis is even in; NaN for what has no place."""
        if self.kinds:
            index = {kind: float(i) for i, kind in enumerate(self.kinds)}
            return np.array([index.get(str(v), math.nan) if v is not None else math.nan for v in values])
        numbers = np.array([float(v) if isinstance(v, int | float) else math.nan for v in values])
        if not self.log:
            return numbers
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(numbers > 0, np.log10(np.where(numbers > 0, numbers, 1.0)), np.nan)

    @property
    def ends(self) -> tuple[float, float]:
        """Its two ends, in the same units, with a little room."""
        if self.kinds:
            return -0.5, len(self.kinds) - 0.5
        low, high = (float(v) for v in self.place([self.low, self.high]))
        if not high > low:
            margin = abs(low) * 0.1 or 0.5
            return low - margin, high + margin
        return low - (high - low) * 0.03, high + (high - low) * 0.03

    def ticks(self, count: int) -> list[Tick]:
        """Marks, at their places."""
        if self.kinds:
            return [Tick(float(i), kind) for i, kind in enumerate(self.kinds)]
        if self.log:
            return [Tick(math.log10(t.value), t.label) for t in log_ticks(self.low, self.high, count, self.unit)]
        for more in (count, 2 * count, 3 * count):  # one mark alone says nothing of the range
            found = ticks(*self.ends, more, self.unit)
            if len(found) > 1:
                break
        return found


@dataclass(frozen=True)
class Layer:
    """Points, or a line through them; ``style`` names a style."""

    x: Floats
    y: Floats
    style: str
    mark: str = "•"
    line: bool = False
    pattern: int = 0


def draw_plane(
    x: Scale,
    y: Scale,
    layers: Sequence[Layer],
    width: int,
    height: int,
    styles: Mapping[str, str],
    title: str = "",
    shades: tuple[NDArray[np.int8], Sequence[str]] | None = None,
) -> list[Text]:
    """The lines of the picture: title, plane, x axis.

    ``shades``: a level of SHADES for each character [rows, columns] of ``plane_size``, and a style for each level.
    """
    left, columns, rows = plane_size(y, width, height)
    if rows < 2 or columns < 6:
        return [Text("there is no room", style=styles["axis"])]
    window = PlotWindow(*x.ends, *y.ends, columns, rows)
    chars = np.full((rows, columns), " ", dtype="<U1")
    paint = np.full((rows, columns), -1, dtype=np.int8)
    kinds: list[str] = []
    if shades is not None:
        levels, names = shades
        chars[:] = np.array(list(SHADES))[levels]
        paint[:] = levels
        kinds += [styles[name] for name in names]
    for layer in layers:
        kinds.append(styles[layer.style])
        _lay(layer, window, chars, paint, len(kinds) - 1)
    lines = [Text(title, style=styles["title"], no_wrap=True, overflow="ellipsis")]
    lines[0].truncate(width, overflow="ellipsis")
    labels: dict[int, str] = {}
    for tick in y.ticks(max(rows // 2, 3)):
        row = int(np.floor(float(window.heights(np.array([tick.value]))[0]) + 0.5)) // 4
        labels.setdefault(min(max(row, 0), rows - 1), tick.label[: left - 1])
    for row in range(rows):
        label = labels.get(row, "")
        line = Text(label.rjust(left) + ("┤" if label else "│"), style=styles["axis"], no_wrap=True)
        for char, kind in zip(chars[row].tolist(), paint[row].tolist(), strict=True):
            line.append(char, style=kinds[kind] if kind >= 0 else "")
        lines.append(line)
    lines.append(_x_axis(x, window, left, styles["axis"]))
    return lines


def plane_size(y: Scale, width: int, height: int) -> tuple[int, int, int]:
    """The left margin, and the plane's columns and rows."""
    rows = height - 2
    left = min(max([len(t.label) for t in y.ticks(max(rows // 2, 3))] + [3]), max(8, width // 4)) + 1
    return left, width - left - 2, rows


def _lay(layer: Layer, window: PlotWindow, chars: NDArray[np.str_], paint: NDArray[np.int8], kind: int) -> None:
    if layer.line:
        bits = curve(layer.x, layer.y, layer.y, window, layer.pattern)
        there = bits > 0
        below = np.array(
            [[ord(c) - 0x2800 if 0x2800 <= ord(c) <= 0x28FF else 0 for c in row] for row in chars[:]], dtype=np.uint8
        )
        codes = (bits | below)[there].astype(np.uint32) + 0x2800
        chars[there] = codes.view("<U1")
        paint[there] = kind
        return
    good = np.isfinite(layer.x) & np.isfinite(layer.y)
    for row, column in points(layer.x[good], layer.y[good], window):
        chars[row, column], paint[row, column] = layer.mark, kind


def _x_axis(x: Scale, window: PlotWindow, left: int, style: str) -> Text:
    cells = ["─"] * window.columns
    last = -1
    room = max(3, window.columns // max(len(x.kinds), 1) - 1) if x.kinds else window.columns
    for tick in x.ticks(max(window.columns // 9, 2)):
        label = tick.label if len(tick.label) <= room else tick.label[: room - 1] + "…"
        start = max(0, min(window.column(tick.value) - len(label) // 2, window.columns - len(label)))
        if start <= last + 1 and last >= 0:
            continue
        cells[start : start + len(label)] = label
        last = start + len(label)
    if window.columns - last > len(x.name) + 2:
        cells[-len(x.name) :] = x.name
    return Text(" " * left + "└" + "".join(cells[: window.columns]), style=style, no_wrap=True)
