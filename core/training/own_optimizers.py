"""Optimizers of the user's own: any subclass of torch.optim.Optimizer, or a function that gives one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from torchdeck.core import usercode
from torchdeck.core.errors import UserError, first_line
from torchdeck.core.experiment.model_schema import Optimizer
from torchdeck.core.training.groups import parameter_groups


def build_own_optimizer(options: Optimizer, net: nn.Module, own: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that ``optimizer.name`` refers to, over the parameters that are trained, with ``own``, those of a
    loss, among them. It gets ``lr`` and ``weight_decay`` where they are given, and parameters in groups, of which norms
    and biases don't decay, where it has a weight decay.

    Raises UserError for one that can't be used, UserCodeError when it raises.
    """
    factory = usercode.load(options.name, "optimizer.name")
    what = f"optimizer.name = {options.name!r}"
    if not callable(factory):
        raise UserError(f"{what} is a {type(factory).__name__}, not an optimizer's class.", field="optimizer.name")
    parameters = parameters_of(factory)
    first = _first_of(parameters)
    if first is None:
        raise UserError(f"{what} takes no parameters to train.", field="optimizer.name")
    if isinstance(first.default, int | float | tuple):
        raise UserError(
            f"{what} takes no parameters to train: the first of what it is called with is {first.name!r}.",
            field="optimizer.name",
        )
    args = dict(options.args)
    if options.lr is not None:
        args["lr"] = options.lr
    lr = parameters.get("lr")
    if lr is not None and lr.default is lr.empty and "lr" not in args:
        raise UserError(f"{what} has no learning rate of its own; set optimizer.lr.", field="optimizer.lr")
    decay = _decay(options, parameters, args)
    groups = parameter_groups(
        net, decay, options.decay_norms_and_biases, args.get("lr", _default(lr)), options.backbone_lr_factor
    )
    if own:
        groups.append({"params": list(own), "weight_decay": 0.0})
    if decay is None:
        for group in groups:
            group.pop("weight_decay", None)
    if first.kind is first.VAR_POSITIONAL:
        made = usercode.call(functools.partial(factory, groups), args, "optimizer")
    else:
        made = usercode.call(factory, {**args, first.name: groups}, "optimizer")
    _check(made, what, {id(p) for group in groups for p in group["params"]})
    return made


def _first_of(parameters: Mapping[str, inspect.Parameter]) -> inspect.Parameter | None:
    """The first parameter that something can be given to by position."""
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    return next((p for p in parameters.values() if p.kind in positional), None)


def parameters_of(factory: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters of what may be called; none where they can't be told."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def _default(parameter: inspect.Parameter | None) -> Any:
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _decay(options: Optimizer, parameters: Mapping[str, inspect.Parameter], args: Mapping[str, Any]) -> float | None:
    """The weight decay of the groups; None where the optimizer has none, or is told it as an argument.

    Raises UserError for one that is given and not taken.
    """
    takes = parameters.get("weight_decay")
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if options.weight_decay is not None and takes is None and not open_ended:
        raise UserError(
            f"optimizer.weight_decay: {options.name.rpartition(':')[2]} has no weight decay.",
            field="optimizer.weight_decay",
        )
    if "weight_decay" in args:
        return None
    if options.weight_decay is not None:
        return options.weight_decay
    default = _default(takes)
    return float(default) if isinstance(default, int | float) else None


def _check(made: Any, what: str, trained: set[int]) -> None:
    """Raises UserError for what is no optimizer with learning rates, or not one of the parameters that are trained
    (``trained``: their ids)."""
    if not isinstance(made, torch.optim.Optimizer):
        raise UserError(
            f"{what} gave a {type(made).__name__}; a torch.optim.Optimizer is needed.", field="optimizer.name"
        )
    if any("lr" not in group for group in made.param_groups):
        raise UserError(
            f"{what} keeps no 'lr' in its parameter groups, by which the learning rate is shown and scheduled.",
            field="optimizer.name",
        )
    # torch wraps the step of every class, to profile it.
    if inspect.unwrap(type(made).step) is inspect.unwrap(torch.optim.Optimizer.step):
        raise UserError(f"{what} gave a {type(made).__name__} without a step() of its own.", field="optimizer.name")
    lacking = len(trained - {id(p) for group in made.param_groups for p in group["params"]})
    if lacking:
        raise UserError(
            f"{what} leaves out {lacking} of the {len(trained)} parameters that it was given, which would not be "
            "trained; model.freeze names those that shall not be.",
            field="optimizer.name",
        )
    try:
        made.state_dict()
    except Exception as error:
        raise UserError(
            f"{what} can't give its state ({type(error).__name__}: {first_line(error)}), without which there are no "
            "checkpoints; a subclass of torch.optim.Optimizer calls super().__init__(params, defaults).",
            field="optimizer.name",
        ) from None


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of it calls the loss again (LBFGS)."""
    closure = parameters_of(optimizer.step).get("closure")
    return closure is not None and closure.default is closure.empty
