"""Optimizers of torch.optim with parameter groups: norms' parameters and biases do not decay."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.model_schema import Optimizer
from torchdeck.core.training.groups import parameter_groups
from torchdeck.core.training.own_optimizers import build_own_optimizer


def build_optimizer(
    options: Optimizer, net: nn.Module, device: torch.device, own: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The optimizer over the parameters that are trained, with ``own``, those of a loss, among them; fused into one
    kernel where torch has that.

    Raises UserError when nothing is left to train.
    """
    if not any(p.requires_grad for p in net.parameters()):
        raise UserError("The model has no parameter to train.")
    entry = options.entry()
    if entry is None:
        return build_own_optimizer(options, net, own)
    lr, decay = options.learning_rate() or 0.0, options.decay() or 0.0
    args = options.resolved()
    _check_options(options, entry.name, args, bool(own))
    if entry.name == "Muon":
        return _muon(net, lr, decay, args, options.decay_norms_and_biases)
    groups = parameter_groups(net, decay, options.decay_norms_and_biases, lr, options.backbone_lr_factor)
    if own:
        groups.append({"params": list(own), "weight_decay": 0.0})
    factory = entry.load_factory()
    if "weight_decay" in inspect.signature(factory).parameters:
        args["weight_decay"] = decay
    else:
        for group in groups:
            group.pop("weight_decay")
        if decay:
            raise UserError(
                f"optimizer.weight_decay: {entry.name} has no weight decay.", field="optimizer.weight_decay"
            )
    if entry.name == "Adafactor":
        args["eps"] = (None, 1e-3)
    if entry.fact("fused") and device.type in (("cpu",) if entry.name == "Adagrad" else ("cpu", "cuda", "mps")):
        args["fused"] = True
    return factory(groups, lr=lr, **args)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The state of a checkpoint; the options stay those of the experiment."""
    chosen = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, options in zip(optimizer.param_groups, chosen, strict=True):
        group.update(options)


def _check_options(options: Optimizer, name: str, args: dict[str, Any], own: bool) -> None:
    """Raises UserError for options that don't go together. ``own``: whether a loss has parameters to train."""
    if name == "Muon" and own:
        raise UserError(
            "optimizer.name = 'Muon' does not train the parameters of a loss; choose another, such as AdamW.",
            field="optimizer.name",
        )
    if name == "Muon" and options.backbone_lr_factor != 1.0:
        raise UserError(
            "optimizer.backbone_lr_factor does not go with Muon, which has learning rates of its own.",
            field="optimizer.backbone_lr_factor",
        )
    nesterov = name == "SGD" and args["nesterov"]
    if nesterov and not args["momentum"]:
        raise UserError(
            "optimizer.args.nesterov needs optimizer.args.momentum above 0.", field="optimizer.args.nesterov"
        )
    if nesterov and args["dampening"]:
        raise UserError("optimizer.args.nesterov needs optimizer.args.dampening = 0.", field="optimizer.args.nesterov")


def _muon(net: nn.Module, lr: float, decay: float, args: dict[str, Any], everything: bool) -> torch.optim.Optimizer:
    matrices = [p for p in net.parameters() if p.ndim == 2]
    # The head works better under AdamW (Jordan 2024, kellerjordan.github.io/posts/muon).
    hidden = {id(p) for p in matrices[:-1] if p.requires_grad}
    if not hidden:
        raise UserError(
            "optimizer.name = 'Muon' needs hidden weight matrices; the model has none that is trained.",
            field="optimizer.name",
        )
    adamw_lr = args.pop("adamw_lr")
    muon = torch.optim.Muon(
        parameter_groups(net, decay, everything, chosen=lambda p: id(p) in hidden), lr=lr, weight_decay=decay, **args
    )
    rest = parameter_groups(net, decay, everything, chosen=lambda p: id(p) not in hidden)
    adamw = torch.optim.AdamW(rest, lr=adamw_lr, fused=True) if rest else None
    return Pair(muon, adamw) if adamw else muon


class Pair(torch.optim.Optimizer):
    """Two optimizers over different parameters, used as one."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        self._pair = (first, second)
        super().__init__([{"params": [p for g in o.param_groups for p in g["params"]]} for o in self._pair], {})
        # Learning rates are set on the groups of the two, so those are the groups that are shown.
        self.param_groups = [g for o in self._pair for g in o.param_groups]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both."""
        for optimizer in self._pair:
            optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of both."""
        for optimizer in self._pair:
            optimizer.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"pair": [o.state_dict() for o in self._pair]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Both states back."""
        for optimizer, state in zip(self._pair, state_dict["pair"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [g for o in self._pair for g in o.param_groups]
