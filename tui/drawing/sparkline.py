"""A curve within a line of text, two by four dots a character. No NumPy here: ``torchdeck runs`` does without."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

#: A run that went astray would press the curves of all others flat: what is higher than that share lies at the top.
_HIGHEST = 0.98
#: Bits of the dots of a braille character from the bottom to the top, of its left and its right column.
_BITS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))


def scale_of(curves: Iterable[Sequence[float]]) -> tuple[float, float]:
    """The least and the greatest value on a scale that these curves share; (0, 1) where there is none."""
    values = sorted(v for one in curves for v in one if math.isfinite(v))
    if not values:
        return 0.0, 1.0
    return values[0], values[math.ceil(_HIGHEST * (len(values) - 1))]


def sparkline(values: Sequence[float], width: int, scale: tuple[float, float]) -> str:
    """The curve of the values that are finite, on a scale that others may share; nothing where there is none."""
    finite = [v for v in values if math.isfinite(v)]
    if width <= 0 or not finite:
        return ""
    low, high = scale
    if high <= low:  # all the same: a line in the middle
        low, high = low - 1, high + 1
    heights = [round((min(max(v, low), high) - low) / (high - low) * 3) for v in _at_dots(finite, 2 * width)]
    cells = [0] * width
    before = heights[0]
    for dot, height in enumerate(heights):
        step = 1 if height >= before else -1
        joined = range(before + step, height, step) if height != before else ()
        for level in (*joined, height):
            cells[dot // 2] |= _BITS[dot % 2][level]
        before = height
    return "".join(chr(0x2800 + bits) for bits in cells)


def _at_dots(values: Sequence[float], dots: int) -> list[float]:
    """A value for each column of dots: the mean of several, or on the line between two."""
    if len(values) > dots:
        cuts = [i * len(values) // dots for i in range(dots + 1)]
        return [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    found = []
    for dot in range(dots):
        place = dot * (len(values) - 1) / max(dots - 1, 1)
        left = int(place)
        right = min(left + 1, len(values) - 1)
        found.append(values[left] + (values[right] - values[left]) * (place - left))
    return found
