"""The language of filters: ``val_acc > 0.9 model:cnn tag:paper -status:failed or lr<=1e-3 "some words"``.

Terms that stand side by side must all hold; ``or`` parts alternatives; ``-`` before a term turns it round. A term is a
comparison (``< <= > >= = !=``), ``name:text`` (holds the text, whatever its case), or a word that is looked for in
name, title, tags, note, data and model. Numbers may be percentages (90%), durations (90s, 5m, 2h, 1d) or sizes (10MB).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.runs.rows import Row

_TERM = re.compile(
    r"""\s*(?P<not>-)?(?:
        (?P<name>[A-Za-z_][\w./]*)\s*(?P<op><=|>=|!=|==|=|<|>|:)\s*(?P<value>"[^"]*"|[^\s"]+)
        | "(?P<quoted>[^"]*)"
        | (?P<word>[^\s"]+)
    )""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_UNITS = {
    "%": 0.01,
    "s": 1,
    "m": 60,
    "min": 60,
    "h": 3600,
    "d": 86400,
    "b": 1,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "k": 1e3,
    "": 1,
}
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-z%]*)", re.IGNORECASE)


@dataclass(frozen=True)
class _Term:
    negated: bool
    #: Empty: the text is looked for everywhere.
    name: str
    op: str
    text: str

    def holds(self, row: Row) -> bool:
        """Whether it is true of a run."""
        return self._plainly(row) != self.negated

    def _plainly(self, row: Row) -> bool:
        wanted = self.text.lower()
        if not self.name:
            places = (row.name, row.title, row.note, row.data, row.model, *row.tags)
            return any(wanted in place.lower() for place in places)
        value = row.value(self.name)
        if value is None or value == "":
            return self.op == "!="
        if isinstance(value, tuple):
            some = [str(v).lower() for v in value]
            if self.op == "!=":
                return wanted not in some
            return wanted in some if self.op != ":" else any(wanted in v for v in some)
        if self.op == ":":
            return wanted in _words(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = number_of(self.text)
            if number is None:
                raise UserError(f"{self.name} {self.op} {self.text}: {self.name} is a number, {self.text!r} is none.")
            if self.op in ("=", "==", "!="):
                return math.isclose(value, number, rel_tol=1e-9) == (self.op != "!=")
            return _COMPARE[self.op](value, number)
        if self.op in ("=", "==", "!="):
            return (wanted in _words(value).split("\0")) == (self.op != "!=")
        raise UserError(f"{self.name} {self.op} {self.text}: {self.name} is no number; write {self.name}:{self.text}.")


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "true\0yes" if value else "false\0no"
    return str(value).lower()


def number_of(text: str) -> float | None:
    """A number with its unit; None for what is none."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None or found[2].lower() not in _UNITS:
        return None
    return float(found[1]) * _UNITS[found[2].lower()]


class Filter:
    """A filter that was understood."""

    def __init__(self, text: str) -> None:
        """Raises UserError for what can't be understood."""
        self.text = text.strip()
        self._alternatives = _read(self.text)

    def __bool__(self) -> bool:
        return bool(self.text)

    @property
    def asks_for_archived(self) -> bool:
        """Whether runs that are put away are meant, which are hidden else."""
        return any(term.name.lower() == "archived" for terms in self._alternatives for term in terms)

    def apply(self, rows: Sequence[Row]) -> list[Row]:
        """The runs that it lets through.

        Raises UserError for a name that no run has, and for a text where a number is needed.
        """
        named = {term.name for terms in self._alternatives for term in terms if term.name}
        if named and rows:
            for name in sorted(named):
                if all(row.value(name) is None for row in rows):
                    known: set[str] = set()
                    for row in rows:
                        known |= row.names()
                    if name.lower() not in {k.lower() for k in known}:
                        raise UserError(f"No run has {name!r}; {did_you_mean(name, sorted(known))}")
        kept = [row for row in rows if not row.archived or self.asks_for_archived]
        if not self:
            return kept
        return [row for row in kept if any(all(t.holds(row) for t in terms) for terms in self._alternatives)]


def _read(text: str) -> list[list[_Term]]:
    alternatives: list[list[_Term]] = [[]]
    at = 0
    while at < len(text):
        found = _TERM.match(text, at)
        if found is None:
            raise UserError(f"The filter {text!r} can't be understood at {text[at:].strip()!r}: a quote is not closed.")
        at = found.end()
        word = found["word"]
        if word is not None and word.lower() == "or" and not found["not"]:
            if not alternatives[-1]:
                raise UserError(f"The filter {text!r} has nothing before 'or'.")
            alternatives.append([])
            continue
        if word is not None and re.search(r"[<>=]", word):
            raise UserError(f"The filter {text!r} can't be understood at {word!r}; write it like val_acc > 0.9.")
        looked_for = found["quoted"] if word is None else word
        if found["name"]:
            looked_for = found["value"]
        alternatives[-1].append(
            _Term(bool(found["not"]), found["name"] or "", found["op"] or "", looked_for.strip('"'))
        )
        while at < len(text) and text[at].isspace():
            at += 1
    if not alternatives[-1] and len(alternatives) > 1:
        raise UserError(f"The filter {text!r} has nothing after 'or'.")
    return alternatives


def sort(rows: Iterable[Row], key: str) -> list[Row]:
    """Rows by a name that ``Row.value`` knows; with ``-`` before it the greatest first. Runs without a value come
    last."""
    descending, name = key.startswith("-"), key.lstrip("-")
    having: list[tuple[Any, Row]] = []
    without: list[Row] = []
    for row in rows:
        value = row.value(name)
        if value is None or value == "":
            without.append(row)
        else:
            having.append((value, row))
    numbers = all(isinstance(v, int | float) for v, _ in having)
    having.sort(key=lambda pair: pair[0] if numbers else str(pair[0]).lower(), reverse=descending)
    return [*(row for _, row in having), *without]
