"""Parallel coordinates (Inselberg 1985): an axis for each hyperparameter and the result, a line for each run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from rich.text import Text

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


@dataclass(frozen=True)
class Axis:
    """An axis, with the place (0 at the bottom, 1 at the top) of each run; NaN where a run has no value."""

    name: str
    top: str
    bottom: str
    places: tuple[float, ...]


def axis(name: str, values: Sequence[Any]) -> Axis:
    """An axis for values of one key: numbers in proportion (in proportion of their logarithms where they span three
    orders or are learning rates), all else in order."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    if numbers and all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
        low, high = min(numbers), max(numbers)
        log = low > 0 and (high / low >= 1000 or name.endswith(("lr", "decay")))
        places = tuple(_share(v, low, high, log) if v is not None else math.nan for v in values)
        return Axis(name, f"{high:.4g}", f"{low:.4g}", places)
    texts = ["" if v is None else str(v) for v in values]
    kinds = sorted(set(texts) - {""})
    index = {text: (number / (len(kinds) - 1) if len(kinds) > 1 else 0.5) for number, text in enumerate(kinds)}
    return Axis(
        name,
        kinds[-1] if kinds else "",
        kinds[0] if len(kinds) > 1 else "",
        tuple(index.get(t, math.nan) for t in texts),
    )


def _share(value: float, low: float, high: float, log: bool) -> float:
    if not math.isfinite(value) or high == low:
        return math.nan if not math.isfinite(value) else 0.5
    if log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def draw_parallel(
    axes: Sequence[Axis], chosen: int | None, width: int, height: int, styles: dict[str, str]
) -> list[Text]:
    """The lines of the picture; ``styles``: good, middle, bad (by the last axis), chosen, axis.

    The chosen run is drawn last, over all others.
    """
    rows, columns = height - 3, width - 2
    if not axes or rows < 2 or columns < 4 * len(axes):
        return [Text("there is no room for the axes", style=styles["axis"])]
    at = np.linspace(0, columns - 1, len(axes)).round().astype(int) if len(axes) > 1 else np.array([columns // 2])
    bits = np.zeros((rows, columns), dtype=np.uint8)
    paint = np.zeros((rows, columns), dtype=np.int8)
    count = len(axes[0].places)
    results = axes[-1].places
    order = sorted(range(count), key=lambda i: (i == chosen, results[i] if math.isfinite(results[i]) else -1.0))
    for run in order:
        kind = 4 if run == chosen else _kind(results[run])
        points = [
            (x * 2 + 1, one.places[run]) for x, one in zip(at, axes, strict=True) if math.isfinite(one.places[run])
        ]
        for (x0, y0), (x1, y1) in pairwise(points):
            xs = np.arange(x0, x1 + 1)
            ys = np.interp(xs, (x0, x1), ((1 - y0) * (rows * 4 - 1), (1 - y1) * (rows * 4 - 1))).round().astype(int)
            for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
                row, column = y // 4, min(x // 2, columns - 1)
                bits[row, column] |= _BITS[y % 4][x % 2]
                paint[row, column] = kind
    names = ["axis", "bad", "middle", "good", "chosen"]
    lines = [
        _labels([a.name for a in axes], at, columns, styles["axis"] + " bold"),
        _labels([a.top for a in axes], at, columns, styles["axis"]),
    ]
    for row in range(rows):
        line = Text(" ", no_wrap=True)
        for column in range(columns):
            if bits[row, column]:
                line.append(chr(0x2800 + int(bits[row, column])), style=styles[names[paint[row, column]]])
            else:
                line.append("│" if column in at else " ", style=styles["axis"])
        lines.append(line)
    return [*lines, _labels([a.bottom for a in axes], at, columns, styles["axis"])]


def _kind(place: float) -> int:
    if not math.isfinite(place):
        return 1
    if place >= 0.67:
        return 3
    return 2 if place >= 0.33 else 1


def _labels(texts: Sequence[str], at: Any, columns: int, style: str) -> Text:
    cells = [" "] * columns
    room = max(3, columns // len(texts) - 1)
    for text, x in zip(texts, at.tolist(), strict=True):
        shown = text if len(text) <= room else text[: room - 1] + "…"
        start = max(0, min(x - len(shown) // 2, columns - len(shown)))
        cells[start : start + len(shown)] = shown
    return Text(" " + "".join(cells[:columns]), style=style, no_wrap=True)
