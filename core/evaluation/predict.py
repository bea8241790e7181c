"""Predictions for images, folders of them, tables, arrays and texts: files, or what comes in on stdin."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from torchdeck.core import usercode
from torchdeck.core.data import arrays
from torchdeck.core.data.batches import Batch
from torchdeck.core.data.boxes import as_item
from torchdeck.core.data.evaluation import prediction_feed
from torchdeck.core.data.source import Arrays
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation.predict_inputs import InputReader, arrays_of
from torchdeck.core.evaluation.prediction import Prediction
from torchdeck.core.evaluation.trained import Trained
from torchdeck.core.machine import devices
from torchdeck.core.models.calls import caller_of, logits_of
from torchdeck.core.tasks.build import build_task
from torchdeck.core.tasks.reconstruction import reconstruction_of
from torchdeck.core.training.evaluation import evaluating, flipped, in_layout

#: Rows of several inputs that are computed at once.
_ROWS = 256
#: Tasks whose outputs can be told in words.
_TOLD = ("classification", "regression", "multilabel", "segmentation", "reconstruction", "contrastive")


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
    _refuse_parts(trained)
    chosen = devices.choose_device(device)
    other = {"language": _continuations, "detection": _boxes}.get(trained.info.task)
    if other is None and trained.info.task in _TOLD and not trained.info.plain and len(trained.info.input_shapes) > 1:
        yield from _of_several(trained, inputs, chosen, top)
        return
    if other is not None:
        yield from other(trained, InputReader(trained, stdin, tell), inputs, chosen)
        return
    if trained.info.task not in _TOLD or not trained.info.plain:
        raise UserError(
            f"{str(trained.path)!r} was trained for the task {trained.info.task!r} on items that predict can't read "
            "from files; call the model from Python (torchdeck export --format model)."
        )
    told: set[str] = set()

    def once(text: str) -> None:
        if text not in told:
            told.add(text)
            tell(text)

    reader = InputReader(trained, stdin, once)
    for names, part, image in reader.read(inputs):
        feed = prediction_feed(_as_trained(trained), trained.info, part, image, chosen, once)
        at = 0
        for batch in feed.epoch(0):
            x, expected = batch.x, trained.info.input_shape
            if tuple(x.shape[1:]) != expected:
                raise UserError(
                    f"{names[at]!r} gives an input of the shape {list(x.shape[1:])}; the model takes {list(expected)}."
                )
            outputs = _logits(trained, batch, chosen)
            yield from _predicted(trained, names[at : at + len(x)], outputs, top, x.cpu())
            at += len(x)


def _as_trained(trained: Trained) -> Any:
    data = trained.experiment.data.model_copy(update={"transforms": trained.transforms})
    return trained.experiment.model_copy(update={"data": data})


def _refuse_parts(trained: Trained) -> None:
    if trained.experiment.model.parts:
        parts = ", ".join(trained.experiment.model.parts)
        raise UserError(
            f"The model's parts ({parts}) are called by a step of your own, which tells no prediction; torchdeck "
            "export writes the first of them."
        )


def _logits(trained: Trained, batch: Batch, device: torch.device) -> Any:
    """As the evaluation of the training computes them, test-time augmentation included."""
    net: Any = trained.net.to(device)
    flip = trained.experiment.trainer.flip_test and len(trained.info.input_shape) == 3
    with evaluating(trained.net), torch.no_grad(), usercode.user_errors():
        net = flipped(net) if flip else net
        x = in_layout(batch, trained.channels_last).x
        raw = caller_of(trained.net, trained.model_name)(net, x)
        found = reconstruction_of(raw) if trained.info.task == "reconstruction" else logits_of(raw)
        return found.float().cpu()


def _predicted(
    trained: Trained, names: Sequence[str], logits: Tensor, top: int, inputs: Tensor | None = None
) -> Iterator[Prediction]:
    info = trained.info
    if info.task == "regression":
        values = info.in_own_unit(logits.reshape(len(logits), -1).double())
        for name, row in zip(names, values.tolist(), strict=True):
            yield Prediction(name, row)
        return
    if info.task == "contrastive":
        for name, row in zip(names, logits.flatten(1).tolist(), strict=True):
            yield Prediction(name, row)
        return
    if info.task == "reconstruction":
        told = _task_of(trained, torch.device("cpu")).describe(logits, inputs)
        if told is None:
            raise UserError("The model's output is not as large as its input: there is no reconstruction to compare.")
        for name, errors in zip(names, told, strict=True):
            yield Prediction(name, errors)
        return
    if info.task in ("multilabel", "segmentation"):
        yield from _described(trained, names, logits)
        return
    if logits.ndim == 1 or logits.shape[1] == 1:  # one output for two classes
        p = _task_of(trained, torch.device("cpu")).as_logits(logits.reshape(-1)).sigmoid()
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
    task = _task_of(trained, torch.device("cpu"))
    for name, told in zip(names, task.describe(logits) or (), strict=True):
        if "shares" in told:
            yield Prediction(name, told["shares"])
            continue
        likely = sorted(told["probabilities"].items(), key=lambda one: -one[1])
        yield Prediction(name, told["predicted"], top=tuple(likely))


def _task_of(trained: Trained, device: torch.device) -> Any:
    return build_task(trained.experiment, trained.info, trained.net, device)


# --- tasks whose inputs or outputs are of another form ---------------------------------------------------------------


def _continuations(
    trained: Trained, reader: InputReader, inputs: Sequence[str], device: torch.device
) -> Iterator[Prediction]:
    """What the model writes after the text of each file."""
    net, task = trained.net.to(device), _task_of(trained, device)
    for name, source in (one for text in inputs for one in reader.found(text)):
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError(f"{name!r} is no text in UTF-8; the model continues texts.") from None
        with evaluating(net), torch.no_grad(), usercode.user_errors():
            yield Prediction(name, task.continued(net, text, repr(name)))


def _boxes(trained: Trained, reader: InputReader, inputs: Sequence[str], device: torch.device) -> Iterator[Prediction]:
    """The boxes that a detector finds in each image, those that the model itself does not drop, the best first."""
    net, task = trained.net.to(device), _task_of(trained, device)
    for names, part, _ in reader.read(inputs):
        for at, name in enumerate(names):
            image = part.x[at] if isinstance(part, Arrays) else part.dataset[at][0]
            x = as_item((image, None))[0].to(device)
            with evaluating(net), torch.no_grad(), usercode.user_errors():
                outputs = task.forward(net, Batch([x], None, 1)).outputs
            yield Prediction(name, task.describe(outputs)[0]["boxes"])


def _of_several(trained: Trained, inputs: Sequence[str], device: torch.device, top: int) -> Iterator[Prediction]:
    """Predictions of several inputs [N, ...], which are arrays of an .npz called as the model's forward calls them."""
    names = [name for name in inspect.signature(trained.net.forward).parameters if name not in ("labels", "targets")]
    names = names[: len(trained.info.input_shapes)]
    for path in inputs:
        stored = arrays.read_arrays(Path(path).expanduser()) if path.endswith(".npz") else {}
        missing = [name for name in names if name not in stored]
        if missing:
            raise UserError(
                f"{path!r} gives no {', '.join(map(repr, missing))}: the model takes several inputs, and predict reads "
                f"them from an .npz file with the arrays {', '.join(map(repr, names))}, a row for each sample."
            )
        x = {name: arrays_of(stored[name]).x for name in names}
        counts = {len(part) for part in x.values()}
        if len(counts) != 1:
            raise UserError(f"{path!r}: its arrays have {sorted(counts)} rows; each needs one row for each sample.")
        for begin in range(0, counts.pop(), _ROWS):
            some = {name: part[begin : begin + _ROWS].to(device) for name, part in x.items()}
            size = len(next(iter(some.values())))
            logits = _logits(trained, Batch(some, None, size), device)
            yield from _predicted(trained, [f"{path}[{begin + i}]" for i in range(size)], logits, top)
