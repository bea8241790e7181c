"""Tables on the command line: the one door through which names and values from outside are printed.

Texts are data: brackets are no markup, and what a terminal would obey is replaced. Written by hand, for rich's Table
takes 10 s for 10,000 rows.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from torchdeck.core.text import printable

#: Between two columns.
_GAP = "  "
#: A column of text that is cut keeps so many cells at least.
_LEAST = 8
#: Rows that are written in one go.
_CHUNK = 500


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> None:
    """A table of texts: as wide as the terminal, or where there is none as $COLUMNS says, or as it needs to be.

    Where there is too little room columns of text are cut, the widest first, numbers (columns flush ``right``) never:
    then the last columns are left out, which is told on stderr.
    """
    head = [printable(title) for title in titles]
    body = [[printable(cell) for cell in row] for row in rows]
    needed = [max(map(_width, column)) for column in zip(head, *body, strict=True)]
    aligned = [number < len(right) and right[number] for number in range(len(head))]
    widths = _fitted(needed, aligned, _room())
    plain = _line(head, widths, aligned)
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    sys.stdout.write(f"\x1b[1m{plain}\x1b[0m\n" if bold else f"{plain}\n")
    for at in range(0, len(body), _CHUNK):
        sys.stdout.write("".join(f"{_line(row, widths, aligned)}\n" for row in body[at : at + _CHUNK]))
    sys.stdout.flush()
    if left_out := head[len(widths) :]:
        print(f"left out for lack of room: {', '.join(left_out)}", file=sys.stderr)


def _room() -> float:
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isdigit() and int(given) else math.inf


def _fitted(needed: Sequence[int], right: Sequence[bool], room: float) -> list[int]:
    """The widths of as many columns, from the first on, as the room has place for."""
    for count in range(len(needed), 0, -1):
        limit = max(needed[:count])
        while True:
            widths = [n if flush else min(n, limit) for n, flush in zip(needed[:count], right, strict=False)]
            if sum(widths) + len(_GAP) * (count - 1) <= room:
                return widths
            if limit <= _LEAST:
                break
            limit -= 1
    return [min(one, max(int(room), 1)) for one in needed[:1]]


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    return _GAP.join(map(_cell, cells, widths, right)).rstrip()  # those beyond the widths are left out


def _cell(text: str, width: int, right: bool) -> str:
    length = _width(text)
    if length > width:
        text, length = set_cell_size(text, width - 1) + "…", width
    return " " * (width - length) + text if right else text + " " * (width - length)


def _width(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)
