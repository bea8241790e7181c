"""Texts from other people's files made printable, and figures put into words."""

from __future__ import annotations

from collections.abc import Mapping


def printable(text: str) -> str:
    """A text without characters that a terminal would obey, in one line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(printable(line.expandtabs(4)) for line in text.split("\n"))


def duration(seconds: float | None) -> str:
    """``12 s``, ``3:05``, ``2:03:04``."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def number(value: float) -> str:
    """A metric in four figures."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"


def metrics_line(metrics: Mapping[str, float], names: tuple[str, ...] = ("loss", "accuracy", "rmse", "r2")) -> str:
    """The main metrics in words; accuracy as a percentage."""
    parts = []
    for name in names:
        if name in metrics:
            value = metrics[name]
            parts.append(f"{name} {value:.2%}" if name == "accuracy" else f"{name} {number(value)}")
    return "  ".join(parts) or "-"


def metrics_short(metrics: Mapping[str, float]) -> str:
    """Loss and accuracy (or RMSE) without their names, for lines that must fit 80 columns."""
    parts = [number(metrics["loss"])] if "loss" in metrics else []
    if "accuracy" in metrics:
        parts.append(f"{metrics['accuracy']:.2%}")
    elif "rmse" in metrics:
        parts.append(f"rmse {number(metrics['rmse'])}")
    return " ".join(parts) or "-"
