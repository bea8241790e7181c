"""The catalog's losses for an experiment, and what logits predict."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from torchdeck.core import catalog
from torchdeck.core.data.masks import ignored_by
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.tasks.training_loss import Function, TrainingLoss, weight_of
from torchdeck.core.tasks.user_losses import user_loss

#: The loss of a task where the experiment names none.
_USUAL = {
    "regression": "mse",
    "reconstruction": "mse",
    "multilabel": "bce_with_logits",
    "contrastive": "nt_xent",
}


def loss_name(experiment: Experiment, info: DataInfo) -> str:
    """The loss that is used: given, or the usual one of the task."""
    return experiment.loss.name or _USUAL.get(info.task, "cross_entropy")


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
        return user_loss(experiment, device, info.task == "contrastive")
    args = experiment.loss.resolved() if experiment.loss.name else {}
    classification = info.task == "classification"
    fitting = [e.name for e in catalog.entries("loss") if info.task in e.fact("tasks")]
    if name not in fitting:
        what = "needs classes, but" if info.task == "regression" else "does not fit:"
        raise UserError(
            f"loss.name = {name!r} {what} {info.name!r} is {info.task}; "
            f"{'choose ' + ', '.join(fitting) if fitting else 'give one of your own'}.",
            field="loss.name",
        )
    made = catalog.find("loss", name)
    if made.factory:
        function = made.load_factory()(**made.resolve(experiment.loss.args))
        return TrainingLoss(function, made.fact("adds_up"), takes_all=True)
    if name in ("cross_entropy", "nll"):
        given = args.get("class_weights")
        ignored = ignored_by(experiment)
        weight = (
            weights
            if given == "balanced" and weights is not None
            else _class_weights(given, info, train_targets, device, ignored)
        )
        weight = weight if weight is None else weight.to(device)
        smoothing = args.get("label_smoothing", 0.0)
        # log_softmax of log-probabilities is the same log-probabilities, so nll takes logits and those alike.
        function = functools.partial(F.cross_entropy, weight=weight, label_smoothing=smoothing, ignore_index=ignored)
        if not classification:
            function = functools.partial(_of_each, function)
        elif weight is None:
            return TrainingLoss(function)
        return TrainingLoss(function, "weighted", functools.partial(weight_of, weight, ignored), weights=weight)
    if name == "bce_with_logits" and info.task == "segmentation":
        ignored, smoothing = ignored_by(experiment), args.get("label_smoothing", 0.0)
        return TrainingLoss(
            functools.partial(_bce_of_pixels, ignored=ignored, smoothing=smoothing),
            "weighted",
            functools.partial(weight_of, None, ignored),
        )
    if name == "bce_with_logits" and not classification:
        return TrainingLoss(functools.partial(_plain_bce, smoothing=args.get("label_smoothing", 0.0)))
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


def _of_each(base: Function, logits: Tensor, y: Tensor) -> Tensor:
    """Of each pixel, [B, C, H, W] with [B, H, W], or each token, [B, T, C] with [B, T]: classes come second for pixels
    and last for tokens, as models of each kind give them."""
    if logits.ndim == 3 and y.ndim == 2:
        logits = logits.flatten(0, 1)
        y = y.flatten()
    return base(logits, y)


def _bce_of_pixels(logits: Tensor, y: Tensor, *, ignored: int, smoothing: float) -> Tensor:
    """Of one logit [B, 1, H, W] of each pixel that counts, or of one for each class; of no pixel NaN, as torch's
    cross-entropy has it."""
    counted = y != ignored
    rows = logits.movedim(1, -1)[counted]
    classes = y[counted]
    one_hot = classes[:, None] if logits.shape[1] == 1 else F.one_hot(classes, logits.shape[1])
    return _plain_bce(rows, one_hot, smoothing=smoothing)


def _plain_bce(logits: Tensor, y: Tensor, *, smoothing: float) -> Tensor:
    y = y.to(logits.dtype)
    target = y * (1 - smoothing) + smoothing / 2 if smoothing else y
    return F.binary_cross_entropy_with_logits(logits.reshape(target.shape), target)


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


def _class_weights(
    given: object, info: DataInfo, targets: Tensor | None, device: torch.device, ignored: int
) -> Tensor | None:
    if given is None:
        return None
    if given == "balanced":
        if targets is None:
            raise UserError(
                f"loss.args.class_weights = 'balanced': {info.name!r} does not tell its targets beforehand.",
                field="loss.args.class_weights",
            )
        counts = torch.zeros(info.classes, dtype=torch.int64, device=targets.device)
        for some in targets.split(4096):  # masks made whole numbers all at once would take eight times their memory
            some = some.reshape(-1).long()
            counts += torch.bincount(some[(some >= 0) & (some < info.classes)], minlength=info.classes)
        if 0 <= ignored < info.classes:
            counts[ignored] = 0
        counts = counts.clamp(min=1)
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
    """Class numbers [N] of targets [N] or [N, 1], which may be floats, or one-hot [N, C]."""
    return y.argmax(1) if y.numel() > len(y) else y.reshape(-1).long()


def predicted(logits: Tensor) -> Tensor:
    """The predicted class [N]: the largest logit, or the sign of a single one."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        return (logits.reshape(-1) > 0).long()
    return logits.argmax(1)
