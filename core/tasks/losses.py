"""Losses of (logits, targets): what the gradient is of, how batches add up to the loss of a set, and what logits
predict."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchdeck.core import catalog, usercode
from torchdeck.core.data.items import map_tensors, tensors_in
from torchdeck.core.data.losses_known import TARGET_PARAMETERS, input_parameter, required_parameters
from torchdeck.core.data.masks import ignored_by
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
        call: Callable[..., Any] | None = None,
        takes_all: bool = False,
    ) -> None:
        """``call``: how ``function`` is called with (outputs, targets), where that is not plainly so."""
        self.function = function
        self._call = call or function
        self.kind: Kind = kind
        self._weigh = weigh
        #: Whether it is the user's own.
        self.own = own
        #: The weight of each class, where the catalog's loss has such.
        self.weights = weights
        #: Whether it takes all that the model gives, and not the logits in it.
        self.takes_all = takes_all
        #: Whether the kind was found out by trying (``find_kind``), and not by what the loss is.
        self.measured = False

    def __call__(self, outputs: Any, y: Any) -> Tensor:
        return self.with_parts(outputs, y)[0]

    def with_parts(self, outputs: Any, y: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts: of a dict that a loss returns ``loss`` and the others, or their sum; of a
        tuple the first and the others."""
        value = self._call(outputs, y)
        if isinstance(value, Tensor):
            return value, {}
        return _parts_of(value)

    @property
    def module(self) -> nn.Module | None:
        """The loss as a module, which may have parameters and buffers of its own; None for a function."""
        inner = self.function.func if isinstance(self.function, functools.partial) else self.function
        return inner if isinstance(inner, nn.Module) else None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of its own that are trained."""
        return [p for p in self.module.parameters() if p.requires_grad] if self.module is not None else []

    @property
    def weight_of_targets(self) -> Callable[[Tensor], Tensor] | None:
        """What the targets of a batch weigh together; None where samples count one each."""
        return self._weigh

    def weight(self, y: Any, samples: int) -> Tensor | int:
        """What the loss of a batch counts for among those of others: its samples, or the weights of its targets."""
        return self._weigh(y) if self._weigh is not None else samples


def _parts_of(value: Any) -> tuple[Any, dict[str, Tensor]]:
    """The loss and its parts, as a loss of the user's returned them; what is none is left to be refused."""
    if isinstance(value, Mapping) and value and all(isinstance(v, Tensor) and v.numel() == 1 for v in value.values()):
        parts = {str(name): part.reshape(()) for name, part in value.items()}
        if "loss" in parts:
            return parts.pop("loss"), parts
        return torch.stack(list(parts.values())).sum(), parts
    if isinstance(value, tuple) and value and all(isinstance(v, Tensor) and v.numel() == 1 for v in value):
        return value[0].reshape(()), {f"part_{i}": part.reshape(()) for i, part in enumerate(value[1:], start=1)}
    return value, {}


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
        return _user_loss(experiment, device, info.task == "contrastive")
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
        return TrainingLoss(function, "weighted", functools.partial(_weight_of, weight, ignored), weights=weight)
    if name == "bce_with_logits" and info.task == "segmentation":
        ignored, smoothing = ignored_by(experiment), args.get("label_smoothing", 0.0)
        return TrainingLoss(
            functools.partial(_bce_of_pixels, ignored=ignored, smoothing=smoothing),
            "weighted",
            functools.partial(_weight_of, None, ignored),
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


def _user_loss(experiment: Experiment, device: torch.device, of_views: bool) -> TrainingLoss:
    reference = str(experiment.loss.name)
    target = usercode.load(reference, "loss.name")
    is_class = isinstance(target, type)
    if is_class:
        target = usercode.call(target, _with_tensors(target, experiment.loss.args), "loss")
    target = usercode.with_writer(target)
    if isinstance(target, nn.Module):
        target = target.to(device)
    module = target
    if experiment.loss.args and not is_class:
        target = functools.partial(target, **experiment.loss.args)
    if not callable(target):
        raise UserError(f"loss.name = {reference!r} is not a loss: it can't be called.", field="loss.name")
    call, takes_all = caller_of_loss(target, module, of_views)
    reduction = getattr(module, "reduction", "mean")
    if reduction == "none":
        raise UserError(
            f"loss.name = {reference!r} has reduction='none', a number a sample; use 'mean' or 'sum'.",
            field="loss.name",
        )
    if reduction == "mean" and getattr(type(module), "forward", None) in _WEIGHTED:
        weigh = functools.partial(_weight_of, module.weight, module.ignore_index)
        return TrainingLoss(target, "weighted", weigh, own=True, call=call)
    return TrainingLoss(target, "whole", own=True, call=call, takes_all=takes_all)


def _with_tensors(target: type, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a loss; torch's own take weights as tensors, which no TOML file has."""
    if not target.__module__.startswith("torch.nn"):
        return dict(args)
    lists = {k: v for k, v in args.items() if k in ("weight", "pos_weight") and isinstance(v, list | tuple)}
    return {**args, **{name: torch.tensor(numbers, dtype=torch.float32) for name, numbers in lists.items()}}


def caller_of_loss(
    target: Callable[..., Any], module: Any, of_views: bool = False
) -> tuple[Callable[[Any, Any], Any], bool]:
    """How a loss of the user's is called with (outputs, targets), and whether it takes all outputs of the model.

    With two parameters plainly so; those of torch itself get the logits, and others whatever the model gives. With more
    parameters a tuple of outputs is spread over them: the target goes to the one that is called target, label, y and
    the like, else to x, input and the like (``loss(reconstruction, x, mu, logvar)``), else to the second; a loss
    without such a one of as many parameters as there are outputs gets those alone (``triplet(anchor, positive,
    negative)``). ``of_views``: so do two parameters without a target among them (``loss(z1, z2)``).
    """
    of_torch = type(module).__module__.startswith("torch.nn")
    if isinstance(module, _ELEMENTWISE) or module in _ELEMENTWISE_FUNCTIONS:
        return functools.partial(_aligned, target), False
    try:
        names = required_parameters(target)
    except (TypeError, ValueError):
        return target, not of_torch
    at = next((i for i, name in enumerate(names) if name.lower() in TARGET_PARAMETERS), input_parameter(names))
    if len(names) <= 2 and not (of_views and at is None):
        return target, not of_torch
    return functools.partial(_spread, target, at, len(names)), True


#: Losses of torch that compare number with number.
_ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
_ELEMENTWISE_FUNCTIONS = (
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
)


def _aligned(function: Callable[[Any, Any], Any], outputs: Any, y: Any) -> Any:
    """[B, 1] against [B] would be refused or, worse, broadcast to [B, B]: the trailing 1 goes. Whole numbers become
    floats like the outputs."""
    if isinstance(outputs, Tensor) and isinstance(y, Tensor):
        y = y.to(outputs.dtype) if outputs.is_floating_point() and not y.is_floating_point() else y
        if outputs.shape == (*y.shape, 1):
            outputs = outputs.squeeze(-1)
        elif y.shape == (*outputs.shape, 1):
            y = y.squeeze(-1)
    return function(outputs, y)


def _spread(function: Callable[..., Any], at: int | None, count: int, outputs: Any, y: Any) -> Any:
    given = list(outputs.values()) if isinstance(outputs, Mapping) else outputs
    if not isinstance(given, tuple | list):
        return function(outputs, y)
    if at is None and len(given) == count:
        return function(*given)
    place = 1 if at is None else at
    return function(*given[:place], y, *given[place:])


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


def find_kind(loss: TrainingLoss, outputs: Any, y: Any, classes: int = 0) -> Kind:
    """How the losses of batches make that of all, for a loss of the user's own: tried on parts of a real batch, and
    with each of ``classes`` beside the first, which may differ in weight."""
    size = _length(outputs, y)
    if loss.kind != "whole" or size < 4:
        return loss.kind
    loss.measured = True
    noise = torch.Generator().manual_seed(0)
    try:
        kinds = {_kind_of(loss, outputs, y, cut, noise) for cut in (1, size // 2, size - 1)}
        if classes and isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point():
            for other in range(1, min(classes, _CLASSES_TRIED)):
                for pair in ([0, other], [other, other]):
                    kinds.add(_kind_of(loss, outputs[:2], torch.tensor(pair, device=y.device), 1, noise))
    except Exception:
        return "whole"  # it does not take parts that small: no way to tell
    kinds.discard(None)
    return (kinds.pop() if len(kinds) == 1 else None) or "whole"


def _length(outputs: Any, y: Any) -> int:
    """The samples of a batch, by the tensors in it."""
    return min((len(t) for t in tensors_in((outputs, y)) if t.ndim), default=0)


def _kind_of(loss: TrainingLoss, outputs: Any, y: Any, cut: int, noise: torch.Generator) -> Kind | None:
    """What two parts of a batch, cut at random, say; None where there is no loss at all."""
    size = _length(outputs, y)
    order = torch.randperm(size, generator=noise)

    def shuffled(t: Tensor) -> Tensor:
        return t[order.to(t.device)] if t.ndim else t

    def disturbed(t: Tensor) -> Tensor:
        """Each sample mixed with another, so that probabilities stay such."""
        if not (t.is_floating_point() and t.ndim):
            return t
        share = torch.rand((len(t), *[1] * (t.ndim - 1)), generator=noise, dtype=torch.float32).to(t)
        return t * share + t[torch.randperm(len(t), generator=noise).to(t.device)] * (1 - share)

    given = map_tensors(disturbed, map_tensors(shuffled, outputs)), map_tensors(shuffled, y)

    def of(part: slice) -> float:
        return float(loss(*(map_tensors(lambda t: t[part] if t.ndim else t, one) for one in given)))

    whole, a, b = of(slice(None)), of(slice(cut)), of(slice(cut, None))
    size_of_all = abs(whole) + abs(a) + abs(b)
    if size_of_all < 1e-6:
        return None
    near = 1e-4 * size_of_all
    if abs(whole - (cut * a + (size - cut) * b) / size) < near:
        return "mean"
    return "sum" if abs(whole - a - b) < near else "whole"


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
