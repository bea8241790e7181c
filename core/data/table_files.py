"""Tables as they lie in files: CSV, TSV and Parquet, read into columns with names and the rows' numbers in the file.

What the file does not say itself (the delimiter, whether the first row is a header, which column is an index) is decided
by its content, and told in ``notes``.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError

#: What file names of tables end with.
SUFFIXES = (".csv", ".tsv", ".parquet")

#: Rows in which delimiter and header are looked for.
_LOOK = 100

#: What pandas calls a column without a name; the index of a table that it wrote to Parquet.
_UNNAMED = re.compile(r"(Unnamed: \d+|__index_level_\d+__|)")


@dataclass(frozen=True)
class Table:
    """Columns by name; ``rows``: each row's number in the file, from 1, the header included."""

    path: str
    columns: dict[str, list[Any]]
    rows: list[int]
    #: Whether the file names its columns; else they are called 0, 1, 2 ...
    header: bool
    notes: tuple[str, ...] = ()


def read(path: Path, known: Sequence[str] = ()) -> Table:
    """The table in a file. ``known``: names of columns that it should have, by which a header of numbers is recognised.

    Raises UserError, naming file and row, when it can't be read.
    """
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)!r} can't be read as a table: {error.strerror}.") from None
    return parse(data, str(path), known)


def parse(data: bytes, name: str, known: Sequence[str] = ()) -> Table:
    """The table in the bytes of a CSV file; see ``read``."""
    text = _decoded(data, name)
    delimiter = _delimiter(text, name)
    records, numbers = _records(text, delimiter, name)
    if not records:
        raise UserError(f"{name!r} can't be read as a table: it is empty.")
    header, notes = _has_header(records, known, name)
    first = [cell.strip() for cell in records[0]]
    names = first if header else [str(i) for i in range(len(first))]
    body, rows = (records[1:], numbers[1:]) if header else (records, numbers)
    if not body:
        raise UserError(f"{name!r} is empty: it needs a header and at least one row.")
    for number, row in zip(rows, body, strict=True):
        if len(row) != len(names):
            expected = "where the header has" if header else "where the first row has"
            raise UserError(f"{name!r} row {number} has {len(row)} fields {expected} {len(names)}.")
    cells = [[row[i].strip() for row in body] for i in range(len(names))]
    if delimiter != ",":
        cells, told = _decimal_points(names, cells, name)
        notes += told
    columns, told = _named(names, cells, name)
    return Table(name, columns, rows, header, (*notes, *told))


def _decoded(data: bytes, name: str) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise UserError(f"{name!r} can't be read as a table: row {row} is no UTF-8 text; save it as UTF-8.") from None
    if "\0" in text:
        raise UserError(f"{name!r} can't be read as a table: it is no text.")
    return text


def _delimiter(text: str, name: str) -> str:
    """The sign that cuts the first rows into the same number of fields, the most."""
    usual = "\t" if name.lower().endswith(".tsv") else ","
    best, most = usual, 1
    for sign in (usual, ",", ";", "\t", "|"):
        try:
            lines = csv.reader(io.StringIO(text), delimiter=sign)
            counts = {len(row) for row, _ in zip((r for r in lines if r), range(_LOOK), strict=False)}
        except csv.Error:
            continue
        if len(counts) == 1 and (count := counts.pop()) > most:
            best, most = sign, count
    return best


def _records(text: str, delimiter: str, name: str) -> tuple[list[list[str]], list[int]]:
    """The rows that hold something, and the line of the file on which each begins."""
    records, numbers = [], []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    before = 0
    try:
        for row in reader:
            if row:
                records.append(row)
                numbers.append(before + 1)
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"{name!r} can't be read as a table: row {before + 1}: {error}.") from None
    return records, numbers


def _has_header(records: Sequence[Sequence[str]], known: Sequence[str], name: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the first row names the columns, and what should be said of that."""
    first = [cell.strip() for cell in records[0]]
    if known and set(known) <= set(first):
        return True, ()
    if len(records) > 1 and len(first) > 2 and first in (_range(0, len(first)), _range(1, len(first))):
        return True, (f"{name!r}: the first row counts the columns, it is taken for the header.",)
    if _votes(first, records[1:_LOOK]) > 0:
        return True, ()
    told = f"{name!r} has no header: its columns are called 0 to {len(first) - 1}, and its first row is a sample."
    return False, (told,)


def _range(start: int, count: int) -> list[str]:
    return [str(i) for i in range(start, start + count)]


def _votes(first: Sequence[str], body: Sequence[Sequence[str]]) -> int:
    """How much speaks for a first row that names its columns: texts above numbers, or above classes that it is none of;
    and how much against it: what looks like all the rest."""
    return sum(
        _vote(cell, [row[place].strip() for row in body if len(row) > place]) for place, cell in enumerate(first)
    )


def _vote(cell: str, below: Sequence[str]) -> int:
    numbers = bool(below) and all(number(b) is not None for b in below if b)
    if number(cell) is not None:
        counts = cell.isdigit() and all("." in b for b in below)  # a year or a place above measurements
        return -1 if numbers and not counts else 0
    if numbers:
        return 2
    if cell in below:
        return -4
    classes = len(below) > 3 and len(set(below)) <= len(below) / 2
    return 4 if classes and cell else 1


def _decimal_points(names: Sequence[str], cells: list[list[str]], name: str) -> tuple[list[list[str]], tuple[str, ...]]:
    """Columns of numbers that are written with a decimal comma, with a point; and what to say of it."""
    comma = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")
    changed = [i for i, column in enumerate(cells) if any("," in c for c in column)
               and all(comma.fullmatch(c) or not c for c in column)]  # fmt: skip
    if not changed:
        return cells, ()
    made = [[c.replace(",", ".") for c in column] if i in changed else column for i, column in enumerate(cells)]
    return made, (f"{name!r}: the comma in {listed(names[i] for i in changed)} is taken for the decimal point.",)


def _named(names: Sequence[str], cells: Sequence[list[Any]], path: str) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """The columns by name, without an index and without what is empty; and what to say of these."""
    notes: list[str] = []
    columns: dict[str, list[Any]] = {}
    twice = next((n for n, count in Counter(names).items() if n and count > 1), None)
    if twice is not None:
        raise UserError(f"{path!r} has two columns named {twice!r}.")
    for place, (name, values) in enumerate(zip(names, cells, strict=True)):
        if not _UNNAMED.fullmatch(name):
            columns[name] = values
        elif all(v in ("", None) for v in values):
            notes.append(f"{path!r}: column {place + 1} has no name and is empty, it is left out.")
        elif _is_index(values):
            notes.append(f"{path!r}: column {place + 1} ({name or 'without a name'}) counts the rows, it is left out.")
        else:
            called = name or f"column {place + 1}"
            if not name:
                notes.append(f"{path!r}: column {place + 1} has no name, it is called {called!r}.")
            columns[called] = values
    return columns, tuple(notes)


def _is_index(values: Sequence[Any]) -> bool:
    numbers = [number(v) for v in values]
    start = numbers[0]
    return start in (0, 1) and all(n == start + i for i, n in enumerate(numbers))


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet files need pyarrow: pip install 'torchdeck[tables]'.") from None
    try:
        table = pyarrow.parquet.read_table(path)
        names, cells = table.column_names, [column.to_pylist() for column in table.columns]
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{str(path)!r} can't be read as Parquet: {str(error).splitlines()[0]}.") from None
    if not table.num_rows:
        raise UserError(f"{str(path)!r} is empty.")
    columns, notes = _named(names, cells, str(path))
    return Table(str(path), columns, list(range(1, table.num_rows + 1)), True, notes)


def number(value: Any) -> float | None:
    """A cell as a number (may be NaN or infinite); None for what is none."""
    if isinstance(value, str) and "_" in value:  # Python's own way to write numbers, which no table means
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def listed(names: Iterable[str]) -> str:
    """Some names in quotes."""
    shown = [repr(name) for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
