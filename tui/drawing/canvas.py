"""Curves in braille: 2 x 4 dots a character (Unicode block Braille Patterns, U+2800).

Everything is computed on whole arrays; the loop over characters is only over what is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torchdeck.core.series import Floats

#: Bit of each dot of a braille character, by row and column.
_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)

#: Which dot columns of a curve are drawn: solid, dotted, dashed, dash-dot. They tell curves apart without colour.
PATTERNS = ((1,), (1, 0, 0), (1, 1, 1, 1, 0, 0), (1, 1, 1, 1, 0, 0, 1, 0, 0))


@dataclass(frozen=True)
class PlotWindow:
    """What part of the plane is drawn, on how many characters."""

    x0: float
    x1: float
    y0: float
    y1: float
    columns: int
    rows: int
    log: bool = False

    def heights(self, y: Floats) -> Floats:
        """Dot rows (0 at the top) of values, not rounded; what lies outside is moved just outside."""
        dots = self.rows * 4
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                share = (np.log(y) - np.log(self.y0)) / (np.log(self.y1) - np.log(self.y0))
        else:
            share = (y - self.y0) / (self.y1 - self.y0)
        return np.clip((1 - share) * (dots - 1), -1.0, float(dots))

    def column(self, x: float) -> int:
        """The character column of an x."""
        share = (x - self.x0) / (self.x1 - self.x0)
        return int(np.clip(share * self.columns, 0, self.columns - 1))

    def at(self, column: int) -> float:
        """The x in the middle of a character column."""
        return self.x0 + (column + 0.5) / self.columns * (self.x1 - self.x0)


def envelope(x: Floats, low: Floats, high: Floats, window: PlotWindow) -> tuple[Floats, Floats]:
    """Least and greatest value in each dot column; columns between points hold what lies on the line between them.

    Columns before the first and after the last point are NaN. ``x`` must rise.
    """
    dots = window.columns * 2
    bottom, top = np.full(dots, np.nan), np.full(dots, np.nan)
    good = np.isfinite(low)
    if not good.all():
        x, low, high = x[good], low[good], high[good]
    # One point beyond each side, so that lines run in from outside.
    first = max(int(np.searchsorted(x, window.x0)) - 1, 0)
    last = int(np.searchsorted(x, window.x1, side="right")) + 1
    x, low, high = x[first:last], low[first:last], high[first:last]
    if not len(x):
        return bottom, top
    width = (window.x1 - window.x0) / dots
    edges = window.x0 + width * np.arange(dots + 1)
    starts = np.searchsorted(x, edges[:-1])
    ends = np.append(starts[1:], np.searchsorted(x, edges[-1], side="right"))
    filled = ends > starts
    if filled.any():
        # reduceat takes each slice up to the next start; the starts of filled columns are the right ones.
        at = starts[filled]
        stop = int(ends[filled][-1])
        bottom[filled] = np.minimum.reduceat(low[:stop], at)
        top[filled] = np.maximum.reduceat(high[:stop], at)
    middle = window.x0 + width * (np.arange(dots) + 0.5)
    between = ~filled & (middle >= x[0]) & (middle <= x[-1])
    if between.any():
        line = np.interp(middle[between], x, (low + high) / 2)
        bottom[between], top[between] = line, line
    return bottom, top


def curve(x: Floats, low: Floats, high: Floats, window: PlotWindow, pattern: int = 0) -> NDArray[np.uint8]:
    """The dots of a curve as braille bits [rows, columns]."""
    bottom, top = envelope(x, low, high, window)
    there = np.isfinite(bottom)
    if window.log:
        there &= top > 0
        bottom = np.where(bottom > 0, bottom, window.y0)
    upper = np.floor(window.heights(np.where(there, top, window.y0)) + 0.5)
    lower = np.floor(window.heights(np.where(there, bottom, window.y0)) + 0.5)
    # Neighbouring columns are joined half way.
    both = there[:-1] & there[1:]
    for a, b in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
        gap = both & (lower[a] < upper[b] - 1)
        half = np.floor((lower[a] + upper[b]) / 2)
        reach = np.where(gap, half, lower[a])
        start = np.where(gap, half + 1, upper[b])
        lower[a] = np.maximum(lower[a], reach)
        upper[b] = np.minimum(upper[b], start)
    rows = np.arange(window.rows * 4)[:, None]
    dots = (rows >= upper) & (rows <= lower) & there
    style = PATTERNS[pattern % len(PATTERNS)]
    if len(style) > 1:
        dots &= np.resize(np.array(style, dtype=bool), window.columns * 2)
    cells = dots.reshape(window.rows, 4, window.columns, 2)
    return (cells * _BITS[None, :, None, :]).sum(axis=(1, 3), dtype=np.uint8)


def points(x: Floats, y: Floats, window: PlotWindow) -> list[tuple[int, int]]:
    """Character cells (row, column) of single points that lie inside."""
    inside = (x >= window.x0) & (x <= window.x1) & np.isfinite(y)
    if window.log:
        inside &= y > 0
    x, y = x[inside], y[inside]
    heights = np.floor(window.heights(y) + 0.5)
    columns = np.clip((x - window.x0) / (window.x1 - window.x0) * window.columns, 0, window.columns - 1).astype(int)
    return [(int(h) // 4, int(c)) for h, c in zip(heights, columns, strict=True) if 0 <= h < window.rows * 4]
