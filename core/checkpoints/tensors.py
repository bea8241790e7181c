"""A tensor that lies in a file: where its bytes are, and figures of them, without loading the file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchdeck.core.checkpoints.pickled import DTYPES
from torchdeck.core.errors import UserError

#: Elements that are looked at in one go.
_PART = 1 << 21
#: Bins of a histogram.
BINS = 40


@dataclass(frozen=True)
class StoredTensor:
    """A tensor: its name with dots, and where in which file it lies. ``offset`` None: its bytes can't be got at."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path | None = None
    #: Byte at which its first element lies.
    offset: int | None = None
    #: Elements to the next one in each dimension; empty: one after the other.
    stride: tuple[int, ...] = ()
    #: Elements that are within the file from ``offset`` on.
    room: int = 0
    #: What it is beside a tensor: parameter, buffer.
    kind: str = ""

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.numel * DTYPES.get(self.dtype, (0, ""))[0]

    def array(self) -> NDArray[Any]:
        """Its numbers, mapped from the file, as they are stored (bfloat16 and float8 as integers).

        Raises UserError when they can't be got at.
        """
        size, kind = DTYPES.get(self.dtype, (0, ""))
        if self.file is None or self.offset is None or not size:
            raise UserError(f"The numbers of {self.name!r} ({self.dtype}) can't be read from the file.")
        if self.numel == 0:
            return np.empty(self.shape, dtype=kind)
        steps = self.stride or _contiguous(self.shape)
        reach = 1 + sum((n - 1) * s for n, s in zip(self.shape, steps, strict=True))
        if reach > self.room or any(s < 0 for s in steps):
            raise UserError(f"{str(self.file)!r} is damaged: {self.name!r} reaches beyond its storage.")
        try:
            flat = np.memmap(self.file, dtype=kind, mode="r", offset=self.offset, shape=(reach,))
        except (OSError, ValueError) as error:
            raise UserError(f"{str(self.file)!r} can't be read: {error}.") from None
        if steps == _contiguous(self.shape):
            return flat[: self.numel].reshape(self.shape)
        return np.lib.stride_tricks.as_strided(flat, self.shape, [s * size for s in steps], writeable=False)

    def parts(self) -> Iterator[NDArray[Any]]:
        """Its numbers as floats (bool and integers too, complex as they are), flat, a few million at a time."""
        stored = self.array()
        if stored.flags.c_contiguous:
            flat = stored.reshape(-1)
            for at in range(0, len(flat), _PART):
                yield decoded(flat[at : at + _PART], self.dtype)
            return
        rows = max(1, _PART // max(1, self.numel // max(1, self.shape[0])))
        for at in range(0, self.shape[0], rows):
            yield decoded(np.ascontiguousarray(stored[at : at + rows]).reshape(-1), self.dtype)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(size, 1)
    return tuple(reversed(steps))


def decoded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Stored numbers as numbers that NumPy computes with."""
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if dtype.startswith("float8"):
        return _FLOAT8[dtype][values]
    if values.dtype.kind in "?iu":
        return values.astype(np.float64)
    if values.dtype.kind == "c":
        return values
    return values.astype(np.float32 if values.dtype.itemsize < 8 else np.float64)


def _float8(exponent_bits: int, bias: int, finite: bool, unsigned_zero: bool) -> NDArray[np.float32]:
    """All 256 numbers of an 8 bit format (Micikevicius et al. 2022; Noune et al. 2022 for fnuz)."""
    mantissa_bits = 7 - exponent_bits
    table = np.empty(256, dtype=np.float32)
    for code in range(256):
        sign = -1.0 if code & 0x80 else 1.0
        exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
        mantissa = code & (1 << mantissa_bits) - 1
        if exponent:
            value = (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
        else:
            value = mantissa / (1 << mantissa_bits) * 2.0 ** (1 - bias)
        top = exponent == (1 << exponent_bits) - 1
        if unsigned_zero:
            value = math.nan if code == 0x80 else value
        elif finite:
            value = math.nan if code & 0x7F == 0x7F else value
        elif top:
            value = math.nan if mantissa else math.inf
        table[code] = sign * value
    return table


_FLOAT8 = {
    "float8_e4m3fn": _float8(4, 7, True, False),
    "float8_e5m2": _float8(5, 15, False, False),
    "float8_e4m3fnuz": _float8(4, 8, True, True),
    "float8_e5m2fnuz": _float8(5, 16, True, True),
}


@dataclass(frozen=True)
class Figures:
    """What is said of a tensor's numbers; min, max, mean and std are of the finite ones (complex: their magnitude)."""

    count: int
    minimum: float
    maximum: float
    mean: float
    std: float
    zeros: int
    nans: int
    infinities: int
    #: Counts in ``BINS`` bins between minimum and maximum.
    histogram: tuple[int, ...] = ()

    @property
    def zero_share(self) -> float:
        """Share of zeros."""
        return self.zeros / self.count if self.count else 0.0


def tensor_figures(tensor: StoredTensor) -> Figures:
    """The figures of a tensor; it is read twice, in parts.

    Raises UserError when it can't be read.
    """
    zeros = nans = infinities = good = 0
    low, high, total = math.inf, -math.inf, 0.0
    for values in _magnitudes(tensor):
        finite = np.isfinite(values)
        all_good = bool(finite.all())
        if not all_good:
            nan = int(np.isnan(values).sum())
            nans += nan
            infinities += len(values) - int(finite.sum()) - nan
            values = values[finite]
        if len(values):
            good += len(values)
            zeros += len(values) - int(np.count_nonzero(values))
            low, high = min(low, float(values.min())), max(high, float(values.max()))
            total += float(values.sum(dtype=np.float64))
    if not good:
        return Figures(tensor.numel, math.nan, math.nan, math.nan, math.nan, 0, nans, infinities)
    mean, squares = total / good, 0.0
    counts = np.zeros(BINS, dtype=np.int64)
    # Halved, the span of two doubles can't overflow.
    span = high / 2 - low / 2
    for values in _magnitudes(tensor):
        if nans or infinities:
            values = values[np.isfinite(values)]
        wide = values.astype(np.float64)
        with np.errstate(over="ignore"):
            difference = wide - mean
            squares += float(difference @ difference)
        place = (wide / 2 - low / 2) * (BINS / span) if span > 0 else np.full(len(wide), BINS / 2)
        counts += np.bincount(np.clip(place, 0, BINS - 1).astype(np.int64), minlength=BINS)
    return Figures(
        tensor.numel, low, high, mean, math.sqrt(squares / good), zeros, nans, infinities, tuple(counts.tolist())
    )


def _magnitudes(tensor: StoredTensor) -> Iterator[NDArray[Any]]:
    for values in tensor.parts():
        yield np.abs(values) if values.dtype.kind == "c" else values


def distance(a: StoredTensor, b: StoredTensor) -> float:
    """How much ``b`` differs from ``a``: the norm of the difference over the norm of ``a``'s finite numbers.

    A NaN equals a NaN, and an infinity the same infinity; where one stands against another number the distance is NaN.

    Raises UserError when one can't be read.
    """
    difference = norm = 0.0
    for stored_x, stored_y in zip(_flat_parts(a), _flat_parts(b), strict=True):
        x, y = _wide(decoded(stored_x, a.dtype)), _wide(decoded(stored_y, b.dtype))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if a.dtype == b.dtype and a.dtype.startswith(("int", "uint")):
            same = stored_x == stored_y  # large whole numbers that differ may be equal as float64
        with np.errstate(invalid="ignore"):
            d = np.where(same, 0, np.where(x == y, 1, y - x))
        difference += float(np.vdot(d, d).real)
        finite = x[np.isfinite(x)]
        norm += float(np.vdot(finite, finite).real)
    if difference == 0:
        return 0.0
    return math.sqrt(difference / norm) if norm else math.inf


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def _flat_parts(tensor: StoredTensor) -> Iterator[NDArray[Any]]:
    """The stored numbers in parts of the same sizes, whatever the strides."""
    stored = tensor.array()
    if not stored.flags.c_contiguous:
        stored = np.ascontiguousarray(stored)
    flat = stored.reshape(-1)
    for at in range(0, len(flat), _PART):
        yield flat[at : at + _PART]
