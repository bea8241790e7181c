"""A curve within a line of text, two by four dots a character."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from torchdeck.tui.drawing.canvas import PlotWindow, curve

#: A run that went astray would press the curves of all others flat: what is higher than that share lies at the top.
_HIGHEST = 0.98


def scale_of(curves: Iterable[Sequence[float]]) -> tuple[float, float]:
    """The least and the greatest value on a scale that these curves share; (0, 1) where there is none."""
    values = np.array([v for one in curves for v in one], dtype=float)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    return float(values.min()), float(np.quantile(values, _HIGHEST, method="higher"))


def sparkline(values: Sequence[float], width: int, scale: tuple[float, float]) -> str:
    """The curve of these values, on a scale that others may share; nothing where none is finite."""
    y = np.array(values, dtype=float)
    if width <= 0 or not np.isfinite(y).any():
        return ""
    low, high = scale
    if high <= low:  # all the same: a line in the middle
        low, high = low - 1, high + 1
    y = np.clip(y, low, high)
    window = PlotWindow(0.0, max(len(y) - 1, 1), low, high, width, 1)
    bits = curve(np.arange(len(y), dtype=float), y, y, window)[0]
    return "".join(chr(0x2800 + int(b)) for b in bits)
