"""Axes: round ticks, and labels in the unit of what is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Steps of a time axis in seconds.
_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)

#: Units: count (whole numbers), number, percent, time (seconds), bytes, rate.
UNITS = ("count", "number", "percent", "time", "bytes", "rate")


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its value and what is written there."""

    value: float
    label: str


def nice(raw: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is no less than ``raw``."""
    if not (math.isfinite(raw) and raw > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    for factor in (1, 2, 5):
        if raw <= factor * power * (1 + 1e-9):
            return factor * power
    return 10 * power


def step_for(low: float, high: float, count: int, unit: str) -> float:
    """The distance of about ``count`` ticks between two values."""
    raw = (high - low) / max(count, 1)
    if unit == "time" and raw > 0.5:
        return next((float(s) for s in _SECONDS if s >= raw), nice(raw / 86400) * 86400)
    if unit == "count":
        return max(1.0, nice(raw))
    return nice(raw)


def ticks(low: float, high: float, count: int, unit: str) -> list[Tick]:
    """About ``count`` round ticks from ``low`` to ``high``."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    step = step_for(low, high, count, unit)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [Tick(i * step, tick_label(i * step, step, unit)) for i in range(first, min(last, first + 1000) + 1)]


def log_ticks(low: float, high: float, count: int, unit: str) -> list[Tick]:
    """Ticks of a logarithmic axis: decades; 2 and 5 between them, then round values, until there are three."""
    if not (0 < low < high and math.isfinite(high)):
        return []
    bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        values = [
            f * 10.0**e
            for e in range(bottom, top + 1)
            for f in factors
            if low <= f * 10.0**e * (1 + 1e-9) and f * 10.0**e <= high * (1 + 1e-9)
        ]
        if len(values) >= 3:
            break
    if len(values) < 3:
        return next((found for n in (count, 3, 5, 8, 12) if len(found := ticks(low, high, n, unit)) >= 3), [])
    every = max(1, len(values) // max(count, 3))
    return [Tick(v, tick_label(v, _last_figure(v), unit)) for v in values[::every]]


def _last_figure(value: float) -> float:
    """The place of the last of the two figures that a round value has: 0.1 of 1.5, 1 of 2."""
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    whole = abs(value / power - round(value / power)) < 1e-6
    return power if whole else power / 10


def tick_label(value: float, step: float, unit: str) -> str:
    """A tick's label: as many figures as tell it from its neighbours."""
    if abs(value) < step * 1e-6:
        value = 0.0
    if unit == "percent":
        places = max(0, min(4, -math.floor(math.log10(step * 100) + 1e-9))) if step > 0 else 0
        return f"{value * 100:.{places}f}%"
    if unit == "time":
        return clock(value)
    if unit == "bytes":
        return amount(value, 1024, ("", "K", "M", "G", "T"))
    if unit in ("count", "rate") or (abs(value) >= 1e4 and step >= 1):
        return amount(value, 1000, ("", "k", "M", "G", "T"))
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        figures = (
            max(0, math.floor(math.log10(abs(value)) + 1e-9) - math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
        )
        return f"{value:.{min(figures, 4)}e}".replace("e-0", "e-").replace("e+0", "e")
    places = max(0, min(6, -math.floor(math.log10(step) + 1e-9))) if step > 0 else 0
    return f"{value:.{places}f}"


def amount(value: float, base: int, units: tuple[str, ...]) -> str:
    """A number with a unit of a thousand or 1024: 12.5k."""
    size, place = abs(value), 0
    while size >= base * 0.99995 and place < len(units) - 1:
        size, place = size / base, place + 1
    text = f"{size:.0f}" if size >= 100 or abs(size - round(size)) < 0.005 else f"{size:.3g}"
    return f"{'-' if value < 0 else ''}{text}{units[place]}"


def clock(seconds: float) -> str:
    """``5s``, ``1:30``, ``2:00:00``, ``3d 4h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g}s" if 0 < seconds < 1 else f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24}d {hours % 24}h"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def reading(value: float, unit: str) -> str:
    """One value, to be read."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if unit == "percent":
        return f"{value:.2%}"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "rate":
        return f"{amount(value, 1000, ('', 'k', 'M', 'G'))}/s"
    if unit == "bytes":
        return f"{amount(value, 1024, ('', 'K', 'M', 'G', 'T'))}B"
    if unit == "time":
        return clock(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3e}"
