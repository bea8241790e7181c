"""The points of one scalar over a run: bounded memory, nothing lost to the eye, and fast to draw.

Points are kept one by one up to ``LIMIT``. A series that is longer joins neighbours into buckets of 2, 4, 8 ... points,
each with its mean, minimum and maximum, so that a spike of a single step stays visible however long the run is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Points (or buckets) that a series keeps, 40 bytes each: hundreds for every column of dots that a terminal has.
LIMIT = 1 << 17

#: Places of NaN and infinity that a series remembers, to mark them.
_ODD = 2048


class Series:
    """One scalar: ``steps`` (rising), ``times`` (seconds of training), and ``mean``, ``low``, ``high`` of each bucket.

    What is not finite is left out of the three and remembered in ``odd``.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._rows = np.empty((5, 256))
        self._size = 0
        #: Points in a bucket.
        self.stride = 1
        #: Points added in all.
        self.count = 0
        #: (step, seconds, value) of what was not finite; thinned when there are thousands.
        self.odd: list[tuple[float, float, float]] = []
        #: The newest value, finite or not; NaN before the first.
        self.last = float("nan")
        self._pending = np.empty((3, 0))
        self._smooth_weight = -1.0
        self._smooth = np.empty(0)
        self._smooth_size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def steps(self) -> Floats:
        """Step of each bucket's last point."""
        return self._rows[0, : self._size]

    @property
    def times(self) -> Floats:
        """Seconds of training at each bucket's last point."""
        return self._rows[1, : self._size]

    @property
    def mean(self) -> Floats:
        """Mean of each bucket; NaN where it holds nothing finite."""
        return self._rows[2, : self._size]

    @property
    def low(self) -> Floats:
        """Least value of each bucket."""
        return self._rows[3, : self._size]

    @property
    def high(self) -> Floats:
        """Greatest value of each bucket."""
        return self._rows[4, : self._size]

    def extend(self, steps: Sequence[float] | Floats, times: Sequence[float] | Floats,
               values: Sequence[float] | Floats) -> None:  # fmt: skip
        """Add points; steps must not fall."""
        new = np.array([steps, times, values], dtype=np.float64)
        if not new.shape[1]:
            return
        self.count += new.shape[1]
        self.last = float(new[2, -1])
        wrong = ~np.isfinite(new[2])
        if wrong.any():
            self._remember(new[:, wrong])
            new[2, wrong] = np.nan
        if self.stride == 1:
            self._append(np.vstack([new, new[2:], new[2:]]))
        else:
            self._pending = np.hstack([self._pending, new])
            whole = self._pending.shape[1] // self.stride * self.stride
            self._append(_buckets(self._pending[:, :whole], self.stride))
            self._pending = self._pending[:, whole:].copy()

    def drop_from(self, step: float) -> None:
        """Forget all points at or after ``step``: the curve goes on from there anew."""
        kept = int(np.searchsorted(self.steps, step))
        self.odd = [one for one in self.odd if one[0] < step]
        pending = self._pending[:, self._pending[0] < step]
        if kept == self._size and pending.shape[1] == self._pending.shape[1]:
            return
        self.count -= (self._size - kept) * self.stride + self._pending.shape[1] - pending.shape[1]
        self._size, self._pending = kept, pending
        self._smooth_weight = -1.0

    def _remember(self, points: Floats) -> None:
        self.odd += [(float(s), float(t), float(v)) for s, t, v in points.T]
        while len(self.odd) > _ODD:
            self.odd = self.odd[::2]

    def _append(self, rows: Floats) -> None:
        at = 0
        while at < rows.shape[1]:
            if self._size == self._limit:
                self._halve()
                rest = rows[:, at:]
                joined = rest.shape[1] // 2 * 2  # these were made for half the stride: twice as many make a bucket
                self._append(_join(rest[:, :joined]))
                if rest.shape[1] > joined:
                    self._pending = np.hstack([_unpack(rest[:, joined:], self.stride // 2), self._pending])
                return
            take = min(rows.shape[1] - at, self._limit - self._size)
            self._reserve(self._size + take)
            self._rows[:, self._size : self._size + take] = rows[:, at : at + take]
            self._size += take
            at += take

    def _reserve(self, size: int) -> None:
        if size > self._rows.shape[1]:
            grown = np.empty((5, min(self._limit, max(size, 2 * self._rows.shape[1]))))
            grown[:, : self._size] = self._rows[:, : self._size]
            self._rows = grown

    def _halve(self) -> None:
        joined = _join(self._rows[:, : self._size // 2 * 2])
        self._size = joined.shape[1]
        self._rows[:, : self._size] = joined
        self.stride *= 2
        self._smooth_weight = -1.0

    def smoothed(self, weight: float) -> Floats:
        """The debiased exponential moving average over all points so far, one value a bucket.

        s(n) = sum over j of weight^j x(n-j), divided by the sum of those weights (Kingma and Ba 2014, section 3; what
        TensorBoard draws). What is not finite is passed over. Only new points are computed in a second call.
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
            values, self._smooth_state, self._smooth_seen = average(
                self._rows[2, part], weight**self.stride, self._smooth_state, self._smooth_seen
            )
            self._smooth[part] = values
            self._smooth_size = self._size
        return self._smooth[: self._size]


def average(x: Floats, weight: float, state: float = 0.0, seen: int = 0) -> tuple[Floats, float, int]:
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


def _buckets(points: Floats, stride: int) -> Floats:
    """Points [3, n * stride] as buckets [5, n]."""
    values = points[2].reshape(-1, stride)
    return np.vstack([
        points[0, stride - 1 :: stride], points[1, stride - 1 :: stride],
        _mean(values), np.fmin.reduce(values, axis=1), np.fmax.reduce(values, axis=1),
    ])  # fmt: skip


def _join(rows: Floats) -> Floats:
    """Buckets [5, 2n] as buckets of twice the size [5, n]."""
    return np.vstack([
        rows[0, 1::2], rows[1, 1::2], _mean(rows[2].reshape(-1, 2)),
        np.fmin(rows[3, ::2], rows[3, 1::2]), np.fmax(rows[4, ::2], rows[4, 1::2]),
    ])  # fmt: skip


def _unpack(bucket: Floats, count: int) -> Floats:
    """A bucket [5, 1] as ``count`` points [3, count] with the same extremes."""
    points = np.repeat(bucket[:3], count, axis=1)
    if count > 1:
        points[2, :2] = bucket[3:, 0]
    return points


def _mean(values: Floats) -> Floats:
    good = np.isfinite(values)
    count = good.sum(1)
    total = np.where(good, values, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
