"""What the verbs share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torchdeck.core import jsons
from torchdeck.core.errors import UserError
from torchdeck.core.text import printable

if TYPE_CHECKING:
    from torchdeck.core.search.snapshot import StudySnapshot
    from torchdeck.core.search.study import Study


T = TypeVar("T")


def print_json(value: Any) -> None:
    """A value as indented, strict JSON."""
    print(jsons.dumps(value, 2))


def tell_renamed(source: str | None, overrides: Sequence[str]) -> None:
    """Say on stderr which keys of an experiment have another name today."""
    from torchdeck.core.experiment import toml

    for note in toml.notes(source, overrides):
        print(f"note: {printable(note)}", file=sys.stderr)


def print_line(text: str) -> None:
    """A line on stdout in which names from outside may stand."""
    print(printable(text))


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The roots below which runs are kept. ``main`` has made ``--runs A B`` into ``--runs A --runs B``."""
    parser.add_argument("--runs", action="append", metavar="DIR ...", help="where runs are kept (default: runs)")


def add_overrides(parser: argparse.ArgumentParser, help: str) -> None:
    """``--set``, which may be given often."""
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE", help=help)


def with_roots_apart(words: Sequence[str]) -> list[str]:
    """The words of a command with ``--runs`` before each of its folders: argparse would take all that follows, too.

    The folders end where a word is no folder, which then stands for itself.
    """
    found: list[str] = []
    at = 0
    while at < len(words):
        found.append(words[at])
        if words[at] == "--runs":
            at += 1
            first = True
            while (
                at < len(words) and not words[at].startswith("-") and (first or Path(words[at]).expanduser().is_dir())
            ):
                found += [words[at]] if first else ["--runs", words[at]]
                first, at = False, at + 1
            continue
        at += 1
    return found


def runs_roots(options: argparse.Namespace) -> list[Path]:
    """The roots that were given."""
    return [Path(root).expanduser() for root in options.runs or ["runs"]]


def in_roots(roots: Sequence[Path], find: Callable[[Path], T]) -> T:
    """What is found below the first root that has it.

    Raises UserError, that of the first root, when none has it.
    """
    errors: list[UserError] = []
    for root in roots:
        try:
            return find(root)
        except UserError as error:
            errors.append(error)
    raise errors[0]


def opened_study(options: argparse.Namespace) -> Study:
    """The study that was given, below one of the roots.

    Raises UserError when there is none.
    """
    from torchdeck.core.search.opening import open_study

    return in_roots(runs_roots(options), lambda root: open_study(options.study, root))


def study_snapshot(options: argparse.Namespace) -> tuple[Study, StudySnapshot]:
    """The study that was given, and how it stands."""
    from torchdeck.core.search.snapshot import StudyPoller

    opened = opened_study(options)
    return opened, StudyPoller(opened).poll()


def confirmed(question: str, yes: bool) -> bool:
    """Whether the user says yes, on a terminal; ``yes`` where that was said beforehand."""
    if yes:
        return True
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def find_any(name: str, where: list[Path]) -> Path:
    """The run that a user means, ours or another tool's: a path, or a name below one of the roots.

    Raises UserError when there is none, or several.
    """
    from torchdeck.core.runs.directory import find_run
    from torchdeck.core.tracking.files import parts_of

    path = Path(name).expanduser()
    for place in (path, *(root / name for root in where)):
        try:
            if place.is_dir() and parts_of(place):
                return place
        except OSError:
            continue
    return in_roots(where, lambda root: find_run(name, root))


# --- runs ------------------------------------------------------------------------------------------------------------
