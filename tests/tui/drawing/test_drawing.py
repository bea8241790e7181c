from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchdeck.core.runs.history import History
from torchdeck.core.series import Series
from torchdeck.tui.drawing import axes, bars, chart
from torchdeck.tui.drawing.canvas import PlotWindow, curve, envelope, points
from torchdeck.tui.drawing.sparkline import scale_of, sparkline

#: Training in this process has the CPU flush subnormal numbers, which hypothesis notices.
finite = st.floats(-1e12, 1e12, allow_subnormal=False)


@given(finite, finite, st.integers(1, 12), st.sampled_from(axes.UNITS))
def test_ticks_are_round_rising_inside_and_few(low: float, high: float, count: int, unit: str) -> None:
    found = axes.ticks(low, high, count, unit)
    values = [t.value for t in found]
    assert values == sorted(values)
    assert len(values) <= 3 * count + 2
    margin = abs(high - low) * 1e-6 + 1e-9 * max(abs(low), abs(high))
    assert all(low - margin <= v <= high + margin for v in values)
    if unit == "count":
        assert all(v == int(v) for v in values)


@given(st.floats(1e-9, 1e9), st.floats(1.05, 1e9), st.integers(1, 10))
def test_a_log_axis_has_at_least_three_ticks(low: float, factor: float, count: int) -> None:
    found = axes.log_ticks(low, low * factor, count, "number")
    assert len(found) >= (3 if factor > 1.5 else 2)
    assert all(low * 0.999 <= t.value <= low * factor * 1.001 for t in found)


@pytest.mark.parametrize(
    ("value", "step", "unit", "text"),
    [
        (0.5, 0.1, "number", "0.5"),
        (0.25, 0.05, "number", "0.25"),
        (1500, 500, "count", "1.5k"),
        (2_000_000, 1_000_000, "count", "2M"),
        (0.95, 0.05, "percent", "95%"),
        (0.985, 0.005, "percent", "98.5%"),
        (90, 30, "time", "1:30"),
        (7200, 3600, "time", "2:00:00"),
        (5, 5, "time", "5s"),
        (1e-5, 1e-5, "number", "1e-5"),
        (400_000, 86_400, "time", "4d 15h"),
        (0, 1, "number", "0"),
        (3 << 30, 1 << 30, "bytes", "3G"),
    ],
)
def test_labels(value: float, step: float, unit: str, text: str) -> None:
    assert axes.tick_label(value, step, unit) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (math.nan, "number", "NaN"),
        (math.inf, "percent", "∞"),
        (-math.inf, "number", "-∞"),
        (0.98052, "percent", "98.05%"),
        (12_345, "rate", "12.3k/s"),
        (0.00012, "number", "1.200e-04"),
        (1234.5678, "number", "1234.5678"),
    ],
)
def test_readings(value: float, unit: str, text: str) -> None:
    assert axes.reading(value, unit) == text


@given(
    st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=1, max_size=400),
    st.integers(2, 60),
    st.integers(1, 20),
    st.booleans(),
)
def test_every_point_is_covered_by_its_column(values: list[float], columns: int, rows: int, log: bool) -> None:
    y = np.array(values)
    y = np.exp(y / 50) if log else y
    x = np.arange(len(y), dtype=float)
    window = PlotWindow(-0.5, len(y) - 0.5, float(y.min()) - 0.1 * (not log), float(y.max()) + 0.1, columns, rows, log)
    low, high = envelope(x, y, y, window)
    at = np.clip(((x - window.x0) / (window.x1 - window.x0) * columns * 2).astype(int), 0, columns * 2 - 1)
    # A point on an edge may belong to the column before it.
    assert all(
        (low[max(a - 1, 0) : a + 2].min() <= v <= high[max(a - 1, 0) : a + 2].max())
        or np.isnan(low[max(a - 1, 0) : a + 2]).any()
        for a, v in zip(at, y, strict=True)
    )
    assert curve(x, y, y, window).shape == (rows, columns)
    assert curve(x, y, y, window).any()


def test_a_spike_of_one_step_in_fifty_thousand_reaches_the_top() -> None:
    y = np.full(50_000, 0.5)
    y[31_415] = 25.0
    x = np.arange(50_000, dtype=float)
    picture = curve(x, y, y, PlotWindow(0, 50_000, 0, 25, 80, 12))
    assert picture[0].any()
    assert int(np.flatnonzero(picture[0])[0]) == int(31_415 / 50_000 * 80)


def test_lines_are_joined_without_gaps() -> None:
    x, y = np.array([0.0, 1.0]), np.array([0.0, 1.0])
    picture = curve(x, y, y, PlotWindow(0, 1, 0, 1, 10, 10))
    assert all(picture[:, column].any() for column in range(10))
    assert all(picture[row].any() for row in range(10))


def test_nothing_is_drawn_of_what_is_not_finite_or_not_positive_on_a_log_axis() -> None:
    window = PlotWindow(0, 3, 0.1, 1, 10, 5)
    x = np.array([0.0, 1.0, 2.0])
    assert not curve(x, np.full(3, np.nan), np.full(3, np.nan), window).any()
    log = PlotWindow(0, 3, 0.1, 1, 10, 5, log=True)
    assert not curve(x, np.full(3, -1.0), np.full(3, -1.0), log).any()
    assert points(x, np.array([-1.0, 0.5, np.nan]), log) == [(1, 3)]


def test_curves_are_told_apart_without_colour() -> None:
    x = np.arange(100.0)
    window = PlotWindow(0, 99, -1, 1, 50, 5)
    pictures = [curve(x, np.zeros(100), np.zeros(100), window, n).tobytes() for n in range(4)]
    assert len(set(pictures)) == 4


def test_sparklines_share_a_scale() -> None:
    rising, higher = [0.0, 1.0, 2.0, 3.0], [3.0, 3.0]
    scale = scale_of([rising, higher, [math.nan, math.inf]])
    assert scale == (0.0, 3.0)
    assert sparkline(rising, 2, scale) == "⡠⠊"  # a dot a value, from the bottom to the top
    assert sparkline(higher, 2, scale) == "⠉⠉"
    assert sparkline([5, 5, 5], 2, scale_of([[5, 5, 5]])) == "⠒⠒"
    assert len(sparkline(list(range(1000)), 10, (0, 999))) == 10
    assert sparkline([math.nan, 1.0, 1.0, math.nan], 2, (0, 1)) == "⠉⠉"
    for nothing in ([], [math.nan, math.inf]):
        assert sparkline(nothing, 8, scale_of([nothing])) == ""
    astray = [[1.0, 2.0]] * 60 + [[1e30]]
    assert scale_of(astray) == (1.0, 2.0)


def test_bars() -> None:
    assert bars.standing([0, 0.5, 1], 8) == "▁▄█"
    assert bars.standing([0, 1] * 16, 8) == "▄" * 8
    assert bars.standing([], 8) == ""
    assert bars.bar(0.5, 4) == "██  "
    assert bars.bar(2.0, 4) == "████"
    assert bars.bar(-1.0, 4) == "    "
    assert bars.bar(1 / 16, 2) == "▏ "


def _drawn(steps: np.ndarray, times: np.ndarray, values: np.ndarray, view: chart.View) -> tuple[chart.Curve, str]:
    series = Series()
    series.extend(steps, times, values)
    history = History()
    history.adopt({"train/loss": series})
    scalar = chart.Scalar("loss", ("train/loss",))
    (curve,), _ = chart.curves_of([chart.ChartSource("", history)], scalar, view)
    return curve, chart.titled(scalar, [curve])


def test_smoothing_of_joined_points_is_told_as_approximate() -> None:
    for count, smoothing, told in ((1000, 0.6, "loss"), (300_000, 0.6, "loss (≈ smoothed)"), (300_000, 0.0, "loss")):
        steps = np.arange(count)
        assert _drawn(steps, steps, np.cos(steps / 50), chart.View(smoothing=smoothing))[1] == told


def test_over_time_the_points_of_several_writers_are_in_the_order_of_their_times() -> None:
    steps, times = np.array([0, 1, 2, 3]), np.array([0.0, 20.0, 1.0, 21.0])
    curve, _ = _drawn(steps, times, np.array([1.0, 3.0, 2.0, 4.0]), chart.View(x="time", smoothing=0))
    assert curve.x.tolist() == [0.0, 1.0, 20.0, 21.0]
    assert curve.low.tolist() == [1.0, 2.0, 3.0, 4.0]


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-8, 1e8), st.floats(1.5, 1e4), st.integers(3, 10))
def test_log_ticks_say_what_they_are(low: float, ratio: float, count: int) -> None:
    for tick in axes.log_ticks(low, low * ratio, count, "number"):
        text = tick.label.replace("k", "e3").replace("M", "e6").replace("G", "e9").replace("T", "e12")
        assert float(text) == pytest.approx(tick.value, rel=0.01)
