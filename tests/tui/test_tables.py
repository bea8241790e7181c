"""What is printed on the command line: texts from outside are data, whatever they hold."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path

import pytest
from conftest import command
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from torchdeck.core import jsons
from torchdeck.tui.tables import print_table

outside = st.text(max_size=40) | st.sampled_from(
    ["[/b]", "[red]x", "[link=a]", "a\nb", "\x1b[31mred", "日本語の名前", "e\u0301", "\ud800"]
)


def printed(
    monkeypatch: pytest.MonkeyPatch, columns: int | None, titles: list[str], rows: list[list[str]], right: list[bool]
) -> tuple[list[str], str]:
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", str(columns)) if columns else patch.delenv("COLUMNS", raising=False)
        out, err = io.StringIO(), io.StringIO()
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        print_table(titles, rows, right)
    return out.getvalue().splitlines(), err.getvalue()


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(0, 4))
def test_a_table_keeps_its_layout_and_all_that_it_is_given(data: st.DataObject, columns: int, count: int) -> None:
    row = st.lists(outside, min_size=columns, max_size=columns)
    titles, rows = data.draw(row), data.draw(st.lists(row, min_size=count, max_size=count))
    lines, err = printed(pytest.MonkeyPatch(), None, titles, rows, [])
    assert len(lines) == 1 + count
    assert err == ""
    for cells, line in zip([titles, *rows], lines, strict=True):
        shown = ["".join(c if c.isprintable() else "\ufffd" for c in cell) for cell in cells]
        assert line.split() == "  ".join(shown).split()
    starts = [
        {line.find(cells[-1]) for cells, line in zip([titles, *rows], lines, strict=True)}
        for cells in [titles]
        if all(c.isascii() and c.isalnum() for r in [titles, *rows] for c in r)
    ]
    assert all(len(start) == 1 for start in starts)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(20, 100))
def test_in_a_narrow_place_texts_are_cut_and_numbers_never(data: st.DataObject, room: int) -> None:
    rows = data.draw(
        st.lists(
            st.tuples(outside, st.integers(0, 10**6).map(str), outside, st.integers(0, 999).map(str)),
            min_size=1,
            max_size=4,
        )
    )
    titles = ["run", "best", "data", "size"]
    lines, err = printed(pytest.MonkeyPatch(), room, titles, [list(r) for r in rows], [False, True, False, True])
    assert all(cell_len(line) <= room for line in lines)
    left_out = err.removeprefix("left out for lack of room: ").strip().split(", ") if err else []
    kept = titles[: len(titles) - len(left_out)]
    assert kept + left_out == titles
    for number in (1, 3):
        if titles[number] in kept:
            assert all(row[number] in line for row, line in zip(rows, lines[1:], strict=True))


#: The texts inf and -inf are left out: they are what the floats become.
floats = st.floats() | st.integers() | st.none() | st.text(max_size=5).filter(lambda t: t not in ("inf", "-inf"))


@given(st.recursive(floats, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=20))
def test_json_is_always_strict_and_loses_nothing_but_nan(value: object) -> None:
    def back(read: object) -> object:
        if isinstance(read, dict):
            return {k: back(v) for k, v in read.items()}
        if isinstance(read, list):
            return [back(v) for v in read]
        return float(read) if read in ("inf", "-inf") else read

    def expected(given: object) -> object:
        if isinstance(given, dict):
            return {k: expected(v) for k, v in given.items()}
        if isinstance(given, list):
            return [expected(v) for v in given]
        return None if isinstance(given, float) and math.isnan(given) else given

    text = jsons.dumps(value)
    read = json.loads(text, parse_constant=lambda constant: pytest.fail(f"not JSON: {constant}"))
    assert back(read) == expected(value)


def test_what_the_terminal_can_not_show_is_replaced(tmp_path: Path) -> None:
    done = command("catalog", "transform", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "ToTensor" in done.stdout
    wrong = command("--batch", "数.toml", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("torchdeck: There is no file '?.toml'")
