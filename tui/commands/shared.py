"""What the verbs share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.text import printable

if TYPE_CHECKING:
    from core.search.look import Look
    from core.search.study import Study


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    print(json.dumps(value, indent=2, default=str))


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The roots below which runs are kept. ``main`` has made ``--runs A B`` into ``--runs A --runs B``."""
    parser.add_argument("--runs", action="append", metavar="DIR ...", help="where runs are kept (default: runs)")


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


def roots(options: argparse.Namespace) -> list[Path]:
    """The roots that were given."""
    return [Path(root).expanduser() for root in options.runs or ["runs"]]


def opened_study(options: argparse.Namespace) -> Study:
    """The study that was given, below one of the roots.

    Raises UserError when there is none.
    """
    from core.search.opening import open_study

    error: UserError | None = None
    for root in roots(options):
        try:
            return open_study(options.study, root)
        except UserError as problem:
            error = error or problem
    assert error is not None
    raise error


def look_at_study(options: argparse.Namespace) -> tuple[Study, Look]:
    """The study that was given, and how it stands."""
    from core.search.look import Looker

    opened = opened_study(options)
    return opened, Looker(opened).look()


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> None:
    """A table of texts; where there is no terminal, as wide as $COLUMNS says, or as it needs to be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, title in enumerate(titles):
        table.add_column(title, no_wrap=True, justify="right" if number < len(right) and right[number] else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(highlight=False)
    if not sys.stdout.isatty():
        given = os.environ.get("COLUMNS", "")
        console.width = int(given) if given.isdigit() else 200
    console.print(table)


def agreed(question: str, yes: bool) -> bool:
    """Whether the user says yes, on a terminal; ``yes`` where that was said beforehand."""
    if yes:
        return True
    if not sys.stdin.isatty():
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
