"""Arrays in NumPy's files, as sources of samples and as inputs of a model. Nothing is ever unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torchdeck.core.data.source import Arrays, Source, targets_of
from torchdeck.core.data.tables import label_of, narrowed, sorted_names
from torchdeck.core.errors import UserError, first_line

_INPUTS = ("x_train", "x", "X", "images", "data")
_TARGETS = ("y_train", "y", "Y", "labels", "target", "targets")


def load_npz(path: str, x: str | None, y: str | None, task: str, num_classes: int | None = None) -> Source:
    """Arrays from a .npz file: x and y, or x_train, y_train, x_val, y_val, x_test, y_test (Keras).

    ``x`` and ``y`` name the arrays; without them the usual names are looked for. Images may be [N, H, W], [N, C, H, W]
    or [N, H, W, C]; tables [N, F]. Targets: numbers, class numbers or names.

    Raises UserError when the file is damaged or the arrays don't fit.
    """
    arrays = read_arrays(Path(path).expanduser())
    if list(arrays) == [""]:
        raise UserError(f"{path!r} holds a single array (.npy); a .npz file with x and y is needed.")
    inputs, labels = _pick(arrays, x, _INPUTS, path), _pick(arrays, y, _TARGETS, path)
    image = inputs.ndim >= 3
    targets, names, found = _targets(labels, path, task, (), num_classes)
    train = Arrays(inputs_of(inputs, path), targets)
    others: dict[str, Arrays] = {}
    for part in ("val", "test"):
        if f"x_{part}" in arrays and f"y_{part}" in arrays:
            its, _, _ = _targets(arrays[f"y_{part}"], f"{path} y_{part}", found, names, num_classes)
            others[part] = Arrays(inputs_of(arrays[f"x_{part}"], path), its)
    for which, one in {"train": train, **others}.items():
        if not len(one.x) or len(one.x) != len(one.y):
            raise UserError(
                f"{path!r}: x ({which}) has {len(one.x)} rows and y {len(one.y)}; both need one row per sample."
            )
    return Source(train, others.get("test"), found, image, names, place=path, val=others.get("val"))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name; that of a .npy file, whatever it is called, under the name "".

    Raises UserError when it can't be read.
    """
    name = str(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded as stored:
            return {key: stored[key] for key in stored.files}
    except FileNotFoundError:
        raise UserError(f"There is no file {name!r}.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        reason = first_line(error)
        if _refused_to_unpickle(error):
            reason = "it holds Python objects, which are not unpickled; store arrays of numbers"
        raise UserError(
            f"{name!r} can't be read as {'.npz' if path.suffix == '.npz' else 'an array'}: {reason}."
        ) from None


def _refused_to_unpickle(error: Exception) -> bool:
    """Whether NumPy says that the arrays hold Python objects; it has no class for that."""
    return isinstance(error, ValueError) and ("allow_pickle" in str(error) or "pickled" in str(error))


def first_inputs(arrays: dict[str, np.ndarray], path: str) -> np.ndarray:
    """The inputs among arrays for prediction: those of a test set before all others.

    Raises UserError when there is none.
    """
    if not arrays:
        raise UserError(f"{path!r} holds no array.")
    names = ("", "x_test", *_INPUTS)
    return arrays[next((n for n in names if n in arrays), next(iter(arrays)))]


def inputs_of(x: np.ndarray, path: str) -> Tensor:
    """An array as inputs: images [N, C, H, W] as uint8 or floats, tables [N, F]; whole numbers stay whole.

    Raises UserError for what is no array of numbers with one row per sample.
    """
    if x.dtype.kind not in "uifb":
        what = {"O": "Python objects", "M": "dates", "m": "durations", "V": "records", "c": "complex numbers"}
        raise UserError(f"{path!r}: x holds {what.get(x.dtype.kind, 'texts')} ({x.dtype}); numbers are needed.")
    if x.ndim < 1:
        raise UserError(f"{path!r}: x is a single number; it needs one row per sample.")
    values = torch.from_numpy(np.ascontiguousarray(_native(x, path)))
    if values.ndim == 1:
        values = values.unsqueeze(1)
    if values.ndim == 3:
        values = values.unsqueeze(1)
    elif values.ndim == 4 and values.shape[-1] in (1, 3, 4) and values.shape[1] not in (1, 3, 4):
        values = values.permute(0, 3, 1, 2).contiguous()
    return narrowed(values) if values.dtype == torch.float64 and len(values) else values


def _native(x: np.ndarray, path: str) -> np.ndarray:
    """In a type and byte order that torch has: 16-bit images become floats from 0 to 1."""
    if x.dtype.kind == "b":
        return x.astype(np.float32)
    if x.dtype.kind == "f":
        return x.astype(np.float64 if x.dtype.itemsize >= 8 else np.float32)
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "u" and x.dtype.itemsize == 2 and x.ndim >= 3:
        return x.astype(np.float32) / 65535
    if x.dtype == np.uint64 and x.size and x.max() >= 2**63:
        raise UserError(f"{path!r}: x holds whole numbers of 2^63 and more, which torch has not; subtract an offset.")
    return x.astype(np.int64)


def _pick(arrays: dict[str, np.ndarray], given: str | None, names: Sequence[str], path: str) -> np.ndarray:
    for name in [given] if given else names:
        if name in arrays:
            return arrays[name]
    wanted = given or " or ".join(names)
    raise UserError(f"{path!r} has no array {wanted!r}; it has {', '.join(arrays) or 'none'}.")


def _targets(
    y: np.ndarray, path: str, task: str, names: tuple[str, ...], num_classes: int | None
) -> tuple[Tensor, tuple[str, ...], str]:
    """The targets, the names of the classes, and the task."""
    if y.ndim < 1 or y.dtype.kind not in "uifbUS":
        raise UserError(
            f"{path!r}: y is {y.dtype} of the shape {list(y.shape)}; numbers or names, one row per sample, are needed."
        )
    if y.ndim > 1 and y.shape[-1] == 1:
        y = y[..., 0]
    if task == "regression" or (task == "auto" and y.dtype.kind == "f"):
        if y.dtype.kind in "US":
            raise UserError(f"{path!r}: y holds names of classes, but the task is regression.")
        return targets_of(torch.from_numpy(y.astype(np.float64)), path)[1], (), "regression"
    if y.ndim > 1:
        raise UserError(f"{path!r}: y has the shape {list(y.shape)}; one class per sample is needed.")
    labels = [label_of(v) for v in y.tolist()]
    if not names:
        names = (
            tuple(map(str, range(num_classes))) if num_classes and y.dtype.kind in "ui" else sorted_names(set(labels))
        )
    index = {c: i for i, c in enumerate(names)}
    for number, label in enumerate(labels):
        if label not in index:
            raise UserError(
                f"{path!r}: sample {number} is of the class {label!r}, which does not occur in the training set."
            )
    return torch.tensor([index[label] for label in labels]), names, "classification"
