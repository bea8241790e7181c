"""Losses as functions of (logits, targets), and what the logits predict."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core import usercode
from core.data.source import DataInfo
from core.errors import UserError
from core.experiment import Experiment

LossFunction = Callable[[Tensor, Tensor], Tensor]


def loss_name(experiment: Experiment, info: DataInfo) -> str:
    """The loss that is used: given, or cross_entropy for classes and mse for numbers."""
    return experiment.loss.name or ("cross_entropy" if info.task == "classification" else "mse")


def build_loss(
    experiment: Experiment, info: DataInfo, device: torch.device, train_targets: Tensor | None
) -> LossFunction:
    """The loss as a function of logits [N, C] and targets (classes [N], one-hot [N, C], or numbers), to a scalar.

    Raises UserError when the loss does not fit the task.
    """
    name = loss_name(experiment, info)
    entry = experiment.loss.entry()
    if experiment.loss.name and entry is None:
        return _user_loss(experiment, device)
    args = experiment.loss.resolved() if experiment.loss.name else {}
    classification = info.task == "classification"
    if not classification and name in ("cross_entropy", "nll", "bce_with_logits"):
        raise UserError(
            f"loss.name = {name!r} needs classes, but {info.name!r} is regression; choose mse, l1 or huber."
        )
    if name in ("cross_entropy", "nll"):
        weight = _class_weights(args.get("class_weights"), info, train_targets, device)
        smoothing = args.get("label_smoothing", 0.0)
        # log_softmax of log-probabilities is the same log-probabilities, so nll takes logits and those alike.
        return functools.partial(F.cross_entropy, weight=weight, label_smoothing=smoothing)
    if name == "bce_with_logits":
        return functools.partial(_bce, classes=info.classes, smoothing=args["label_smoothing"])
    plain: dict[str, LossFunction] = {
        "mse": F.mse_loss, "l1": F.l1_loss, "huber": functools.partial(F.huber_loss, delta=args.get("delta", 1.0)),
    }  # fmt: skip
    base = plain[name]
    return (
        functools.partial(_on_one_hot, base, classes=info.classes)
        if classification
        else functools.partial(_plain, base)
    )


def _user_loss(experiment: Experiment, device: torch.device) -> LossFunction:
    reference = str(experiment.loss.name)
    target = usercode.load(reference, "loss.name")
    if isinstance(target, type):
        target = usercode.call(target, experiment.loss.args, "loss")
    elif experiment.loss.args:
        target = functools.partial(target, **experiment.loss.args)
    if isinstance(target, nn.Module):
        target = target.to(device)
    if not callable(target):
        raise UserError(f"loss.name = {reference!r} is not a loss: it can't be called.")
    return target


def _bce(logits: Tensor, y: Tensor, *, classes: int, smoothing: float) -> Tensor:
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits = logits.reshape(-1)
        target = (y.argmax(1) if y.ndim > 1 else y).to(logits.dtype)
    else:
        target = y if y.ndim > 1 else F.one_hot(y, classes).to(logits.dtype)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def _on_one_hot(base: LossFunction, logits: Tensor, y: Tensor, *, classes: int) -> Tensor:
    target = y if y.ndim > 1 else F.one_hot(y, classes)
    return base(logits, target.to(logits.dtype))


def _plain(base: LossFunction, outputs: Tensor, y: Tensor) -> Tensor:
    # [N, 1] against [N] would broadcast to [N, N], quietly and wrongly.
    return base(outputs.reshape(y.shape), y.to(outputs.dtype))


def _class_weights(given: object, info: DataInfo, targets: Tensor | None, device: torch.device) -> Tensor | None:
    if given is None:
        return None
    if given == "balanced":
        if targets is None:
            raise UserError(
                f"loss.args.class_weights = 'balanced': {info.name!r} does not tell its targets beforehand."
            )
        counts = torch.bincount(targets, minlength=info.classes).clamp(min=1)
        return (counts.sum() / (info.classes * counts)).float().to(device)
    if not isinstance(given, list | tuple) or not all(isinstance(w, int | float) and w >= 0 for w in given):
        raise UserError(f"loss.args.class_weights = {given!r} must be 'balanced' or a list of numbers.")
    if len(given) != info.classes:
        raise UserError(f"loss.args.class_weights has {len(given)} numbers for {info.classes} classes.")
    return torch.tensor(given, dtype=torch.float32, device=device)


def classes_of(y: Tensor) -> Tensor:
    """Class numbers [N] of targets that may be one-hot [N, C]."""
    return y.argmax(1) if y.ndim > 1 else y


def predicted(logits: Tensor) -> Tensor:
    """The predicted class [N]: the largest logit, or the sign of a single one."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        return (logits.reshape(-1) > 0).long()
    return logits.argmax(1)
