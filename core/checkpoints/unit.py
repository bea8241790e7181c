"""A model of standardised targets, made to answer in the targets' own unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from torchdeck.core.text import numbers_in_words

#: Beyond that many standard deviations of offset float32, which rounds to 6e-8 of a number, costs more than 1e-5 of
#: one.
_FLOAT32_REACHES = 150.0


def in_own_unit(net: nn.Module, mean: Sequence[float], std: Sequence[float], samples: Tensor) -> nn.Module:
    """``net(x) * std + mean`` as one module of torch's own classes, which loads wherever ``net`` does (as ``net``
    itself where there is no scale).

    Outputs [N] or [N, T] for a mean and a standard deviation [T]; float64 where float32 can't hold numbers that are
    large beside their standard deviation.
    """
    if not mean:
        return net
    exact = any(abs(m) > _FLOAT32_REACHES * s for m, s in zip(mean, std, strict=True))
    root = nn.Module()
    root.add_module("net", net)
    for name, values in (("std", std), ("mean", mean)):
        root.register_buffer(name, torch.tensor(values, dtype=torch.float64 if exact else torch.float32))
    graph = fx.Graph()
    out = graph.call_module("net", (graph.placeholder("input"),))
    with torch.inference_mode():
        returned = net(samples[:2])
    if not isinstance(returned, Tensor):
        out = graph.call_function(getattr, (out, "logits"))
    out = graph.call_method("double" if exact else "float", (out,))
    out = graph.call_method("add", (graph.call_method("mul", (out, graph.get_attr("std"))), graph.get_attr("mean")))
    graph.output(out)
    return fx.GraphModule(root, graph).train(net.training)


def unit_in_words(mean: Sequence[float], std: Sequence[float]) -> str:
    """How to get from the outputs to the targets' own unit."""
    return f"outputs are standardised; prediction = output * {numbers_in_words(std)} + {numbers_in_words(mean)}"
