"""Errors that end in one clear sentence for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class Error(Exception):
    """The base of what torchdeck raises."""

    #: The directory of the run that it ended, where there is one.
    run: Path | None = None


class UserError(Error):
    """What the user gave is wrong and can be put right: what, where, and what would be right (exit code 2).

    ``field``: the dotted key of the experiment that it is about, such as ``optimizer.lr``; None when it is about none.
    ``also``: other keys that it is about as much, where two do not fit together.
    ``errors``: what is wrong one by one, where the message tells of several.
    """

    def __init__(
        self,
        message: str = "",
        *,
        field: str | None = None,
        also: Iterable[str] = (),
        errors: Iterable[UserError] = (),
    ) -> None:
        super().__init__(message)
        self.field = field
        self.also = tuple(also)
        self.errors = tuple(errors)

    @property
    def each(self) -> tuple[UserError, ...]:
        """What is wrong, one by one."""
        return self.errors or (self,)

    def about(self, key: str) -> bool:
        """Whether it is about that field of the experiment, or about something in it."""
        keys = [one for error in self.each for one in (error.field, *error.also) if one is not None]
        return any(one == key or one.startswith((f"{key}.", f"{key}[")) for one in keys)


class UserCodeError(UserError):
    """The user's own Python raised; the message ends in the traceback through the user's files only."""


class TrainingError(Error):
    """A run that had begun could not go on; its last checkpoint is intact (exit code 1)."""


class Diverged(TrainingError):
    """The settings themselves can't be trained: the loss or the weights became NaN or infinite."""


def nearest(wrong: str, choices: Iterable[str]) -> str | None:
    """The choice that was most likely meant; None when none is near.

    Matching ignores case, because ``fashionmnist`` for ``FashionMNIST`` is the commonest slip.
    """
    folded = {name.lower(): name for name in choices}
    near = difflib.get_close_matches(wrong.lower(), folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else None


def did_you_mean(wrong: str, choices: Iterable[str], limit: int = 12) -> str:
    """The end of a sentence: the nearest choice, or the list of them."""
    names = list(choices)
    near = nearest(wrong, names)
    if near is not None:
        return f"did you mean {near!r}?"
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


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch's class on a GPU; on the CPU its allocator raises a plain RuntimeError, which only
    its words tell from others."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
