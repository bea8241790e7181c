"""Losses of (logits, targets): what the gradient is of, how batches add up to the loss of a set, and what logits
predict."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchdeck.core import usercode
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment

Function = Callable[[Tensor, Tensor], Tensor]

#: How the losses of batches make that of all their samples: their mean by samples, by the weights of the targets,
#: their sum, or in no such way: then all outputs are needed at once (whole), or it is told as a mean of batches where
#: these are too many.
Kind = Literal["mean", "weighted", "sum", "whole", "batches"]


class TrainingLoss:
    """A loss, called with logits [N, C] and targets (classes [N], one-hot [N, C], or numbers), to a scalar."""

    def __init__(
        self,
        function: Function,
        kind: Kind = "mean",
        weigh: Callable[[Tensor], Tensor] | None = None,
        own: bool = False,
        weights: Tensor | None = None,
    ) -> None:
        self.function = function
        self.kind: Kind = kind
        self._weigh = weigh
        #: Whether it is the user's own.
        self.own = own
        #: The weight of each class, where the catalog's loss has such.
        self.weights = weights
        #: Whether the kind was found out by trying (``find_kind``), and not by what the loss is.
        self.measured = False

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.function(logits, y)

    @property
    def module(self) -> nn.Module | None:
        """The loss as a module, which may have parameters and buffers of its own; None for a function."""
        inner = self.function.func if isinstance(self.function, functools.partial) else self.function
        return inner if isinstance(inner, nn.Module) else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of its own that are trained."""
        return [p for p in self.module.parameters() if p.requires_grad] if self.module is not None else []

    def weight(self, y: Tensor) -> Tensor | int:
        """What the loss of a batch counts for among those of others: its samples, or the weights of its targets."""
        return self._weigh(y) if self._weigh is not None else len(y)

    def share(self, loss: Tensor, y: Tensor, total: Tensor | float) -> Tensor:
        """The part of a batch in the loss of the step that several batches make together; ``total``: of their
        weights."""
        if self.kind == "sum":
            return loss
        weight = self.weight(y)
        part = loss * (weight / total)
        # Where all targets are ignored there is no loss, which torch calls NaN.
        return part if isinstance(weight, int) else torch.where(weight > 0, part, 0.0)

    def told(self, loss: Tensor, samples: int) -> Tensor:
        """The loss of a step as it is told: a sum over the batch as its mean over samples."""
        return loss / samples if self.kind == "sum" else loss


def loss_name(experiment: Experiment, info: DataInfo) -> str:
    """The loss that is used: given, or cross_entropy for classes and mse for numbers."""
    return experiment.loss.name or ("cross_entropy" if info.task == "classification" else "mse")


def build_loss(
    experiment: Experiment,
    info: DataInfo,
    device: torch.device,
    train_targets: Tensor | None,
    weights: Tensor | None = None,
) -> TrainingLoss:
    """The loss of an experiment. ``weights``: those of the classes that a training had, where they were balanced.

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
            f"loss.name = {name!r} needs classes, but {info.name!r} is regression; choose mse, l1 or huber.",
            field="loss.name",
        )
    if name in ("cross_entropy", "nll"):
        given = args.get("class_weights")
        weight = (
            weights
            if given == "balanced" and weights is not None
            else _class_weights(given, info, train_targets, device)
        )
        weight = weight if weight is None else weight.to(device)
        smoothing = args.get("label_smoothing", 0.0)
        # log_softmax of log-probabilities is the same log-probabilities, so nll takes logits and those alike.
        function = functools.partial(F.cross_entropy, weight=weight, label_smoothing=smoothing)
        if weight is None:
            return TrainingLoss(function)
        return TrainingLoss(function, "weighted", functools.partial(_weight_of, weight, -100), weights=weight)
    if name == "bce_with_logits":
        return TrainingLoss(functools.partial(_bce, classes=info.classes, smoothing=args["label_smoothing"]))
    plain: dict[str, Function] = {
        "mse": F.mse_loss,
        "l1": F.l1_loss,
        "huber": functools.partial(F.huber_loss, delta=args.get("delta", 1.0)),
    }
    if classification:
        return TrainingLoss(functools.partial(_on_one_hot, plain[name], classes=info.classes))
    return TrainingLoss(functools.partial(_plain, plain[name]))


def _user_loss(experiment: Experiment, device: torch.device) -> TrainingLoss:
    reference = str(experiment.loss.name)
    target = usercode.load(reference, "loss.name")
    is_class = isinstance(target, type)
    if is_class:
        target = usercode.call(target, experiment.loss.args, "loss")
    target = usercode.with_writer(target)
    if isinstance(target, nn.Module):
        target = target.to(device)
    module = target
    if experiment.loss.args and not is_class:
        target = functools.partial(target, **experiment.loss.args)
    if not callable(target):
        raise UserError(f"loss.name = {reference!r} is not a loss: it can't be called.", field="loss.name")
    reduction = getattr(module, "reduction", "mean")
    if reduction == "none":
        raise UserError(
            f"loss.name = {reference!r} has reduction='none', a number a sample; use 'mean' or 'sum'.",
            field="loss.name",
        )
    if reduction == "mean" and getattr(type(module), "forward", None) in _WEIGHTED:
        weigh = functools.partial(_weight_of, module.weight, module.ignore_index)
        return TrainingLoss(target, "weighted", weigh, own=True)
    return TrainingLoss(target, "whole", own=True)


#: The mean of these is divided by the weights of the targets, also in classes that are made from them.
_WEIGHTED = (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)


def _weight_of(weight: Tensor | None, ignored: int, y: Tensor) -> Tensor:
    """What a mean cross-entropy is divided by: the weights of its targets (pytorch's CrossEntropyLoss, "reduction").
    Targets that are probabilities count one each, whatever their weights."""
    if y.is_floating_point():
        return torch.tensor(float(len(y)), device=y.device)
    counted = y != ignored
    if weight is None:
        return counted.sum().float()
    return torch.where(counted, weight[torch.where(counted, y, 0)], 0.0).sum()


#: Beyond so many classes the weights of the first are tried only.
_CLASSES_TRIED = 2000


def find_kind(loss: TrainingLoss, logits: Tensor, y: Tensor, classes: int = 0) -> Kind:
    """How the losses of batches make that of all, for a loss of the user's own: tried on parts of a real batch, and
    with each of ``classes`` beside the first, which may differ in weight."""
    if loss.kind != "whole" or len(y) < 4:
        return loss.kind
    loss.measured = True
    noise = torch.Generator().manual_seed(0)
    try:
        kinds = {_kind_of(loss, logits, y, cut, noise) for cut in (1, len(y) // 2, len(y) - 1)}
        if classes and y.ndim == 1 and not y.is_floating_point():
            for other in range(1, min(classes, _CLASSES_TRIED)):
                for pair in ([0, other], [other, other]):
                    kinds.add(_kind_of(loss, logits[:2], torch.tensor(pair, device=y.device), 1, noise))
    except Exception:
        return "whole"  # it does not take parts that small: no way to tell
    kinds.discard(None)
    return (kinds.pop() if len(kinds) == 1 else None) or "whole"


def _kind_of(loss: TrainingLoss, logits: Tensor, y: Tensor, cut: int, noise: torch.Generator) -> Kind | None:
    """What two parts of a batch, cut at random, say; None where there is no loss at all."""
    order = torch.randperm(len(y), generator=noise).to(y.device)
    outputs, targets = logits[order] + torch.randn(logits.shape, generator=noise).to(logits.device), y[order]
    whole, a, b = (float(loss(outputs[part], targets[part])) for part in (slice(None), slice(cut), slice(cut, None)))
    size = abs(whole) + abs(a) + abs(b)
    if size < 1e-6:
        return None
    near = 1e-4 * size
    if abs(whole - (cut * a + (len(y) - cut) * b) / len(y)) < near:
        return "mean"
    return "sum" if abs(whole - a - b) < near else "whole"


def _bce(logits: Tensor, y: Tensor, *, classes: int, smoothing: float) -> Tensor:
    if logits.ndim == 1 or logits.shape[1] == 1:
        logits = logits.reshape(-1)
        target = (y.argmax(1) if y.ndim > 1 else y).to(logits.dtype)
    else:
        target = y if y.ndim > 1 else F.one_hot(y, classes).to(logits.dtype)
    if smoothing:
        target = target * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


def _on_one_hot(base: Function, logits: Tensor, y: Tensor, *, classes: int) -> Tensor:
    target = y if y.ndim > 1 else F.one_hot(y, classes)
    return base(logits, target.to(logits.dtype))


def _plain(base: Function, outputs: Tensor, y: Tensor) -> Tensor:
    # [N, 1] against [N] would broadcast to [N, N], quietly and wrongly.
    return base(outputs.reshape(y.shape), y.to(outputs.dtype))


def _class_weights(given: object, info: DataInfo, targets: Tensor | None, device: torch.device) -> Tensor | None:
    if given is None:
        return None
    if given == "balanced":
        if targets is None:
            raise UserError(
                f"loss.args.class_weights = 'balanced': {info.name!r} does not tell its targets beforehand.",
                field="loss.args.class_weights",
            )
        counts = torch.bincount(targets, minlength=info.classes).clamp(min=1)
        return (counts.sum() / (info.classes * counts)).float().to(device)
    if not isinstance(given, list | tuple) or not all(isinstance(w, int | float) and w >= 0 for w in given):
        raise UserError(
            f"loss.args.class_weights = {given!r} must be 'balanced' or a list of numbers.",
            field="loss.args.class_weights",
        )
    if len(given) != info.classes:
        raise UserError(
            f"loss.args.class_weights has {len(given)} numbers for {info.classes} classes.",
            field="loss.args.class_weights",
        )
    return torch.tensor(given, dtype=torch.float32, device=device)


def classes_of(y: Tensor) -> Tensor:
    """Class numbers [N] of targets that may be one-hot [N, C]."""
    return y.argmax(1) if y.ndim > 1 else y


def predicted(logits: Tensor) -> Tensor:
    """The predicted class [N]: the largest logit, or the sign of a single one."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        return (logits.reshape(-1) > 0).long()
    return logits.argmax(1)
