"""Tables and scikit-learn's embedded data sets, as sources of samples; and rows of a table as inputs of a model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchdeck.core.data import table_files
from torchdeck.core.data.source import Arrays, Source, targets_of
from torchdeck.core.data.table_files import TableFile, parse_number
from torchdeck.core.errors import UserError, count, did_you_mean
from torchdeck.core.text import quoted

#: More classes than that are not taken for classes unless it is said.
_CLASSES = 100


def load_sklearn(name: str) -> Source:
    """An embedded data set of scikit-learn; digits come as uint8 images [N, 1, 8, 8]."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    if name == "digits":
        # 17 grey levels, 0..16, spread over 0..255 as other images have it.
        x = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        y = torch.from_numpy(bunch.target).long()
        return Source(
            Arrays(x, y), None, "classification", True, tuple(map(str, bunch.target_names)), place="scikit-learn"
        )
    x = narrowed(torch.from_numpy(np.asarray(bunch.data, dtype=np.float64)))
    task, y = targets_of(torch.from_numpy(np.asarray(bunch.target)), f"data.name = {name!r}")
    names = tuple(map(str, bunch.target_names)) if task == "classification" else ()
    return Source(Arrays(x, y), None, task, False, names, tuple(map(str, bunch.feature_names)), place="scikit-learn")


def load_table(
    path: str, target: str | None, features: Sequence[str] | None, test_path: str | None, task: str
) -> Source:
    """A CSV or Parquet table. Texts in the target column are class names; features must be numbers.

    Raises UserError naming file, column and row.
    """
    table = table_files.read_table(Path(path).expanduser(), [*(features or ()), *([target] if target else [])])
    names = list(table.columns)
    target = target or names[-1]
    for column in (target, *(features or ())):
        if column not in table.columns:
            lacks = "no column" if table.header else "no header, and so no column"
            raise UserError(f"{path!r} has {lacks} {column!r}; {did_you_mean(column, names)}")
    chosen = list(features) if features else [n for n in names if n != target]
    if target in chosen:
        raise UserError(
            f"data.args.features of {path!r} holds the target column {target!r}.", field="data.args.features"
        )
    if not chosen:
        raise UserError(f"{path!r} has no feature column beside the target {target!r}.")
    y, class_names, found, notes = _target_column(table, target, task)
    train = Arrays(_features(table, chosen), y, table.rows)
    test, told = None, [*table.notes, *notes]
    if test_path:
        other = table_files.read_table(Path(test_path).expanduser(), [*chosen, target])
        told += other.notes
        _refuse_missing(other, [*chosen, target], table)
        test_y, _, _, _ = _target_column(other, target, found, class_names)
        test = Arrays(_features(other, chosen), test_y, other.rows)
    return Source(train, test, found, False, class_names, tuple(chosen), path, None, (target,), tuple(told))


def _refuse_missing(table: TableFile, wanted: Sequence[str], like: TableFile) -> None:
    if not table.header and like.header:
        raise UserError(
            f"{table.path!r} has no header, by which its columns could be matched with those of {like.path!r}."
        )
    for column in wanted:
        if column not in table.columns:
            raise UserError(f"{table.path!r} has no column {column!r}, which {like.path!r} has.")


def rows_for(table: TableFile, features: Sequence[str], width: int) -> tuple[torch.Tensor, tuple[str, ...]]:
    """The rows of a table as inputs [N, F] of a model that was trained on these features, matched by name; and what to
    say of it. Without names on either side they are matched by their place, if there are as many.

    Raises UserError when they can't be matched.
    """
    names = list(table.columns)
    missing = [f for f in features if f not in table.columns]
    # Without a header the columns' names are but their places, which those of the training need not be.
    if features and not missing and (table.header or len(names) != width):
        extra = [n for n in names if n not in features]
        note = (f"{table.path!r}: {quoted(extra)} is not among the columns of the training and is left out.",)
        return _features(table, features), note if extra else ()
    if features and table.header:
        raise UserError(f"{table.path!r} has no column {missing[0]!r}; {did_you_mean(missing[0], names)}")
    if len(names) != width:
        raise UserError(f"{table.path!r} has {count(len(names), 'column')}; the model takes {width} numbers a row.")
    told = (
        f"{table.path!r}: columns are matched with those of the training by their place, for there are no "
        f"names to go by."
    )
    return _features(table, names), (told,)


def _features(table: TableFile, chosen: Sequence[str]) -> torch.Tensor:
    """Columns of numbers as [N, F]: float64 where float32 would lose what tells the rows apart."""
    result = np.empty((len(table.rows), len(chosen)))
    for place, name in enumerate(chosen):
        for index, value in enumerate(table.columns[name]):
            found = _truth(value) if isinstance(value, str) else parse_number(value)
            if found is None or not math.isfinite(found):
                raise UserError(
                    f"{table.path!r} column {name!r} row {table.rows[index]}: {_shown(value)} is not a finite "
                    "number; make a number of it, or leave the column out: data.args.features names those to use."
                )
            result[index, place] = found
        _refuse_collapsed(table, name, result[:, place])
    return narrowed(torch.from_numpy(result))


def _refuse_collapsed(table: TableFile, name: str, values: np.ndarray) -> None:
    """Whole numbers beyond 2^53 that differ may be the same as float64: they would train as if they were."""
    if np.abs(values).max() <= 2**53:
        return
    seen: dict[float, Any] = {}
    for row, value, found in zip(table.rows, table.columns[name], values.tolist(), strict=True):
        if seen.setdefault(found, value) != value:
            raise UserError(
                f"{table.path!r} column {name!r} row {row}: {_shown(value)} has more figures than can be told "
                "apart (15); subtract what all have in common, or leave the column out by data.args.features."
            )


def _truth(text: str) -> float | None:
    """A number, or true and false as 1 and 0."""
    return {"true": 1.0, "false": 0.0}.get(text.lower()) if text[:1] in "tTfF" and text else parse_number(text)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str | int | float) or value is None else repr(str(value))


def narrowed(x: torch.Tensor) -> torch.Tensor:
    """float64 [N, ...] as float32, unless that would lose what tells the samples apart: beside a large offset (a time
    stamp, an identifier) float32 keeps few figures, or none, of what changes."""
    flat = x.reshape(len(x), -1)
    spread = flat.amax(0) - flat.amin(0)
    largest = flat.abs().amax(0)
    lossy = (spread > 0) & (largest > 1000 * spread) | (largest > 1e38)
    if bool(lossy.any()) or (x.ndim <= 2 and _rounded(flat.numpy())):
        return x
    return x.float()


def _rounded(columns: np.ndarray) -> bool:
    """Whether float32 is too coarse for what lies between the quarters of a column [N, F]: one stray value widens the
    range, not that."""
    for values in columns.T:
        low, high = np.quantile(values, (0.25, 0.75))
        error = np.abs(values - values.astype(np.float32)).max()
        if high > low and error > 1e-4 * (high - low):
            return True
    return False


def _target_column(
    table: TableFile, name: str, task: str, class_names: tuple[str, ...] = ()
) -> tuple[torch.Tensor, tuple[str, ...], str, tuple[str, ...]]:
    """The target [N], the names of its classes, the task, and what to say of it."""
    values, path = table.columns[name], table.path
    for row, value in zip(table.rows, values, strict=True):
        if value is None or value == "" or (isinstance(value, str) and value.lower() == "nan"):
            raise UserError(f"{path!r} column {name!r} row {row}: the target is missing.")
        if not isinstance(value, str | bytes | bool | int | float | Decimal) or _is_date(value):
            raise UserError(
                f"{path!r} column {name!r} row {row}: {_shown(value)} is neither a number nor the name of a "
                "class; make a number of it, or name another column in data.args.target."
            )
    numbers = [None if isinstance(v, bool) else parse_number(v) for v in values]
    notes: tuple[str, ...] = ()
    if task == "auto":
        task, notes = _guessed(values, numbers, path, name)
    if task == "regression":
        for row, value, found in zip(table.rows, values, numbers, strict=True):
            if found is None or not math.isfinite(found):
                raise UserError(f"{path!r} column {name!r} row {row}: {_shown(value)} is not a finite number.")
        return torch.tensor(numbers, dtype=torch.float64), (), "regression", notes
    labels = [label_of(v) for v in values]
    if not class_names:
        class_names = sorted_names(set(labels))
    index = {c: i for i, c in enumerate(class_names)}
    for row, label in zip(table.rows, labels, strict=True):
        if label not in index:
            raise UserError(f"{path!r} column {name!r} row {row}: class {label!r} does not occur in the training set.")
    return torch.tensor([index[t] for t in labels]), class_names, "classification", notes


def _is_date(value: Any) -> bool:
    if not (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value)):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _guessed(
    values: Sequence[Any], numbers: Sequence[float | None], path: str, name: str
) -> tuple[str, tuple[str, ...]]:
    if any(n is None for n in numbers):
        return "classification", ()
    written_whole = all(_WHOLE.fullmatch(v.decode() if isinstance(v, bytes) else str(v)) for v in values)
    classes = len(set(numbers))
    if written_whole and classes <= _CLASSES:
        told = (
            f"{path!r}: the whole numbers in {name!r} are taken for {count(classes, 'class')}; for amounts set "
            "data.args.task = 'regression'."
        )
        return "classification", (told,)
    return "regression", ()


_WHOLE = re.compile(r"[+-]?\d+")


def label_of(value: Any) -> str:
    """The name of a class: its text; a whole number that was stored as a float (3.0) is called by the number (3)."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    text = str(value)
    return text.partition(".")[0] if re.fullmatch(r"[+-]?\d+\.0+", text) else text


def sorted_names(names: set[str]) -> tuple[str, ...]:
    """Names of classes in their order: numbers by size, others as texts."""
    numeric = all(parse_number(n) is not None for n in names)
    return tuple(sorted(names, key=(lambda n: (float(n), n)) if numeric else None))
