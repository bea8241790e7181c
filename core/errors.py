"""Errors that end in one clear sentence for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What the user gave is wrong and can be put right: what, where, and what would be right (exit code 2)."""


class UserCodeError(UserError):
    """The user's own Python raised; the message ends in the traceback through the user's files only."""


class TrainingError(Exception):
    """A run that had begun could not go on; its last checkpoint is intact (exit code 1)."""


class Diverged(TrainingError):
    """The settings themselves can't be trained: the loss or the weights became NaN or infinite."""


def did_you_mean(wrong: str, choices: Iterable[str], limit: int = 12) -> str:
    """The end of a sentence: the nearest choice, or the list of them.

    Matching ignores case, because ``fashionmnist`` for ``FashionMNIST`` is the commonest slip.
    """
    names = list(choices)
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(wrong.lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {folded[near[0]]!r}?"
    if not names:
        return "there is nothing to choose from"
    shown = ", ".join(names[:limit])
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"choose from {shown}{more}"


def count(number: int, noun: str) -> str:
    """``1 class``, ``2 classes``: a number with its noun."""
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without its full stop; its class where it has none."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".")
