"""Texts from other people's files made printable, and figures put into words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence


def printable(text: str) -> str:
    """A text without characters that a terminal would obey, in one line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(printable(line.expandtabs(4)) for line in text.split("\n"))


def quoted(names: Iterable[str], limit: int = 8) -> str:
    """Names in quotes, and how many there are beyond the first few."""
    shown = [repr(name) for name in names]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")


def numbers_in_words(values: Sequence[float], limit: int = 8) -> str:
    """``0.5``, or ``[0.5, 1, ...]`` for several, the first few of them."""
    told = [f"{v:.9g}" for v in values[:limit]]
    if len(values) == 1:
        return told[0]
    more = ["..."] if len(values) > limit else []
    return f"[{', '.join([*told, *more])}]"


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


#: Metrics of ours that are shares of right answers, and told as percentages.
SHARES = frozenset(
    ("accuracy", "top1", "top5", "f1", "f1_micro", "exact_match", "neighbour_accuracy", "triplet_accuracy")
)


def number(value: float, name: str = "") -> str:
    """A metric in four figures; shares of right answers as percentages, where ``name`` tells that it is one."""
    if name in SHARES:
        return f"{value:.2%}"
    if name == "parameters":
        return f"{value:,.0f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"


#: The figures that are told first.
USUAL = ("loss", "accuracy", "miou", "rmse", "r2")


def main_figures(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """The names of the figures that tell how good a model is: the usual ones, and where they are but the loss, or none,
    the first others, such as a detector's mAP."""
    usual = tuple(name for name in USUAL if name in metrics)
    if len(usual) > 1:
        return usual
    return (*usual, *[name for name in metrics if name not in usual][: 3 - len(usual)])


def metrics_line(metrics: Mapping[str, float], names: Sequence[str] | None = None) -> str:
    """Metrics of these names, or the main ones, in words; accuracy as a percentage."""
    parts = []
    for name in main_figures(metrics) if names is None else names:
        if name in metrics:
            shown = number(metrics[name], name) if name == "accuracy" else number(metrics[name])
            parts.append(f"{name} {shown}")
    return "  ".join(parts) or "-"


def metrics_short(metrics: Mapping[str, float]) -> str:
    """Loss and accuracy (or RMSE) without their names, for lines that must fit 80 columns; where there are none of
    them, as of a detector, the first figure with its name."""
    parts = [number(metrics["loss"])] if "loss" in metrics else []
    if "accuracy" in metrics:
        parts.append(number(metrics["accuracy"], "accuracy"))
    elif "rmse" in metrics:
        parts.append(f"rmse {number(metrics['rmse'])}")
    if not parts and metrics:
        name, value = next(iter(metrics.items()))
        parts.append(f"{name} {number(value)}")
    return " ".join(parts) or "-"
