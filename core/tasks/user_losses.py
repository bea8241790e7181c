"""Losses of the user's own, and torch's by their name: how they are made, and called with outputs and targets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchdeck.core import usercode
from torchdeck.core.data.losses_known import TARGET_PARAMETERS, input_parameter, required_parameters
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.tasks.training_loss import TrainingLoss, weight_of

#: The mean of these is divided by the weights of the targets, also in classes that are made from them.
_WEIGHTED = (nn.CrossEntropyLoss.forward, nn.NLLLoss.forward)


def user_loss(experiment: Experiment, device: torch.device, of_views: bool) -> TrainingLoss:
    """The loss that loss.name refers to. ``of_views``: it may compare two views, without a target.

    Raises UserError for what can't be called, and for a loss that gives a number a sample.
    """
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
        weigh = functools.partial(weight_of, module.weight, module.ignore_index)
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
