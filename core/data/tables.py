"""Tables (CSV, Parquet), .npz files and scikit-learn's embedded data sets."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.data.source import Arrays, Source, targets_of
from core.errors import UserError, did_you_mean


def load_sklearn(name: str) -> Source:
    """An embedded data set of scikit-learn; digits come as uint8 images [N, 1, 8, 8]."""
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    if name == "digits":
        # 17 grey levels, 0..16, spread over 0..255 as other images have it.
        x = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        y = torch.from_numpy(bunch.target).long()
        return Source(Arrays(x, y), None, "classification", True, tuple(map(str, bunch.target_names)),
                      place="scikit-learn")  # fmt: skip
    x = torch.from_numpy(np.asarray(bunch.data, dtype=np.float32))
    task, y = targets_of(torch.from_numpy(np.asarray(bunch.target)), f"data.name = {name!r}")
    names = tuple(map(str, bunch.target_names)) if task == "classification" else ()
    return Source(Arrays(x, y), None, task, False, names, tuple(map(str, bunch.feature_names)), place="scikit-learn")


def load_table(
    path: str, target: str | None, features: Sequence[str] | None, test_path: str | None, task: str
) -> Source:
    """A CSV or Parquet table. Texts in the target column are class names; features must be numbers.

    Raises UserError naming file, column and row.
    """
    columns = read_columns(Path(path).expanduser())
    names = list(columns)
    target = target or names[-1]
    for column in (target, *(features or ())):
        if column not in columns:
            raise UserError(f"{path!r} has no column {column!r}; {did_you_mean(column, names)}")
    chosen = list(features) if features else [n for n in names if n != target]
    if target in chosen:
        raise UserError(f"data.args.features of {path!r} holds the target column {target!r}.")
    if not chosen:
        raise UserError(f"{path!r} has no feature column beside the target {target!r}.")
    y, class_names, found_task = _target_column(columns[target], path, target, task)
    train = Arrays(_feature_columns(columns, chosen, path), y)
    test = None
    if test_path:
        others = read_columns(Path(test_path).expanduser())
        for column in (target, *chosen):
            if column not in others:
                raise UserError(f"{test_path!r} has no column {column!r}, which {path!r} has.")
        test_y, _, _ = _target_column(others[target], test_path, target, found_task, class_names)
        test = Arrays(_feature_columns(others, chosen, test_path), test_y)
    return Source(train, test, found_task, False, class_names, tuple(chosen), place=path)  # type: ignore[arg-type]


def read_columns(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise UserError(f"There is no file {str(path)!r}.")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{str(path)!r} can't be read as a table: {error}.") from None
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise UserError(f"{str(path)!r} is empty: it needs a header and at least one row.")
    header = [name.strip() for name in rows[0]]
    if len(set(header)) != len(header):
        twice = next(n for n in header if header.count(n) > 1)
        raise UserError(f"{str(path)!r} has two columns named {twice!r}.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise UserError(f"{str(path)!r} row {number} has {len(row)} fields where the header has {len(header)}.")
    return {name: [row[i].strip() for row in rows[1:]] for i, name in enumerate(header)}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet files need pyarrow: pip install 'torchdeck[tables]'.") from None
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{str(path)!r} can't be read as Parquet: {str(error).splitlines()[0]}.") from None
    if not table.num_rows:
        raise UserError(f"{str(path)!r} is empty.")
    return {name: table[name].to_pylist() for name in table.column_names}


def _feature_columns(columns: dict[str, list[Any]], chosen: Sequence[str], path: str) -> torch.Tensor:
    result = torch.empty(len(columns[chosen[0]]), len(chosen), dtype=torch.float32)
    for i, name in enumerate(chosen):
        numbers = []
        for row, value in enumerate(columns[name], start=2):
            number = _number(value)
            if number is None or not math.isfinite(number):
                raise UserError(
                    f"{path!r} column {name!r} row {row}: {value!r} is not a finite number; mend it, or name the "
                    "columns to use in data.args.features."
                )
            numbers.append(number)
        result[:, i] = torch.tensor(numbers, dtype=torch.float32)
    return result


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _target_column(
    values: list[Any], path: str, name: str, task: str, class_names: tuple[str, ...] = ()
) -> tuple[torch.Tensor, tuple[str, ...], str]:
    for row, value in enumerate(values, start=2):
        if value is None or value == "":
            raise UserError(f"{path!r} column {name!r} row {row}: the target is missing.")
    numbers = [_number(v) for v in values]
    if task == "auto":
        whole = all(n is None or (math.isfinite(n) and n.is_integer()) for n in numbers)
        text = any(n is None for n in numbers)
        written_whole = not any(isinstance(v, float) or (isinstance(v, str) and "." in v) for v in values)
        task = "classification" if text or (whole and written_whole and len(set(numbers)) <= 100) else "regression"
    if task == "regression":
        for row, (value, number) in enumerate(zip(values, numbers, strict=True), start=2):
            if number is None or not math.isfinite(number):
                raise UserError(f"{path!r} column {name!r} row {row}: {value!r} is not a finite number.")
        return torch.tensor(numbers, dtype=torch.float32), (), task
    labels = [str(v) for v in values]
    if not class_names:
        numeric = all(n is not None for n in numbers)
        class_names = tuple(sorted(set(labels), key=(lambda t: (float(t), t)) if numeric else None))
    index = {c: i for i, c in enumerate(class_names)}
    for row, label in enumerate(labels, start=2):
        if label not in index:
            raise UserError(f"{path!r} column {name!r} row {row}: class {label!r} does not occur in the training set.")
    return torch.tensor([index[t] for t in labels]), class_names, task


def load_npz(path: str, x_name: str | None, y_name: str | None, task: str) -> Source:
    """Arrays from a .npz file: x and y, or x_train, y_train, x_test, y_test (Keras). Never unpickles.

    Images may be [N, H, W], [N, C, H, W] or [N, H, W, C]; tables [N, F].

    Raises UserError when the file is damaged or the arrays don't fit.
    """
    file = Path(path).expanduser()
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise UserError(f"There is no file {path!r}.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path!r} can't be read as .npz: {str(error).splitlines()[0]}") from None

    def pick(given: str | None, *names: str) -> np.ndarray:
        for name in [given] if given else names:
            if name in arrays:
                return arrays[name]
        wanted = given or " or ".join(names)
        raise UserError(f"{path!r} has no array {wanted!r}; it has {', '.join(arrays) or 'none'}.")

    x = pick(x_name, "x_train", "x", "X", "images", "data")
    y = pick(y_name, "y_train", "y", "Y", "labels", "target", "targets")
    train, image, kind = _npz_part(x, y, path, task)
    test = None
    if "x_test" in arrays and "y_test" in arrays:
        test, _, _ = _npz_part(arrays["x_test"], arrays["y_test"], path, task)
    names: tuple[str, ...] = ()
    if kind == "classification":
        names = tuple(str(i) for i in range(int(train.y.max()) + 1))
    return Source(train, test, kind, image, names, place=path)  # type: ignore[arg-type]


def _npz_part(x: np.ndarray, y: np.ndarray, path: str, task: str) -> tuple[Arrays, bool, str]:
    if x.ndim < 1 or not len(x) or y.ndim < 1 or len(x) != len(y):
        raise UserError(f"{path!r}: x has the shape {x.shape} and y {y.shape}; both need one row per sample.")
    if x.dtype.kind not in "uifb" or y.dtype.kind not in "uifb":
        raise UserError(f"{path!r}: x is {x.dtype} and y is {y.dtype}; both must be numbers.")
    inputs = torch.from_numpy(np.ascontiguousarray(x))
    if inputs.ndim == 1:
        inputs = inputs.unsqueeze(1)
    image = inputs.ndim >= 3
    if inputs.ndim == 3:
        inputs = inputs.unsqueeze(1)
    elif inputs.ndim == 4 and inputs.shape[-1] in (1, 3, 4) and inputs.shape[1] not in (1, 3, 4):
        inputs = inputs.permute(0, 3, 1, 2).contiguous()
    if inputs.dtype != torch.uint8 or not image:
        inputs = inputs.float()
    if task == "regression":
        y = y.astype(np.float32)
    elif task == "classification":
        y = y.astype(np.int64)
    found, targets = targets_of(torch.from_numpy(np.ascontiguousarray(y)), path)
    return Arrays(inputs, targets), image, found
