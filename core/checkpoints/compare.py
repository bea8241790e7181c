"""Two sets of weights side by side: what is missing, added, reshaped, and how much the rest has changed.

And whether weights fit a model: which tensor goes where, before anything is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from torchdeck.core.checkpoints.tensors import StoredTensor, distance
from torchdeck.core.errors import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Change:
    """One tensor in two files. ``change``: norm of the difference over the norm in the first."""

    name: str
    #: same, changed, missing (from the second), added (in the second), reshaped, unreadable.
    kind: str
    before: Shape | None
    after: Shape | None
    change: float = math.nan


def diff_weights(
    before: Sequence[StoredTensor], after: Sequence[StoredTensor], stop: Callable[[], bool] = lambda: False
) -> list[Change]:
    """Every tensor of either, in the order of the first; ``stop`` is asked between tensors."""
    first, second = {t.name: t for t in before}, {t.name: t for t in after}
    found = []
    for name in dict.fromkeys((*first, *second)):
        a, b = first.get(name), second.get(name)
        if stop():
            break
        if b is None or a is None:
            found.append(
                Change(name, "missing" if b is None else "added", a.shape if a else None, b.shape if b else None)
            )
        elif a.shape != b.shape:
            found.append(Change(name, "reshaped", a.shape, b.shape))
        else:
            try:
                change = distance(a, b)
            except UserError:
                found.append(Change(name, "unreadable", a.shape, b.shape))
                continue
            found.append(Change(name, "same" if change == 0 else "changed", a.shape, b.shape, change))
    return found


@dataclass(frozen=True)
class Match:
    """One tensor of a model or of a file, and what would become of it."""

    #: loads, head (another size: it keeps its fresh weights), reshaped, missing (the file lacks it), unused.
    verdict: str
    #: The model's tensor; empty for one that the model lacks.
    name: str
    shape: Shape | None
    #: The file's tensor.
    stored: str = ""
    stored_shape: Shape | None = None


@dataclass(frozen=True)
class Matches:
    """How weights fit a model."""

    all: tuple[Match, ...]
    #: Taken off the file's names, or put before them, so that they fit.
    removed: str = ""
    added: str = ""

    def of(self, *verdicts: str) -> list[Match]:
        """Those with one of these verdicts."""
        return [m for m in self.all if m.verdict in verdicts]

    @property
    def fits(self) -> bool:
        """Whether all of the model but its head is loaded, and nothing of the file is left over but a head."""
        return bool(self.of("loads")) and not self.of("reshaped", "missing", "unused")

    def sentence(self) -> str:
        """The whole in one sentence."""
        words = []
        counts = {v: len(self.of(v)) for v in ("loads", "head", "reshaped", "missing", "unused")}
        words.append(f"{counts['loads']} of {len([m for m in self.all if m.name])} tensors load")
        for verdict, text in (
            ("head", "of another head, which stays fresh"),
            ("reshaped", "of another shape"),
            ("missing", "missing from the file"),
            ("unused", "not in the model"),
        ):
            if counts[verdict]:
                words.append(f"{counts[verdict]} {text}")
        if self.removed:
            words.append(f"the prefix {self.removed!r} is removed")
        if self.added:
            words.append(f"the prefix {self.added!r} is put before")
        return ", ".join(words)


def match(
    own: Mapping[str, Shape], stored: Mapping[str, Shape], places: Mapping[str, Hashable] | None = None
) -> Matches:
    """Which of the stored tensors go where in a model with these tensors.

    ``places``: where in memory each tensor of the model lies. Tensors of one place are tied: what loads one of them
    loads the others, and a file may hold any of them.

    Where names fit better without a common prefix (a wrapper's, or Lightning's ``model.``), or with one, it is taken
    off or put before. The head is the module of the model's last tensors.
    """
    removed, added = _prefix(own, stored)
    renamed = {}
    for name, shape in stored.items():
        if removed and not name.startswith(removed):
            renamed[name] = (name, shape)
            continue
        renamed[f"{added}{name.removeprefix(removed)}"] = (name, shape)
    tied = _tied(own, renamed, places or {})
    last = list(own)[-1] if own else ""
    head = last.rpartition(".")[0]
    found = []
    for name, shape in own.items():
        theirs = renamed.pop(name, None) or tied.get(name)
        in_head = name.rpartition(".")[0] == head
        if theirs is None:
            found.append(Match("head" if in_head else "missing", name, shape))
        elif theirs[1] == shape:
            found.append(Match("loads", name, shape, *theirs))
        else:
            found.append(Match("head" if in_head else "reshaped", name, shape, *theirs))
    # A head of another name in the file (fc against classifier) is left over; so are a wrapper's own tensors.
    found += [Match("unused", "", None, *theirs) for theirs in renamed.values()]
    return Matches(tuple(found), removed, added)


def _tied(
    own: Mapping[str, Shape], renamed: Mapping[str, tuple[str, Shape]], places: Mapping[str, Hashable]
) -> dict[str, tuple[str, Shape]]:
    """For each of the model's tensors that is tied to another: the stored tensor that fits one of them."""
    by_place = {places[n]: renamed[n] for n in own if n in places and n in renamed and renamed[n][1] == own[n]}
    return {name: by_place[place] for name, place in places.items() if place in by_place}


def _prefix(own: Mapping[str, Shape], stored: Mapping[str, Shape]) -> tuple[str, str]:
    """What to take off the stored names, or to put before them, so that most fit."""

    def fitting(removed: str, added: str) -> int:
        return sum(
            own.get(f"{added}{n.removeprefix(removed)}") == s for n, s in stored.items() if n.startswith(removed)
        )

    best, choice = fitting("", ""), ("", "")
    candidates = [(f"{p}.", "") for p in _beginnings(stored)] + [("", f"{p}.") for p in _beginnings(own)]
    for removed, added in candidates:
        count = fitting(removed, added)
        if count > best:
            best, choice = count, (removed, added)
    return choice


def _beginnings(names: Mapping[str, Shape]) -> list[str]:
    """The first one to three parts of names, those that many share."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for length in range(1, min(4, len(parts))):
            start = ".".join(parts[:length])
            counts[start] = counts.get(start, 0) + 1
    return [start for start, count in counts.items() if 2 * count > len(names)][:8]
