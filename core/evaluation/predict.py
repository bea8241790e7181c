"""Predictions for images, folders of them, tables and arrays: files, or what comes in on stdin."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from torchdeck.core import usercode
from torchdeck.core.data import arrays, table_files
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.evaluation import prediction_feed
from torchdeck.core.data.folders import files_below
from torchdeck.core.data.source import Arrays, Part, Samples
from torchdeck.core.data.tables import rows_for
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation.trained import Trained
from torchdeck.core.machine import devices
from torchdeck.core.models.calls import caller_of, logits_of
from torchdeck.core.tasks.build import build_task
from torchdeck.core.training.evaluation import evaluating, flipped, in_layout

#: Images that are read ahead of their predictions.
_AT_ONCE = 4096
#: Tasks whose outputs can be told in words.
_TOLD = ("classification", "regression", "multilabel", "segmentation")


@dataclass(frozen=True)
class Prediction:
    """What the model says of one input."""

    #: File, or file and row.
    input: str
    #: The class, the numbers in the targets' own unit, the labels, or the share of the pixels of each class.
    predicted: str | list[float] | list[str] | dict[str, float]
    #: Of the predicted class; None in regression.
    probability: float | None = None
    #: The most likely classes with their probabilities.
    top: tuple[tuple[str, float], ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain JSON values."""
        values: dict[str, Any] = {"input": self.input, "predicted": self.predicted}
        if self.probability is not None:
            values |= {"probability": self.probability}
        if self.top:
            values |= {"top": dict(self.top)}
        return values


def predict_paths(
    trained: Trained,
    inputs: Sequence[str],
    stdin: BinaryIO,
    device: str = "auto",
    top: int = 3,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Prediction]:
    """A prediction for each input, in order, as they are computed. ``-`` is stdin: an image, or a CSV table.

    Files are read and prepared by the code that reads and prepares them for training and evaluation; ``tell`` is told
    what was guessed or left out.

    Raises UserError for an input that can't be read or does not fit the model.
    """
    info = trained.info
    if info.task not in _TOLD or not info.plain:
        raise UserError(
            f"predict tells classes and numbers of single inputs, and {str(trained.path)!r} was trained for {info.task}"
            f"{'' if info.plain else ' with several inputs'}; export the model, or call it from Python."
        )
    chosen = devices.choose_device(device)
    reader = _Reader(trained, stdin, tell)
    for names, part, image in reader.read(inputs):
        feed = prediction_feed(_as_trained(trained), trained.info, part, image, chosen)
        at = 0
        for batch in feed.epoch(0):
            x, expected = batch.x, trained.info.input_shape
            if tuple(x.shape[1:]) != expected:
                raise UserError(
                    f"{names[at]!r} gives an input of the shape {list(x.shape[1:])}; the model takes {list(expected)}."
                )
            yield from _predicted(trained, names[at : at + len(x)], _logits(trained, batch, chosen), top)
            at += len(x)


def _as_trained(trained: Trained) -> Any:
    data = trained.experiment.data.model_copy(update={"transforms": trained.transforms})
    return trained.experiment.model_copy(update={"data": data})


class _Reader:
    """Inputs as parts of data, those that follow each other and are of one kind together."""

    def __init__(self, trained: Trained, stdin: BinaryIO, tell: Callable[[str], None]) -> None:
        self._info = trained.info
        self._image = len(trained.info.input_shape) == 3
        self._stdin, self._tell = stdin, tell

    def read(self, inputs: Sequence[str]) -> Iterator[tuple[list[str], Part, bool]]:
        """What each sample is called, the samples, and whether they are images."""
        waiting: list[tuple[Any, str]] = []
        for name, source in (one for text in inputs for one in self._found(text)):
            if self._is_image(name, source):
                waiting.append((source, name))
                if len(waiting) == _AT_ONCE:
                    yield self._images(waiting)
                    waiting = []
                continue
            if waiting:
                yield self._images(waiting)
                waiting = []
            yield self._array(name) if Path(name).suffix.lower() in (".npy", ".npz") else self._table(name, source)
        if waiting:
            yield self._images(waiting)

    def _found(self, text: str) -> Iterator[tuple[str, Any]]:
        """The files that are meant, each with what can be opened."""
        if text == "-":
            data = self._stdin.read()
            if not data.strip():
                raise UserError("stdin is empty; give it an image or a CSV table.")
            yield "stdin", data
            return
        path = Path(text).expanduser()
        if not path.exists():
            raise UserError(f"There is no file {text!r}.")
        if not path.is_dir():
            yield str(path), str(path)
            return
        for one in self._below(path, text):
            yield str(one), str(one)

    def _below(self, folder: Path, text: str) -> list[Path]:
        if self._image:
            from torchdeck.core.data.images import SUFFIXES, images_below

            suffixes: Sequence[str] = SUFFIXES
            found, what = images_below(folder), "image"
        else:
            found = sorted(p for p in files_below(folder) if p.suffix.lower() in table_files.SUFFIXES and p.is_file())
            what, suffixes = "table", table_files.SUFFIXES
        if not found:
            raise UserError(f"{text!r} holds no {what} ({', '.join(suffixes[:4])} ...).")
        return found

    def _is_image(self, name: str, source: Any) -> bool:
        if isinstance(source, bytes):
            return self._image and not _looks_like_table(source)
        return self._image and Path(name).suffix.lower() not in (*table_files.SUFFIXES, ".npy", ".npz")

    def _images(self, files: list[tuple[Any, str]]) -> tuple[list[str], Part, bool]:
        from torchdeck.core.data.images import Images

        opened = [(io.BytesIO(f) if isinstance(f, bytes) else f, name) for f, name in files]
        mode = "RGBA" if self._info.input_shape[0] == 4 else "RGB"
        return [name for _, name in files], Samples(Images(opened, mode)), True

    def _array(self, name: str) -> tuple[list[str], Part, bool]:
        raw = arrays.first_inputs(arrays.read_arrays(Path(name)), name)
        wanted = len(self._info.input_shape) + 1
        if raw.ndim == wanted - 1 and not (wanted == 4 and raw.shape[1:] == self._info.input_shape[1:]):
            raw = raw[None]  # a single sample
        x = arrays.inputs_of(raw, name)
        if x.ndim != wanted:
            raise UserError(
                f"{name!r} has the shape {list(raw.shape)}; the model takes {list(self._info.input_shape)}."
            )
        return [f"{name}[{i}]" for i in range(len(x))], Arrays(x, torch.zeros(len(x))), self._image

    def _table(self, name: str, source: Any) -> tuple[list[str], Part, bool]:
        shape, features = self._info.input_shape, self._info.feature_names
        width = torch.Size(shape).numel()
        read = (
            table_files.parse_table(source, name, features)
            if isinstance(source, bytes)
            else table_files.read_table(Path(name), features)
        )
        x, notes = rows_for(read, features, width)
        for note in (*read.notes, *notes):
            self._tell(note)
        x = x.reshape(-1, *shape)
        if self._info.integer:
            x = x.long()
        return [f"{name} row {row}" for row in read.rows], Arrays(x, torch.zeros(len(x))), self._image


def _looks_like_table(data: bytes) -> bool:
    try:
        first = data[:4096].decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return "," in first or "\n" in first.strip()


def _logits(trained: Trained, batch: Batch, device: torch.device) -> Tensor:
    """As the evaluation of the training computes them, test-time augmentation included."""
    if trained.experiment.model.parts:
        parts = ", ".join(trained.experiment.model.parts)
        raise UserError(
            f"The model's parts ({parts}) are called by a step of your own, which tells no prediction; torchdeck "
            "export writes the first of them."
        )
    net: Any = trained.net.to(device)
    flip = trained.experiment.trainer.flip_test and len(trained.info.input_shape) == 3
    with evaluating(trained.net), torch.no_grad(), usercode.user_errors():
        net = flipped(net) if flip else net
        x = in_layout(batch, trained.channels_last).x
        return logits_of(caller_of(trained.net, trained.model_name)(net, x)).float().cpu()


def _predicted(trained: Trained, names: Sequence[str], logits: Tensor, top: int) -> Iterator[Prediction]:
    info = trained.info
    if info.task == "regression":
        values = info.in_own_unit(logits.reshape(len(logits), -1).double())
        for name, row in zip(names, values.tolist(), strict=True):
            yield Prediction(name, row)
        return
    if info.task in ("multilabel", "segmentation"):
        yield from _described(trained, names, logits)
        return
    if logits.ndim == 1 or logits.shape[1] == 1:  # one output for two classes
        task = build_task(trained.experiment, trained.info, trained.net, torch.device("cpu"))
        p = task.as_logits(logits.reshape(-1)).sigmoid()
        probabilities = torch.stack([1 - p, p], 1)
    elif trained.experiment.loss.name == "bce_with_logits":
        probabilities = logits.sigmoid()
    else:
        probabilities = logits.softmax(1)
    best = probabilities.topk(min(top, probabilities.shape[1]), 1)
    for name, ps, at in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
        classes = [info.class_names[i] if i < info.classes else str(i) for i in at]
        yield Prediction(name, classes[0], ps[0], tuple(zip(classes, ps, strict=True)))


def _described(trained: Trained, names: Sequence[str], logits: Tensor) -> Iterator[Prediction]:
    """What the task says of each sample."""
    task = build_task(trained.experiment, trained.info, trained.net, torch.device("cpu"))
    for name, told in zip(names, task.describe(logits) or (), strict=True):
        if "shares" in told:
            yield Prediction(name, told["shares"])
            continue
        likely = sorted(told["probabilities"].items(), key=lambda one: -one[1])
        yield Prediction(name, told["predicted"], top=tuple(likely))
