"""Tables as they lie in files: CSV, TSV and Parquet, read into columns with names and the rows' numbers in the file.

What the file does not say itself (the delimiter, whether the first row is a header, which column is an index) is
decided by its content, and told in ``notes``.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchdeck.core.errors import UserError
from torchdeck.core.text import quoted

#: What file names of tables end with.
SUFFIXES = (".csv", ".tsv", ".parquet")

#: Rows in which delimiter and header are looked for.
_LOOK = 100

#: What pandas calls a column without a name, and the index of a table that it wrote to Parquet.
_UNNAMED = re.compile(r"(Unnamed: \d+|__index_level_\d+__|)")
_PARQUET_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class TableFile:
    """Columns by name; ``rows``: each row's number in the file, from 1, the header included."""

    path: str
    columns: dict[str, list[Any]]
    rows: list[int]
    #: Whether the file names its columns; else they are called 0, 1, 2 ...
    header: bool
    notes: tuple[str, ...] = ()


def read_table(path: Path, known: Sequence[str] = ()) -> TableFile:
    """The table in a file. ``known``: names of columns that it should have, by which a header of numbers is recognised.

    Raises UserError, naming file and row, when it can't be read.
    """
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path, known)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)!r} can't be read as a table: {error.strerror}.") from None
    return parse_table(data, str(path), known)


def parse_table(data: bytes, name: str, known: Sequence[str] = ()) -> TableFile:
    """The table in the bytes of a CSV file; see ``read``."""
    text = _decoded(data, name)
    delimiter = _delimiter(text, name)
    records, numbers = _records(text, delimiter, name)
    if not records:
        raise UserError(f"{name!r} can't be read as a table: it is empty.")
    header, notes = _has_header(_points(records) if delimiter != "," else records, known, name)
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
    columns, told = _named(names, cells, name, known)
    return TableFile(name, columns, rows, header, (*notes, *told))


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
    """The sign that cuts the first rows into the same number of fields: numbers rather than texts, and the most."""
    usual = "\t" if name.lower().endswith(".tsv") else ","
    best, most = usual, (0.0, 1)
    for sign in (usual, ",", ";", "\t", "|"):
        try:
            rows = list(itertools.islice(_rows(text, sign), _LOOK))
        except csv.Error:
            continue
        cells = [cell.strip() for _, row in rows for cell in row]
        if len({len(row) for _, row in rows}) != 1 or len(rows[0][1]) < 2:
            continue
        numbers = sum(parse_number(c) is not None or bool(_COMMA.fullmatch(c)) for c in cells) / len(cells)
        if (numbers, len(rows[0][1])) > most:
            best, most = sign, (numbers, len(rows[0][1]))
    return best


#: A number with a decimal comma, or without one.
_COMMA = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that hold something, each with the line of the file on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    before = 0
    for row in reader:
        if len(row) > 1 or (row and row[0].strip()):
            yield before + 1, row
        before = reader.line_num


def _records(text: str, delimiter: str, name: str) -> tuple[list[list[str]], list[int]]:
    """The rows that hold something, and the line of the file on which each begins."""
    records, numbers = [], []
    try:
        for line, row in _rows(text, delimiter):
            records.append(row)
            numbers.append(line)
    except csv.Error as error:
        last = f"after row {numbers[-1]}" if numbers else "row 1"
        raise UserError(f"{name!r} can't be read as a table: {last}: {error} (is a quote not closed?).") from None
    return records, numbers


def _has_header(records: Sequence[Sequence[str]], known: Sequence[str], name: str) -> tuple[bool, tuple[str, ...]]:
    """Whether the first row names the columns, and what should be said of that."""
    first = [cell.strip() for cell in records[0]]
    if known and set(known) <= set(first):
        return True, ()
    if _counts(first, records[1:_LOOK]):
        return True, (f"{name!r}: the first row counts the columns, it is taken for the header.",)
    if _votes(first, records[1:_LOOK]) > 0:
        return True, ()
    told = f"{name!r} has no header: its columns are called 0 to {len(first) - 1}, and its first row is a sample."
    return False, (told,)


def _counts(first: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Whether a first row of numbers counts the columns (from 0 or 1, or years), as no row of samples would."""
    numbered = list(first[1:] if first[0] == "" else first)  # the index that pandas writes has no name
    if not body or len(numbered) < 2 or not all(cell.isascii() and cell.isdigit() for cell in numbered):
        return False
    start = int(numbered[0])
    if numbered != [str(start + i) for i in range(len(numbered))]:
        return False
    if start in (0, 1) or 1900 <= start < 2100:
        return len(numbered) > 2 or first[0] == ""
    return False


def _votes(first: Sequence[str], body: Sequence[Sequence[str]]) -> int:
    """How much speaks for a first row that names its columns: texts above numbers, or above classes that it is none of;
    and how much against it: what looks like all the rest."""
    return sum(
        _vote(cell, [row[place].strip() for row in body if len(row) > place]) for place, cell in enumerate(first)
    )


def _vote(cell: str, below: Sequence[str]) -> int:
    if not cell:
        return 0
    numbers = bool(below) and all(parse_number(b) is not None for b in below if b)
    if parse_number(cell) is not None:
        counts = cell.isdigit() and all("." in b for b in below)  # a year or a place above measurements
        return -1 if numbers and not counts else 0
    if numbers:
        return 2
    if cell in below:
        return -4
    classes = len(below) > 3 and len(set(below)) <= len(below) / 2
    return 4 if classes else 1


def _points(records: Sequence[Sequence[str]]) -> list[list[str]]:
    """The first rows with decimal commas as points, by which a header is told from numbers."""
    return [
        [cell.replace(",", ".") if _COMMA.fullmatch(cell.strip()) else cell for cell in row] for row in records[:_LOOK]
    ]


def _decimal_points(names: Sequence[str], cells: list[list[str]], name: str) -> tuple[list[list[str]], tuple[str, ...]]:
    """Columns of numbers that are written with a decimal comma, with a point; and what to say of it."""
    changed = [
        i
        for i, column in enumerate(cells)
        if any("," in c for c in column) and all(_COMMA.fullmatch(c) or not c for c in column)
    ]
    if not changed:
        return cells, ()
    made = [[c.replace(",", ".") for c in column] if i in changed else column for i, column in enumerate(cells)]
    return made, (f"{name!r}: the comma in {quoted(names[i] for i in changed)} is taken for the decimal point.",)


def _named(
    names: Sequence[str], cells: Sequence[list[Any]], path: str, known: Sequence[str]
) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """The columns by name, without an index and without what is empty; and what to say of these."""
    notes: list[str] = []
    columns: dict[str, list[Any]] = {}
    twice = next((n for n, count in Counter(names).items() if n and count > 1), None)
    if twice is not None:
        raise UserError(f"{path!r} has two columns named {twice!r}.")
    for place, (name, values) in enumerate(zip(names, cells, strict=True)):
        called = name or f"column {place + 1}"
        if not _UNNAMED.fullmatch(name) or called in known:
            columns[called] = values
        elif all(v in ("", None) for v in values):
            notes.append(f"{path!r}: column {place + 1} has no name and is empty, it is left out.")
        elif _is_index(values, place):
            notes.append(f"{path!r}: column {place + 1} ({name or 'without a name'}) numbers the rows, it is left out.")
        elif _PARQUET_INDEX.fullmatch(name):
            notes.append(f"{path!r}: column {place + 1} ({name}) is the index of the rows, it is left out.")
        else:
            if not name:
                notes.append(f"{path!r}: column {place + 1} has no name, it is called {called!r}.")
            columns[called] = values
    return columns, tuple(notes)


def _is_index(values: Sequence[Any], place: int) -> bool:
    """Running numbers; in the first column also those of rows that were picked or shuffled: whole and each once."""
    numbers = [parse_number(v) for v in values]
    start = numbers[0]
    if start is not None and start.is_integer() and all(n == start + i for i, n in enumerate(numbers)):
        return True
    whole = all(n is not None and n.is_integer() and n >= 0 for n in numbers)
    return place == 0 and whole and len(set(numbers)) == len(numbers)


def _read_parquet(path: Path, known: Sequence[str]) -> TableFile:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet files need pyarrow: pip install 'torchdeck[tables]'.") from None
    try:
        table = pyarrow.parquet.ParquetFile(path).read()  # read_table would add columns that the folders' names give
        names, cells = table.column_names, [_values(column) for column in table.columns]
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(f"{str(path)!r} can't be read as Parquet: {str(error).splitlines()[0]}.") from None
    if not table.num_rows:
        raise UserError(f"{str(path)!r} is empty.")
    columns, notes = _named(names, cells, str(path), known)
    return TableFile(str(path), columns, list(range(1, table.num_rows + 1)), True, notes)


def _values(column: Any) -> list[Any]:
    import pyarrow

    kind = column.type
    if pyarrow.types.is_temporal(kind) and getattr(kind, "unit", "") == "ns":  # which Python's own types can't hold
        column = column.cast(pyarrow.string())
    return column.to_pylist()


def parse_number(value: Any) -> float | None:
    """A cell as a number (may be NaN or infinite); None for what is none."""
    if isinstance(value, str) and "_" in value:  # Python's own way to write numbers, which no table means
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
