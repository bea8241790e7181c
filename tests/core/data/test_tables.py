"""Tables and arrays as they lie in files: read back as they were written, or told in one sentence what is wrong."""

from __future__ import annotations

import csv
import datetime
import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchdeck.core.data import arrays, table_files
from torchdeck.core.data.source import Arrays
from torchdeck.core.data.tables import load_table, narrowed, rows_for
from torchdeck.core.errors import UserError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def parsed(text: str | bytes, known: tuple[str, ...] = (), name: str = "t.csv") -> table_files.TableFile:
    return table_files.parse_table(text.encode() if isinstance(text, str) else text, name, known)


CLASSES = ["cat", "dog", "a\nb", 'say "x"', "x;y", "é, ü", "True", "no"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_tables_are_read_back_as_they_were_written(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 4)), data.draw(st.integers(6, 12))
    numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: repr(v + 0.25))
    columns = [data.draw(st.lists(numbers, min_size=height, max_size=height)) for _ in range(width)]
    two = data.draw(st.lists(st.sampled_from(CLASSES), min_size=2, max_size=2, unique=True))
    columns.append([two[i % 2] for i in range(height)])
    word = st.from_regex(r"[a-z][a-z ,;]{0,5}[a-z]", fullmatch=True)
    names = data.draw(st.lists(word, min_size=width + 1, max_size=width + 1, unique=True))
    header, index = data.draw(st.booleans()), data.draw(st.booleans())
    rows = [list(row) for row in zip(*columns, strict=True)]
    lines = [names, *rows] if header else rows
    if index and header:
        numbered = data.draw(st.sampled_from([range(height), range(5, 5 + height), range(height, 0, -1)]))
        lines = [
            [data.draw(st.sampled_from(["", "Unnamed: 0"])), *names],
            *([str(i), *r] for i, r in zip(numbered, rows, strict=True)),
        ]
    written, starts = io.StringIO(newline=""), []
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"]))
    # Python's writer leaves a newline in a cell without quotes where lines end with another sign.
    quoting = csv.QUOTE_ALL if end == "\r" else data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(written, delimiter=data.draw(st.sampled_from(",;\t|")), lineterminator=end, quoting=quoting)
    for line in lines:
        written.write(end * data.draw(st.integers(0, 1)))
        text = written.getvalue().replace("\r\n", "\n").replace("\r", "\n")
        starts.append(text.count("\n") + 1)
        writer.writerow(line)
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    table = parsed(written.getvalue().encode(encoding))
    expected = names if header else [str(i) for i in range(width + 1)]
    assert list(table.columns) == expected
    assert list(table.columns.values()) == columns
    assert table.header is header
    assert table.rows == starts[1 if header else 0 :]
    assert any("no header" in note for note in table.notes) is not header
    assert any("numbers the rows" in note for note in table.notes) is (index and header)


@pytest.mark.parametrize(
    ("text", "known", "names", "told"),
    [
        (",0,1,2\n0,5,6,7\n1,8,9,10\n", (), ["0", "1", "2"], "numbers the rows"),
        ("0,1,2\n5,6,7\n", (), ["0", "1", "2"], "counts the columns"),
        ("2019,2020,2021\n1,2,3\n3,4,3\n", (), ["2019", "2020", "2021"], "counts the columns"),
        ("2019,2020,label\n1,2,a\n3,4,b\n5,6,a\n7,8,b\n", (), ["2019", "2020", "label"], ""),
        ("2,0,1\n5,6,7\n", ("0", "1", "2"), ["2", "0", "1"], ""),
        ("7,5,6\n5,6,7\n", (), ["0", "1", "2"], "no header"),
        ("1.0,\n2.0,3\n", (), ["0", "1"], "no header"),
        ("1,5;2,5;a\n3,5;4,5;b\n", (), ["0", "1", "2"], "decimal point"),
        (",a\n0,5\n", ("column 1", "a"), ["column 1", "a"], ""),
        ("Unnamed: 0,a\n0,5\n", ("Unnamed: 0", "a"), ["Unnamed: 0", "a"], ""),
        ("a,b,\n1,2,\n3,4,\n", (), ["a", "b"], "is empty, it is left out"),
    ],
)
def test_what_a_file_does_not_say_is_decided_by_its_content_and_told(
    text: str, known: tuple[str, ...], names: list[str], told: str
) -> None:
    table = parsed(text, known)
    assert list(table.columns) == names
    assert told in " ".join(table.notes)
    if not told:
        assert not table.notes


def test_decimal_commas_are_points() -> None:
    assert parsed("x;y\n1,5;a\n-2;b\n").columns == {"x": ["1.5", "-2"], "y": ["a", "b"]}
    assert parsed("1,5;2,5\n3;4,5\n").columns == {"0": ["1.5", "3"], "1": ["2.5", "4.5"]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a,b\n1,é\n".encode("latin-1"), "row 2 is no UTF-8 text"),
        (b'a,b\n1,x\n2,"y\n3,z\n', "after row 2: unexpected end of data"),
        (b"a,b\n\n1,x\n\n2\n", "row 5 has 1 fields where the header has 2"),
        (b"a,a\n1,2\n", "two columns named 'a'"),
        (b"a\0b\n", "it is no text"),
        (b"\n  \n", "it is empty"),
    ],
)
def test_files_that_are_no_tables_are_told_in_a_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        parsed(content)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["t.CSV", "t.Tsv", "t.PARQUET"])
def test_the_case_of_an_extension_is_no_matter(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.lower().endswith("parquet"):
        pq.write_table(pa.table({"a": ["1", "2"], "b": ["x", "y"]}), path)
    else:
        path.write_text("a\tb\n1\tx\n2\ty\n")
    assert table_files.read_table(path).columns == {"a": ["1", "2"], "b": ["x", "y"]}


X = [0.5, 1.5, 2.5, 3.5]
DAY = datetime.datetime(2020, 1, 1)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"x": X, "y": [True, False, True, True]}, ("classification", ("False", "True"), [1, 0, 1, 1])),
        (
            {"x": X, "y": [Decimal("1.50"), Decimal("2.25"), Decimal("2"), Decimal("3")]},
            ("regression", (), [1.5, 2.25, 2, 3]),
        ),
        (
            {"x": X, "y": pa.array(["b", "a", "b", "a"]).dictionary_encode()},
            ("classification", ("a", "b"), [1, 0, 1, 0]),
        ),
        ({"x": [True, False, True, True], "y": ["u", "v", "u", "v"]}, ("classification", ("u", "v"), [0, 1, 0, 1])),
        (
            {"x": X, "y": ["u", "v"] * 2, "__index_level_0__": ["p", "q", "r", "s"]},
            ("classification", ("u", "v"), [0, 1, 0, 1]),
        ),
        (
            {"x": X, "y": ["u", "v"] * 2, "__index_level_0__": [7, 3, 9, 1]},
            ("classification", ("u", "v"), [0, 1, 0, 1]),
        ),
        ({"x": X, "y": [True, None, False, True]}, "column 'y' row 2: the target is missing"),
        ({"x": [1.0, None, 2.0, 3.0], "y": ["u", "v"] * 2}, "column 'x' row 2: None is not a finite number"),
        ({"x": X, "y": [DAY.date()] * 4}, "column 'y' row 1: '2020-01-01' is neither a number nor the name of a class"),
        ({"x": X, "y": [[1], [2]] * 2}, "row 1: '[1]' is neither a number nor"),
        ({"x": [DAY] * 4, "y": ["u", "v"] * 2}, "column 'x' row 1: '2020-01-01 00:00:00' is not a finite number"),
        ({"x": pa.array([1] * 4, pa.timestamp("ns")), "y": ["u", "v"] * 2}, "column 'x' row 1: '1970"),
        ({"x": [10**18 + i for i in range(4)], "y": ["u", "v"] * 2}, "row 2: 1000000000000000001 has more figures"),
    ],
)
def test_what_parquet_holds_works_or_is_one_sentence(tmp_path: Path, columns: dict[str, Any], found: Any) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    if isinstance(found, str):
        with pytest.raises(UserError) as caught:
            load_table(str(tmp_path / "t.parquet"), None, None, None, "auto")
        assert found in str(caught.value)
        return
    source = load_table(str(tmp_path / "t.parquet"), "y", None, None, "auto")
    assert (source.task, source.class_names, source.train.targets.tolist()) == found
    assert source.feature_names == ("x",)


def test_two_parquet_columns_of_one_name_and_folders_that_look_like_columns(tmp_path: Path) -> None:
    (tmp_path / "year=2020").mkdir()
    pq.write_table(pa.table({"x": X, "y": ["u", "v"] * 2}), tmp_path / "year=2020" / "t.parquet")
    assert list(table_files.read_table(tmp_path / "year=2020" / "t.parquet").columns) == ["x", "y"]
    twice = pa.Table.from_arrays([pa.array(X), pa.array(X)], names=["x", "x"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="two columns named 'x'"):
        table_files.read_table(tmp_path / "twice.parquet")


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["yes", "no", "yes"], ("no", "yes")),
        (["True", "False", "True"], ("False", "True")),
        (["3", "1", "10"], ("1", "3", "10")),
        (["1.0", "2.0", "1.0"], None),
        (["2020-01-01", "2020-01-02", "x"], "row 2: '2020-01-01' is neither"),
        (["u", "NaN", "v"], "row 3: the target is missing"),
    ],
)
def test_targets_in_text_are_names_of_classes_or_numbers(tmp_path: Path, texts: list[str], found: Any) -> None:
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{i}.5,{t}\n" for i, t in enumerate(texts)))
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            load_table(str(tmp_path / "t.csv"), None, None, None, "auto")
        return
    source = load_table(str(tmp_path / "t.csv"), None, None, None, "auto")
    assert source.class_names == (found or ())
    assert source.task == ("classification" if found else "regression")


def test_rows_are_matched_by_name_else_by_place_else_refused() -> None:
    told = " ".join(rows_for(parsed("y,b,a,id\nu,1.5,2.5,x\nv,3.5,4.5,z\n"), ("a", "b"), 2)[1])
    assert "'y', 'id' is not among" in told
    x, _ = rows_for(parsed("b,a\n1.5,2.5\n3.5,4.5\n", ("a", "b")), ("a", "b"), 2)
    assert x.tolist() == [[2.5, 1.5], [4.5, 3.5]]
    for features in (("a", "b"), ("1", "0"), ()):
        bare = parsed("1.5,2.5\n3.5,4.5\n", features)
        x, notes = rows_for(bare, features, 2)
        assert x.tolist() == [[1.5, 2.5], [3.5, 4.5]]
        assert "by their place" in notes[0]
    for text, sentence in (
        ("a,c\n1,2\n", "no column 'b'"),
        ("1.5,2.5,3.5\n4.5,5.5,6.5\n", "3 columns; the model takes 2"),
    ):
        with pytest.raises(UserError, match=sentence):
            rows_for(parsed(text, ("a", "b")), ("a", "b"), 2)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["f2", "f4", "f8", "g", "?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"]),
    st.sampled_from("<>"),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_arrays_of_any_type_and_byte_order_are_what_numpy_has(
    tmp_path_factory: pytest.TempPathFactory, kind: str, order: str, fortran: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 100, (6, 3)).astype(np.dtype(kind).newbyteorder(order))
    labels = (np.arange(6) % 2).astype(np.dtype(kind).newbyteorder(order))
    path = tmp_path_factory.mktemp("arrays") / "a.npz"
    np.savez(path, x=np.asfortranarray(values) if fortran else values, y=labels)
    source = arrays.load_npz(str(path), None, None, "classification")
    assert isinstance(source.train, Arrays)
    assert np.array_equal(source.train.x.numpy(), values.astype(np.float64))
    assert source.train.y.tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros((4, 2), "c8"), "complex numbers"),
        (np.zeros((4, 2), "M8[s]"), "dates"),
        (np.array(3.0), "a single number"),
        (np.zeros(4, [("a", "f8"), ("b", "i4")]), "records"),
        (np.array([[None]] * 4), "Python objects"),
        (np.full((4, 1), 2**63, "u8"), "2\\^63"),
    ],
)
def test_arrays_that_are_no_numbers_are_one_sentence(tmp_path: Path, x: np.ndarray, sentence: str) -> None:
    np.savez(tmp_path / "a.npz", x=x, y=np.array([0, 1, 0, 1]))
    with pytest.raises(UserError, match=sentence):
        arrays.load_npz(str(tmp_path / "a.npz"), None, None, "auto")


def test_a_file_is_what_it_holds_and_not_what_it_is_called(tmp_path: Path) -> None:
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.arange(4))
    with (tmp_path / "several.npy").open("wb") as file:
        np.savez(file, x=np.eye(4), y=np.array([0, 1, 0, 1]))
    assert list(arrays.read_arrays(tmp_path / "single.npz")) == [""]
    assert len(arrays.load_npz(str(tmp_path / "several.npy"), None, None, "auto").train) == 4
    with pytest.raises(UserError, match="holds a single array"):
        arrays.load_npz(str(tmp_path / "single.npz"), None, None, "auto")


@settings(max_examples=100, deadline=None)
@given(st.floats(-13, 13), st.floats(-3, 6), st.booleans(), st.integers(0, 10**6))
@example(9.0, 0.0, True, 0)
def test_numbers_are_narrowed_only_where_float32_tells_them_apart(
    offset: float, spread: float, stray: bool, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=(50, 1)) * 10**spread + 10**offset
    if stray:
        values[7] = 0
    found = narrowed(torch.from_numpy(values)).double().numpy()
    middle = np.quantile(values, 0.75) - np.quantile(values, 0.25)
    assert np.abs(found - values).max() <= 1e-4 * middle
