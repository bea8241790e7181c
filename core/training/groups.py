"""Parameters in groups: which decay, and which learn at a rate of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from torchdeck.core.errors import UserError


def parameter_groups(
    net: nn.Module,
    decay: float | None,
    everything: bool,
    lr: float | None = None,
    body: float = 1.0,
    chosen: Callable[[nn.Parameter], bool] = lambda p: True,
) -> list[dict[str, Any]]:
    """Groups by weight decay, and where the body learns at a rate of its own, head and body apart, the head first:
    its learning rate is the one that is shown. Norms' parameters and biases decay only with ``everything``.

    Raises UserError where the body's rate is a factor on one that is not known.
    """
    trained = [p for p in net.parameters() if p.requires_grad and chosen(p)]
    if body == 1.0:
        return _by_decay(trained, decay, everything)
    if lr is None:
        raise UserError(
            "optimizer.backbone_lr_factor is a factor on optimizer.lr; set that, too.", field="optimizer.lr"
        )
    head = {id(p) for p in _head(net)}
    first = _by_decay([p for p in trained if id(p) in head], decay, everything)
    rest = _by_decay([p for p in trained if id(p) not in head], decay, everything)
    return [*first, *({**group, "lr": lr * body} for group in rest)]


def _by_decay(trained: list[nn.Parameter], decay: float | None, everything: bool) -> list[dict[str, Any]]:
    if not trained:
        return []
    if not decay:
        return [{"params": trained, "weight_decay": 0.0}]  # one group is one kernel call instead of two
    # One-dimensional parameters are biases and the scales of norms, in every layer torch has.
    heavy = [p for p in trained if everything or p.ndim > 1]
    light = [p for p in trained if not everything and p.ndim <= 1]
    return [{"params": ps, "weight_decay": d} for ps, d in ((heavy, decay), (light, 0.0)) if ps]


def _head(net: nn.Module) -> list[nn.Parameter]:
    """The parameters of the last module that has any of its own."""
    having = [
        list(m.parameters(recurse=False)) for m in net.modules() if any(True for _ in m.parameters(recurse=False))
    ]
    return having[-1] if having else []
