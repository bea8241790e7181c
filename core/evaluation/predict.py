"""Predictions for images, folders of them, tables and arrays: files, or what comes in on stdin."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from core import devices
from core.data import transforms
from core.errors import UserError, did_you_mean
from core.evaluation.trained import Trained
from core.models.build import logits_of
from core.training.evaluation import evaluating

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_TABLES = (".csv", ".tsv", ".parquet")
_BATCH = 256
#: Pixels of an image, at most: a few kilobytes may claim to be a picture of gigabytes.
_PIXELS = 200_000_000


@dataclass(frozen=True)
class Prediction:
    """What the model says of one input."""

    #: File, or file and row.
    input: str
    #: The class, or the numbers in the targets' own unit.
    predicted: str | list[float]
    #: Of the predicted class; None in regression.
    probability: float | None = None
    #: The most likely classes with their probabilities.
    top: tuple[tuple[str, float], ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain JSON values."""
        values: dict[str, Any] = {"input": self.input, "predicted": self.predicted}
        if self.probability is not None:
            values |= {"probability": self.probability, "top": dict(self.top)}
        return values


def predict(
    trained: Trained, inputs: Sequence[str], stdin: BinaryIO, device: str = "auto", top: int = 3
) -> Iterator[Prediction]:
    """A prediction for each input, in order, as they are computed. ``-`` is stdin: an image, or a CSV table.

    Raises UserError for an input that can't be read or does not fit the model.
    """
    chosen = devices.choose(device)
    net = trained.net.to(chosen)
    image = len(trained.info.input_shape) == 3
    waiting: list[tuple[str, Tensor]] = []
    for name, x in (one for text in inputs for one in _read(text, trained, stdin, image)):
        waiting.append((name, x))
        if len(waiting) >= _BATCH:
            yield from _predicted(trained, net, waiting, chosen, top)
            waiting = []
    yield from _predicted(trained, net, waiting, chosen, top)


def _read(text: str, trained: Trained, stdin: BinaryIO, image: bool) -> Iterator[tuple[str, Tensor]]:
    if text == "-":
        data = stdin.read()
        if not data.strip():
            raise UserError("stdin is empty; give it an image or a CSV table.")
        if image and not _looks_like_table(data):
            yield "stdin", _image(io.BytesIO(data), "stdin", trained)
            return
        yield from _rows(_csv(data, "stdin"), "stdin", trained)
        return
    path = Path(text).expanduser()
    if path.is_dir():
        found = sorted(
            p for p in path.rglob("*") if p.suffix.lower() in (_IMAGES if image else _TABLES) and p.is_file()
        )
        if not found:
            raise UserError(
                f"{text!r} holds no {'image' if image else 'table'} ({', '.join((_IMAGES if image else _TABLES)[:4])} ...)."
            )
        for one in found:
            yield from _file(one, trained, image)
        return
    if not path.is_file():
        raise UserError(f"There is no file {text!r}.")
    yield from _file(path, trained, image)


def _looks_like_table(data: bytes) -> bool:
    try:
        first = data[:4096].decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return "," in first or "\n" in first.strip()


def _file(path: Path, trained: Trained, image: bool) -> Iterator[tuple[str, Tensor]]:
    name, suffix = str(path), path.suffix.lower()
    try:
        if suffix in (".npy", ".npz"):
            yield from _arrays(path, trained)
        elif image and suffix not in _TABLES:
            yield name, _image(path, name, trained)
        elif suffix == ".parquet":
            from core.data.tables import read_columns

            yield from _rows(read_columns(path), name, trained)
        else:
            yield from _rows(_csv(path.read_bytes(), name), name, trained)
    except OSError as error:
        raise UserError(f"{name!r} can't be read: {error.strerror or error}.") from None


def _image(file: Any, name: str, trained: Trained) -> Tensor:
    """An image as the model gets it [C, H, W]."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    channels = trained.info.input_shape[0]
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > _PIXELS:
                raise UserError(f"{name!r} has {opened.width:,} x {opened.height:,} pixels, more than {_PIXELS:,}.")
            picture: Any = ImageOps.exif_transpose(opened)
            if picture.mode.startswith(("I", "F")):  # 16 bit and more: stretched to 8 as other images have them
                values = np.asarray(picture, dtype=np.float64)
                picture = Image.fromarray(np.clip(values / max(values.max(), 1) * 255, 0, 255).astype(np.uint8))
            picture = picture.convert({1: "L", 4: "RGBA"}.get(channels, "RGB"))
    except UnidentifiedImageError:
        raise UserError(f"{name!r} is no image that can be read.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{name!r} can't be read as an image: {str(error).splitlines()[0] if str(error) else type(error).__name__}."
        ) from None
    return _prepared(transforms.as_tensor(picture)[None], trained, name)[0]


def _prepared(x: Tensor, trained: Trained, name: str) -> Tensor:
    """Inputs [N, ...] through the transforms of the training, as evaluation has them."""
    chosen: tuple[Any, ...] = trained.transforms
    if x.ndim == 4:
        chosen = transforms.fitted(chosen, x[0], trained.info.input_shape)
    pipeline = transforms.split(chosen, training=False)
    if pipeline.sample:
        apply = transforms.sample_transform(pipeline.sample)
        x = torch.stack([transforms.as_tensor(apply(one)) for one in x])
    generator = torch.Generator()
    for op in transforms.batch_transform(pipeline.batch, torch.device("cpu")):
        x = op(x, generator)
    if tuple(x.shape[1:]) != trained.info.input_shape:
        raise UserError(
            f"{name!r} gives an input of the shape {list(x.shape[1:])}; the model takes {list(trained.info.input_shape)}."
        )
    return x.float()


def _arrays(path: Path, trained: Trained) -> Iterator[tuple[str, Tensor]]:
    """An array [N, ...] of inputs, never unpickled."""
    try:
        loaded = np.load(path, allow_pickle=False)
        values = (
            loaded
            if isinstance(loaded, np.ndarray)
            else loaded[next(n for n in ("x_test", "x", "X", *loaded.files) if n in loaded.files)]
        )
    except (OSError, ValueError, EOFError, StopIteration) as error:
        raise UserError(
            f"{str(path)!r} can't be read as an array: {str(error).splitlines()[0] if str(error) else 'it is empty'}."
        ) from None
    if values.dtype.kind not in "uifb":
        raise UserError(f"{str(path)!r} holds {values.dtype}, not numbers.")
    x = torch.from_numpy(np.ascontiguousarray(values))
    wanted = len(trained.info.input_shape) + 1
    if x.ndim == wanted - 1 and wanted == 4 and x.shape[1:] == trained.info.input_shape[1:]:
        x = x.unsqueeze(1)  # [N, H, W]
    if x.ndim == wanted - 1:
        x = x.unsqueeze(0)
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.permute(0, 3, 1, 2).contiguous()
    if x.ndim != wanted:
        raise UserError(
            f"{str(path)!r} has the shape {list(values.shape)}; the model takes {list(trained.info.input_shape)}."
        )
    for number, one in enumerate(_prepared(x if x.dtype == torch.uint8 else x.float(), trained, str(path))):
        yield f"{path}[{number}]", one


def _csv(data: bytes, name: str) -> dict[str, list[Any]]:
    """Columns of a table; a first row of numbers is no header."""
    try:
        text = data.decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text), delimiter="\t" if name.endswith(".tsv") else ",") if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name!r} can't be read as a table: {error}.") from None
    if not rows:
        raise UserError(f"{name!r} is empty.")
    bare = all(_number(cell) is not None for cell in rows[0])
    header = [str(i) for i in range(len(rows[0]))] if bare else [cell.strip() for cell in rows[0]]
    body = rows if bare else rows[1:]
    for number, row in enumerate(body, start=1 if bare else 2):
        if len(row) != len(header):
            raise UserError(f"{name!r} row {number} has {len(row)} fields where {len(header)} are expected.")
    return {column: [row[i].strip() for row in body] for i, column in enumerate(header)}


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _rows(columns: dict[str, list[Any]], name: str, trained: Trained) -> Iterator[tuple[str, Tensor]]:
    shape = trained.info.input_shape
    count = math.prod(shape)
    features = trained.info.feature_names
    if features and all(f in columns for f in features):
        chosen = [columns[f] for f in features]
    elif len(columns) == count and (not features or all(c.isdigit() for c in columns)):
        chosen = list(columns.values())
    elif features:
        missing = next(f for f in features if f not in columns)
        raise UserError(f"{name!r} has no column {missing!r}; {did_you_mean(missing, columns)}")
    else:
        raise UserError(f"{name!r} has {len(columns)} columns; the model takes {count} numbers a row.")
    values = torch.empty(len(chosen[0]), count)
    for i, column in enumerate(chosen):
        for row, cell in enumerate(column):
            number = _number(cell)
            if number is None:
                raise UserError(f"{name!r} row {row + 1}: {cell!r} is not a finite number.")
            values[row, i] = number
    for row, x in enumerate(_prepared(values.reshape(-1, *shape), trained, name)):
        yield f"{name} row {row + 1}", x


def _predicted(
    trained: Trained, net: torch.nn.Module, waiting: list[tuple[str, Tensor]], device: torch.device, top: int
) -> Iterator[Prediction]:
    if not waiting:
        return
    with evaluating(net), torch.inference_mode():
        logits = logits_of(net(torch.stack([x for _, x in waiting]).to(device))).float().cpu()
    info = trained.info
    if info.task == "regression":
        values = logits.reshape(len(logits), -1)
        if info.target_mean:
            values = values * torch.tensor(info.target_std) + torch.tensor(info.target_mean)
        for (name, _), row in zip(waiting, values.tolist(), strict=True):
            yield Prediction(name, row)
        return
    if logits.ndim == 1 or logits.shape[1] == 1:  # one logit for two classes
        p = logits.reshape(-1).sigmoid()
        probabilities = torch.stack([1 - p, p], 1)
    elif trained.experiment.loss.name == "bce_with_logits":
        probabilities = logits.sigmoid()
    else:
        probabilities = logits.softmax(1)
    best = probabilities.topk(min(top, probabilities.shape[1]), 1)
    for (name, _), ps, at in zip(waiting, best.values.tolist(), best.indices.tolist(), strict=True):
        names = [info.class_names[i] if i < info.classes else str(i) for i in at]
        yield Prediction(name, names[0], ps[0], tuple(zip(names, ps, strict=True)))
