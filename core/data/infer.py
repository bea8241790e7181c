"""Which task data, model and loss mean, where the experiment leaves it to them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchdeck.core import catalog, usercode
from torchdeck.core.data.items import TARGET_KEYS
from torchdeck.core.data.losses_known import Takes, taken_by, takes_anchor, takes_inputs
from torchdeck.core.data.tokenizers import tokenizer_folder
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment

#: What a target usually is, which needs no word.
WHOLE = ("classification", "the targets are whole numbers")
NAMES = ("classification", "the targets are names")
FLOATS = ("regression", "the targets are floats")

_LOSS_TAKES_INPUTS = "the loss takes the inputs and no target"

#: What the parameter of a model for the size of its vocabulary is usually called.
_VOCABULARY = ("vocab_size", "ntoken", "ntokens", "n_vocab", "num_tokens")


@dataclass(frozen=True)
class Hints:
    """What the experiment says of its task besides the data."""

    #: A task's name, or auto.
    task: str = "auto"
    model: str = ""
    loss: str | None = None
    #: How many tokens the model is told to know, where its arguments say so.
    tokens: int | None = None
    #: Why the task is another one than that of the data, in words.
    reason: str = ""
    #: The folder of the model's tokenizer, where it has one.
    tokenizer: str | None = None


def hints_of(experiment: Experiment) -> Hints:
    """What an experiment says of its task.

    Raises UserError where the model is none for the task that was asked for.
    """
    task, reason = experiment.chosen_task(), ""
    if experiment.task.name == "auto" and experiment.task.step is None and is_lightning(experiment.model.name):
        task = "lightning"  # whatever the data are
    elif experiment.task.name == "auto" and task == "classification" and takes_inputs(experiment.loss.name):
        task, reason = "reconstruction", _LOSS_TAKES_INPUTS
    if task == "lightning" and not is_lightning(experiment.model.name):
        raise UserError(
            f"task.name = 'lightning' needs a LightningModule; model.name = {experiment.model.name!r} is none.",
            field="task.name",
        )
    args = experiment.model.args
    tokens = next((args[name] for name in _VOCABULARY if type(args.get(name)) is int), None)
    return Hints(
        task or "auto", experiment.model.name, experiment.loss.name, tokens, reason, tokenizer_folder(experiment.model)
    )


def is_lightning(model: str) -> bool:
    """Whether a model is a LightningModule, told without importing Lightning."""
    if not catalog.is_user_code(model):
        return False
    target = usercode.load(model, "model.name")
    kind = target if isinstance(target, type) else type(target)
    return any(base.__name__ == "LightningModule" for base in kind.__mro__)


def evaluates(model: str) -> bool:
    """Whether a model can be evaluated: a LightningModule needs a validation_step for that."""
    if not is_lightning(model):
        return True
    target = usercode.load(model, "model.name")
    kind = target if isinstance(target, type) else type(target)
    owner = next((k for k in kind.__mro__ if "validation_step" in vars(k)), None)
    return owner is not None and owner.__name__ != "LightningModule"


def infer(x: Any, y: Any, hints: Hints) -> tuple[str, str]:
    """The task of items (x, y), and why it is that one, in words.

    Raises UserError where it can't be told.
    """
    if hints.task != "auto":
        return hints.task, "task.name"
    task, reason = _inferred(x, y, hints)
    if task == "classification" and takes_inputs(hints.loss):
        return "reconstruction", _LOSS_TAKES_INPUTS
    return task, reason


def _inferred(x: Any, y: Any, hints: Hints) -> tuple[str, str]:
    if is_lightning(hints.model):
        return "lightning", "the model is a LightningModule"
    if taken_by(hints.loss) == "triplets" or takes_anchor(hints.loss):
        return "contrastive", "the loss takes an anchor, a positive and a negative"
    if y is None:
        return _without_target(x, hints)
    if is_boxes(y):
        return "detection", "the targets are boxes"
    if isinstance(y, Mapping | tuple) or (isinstance(y, list) and y and not _is_numbers(y)):
        return "own", "the targets are several"
    if isinstance(y, str | bytes):
        return NAMES
    return _by_values(x, y, hints)


def _without_target(x: Any, hints: Hints) -> tuple[str, str]:
    if _is_tokens(x):
        return "language", "the items are tokens without a target"
    if isinstance(x, Mapping):
        keys = ", ".join(TARGET_KEYS[:4])
        return "own", f"the items have no target ({keys}; data.target names another), so that the model gives the loss"
    if takes_target(hints.model):
        return "own", "the items have no target, so that the model gives the loss"
    if hints.loss is None and catalog.is_user_code(hints.model):
        raise UserError(
            "The items have no target. Set task.name = 'reconstruction' where the input is the target, or name the "
            f"target with data.target (usual keys are {', '.join(TARGET_KEYS[:4])}).",
            field="task.name",
        )
    return "reconstruction", "the items have no target, so that the input is the target"


def _by_values(x: Any, y: Any, hints: Hints) -> tuple[str, str]:
    target = as_values(y)
    if target is None or target.dtype.is_complex:
        return "classification", ""  # refused where labels are read, with the sample that has it
    if not target.numel():
        raise UserError("The target of the first sample is empty; a class number, a name or numbers are needed.")
    takes = taken_by(hints.loss)
    told = _by_loss(target, takes)
    if told is not None:
        return told
    if target.dtype.is_floating_point:
        return _of_floats(x, y, target, takes)
    if target.numel() == 1 and target.ndim <= 1:
        return WHOLE
    if _is_mask(x, y, target):
        return "segmentation", "the targets are masks of the images' size"
    if _is_tokens(x) and target.ndim == 1 and len(target) == len(as_values(x)):  # type: ignore[arg-type]
        return _of_sequences(as_values(x), target)
    tokens = as_values(x["input_ids"]) if isinstance(x, Mapping) and "input_ids" in x else None
    if tokens is not None and tokens.shape == target.shape and _is_again(tokens, target, x.get("attention_mask")):
        return "language", "the targets are the tokens again"
    if target.ndim == 1 and only_0_and_1(target):
        return "multilabel", "the targets are 0 or 1 for several labels"
    if catalog.is_user_code(hints.loss or "") or takes_target(hints.model):
        return "own", "the targets are whole numbers that the loss or the model takes as they are"
    raise UserError(
        f"The first target holds whole numbers of the shape {list(target.shape)}, and what they are can't be told; set "
        "task.name (segmentation, token_classification, language, multilabel, ...).",
        field="task.name",
    )


def _by_loss(target: Tensor, takes: Takes | None) -> tuple[str, str] | None:
    """What the loss alone says of a target that is a number, or one for each class; None where it does not say it."""
    one = target.numel() == 1 and target.ndim <= 1
    if takes == "classes" and _are_shares(target):
        return "classification", "the targets are the probabilities of the classes, and the loss takes such"
    if takes == "classes" and one and target.is_floating_point() and are_whole(target):
        return "classification", "the targets are whole numbers, which the loss takes for classes"
    if takes == "signs" and one:
        return "regression", "the targets are 1 and -1 for the loss, which alone is told"
    if takes == "numbers" and one and not target.is_floating_point() and target.dtype != torch.bool:
        return "regression", "the targets are whole numbers, which the loss compares as numbers"
    return None


def _of_floats(x: Any, y: Any, target: Tensor, takes: Takes | None) -> tuple[str, str]:
    if takes != "labels" or not only_0_and_1(target):
        return FLOATS
    if target.ndim > 1 and _is_mask(x, y, target):
        return "segmentation", "the targets are masks of 0 and 1, and the loss is one of labels"
    if target.numel() == 1:
        return "classification", "the targets are 0 or 1, and the loss is one of yes or no"
    return "multilabel", "the targets are 0 or 1, and the loss is one of labels"


def is_yes_or_no(y: Any, hints: Hints) -> bool:
    """Whether a target is a float 0 or 1 for a loss of yes or no, so that there are two classes."""
    target = None if isinstance(y, Mapping | str | bytes | None) else as_values(y)
    one = target is not None and target.numel() == 1 and target.is_floating_point() and only_0_and_1(target)
    return one and taken_by(hints.loss) == "labels"


def _are_shares(target: Tensor) -> bool:
    """Whether a target is a probability for each class, or one-hot."""
    if target.ndim != 1 or len(target) < 2 or target.dtype == torch.bool:
        return False
    return bool((target >= 0).all()) and abs(float(target.sum()) - 1) < 1e-3


def _of_sequences(x: Tensor | None, y: Tensor) -> tuple[str, str]:
    assert x is not None
    tokens, targets = x.long(), y.long()
    if len(x) > 1 and (_follow(tokens[1:], targets[:-1]) or torch.equal(tokens[1:], targets[:-1])):
        return "language", "the targets are the tokens that follow"
    if _is_again(tokens, targets, None):
        return "language", "the targets are the tokens again"
    return "token_classification", "there is a target for each token"


def _follow(tokens: Tensor, targets: Tensor) -> bool:
    """Whether targets that count are tokens, but for a few that may be so by chance."""
    counted = targets != -100
    return int(counted.sum()) >= min(4, len(targets)) and torch.equal(tokens[counted], targets[counted])


def _is_again(tokens: Tensor, target: Tensor, attended: Any) -> bool:
    """Whether targets are the tokens that they belong to, but for those that do not count: not a few alone, as are to
    be found again where tokens were masked."""
    counted = target != -100
    whole = len(tokens) if attended is None else int(torch.as_tensor(attended).sum())
    return bool((target == tokens)[counted].all()) and int(counted.sum()) * 2 >= whole


def takes_target(model: str) -> bool:
    """Whether the forward of a model of the user's takes the target, and so gives the loss itself."""
    if not catalog.is_user_code(model):
        return False
    target = usercode.load(model, "model.name")
    kind = target if isinstance(target, type) else type(target)
    return issubclass(kind, torch.nn.Module) and target_parameter(kind.forward) is not None


def target_parameter(forward: Any) -> str | None:
    """The parameter of a forward that takes the target: ``labels`` of Hugging Face's models, ``targets`` of nanoGPT
    and of torchvision's detectors."""
    try:
        names = inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return None
    return next((name for name in ("labels", "targets", "target", "label") if name in names), None)


def as_values(value: Any) -> Tensor | None:
    """As a tensor; None for what is none."""
    try:
        if isinstance(value, Tensor):
            return value
        if hasattr(value, "getbands"):  # a picture, whose pixels are numbers
            return torch.from_numpy(np.array(value))
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def only_0_and_1(values: Tensor) -> bool:
    """Whether there is nothing else."""
    return bool(((values == 0) | (values == 1)).all())


def are_whole(values: Tensor) -> bool:
    """Whether they are whole numbers, of whatever type."""
    return not values.is_floating_point() or bool((values == values.round()).all())


def _is_numbers(values: Any) -> bool:
    return as_values(values) is not None


def _is_tokens(x: Any) -> bool:
    """Whether x is a row of whole numbers."""
    if isinstance(x, Mapping | str | bytes) or hasattr(x, "getbands"):
        return False
    values = as_values(x)
    return values is not None and values.ndim == 1 and len(values) > 1 and not _is_float(values)


def _is_float(values: Tensor) -> bool:
    return values.dtype.is_floating_point or values.dtype.is_complex or values.dtype == torch.bool


def _is_mask(x: Any, y: Any, target: Tensor) -> bool:
    """Whether the target is a class for each pixel of the image."""
    size = _size_of_image(x)
    if size is None or target.ndim not in (2, 3):
        return False
    if target.ndim == 3 and 1 not in (target.shape[0], target.shape[-1]):
        return False
    return hasattr(y, "getbands") or tuple(target.squeeze().shape[-2:]) == size


def _size_of_image(x: Any) -> tuple[int, int] | None:
    if hasattr(x, "getbands"):
        return x.height, x.width
    shape = tuple(np.shape(x)) if isinstance(x, Tensor | np.ndarray) else ()
    if len(shape) == 3:
        channels_last = isinstance(x, np.ndarray) and shape[2] in (1, 3, 4)
        return (shape[0], shape[1]) if channels_last else (shape[1], shape[2])
    return (shape[0], shape[1]) if len(shape) == 2 else None


def is_boxes(y: Any) -> bool:
    return isinstance(y, Mapping) and "boxes" in y and "labels" in y
