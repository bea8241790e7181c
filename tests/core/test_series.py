from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchdeck.core.series import Series, debiased_average

values = st.lists(
    st.floats(-1e6, 1e6, allow_subnormal=False) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=300
)


def naive(x: list[float], weight: float) -> list[float]:
    """The debiased exponential average, point by point."""
    out, state, seen = [], 0.0, 0
    for value in x:
        if not math.isfinite(value):
            out.append(math.nan)
            continue
        seen += 1
        state = state * weight + (1 - weight) * value
        out.append(state / (1 - weight**seen))
    return out


@given(values, st.sampled_from([0.3, 0.6, 0.9, 0.99, 0.999]), st.integers(1, 50))
def test_smoothing_is_the_debiased_average_however_the_points_come(x: list[float], weight: float, part: int) -> None:
    series = Series()
    for at in range(0, len(x), part):
        chunk = x[at : at + part]
        series.extend(range(at, at + len(chunk)), range(at, at + len(chunk)), chunk)
        series.smoothed(weight)  # what was smoothed so far is gone on with
    np.testing.assert_allclose(series.smoothed(weight), naive(x, weight), rtol=1e-7, atol=1e-6)


@given(values, st.integers(1, 40))
def test_joined_points_keep_extremes_means_and_order(x: list[float], part: int) -> None:
    series = Series(limit=16)
    for at in range(0, len(x), part):
        chunk = x[at : at + part]
        series.extend(range(at, at + len(chunk)), range(at, at + len(chunk)), chunk)
    assert len(series) <= 16
    assert series.count == len(x)
    assert (np.diff(series.steps) > 0).all()
    shown = x[: int(series.steps[-1]) + 1] if len(series) else []
    finite = [v for v in shown if math.isfinite(v)]
    if finite:
        assert np.nanmax(series.high) == max(finite)
        assert np.nanmin(series.low) == min(finite)
    assert len(series.odd) == sum(not math.isfinite(v) for v in x)


def test_a_spike_of_one_step_among_millions_stays() -> None:
    series = Series(limit=1024)
    x = np.full(3_000_000, 0.5)
    x[1_234_567] = 50.0
    for at in range(0, len(x), 100_000):
        steps = np.arange(at, at + 100_000)
        series.extend(steps, steps, x[at : at + 100_000])
    assert series.high.max() == 50.0
    assert series.steps[series.high.argmax()] == pytest.approx(1_234_567, abs=series.stride)


def test_smoothing_goes_on_from_where_it_was() -> None:
    first, state, seen = debiased_average(np.array([1.0, 2.0]), 0.9)
    second, _, _ = debiased_average(np.array([3.0]), 0.9, state, seen)
    np.testing.assert_allclose([*first, *second], naive([1.0, 2.0, 3.0], 0.9))


def test_places_of_what_is_not_finite_are_bounded() -> None:
    series = Series()
    n = 50_000
    series.extend(np.arange(n), np.arange(n), np.full(n, np.nan))
    assert 0 < len(series.odd) <= 2048
    assert np.isnan(series.smoothed(0.9)).all()


@given(
    st.lists(
        st.tuples(st.integers(0, 10_000), st.floats(-1e6, 1e6) | st.just(math.nan)),
        min_size=1,
        max_size=300,
        unique_by=lambda point: point[0],
    ),
    st.integers(1, 60),
    st.sampled_from([8, 16, 1024]),
)
def test_each_bucket_holds_the_points_between_its_neighbours_in_whatever_order_they_came(
    points: list[tuple[int, float]], part: int, limit: int
) -> None:
    series = Series(limit)
    for at in range(0, len(points), part):
        steps, x = zip(*points[at : at + part], strict=True)
        series.extend(steps, steps, x)
    assert series.count == len(points)
    assert len(series) <= limit
    before = -1.0
    for step, mean, low, high in zip(series.steps, series.mean, series.low, series.high, strict=True):
        inside = [v for s, v in points if before < s <= step and math.isfinite(v)]
        assert (min(inside, default=math.nan), max(inside, default=math.nan)) == pytest.approx((low, high), nan_ok=True)
        expected = math.fsum(inside) / len(inside) if inside else math.nan
        assert mean == pytest.approx(expected, nan_ok=True, rel=1e-6, abs=1e-6)
        before = step
    assert sum(s > before for s, _ in points) < series.stride  # what waits for a bucket
    newest = max(points)[1]
    assert series.last == pytest.approx(newest, nan_ok=True)


def test_what_is_dropped_is_neither_counted_nor_the_last() -> None:
    series = Series(limit=8)
    series.extend(range(100), range(100), [float(i) for i in range(100)])
    series.drop_from(40)
    assert series.count == len([s for s in range(100) if s <= series.steps[-1]]) + series.count % series.stride
    assert series.last < 40
    series.drop_from(0)
    assert series.count == 0
    assert math.isnan(series.last)
