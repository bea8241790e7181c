"""A chart as lines of text: the curves of one scalar, of one run or of several, with axes, legend and cursor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from torchdeck.core.experiment.metric_names import higher_is_better
from torchdeck.core.runs.history import History
from torchdeck.core.series import Floats, Series
from torchdeck.core.text import SHARES
from torchdeck.tui.drawing.axes import Tick, log_ticks, reading, step_for, ticks
from torchdeck.tui.drawing.canvas import PlotWindow, curve, points
from torchdeck.tui.drawing.series_colours import COUNT

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Marks of points, one for each curve, and what the legend shows of its line where colours do not tell curves apart.
_MARKS = "●◆▲■"
_PATTERNED = ("━━", "╍◆", "┅▲", "┄■")
_SOLID = ("━━", "━◆", "━▲", "━■")

_X = {"step": "count", "epoch": "number", "time": "time"}


@dataclass(frozen=True)
class View:
    """How charts are looked at; all charts share one."""

    #: step, epoch or time.
    x: str = "step"
    #: Weight of the exponential average; 0: none.
    smoothing: float = 0.6
    log: bool = False
    #: Leave the outermost values out of the range.
    ignore_outliers: bool = False
    #: What is zoomed to, in units of ``x``; None: everything.
    zoom: tuple[float, float] | None = None
    #: Where values are read, in units of ``x``.
    cursor: float | None = None


@dataclass(frozen=True)
class Scalar:
    """What a chart shows: ``loss`` stands for the series train/loss and val/loss."""

    name: str
    series: tuple[str, ...]

    @property
    def unit(self) -> str:
        """The unit of its values."""
        if self.name in SHARES or self.name == "data_wait":
            return "percent"
        return {"samples_per_second": "rate", "memory": "bytes"}.get(self.name, "number")

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.name.replace("_", " ")


def scalars(history: History) -> list[Scalar]:
    """Everything that a run can be charted by: loss and accuracy first."""
    found: dict[str, list[str]] = {}
    for name in history.names():
        found.setdefault(name.rpartition("/")[2], []).append(name)
    order = ["loss", "accuracy", "rmse", "r2", "learning_rate", "gradient_norm", "samples_per_second"]
    return [
        Scalar(name, tuple(sorted(found[name])))
        for name in sorted(found, key=lambda n: (order.index(n) if n in order else len(order), n))
    ]


@dataclass(frozen=True)
class ChartSource:
    """A run whose curves are drawn; the label tells it from others."""

    label: str
    history: History
    #: Whether it stands back behind another, which is looked at.
    dimmed: bool = False


def overlaid(sources: Sequence[ChartSource]) -> list[Scalar]:
    """What several runs can be charted by: each series in a chart of its own, validation and loss first."""
    names = list(dict.fromkeys(name for source in sources for name in source.history.names()))
    order = ["val/loss", "val/accuracy", "val/rmse", "train/loss", "train/accuracy"]
    names.sort(key=lambda n: (order.index(n) if n in order else len(order), n))
    return [Scalar(name, (name,)) for name in names]


@dataclass(frozen=True)
class Curve:
    """A curve as arrays in the view's unit."""

    name: str
    #: What its part is called in the legend: train, or val (test) where that is the test set.
    part: str
    #: What it is called in the legend, where several runs are drawn.
    label: str
    x: Floats
    low: Floats
    high: Floats
    smooth: Floats
    odd: tuple[tuple[float, float], ...]
    last: float
    best: float
    dense: bool
    #: Whether ``smooth`` is over the means of joined points, not over single ones.
    approximate: bool
    #: Place of its colour: that of the run where there are several, so that a run has one colour in all charts.
    colour: int
    dimmed: bool = False


def curves_of(sources: Sequence[ChartSource], scalar: Scalar, view: View) -> tuple[list[Curve], float]:
    """The curves of a scalar, of each run in turn, and where the x axis will end when the runs that go on are over."""
    found, end = [], 0.0
    for number, source in enumerate(sources):
        history = source.history
        with history.lock:
            for place, name in enumerate(scalar.series):
                alone = len(sources) == 1
                one = _curve(history, name, "" if alone else source.label, view, place if alone else number)
                if one is not None:
                    found.append(replace(one, dimmed=source.dimmed))
            end = max(end, _planned_end(history, view))
    return found, end


def _curve(history: History, name: str, label: str, view: View, number: int) -> Curve | None:
    series = history.series(name)
    if series is None or not (len(series) or series.odd):
        return None
    x, at, scale = series.steps, 0, 1
    if view.x == "time":
        x, at = series.times, 1
    elif view.x == "epoch":
        scale = history.started.epoch_length if history.started else 1
        x = series.steps / scale
    odd = tuple((o[at] / scale, o[2]) for o in series.odd)
    dense = not name.startswith(("val/", "test/")) and name != "learning_rate"
    smooth = series.smoothed(view.smoothing) if dense else series.mean
    approximate = dense and view.smoothing > 0 and not series.smoothing_is_exact
    low, high, last = series.low, series.high, series.last
    if view.x == "time" and (np.diff(x) < 0).any():  # points of several writers are in the order of their steps
        order = np.argsort(x, kind="stable")
        x, low, high, smooth = x[order], low[order], high[order], smooth[order]
        odd = tuple(sorted(odd))
    part, best = _part(history, name), _best(series, name)
    return Curve(name, part, label, x, low, high, smooth, odd, last, best, dense, approximate, number)


def _part(history: History, name: str) -> str:
    part, slash, _ = name.partition("/")
    if not slash:
        return ""
    return history.started.val_name if part == "val" and history.started else part


def _best(series: Series, name: str) -> float:
    higher = higher_is_better(name.rpartition("/")[2])
    values = series.high if higher else series.low
    with np.errstate(all="ignore"):
        if not np.isfinite(values).any():
            return math.nan
        return float(np.nanmax(values) if higher else np.nanmin(values))


def titled(scalar: Scalar, curves: Sequence[Curve]) -> str:
    """The title of a chart, which says where its smoothing is approximate."""
    return f"{scalar.title} (≈ smoothed)" if any(one.approximate for one in curves) else scalar.title


def mark_of(number: int) -> str:
    """The sign of a run's curves, to mark it elsewhere."""
    return _MARKS[number % len(_MARKS)]


#: Names of the styles that a painter asks for.
STYLES = ("axis", "raw", "title", "cursor", "odd", *(f"curve-{number}" for number in range(1, COUNT + 1)))

_AXIS, _RAW, _CURSOR, _ODD, _FIRST = range(5)

#: From so many runs on the legend stands beside the chart, where that is so wide.
_MANY, _WIDE = 5, 56
_DIM = Style(dim=True)


class Painter:
    """Draws one chart; it keeps its margins and its range from one picture to the next, so that little is sent."""

    def __init__(self, scalar: Scalar, style: Callable[[str], Style], patterned: bool = False) -> None:
        """``style`` gives the style of each name of ``STYLES``; ``patterned``: lines tell curves apart."""
        self.scalar = scalar
        self._patterned = patterned
        self.window: PlotWindow | None = None
        #: Whether it is the chosen one of several.
        self.marked = False
        #: Characters left of the plane.
        self.left = 0
        self._style = style

    def picture(self, curves: Sequence[Curve], view: View, end: float, width: int, height: int) -> list[Strip]:
        """The lines of the chart: legend, plane, x axis."""
        rows = height - 2
        x0, x1 = self._x_range(curves, view, end)
        y0, y1 = self._y_range(curves, view, x0, x1, rows)
        marks = self._y_ticks(y0, y1, rows, view)
        left = max([len(t.label) for t in marks] + [3]) + 1
        # A margin that moves by one column would have the whole chart sent again.
        left = self.left = left if left > self.left or left < self.left - 2 else self.left
        beside = self._legend_beside(curves, view, width, rows)
        columns = max(width - left - 1 - max((line.cell_length for line in beside), default=0), 4)
        window = self.window = PlotWindow(x0, x1, y0, y1, columns, rows, view.log and y0 > 0)
        chars = np.full((rows, columns), " ", dtype="<U1")
        paint = np.zeros((rows, columns), dtype=np.int8)
        runs = len({c.label for c in curves})
        for one in sorted(curves, key=lambda c: not c.dimmed):  # what is looked at lies on top
            number = one.colour
            tone = _FIRST + number % COUNT + (COUNT if one.dimmed else 0)
            pattern = number % 4 if self._patterned and len(curves) > 1 else 0
            if one.dense and view.smoothing > 0 and len(one.x) > 1:
                if runs == 1:  # the raw values of several runs would hide each other
                    _lay(chars, paint, curve(one.x, one.low, one.high, window), _RAW)
                _lay(chars, paint, curve(one.x, one.smooth, one.smooth, window, pattern), tone)
            else:
                _lay(chars, paint, curve(one.x, one.low, one.high, window, pattern), tone)
            if len(one.x) <= max(columns // 3, 1) and (number or len(one.x) == 1):
                for row, column in points(one.x, one.smooth, window):
                    chars[row, column], paint[row, column] = _MARKS[number % 4], tone
        if view.cursor is not None and x0 <= view.cursor <= x1:
            column = window.column(view.cursor)
            blank = chars[:, column] == " "
            chars[blank, column] = "│"
            paint[blank, column] = _CURSOR
        for one in curves:
            for x, value in one.odd:
                if x0 <= x <= x1:
                    row = 0 if value > 0 else rows - 1  # NaN and -inf at the bottom
                    chars[row, window.column(x)] = "∞" if math.isinf(value) else "×"
                    paint[row, window.column(x)] = _ODD
        colours = [self._style(f"curve-{number}") for number in range(1, COUNT + 1)]
        styles = [self._style(name) for name in ("axis", "raw", "cursor", "odd")]
        plane = self._rows(chars, paint, [*styles, *colours, *(one + _DIM for one in colours)], marks, window, left)
        return [
            self._legend([] if beside else curves, view, width),
            *(Strip.join([line, legend]) for line, legend in zip_longest(plane, beside, fillvalue=Strip([]))),
            self._x_axis(window, view, left, width),
        ]

    def _x_range(self, curves: Sequence[Curve], view: View, end: float) -> tuple[float, float]:
        if view.zoom is not None:
            return view.zoom
        first = min([float(c.x[0]) for c in curves if len(c.x)] + [c.odd[0][0] for c in curves if c.odd], default=0.0)
        last = max([float(c.x[-1]) for c in curves if len(c.x)] + [c.odd[-1][0] for c in curves if c.odd], default=1.0)
        low = 0.0 if first < 0.2 * last else first
        if last <= low:
            last = low + 1
        if end <= last:
            return low, last
        # While the run goes on the axis grows in jumps: a chart that creeps is sent again and again.
        room = low + (last - low) * 1.1
        step = step_for(low, room, 8, _X[view.x])
        grown = min(math.ceil(room / step) * step, end)
        before = self.window
        if before is not None and before.x0 == low and last <= before.x1 <= min(2 * grown, end):
            return low, before.x1
        return low, grown

    def _y_range(self, curves: Sequence[Curve], view: View, x0: float, x1: float, rows: int) -> tuple[float, float]:
        lows: list[float] = []
        highs: list[float] = []
        for one in curves:
            part = slice(int(np.searchsorted(one.x, x0)), int(np.searchsorted(one.x, x1, side="right")))
            low, high = one.low[part], one.high[part]
            if view.log:
                low, high = low[low > 0], high[high > 0]
            good = np.isfinite(low) & np.isfinite(high) if len(low) == len(high) else slice(None)
            low, high = low[good], high[good]
            if not len(low) or not len(high):
                continue
            if view.ignore_outliers and len(low) > 20:
                sample = one.smooth[part] if one.dense else one.smooth
                sample = sample[np.isfinite(sample)]
                stride = max(1, len(low) // 20_000)
                lows.append(float(min(np.quantile(low[::stride], 0.05), sample.min() if len(sample) else np.inf)))
                highs.append(float(np.quantile(high[::stride], 0.95)))
            else:
                lows.append(float(low.min()))
                highs.append(float(high.max()))
        if not lows:
            return (0.1, 1.0) if view.log else (0.0, 1.0)
        low_, high_ = min(lows), max(highs)
        if view.log:
            return (low_ / 1.05, high_ * 1.05) if high_ > low_ else (low_ / 2, high_ * 2)
        if high_ - low_ <= abs(high_) * 1e-9:
            margin = abs(high_) * 0.1 or 0.5
            return low_ - margin, high_ + margin
        step = step_for(low_, high_, max(rows // 2, 3), self.scalar.unit) / 2
        # The range grows in jumps, too.
        return math.floor(low_ / step + 1e-9) * step, math.ceil(high_ / step - 1e-9) * step

    def _y_ticks(self, y0: float, y1: float, rows: int, view: View) -> list[Tick]:
        count = max(rows // 2, 3)
        if view.log and y0 > 0:
            return log_ticks(y0, y1, count, self.scalar.unit)
        return ticks(y0, y1, count, self.scalar.unit)

    # --- as lines ----------------------------------------------------------------------------------------------------

    def _rows(
        self,
        chars: NDArray[np.str_],
        paint: NDArray[np.int8],
        styles: list[Style],
        marks: list[Tick],
        window: PlotWindow,
        left: int,
    ) -> list[Strip]:
        labels: dict[int, str] = {}
        for tick in marks:
            row = int(np.floor(float(window.heights(np.array([tick.value]))[0]) + 0.5)) // 4
            labels.setdefault(min(max(row, 0), window.rows - 1), tick.label)
        axis = styles[0]
        lines = []
        for row in range(window.rows):
            text = labels.get(row, "")
            segments = [Segment(text.rjust(left) + ("┤" if text else "│"), axis)]
            line, kinds = chars[row], paint[row]
            cuts = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(line)]
            segments += [Segment("".join(line[a:b]), styles[kinds[a]]) for a, b in pairwise(cuts)]
            lines.append(Strip(segments))
        return lines

    def _x_axis(self, window: PlotWindow, view: View, left: int, width: int) -> Strip:
        cells = ["─"] * window.columns
        unit = _X[view.x]
        last = -1
        name = {"step": "step", "epoch": "epoch", "time": ""}[view.x]
        for tick in ticks(window.x0, window.x1, max(window.columns // 9, 2), unit):
            column = window.column(tick.value)
            start = max(0, min(column - len(tick.label) // 2, window.columns - len(tick.label)))
            if start <= last + 1 and last >= 0:
                continue
            cells[start : start + len(tick.label)] = tick.label
            last = start + len(tick.label)
        if name and window.columns - last > len(name) + 2:
            cells[-len(name) :] = name
        axis = self._style("axis")
        segments = [Segment(" " * left + "└", axis)]
        if view.cursor is not None and window.x0 <= view.cursor <= window.x1:
            text = f" {_x_reading(view)} "
            start = max(0, min(window.column(view.cursor) - len(text) // 2, window.columns - len(text)))
            segments.append(Segment("".join(cells[:start]), axis))
            segments.append(Segment(text, self._style("cursor")))
            segments.append(Segment("".join(cells[start + len(text) :]), axis))
        else:
            segments.append(Segment("".join(cells), axis))
        return Strip(segments).crop(0, width)

    def _legend(self, curves: Sequence[Curve], view: View, width: int) -> Strip:
        """The title, and each curve's mark and value: as much of it as there is room for."""
        style = self._style("title")
        title = Segment(f" {titled(self.scalar, curves)} ", style + Style(reverse=True) if self.marked else style)
        # What there is room for: names, values and best values; then without; of several runs names go first.
        share = (width - len(title.text)) // max(len(curves), 1)
        for names, values, best in (
            (99, True, True),
            (99, True, False),
            (max(share - 14, 4), True, False),
            (max(share - 6, 0), False, False),
        ):
            segments = [title]
            for one in curves:
                style = self._style(f"curve-{one.colour % COUNT + 1}")
                segments.append(Segment(self._entry(one, view, names, values, best), style))
            line = Strip(segments)
            if line.cell_length <= width:
                break
        return line.crop(0, width)

    def _legend_beside(self, curves: Sequence[Curve], view: View, width: int, rows: int) -> list[Strip]:
        """A line for each of many runs, right of the plane; none where the title's line has room for them."""
        if len(curves) < _MANY or width < _WIDE or not curves[0].label:
            return []
        shown = curves if len(curves) <= rows else curves[: rows - 1]
        room = min(width // 4, max(len(one.label) for one in curves))
        # As wide as any value: if it grew with them, the whole chart would be sent again.
        whole = len("  ━━ ") + room + len(" -1.234e-05")
        lines = []
        for one in shown:
            entry = self._entry(one, view, room, with_value=True, best=False)
            style = self._style(f"curve-{one.colour % COUNT + 1}")
            lines.append(Strip([Segment(entry, style + _DIM if one.dimmed else style)]))
        if len(shown) < len(curves):
            lines.append(Strip([Segment(f"  and {len(curves) - len(shown)} more", self._style("axis"))]))
        return [line.adjust_cell_length(whole) for line in lines]

    def _entry(self, one: Curve, view: View, room: int, with_value: bool, best: bool) -> str:
        name = one.label or one.part
        if len(name) > room:
            name = f"{name[: room - 1]}…" if room > 1 and one.label else ""
        value = _value_at(one, view.cursor) if view.cursor is not None else one.last
        told = reading(value, self.scalar.unit) if with_value or not one.label else ""
        line = (_PATTERNED if self._patterned else _SOLID)[one.colour % 4]
        text = f"  {line} {name}{' ' if name and told else ''}{told}"
        if best and view.cursor is None and math.isfinite(one.best) and one.name.startswith("val/"):
            text += f" (best {reading(one.best, self.scalar.unit)})"
        return text


def _lay(chars: NDArray[np.str_], paint: NDArray[np.int8], bits: NDArray[np.uint8], kind: int) -> None:
    """Put a curve over what is there: in a character that both run through only this one is seen, whole."""
    there = bits > 0
    codes = bits[there].astype(np.uint32) + 0x2800
    chars[there] = codes.view("<U1")
    paint[there] = kind


def _value_at(one: Curve, x: float | None) -> float:
    if x is None or not len(one.x):
        return math.nan
    place = int(np.searchsorted(one.x, x))
    if place == len(one.x) or (place and x - one.x[place - 1] < one.x[place] - x):
        place -= 1
    return float(one.smooth[place])


def _x_reading(view: View) -> str:
    assert view.cursor is not None
    if view.x == "time":
        return reading(view.cursor, "time")
    return f"{view.x} {view.cursor:,.0f}" if view.x == "step" else f"epoch {view.cursor:.2f}"


def _planned_end(history: History, view: View) -> float:
    """Where the x axis will end when the run is over; 0 when it is, or nobody knows."""
    started = history.started
    if started is None or history.state not in ("running", "paused", "stalled", "starting"):
        return 0.0
    if view.x == "step":
        return float(started.steps)
    if view.x == "epoch":
        return started.steps / started.epoch_length
    return math.inf


def zoomed(view: View, low: float, high: float, factor: float) -> View:
    """The view, ``factor`` times as wide (1: no change), around the cursor or the middle."""
    centre = view.cursor if view.cursor is not None and low <= view.cursor <= high else (low + high) / 2
    start, end = centre - (centre - low) * factor, centre + (high - centre) * factor
    least = {"step": 4.0, "epoch": 0.01, "time": 0.1}[view.x]
    if end - start < least:
        return view
    return replace(view, zoom=(start, end))
