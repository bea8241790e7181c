"""Bars in eighths of a character, lying and standing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def standing(shares: Sequence[float], width: int) -> str:
    """Bars side by side, each filled by its share (0 to 1); each is the mean of several where there are more than
    ``width``."""
    if len(shares) > width:
        cuts = [i * len(shares) // width for i in range(width + 1)]
        shares = [sum(shares[a:b]) / (b - a) for a, b in pairwise(cuts)]
    return "".join(_LEVELS[max(0, min(7, int(share * 7.999)))] for share in shares)


def bar(share: float, width: int) -> str:
    """A bar of ``width`` characters, filled by ``share`` (0 to 1)."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)
