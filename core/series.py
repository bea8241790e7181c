"""The points of one scalar over a run: bounded memory, nothing lost to the eye, and fast to draw.

Points are kept one by one up to ``LIMIT``. A series that is longer joins neighbours into buckets of 2, 4, 8 ... points,
each with its mean, minimum and maximum, so that a spike of a single step stays visible however long the run is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Points (or buckets) that a series keeps, 56 bytes each: hundreds for every column of dots that a terminal has.
LIMIT = 1 << 17

#: Places of NaN and infinity that a series remembers, to mark them.
_ODD = 2048

#: The rows of a table of buckets: step and seconds of the last point, mean, least and greatest of the finite values,
#: how many those are, and how many points there are in all. A point is a bucket of one.
_STEP, _TIME, _MEAN, _LOW, _HIGH, _FINITE, _POINTS = range(7)


class Series:
    """One scalar: ``steps`` (rising), ``times`` (seconds of training), and ``mean``, ``low``, ``high`` of each bucket.

    What is not finite is left out of the three and remembered in ``odd``.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._rows = np.empty((7, 256))
        self._size = 0
        #: Points in a bucket.
        self.stride = 1
        #: Points added in all.
        self.count = 0
        #: (step, seconds, value) of what was not finite, by step; thinned when there are thousands.
        self.odd: list[tuple[float, float, float]] = []
        #: The value of the greatest step, finite or not; NaN before the first.
        self.last = float("nan")
        #: Points that are too few for a bucket yet.
        self._pending = np.empty((7, 0))
        self._smooth_weight = -1.0
        self._smooth = np.empty(0)
        self._smooth_size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def steps(self) -> Floats:
        """Step of each bucket's last point."""
        return self._rows[_STEP, : self._size]

    @property
    def times(self) -> Floats:
        """Seconds of training at each bucket's last point."""
        return self._rows[_TIME, : self._size]

    @property
    def mean(self) -> Floats:
        """Mean of each bucket; NaN where it holds nothing finite."""
        return self._rows[_MEAN, : self._size]

    @property
    def low(self) -> Floats:
        """Least value of each bucket."""
        return self._rows[_LOW, : self._size]

    @property
    def high(self) -> Floats:
        """Greatest value of each bucket."""
        return self._rows[_HIGH, : self._size]

    def extend(
        self, steps: Sequence[float] | Floats, times: Sequence[float] | Floats, values: Sequence[float] | Floats
    ) -> None:
        """Add points, in any order of steps: each finds its place; points of one step stay in the order they came."""
        new = np.array([steps, times, values], dtype=np.float64)
        if not new.shape[1]:
            return
        self.count += new.shape[1]
        if (np.diff(new[0]) < 0).any():
            new = new[:, np.argsort(new[0], kind="stable")]
        late = new[0, 0] < self._last_step()
        if new[0, -1] >= self._last_step():
            self.last = float(new[2, -1])
        finite = np.isfinite(new[2])
        if not finite.all():
            self._remember(new[:, ~finite])
            new[2, ~finite] = np.nan
        rows = np.vstack([new, new[2], new[2], finite, np.ones(new.shape[1])])
        if late:
            self._insert(rows)
        else:
            self._append(rows)

    def drop_from(self, step: float) -> None:
        """Forget all points at or after ``step``: the curve goes on from there anew."""
        kept = int(np.searchsorted(self.steps, step))
        self.odd = [one for one in self.odd if one[0] < step]
        pending = self._pending[:, self._pending[_STEP] < step]
        if kept == self._size and pending.shape[1] == self._pending.shape[1]:
            return
        self._size, self._pending = kept, pending
        self._smooth_weight = -1.0
        self.count = int(self._rows[_POINTS, :kept].sum() + pending[_POINTS].sum())
        newest = pending if pending.shape[1] else self._rows[:, :kept]
        self.last = float(newest[_MEAN, -1]) if newest.shape[1] else float("nan")

    def _last_step(self) -> float:
        if self._pending.shape[1]:
            return float(self._pending[_STEP, -1])
        return float(self._rows[_STEP, self._size - 1]) if self._size else -np.inf

    def _remember(self, points: Floats) -> None:
        self.odd += [(float(s), float(t), float(v)) for s, t, v in points.T]
        self.odd.sort(key=lambda one: one[0])
        while len(self.odd) > _ODD:
            self.odd = self.odd[::2]

    def _insert(self, rows: Floats) -> None:
        """Points [7, n] by step, of which some belong before those that are there."""
        self._smooth_weight = -1.0
        if self.stride == 1:
            kept = int(np.searchsorted(self.steps, rows[_STEP, 0], side="right"))
            behind = self._rows[:, kept : self._size].copy()
            self._size = kept
        else:
            covered = int(np.searchsorted(rows[_STEP], self.steps[-1], side="right")) if self._size else 0
            self._fold(rows[:, :covered])
            behind, self._pending, rows = self._pending, np.empty((7, 0)), rows[:, covered:]
        merged = np.hstack([behind, rows])
        self._append(merged[:, np.argsort(merged[_STEP], kind="stable")])

    def _fold(self, rows: Floats) -> None:
        """Take points into the buckets that cover their steps."""
        at = np.searchsorted(self.steps, rows[_STEP])
        table = self._rows[:, : self._size]
        finite = rows[_FINITE] > 0
        total = np.where(table[_FINITE] > 0, table[_MEAN] * table[_FINITE], 0.0)
        np.add.at(total, at[finite], rows[_MEAN, finite])
        np.add.at(table[_FINITE], at, rows[_FINITE])
        np.add.at(table[_POINTS], at, rows[_POINTS])
        np.fmin.at(table[_LOW], at, rows[_LOW])
        np.fmax.at(table[_HIGH], at, rows[_HIGH])
        changed = np.unique(at)
        table[_MEAN, changed] = _divided(total[changed], table[_FINITE, changed])

    def _append(self, rows: Floats) -> None:
        """Points or buckets [7, n] that come after all that are there."""
        if self.stride > 1:
            rows = np.hstack([self._pending, rows])
        while True:
            rows, self._pending = _buckets(rows, self.stride)
            take = min(rows.shape[1], self._limit - self._size)
            self._reserve(self._size + take)
            self._rows[:, self._size : self._size + take] = rows[:, :take]
            self._size += take
            if take == rows.shape[1]:
                return
            rest = np.hstack([rows[:, take:], self._pending])
            rows = np.hstack([self._halve(), rest])

    def _reserve(self, size: int) -> None:
        if size > self._rows.shape[1]:
            grown = np.empty((7, min(self._limit, max(size, 2 * self._rows.shape[1]))))
            grown[:, : self._size] = self._rows[:, : self._size]
            self._rows = grown

    def _halve(self) -> Floats:
        """Buckets of twice the size from now on; what is left over of the old ones [7, 0 or 1]."""
        even = self._size // 2 * 2
        left_over = self._rows[:, even : self._size].copy()
        self._size = even // 2
        self._rows[:, : self._size] = _joined(self._rows[:, :even], np.arange(0, even, 2))
        self.stride *= 2
        self._smooth_weight = -1.0
        return left_over

    @property
    def smoothing_is_exact(self) -> bool:
        """Whether ``smoothed`` is over single points; else it is over the means of buckets, an approximation."""
        return self.stride == 1

    def smoothed(self, weight: float) -> Floats:
        """The debiased exponential moving average over all points so far, one value a bucket.

        s(n) = sum over j of weight^j x(n-j), divided by the sum of those weights (Kingma and Ba 2014, section 3; what
        TensorBoard draws). What is not finite is passed over. Only new points are computed in a second call. Where
        points were joined, each bucket counts as ``stride`` points of its mean.
        """
        if weight <= 0:
            return self.mean
        if weight != self._smooth_weight:
            self._smooth_weight, self._smooth_size = weight, 0
            self._smooth_state, self._smooth_seen = 0.0, 0
        if self._smooth_size < self._size:
            if len(self._smooth) < self._size:
                grown = np.empty(self._rows.shape[1])
                grown[: self._smooth_size] = self._smooth[: self._smooth_size]
                self._smooth = grown
            part = slice(self._smooth_size, self._size)
            values, self._smooth_state, self._smooth_seen = debiased_average(
                self._rows[_MEAN, part], weight**self.stride, self._smooth_state, self._smooth_seen
            )
            self._smooth[part] = values
            self._smooth_size = self._size
        return self._smooth[: self._size]


def debiased_average(x: Floats, weight: float, state: float = 0.0, seen: int = 0) -> tuple[Floats, float, int]:
    """The debiased exponential moving average of ``x``, going on from (state, seen): values, and the new two.

    The recurrence s = weight s + (1 - weight) x is solved by doubling (Kogge and Stone 1973): a few passes over the
    whole array instead of a loop.
    """
    good = np.isfinite(x)
    finite = x if good.all() else x[good]
    if not len(finite):
        return np.full(len(x), np.nan), state, seen
    s = finite * (1 - weight)
    s[0] += weight * state
    reach, factor = 1, weight
    while reach < len(s) and factor > 1e-12:
        s[reach:] += factor * s[:-reach]  # numpy reads the right side whole before it writes
        reach, factor = reach * 2, factor * factor
    last = float(s[-1])
    numbers = np.arange(seen + 1, seen + len(s) + 1)
    s /= -np.expm1(numbers * np.log(weight))
    if len(finite) == len(x):
        return s, last, seen + len(s)
    out = np.full(len(x), np.nan)
    out[good] = s
    return out, last, seen + len(s)


def _buckets(rows: Floats, stride: int) -> tuple[Floats, Floats]:
    """Points or smaller buckets [7, n] as buckets of ``stride`` points, and those that don't fill one yet."""
    if stride == 1:
        return rows, rows[:, :0]
    ends = np.cumsum(rows[_POINTS])
    bucket = (ends - rows[_POINTS]) // stride
    whole = int(np.searchsorted(bucket, ends[-1] // stride)) if len(ends) else 0
    starts = np.flatnonzero(np.diff(bucket[:whole], prepend=-1))
    return _joined(rows[:, :whole], starts), rows[:, whole:].copy()


def _joined(rows: Floats, starts: NDArray[np.int64]) -> Floats:
    """Buckets [7, n] joined into larger ones, which begin at ``starts``."""
    if not len(starts):
        return rows[:, :0]
    ends = np.append(starts[1:], rows.shape[1]) - 1
    total = np.where(rows[_FINITE] > 0, rows[_MEAN] * rows[_FINITE], 0.0)
    finite = np.add.reduceat(rows[_FINITE], starts)
    return np.vstack(
        [
            rows[_STEP, ends],
            rows[_TIME, ends],
            _divided(np.add.reduceat(total, starts), finite),
            np.fmin.reduceat(rows[_LOW], starts),
            np.fmax.reduceat(rows[_HIGH], starts),
            finite,
            np.add.reduceat(rows[_POINTS], starts),
        ]
    )


def _divided(total: Floats, count: Floats) -> Floats:
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
