"""The model summary tree: nested modules with type, output shape, parameters, share and multiply-adds.

Shapes and operations come from one forward pass on the meta device, which computes nothing and takes no memory;
models that can't run there are run on the CPU. Operations are counted by torch.utils.flop_counter.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from torchdeck.core.data.items import to_device


@dataclass(frozen=True)
class Node:
    """One module of a model and what is below it."""

    name: str
    type: str
    #: Shape of its output for one sample; () where it was not called or gave no tensor.
    output_shape: tuple[int, ...]
    #: Parameters in it and below; each shared one counted once.
    parameters: int
    trainable: int
    #: Multiply-adds of it and below for one sample.
    multiply_adds: int
    dtype: str
    #: Share of the whole model's parameters.
    share: float
    children: tuple[Node, ...] = ()
    #: Name within the model: ``features.0``.
    path: str = ""
    #: Its own parameters, not those of modules below: name within the module, and whether it is trained.
    own: tuple[tuple[str, bool], ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Node]]:
        """Each node with its depth, in the order of the model."""
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


@dataclass(frozen=True)
class Summary:
    """A model's tree and an estimate of the memory that training it takes."""

    root: Node
    #: Bytes: weights, gradients, optimizer state, activations of one batch; an estimate.
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.optimizer + self.activations


#: How a model is called with its inputs.
Call = Callable[[nn.Module, Any], Any]

#: Tensors of each parameter's size that an optimizer keeps.
_STATE = {"SGD": 1, "RMSprop": 1, "Adagrad": 1, "Muon": 1, "Adafactor": 0}


def summarize(
    net: nn.Module, x: Any, batch_size: int, optimizer: str = "AdamW", call: Call = lambda net, x: net(x)
) -> Summary:
    """The summary of a model for inputs like ``x``, a batch of one: a tensor, or any nesting of tensors. ``call``: how
    the model is called with them. A model that can't be called by itself (the parts of a step of the user's own) has
    neither shapes nor multiply-adds."""
    shapes, sizes, flops = _trace(net, x, call)
    total = sum(p.numel() for p in net.parameters())
    root = _node(net, "", type(net).__name__, shapes, flops, max(total, 1))
    weights = sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    trainable = sum(p.numel() * p.element_size() for p in net.parameters() if p.requires_grad)
    return Summary(root, weights, trainable, trainable * _STATE.get(optimizer, 2), sum(sizes.values()) * batch_size)


_Traced = tuple[dict[str, tuple[int, ...]], dict[str, int], dict[str, int]]


def _trace(net: nn.Module, x: Any, call: Call) -> _Traced:
    # Some models make tensors on the CPU in forward, or look at values: those run for real.
    for device in ("meta", "cpu"):
        with contextlib.suppress(Exception):
            return _forward(copy.deepcopy(net).to(device), to_device(x, torch.device(device)), call)
    return {}, {}, {}


def _forward(net: nn.Module, x: Any, call: Call) -> _Traced:
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: dict[str, int] = {}
    leaves = {name for name, module in net.named_modules() if not list(module.children())}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                shapes[name] = tuple(output.shape[1:])
                if name in leaves:
                    sizes[name] = sizes.get(name, 0) + output.numel() * output.element_size()

        return hook

    for name, module in net.named_modules():
        module.register_forward_hook(watch(name))
    net.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        call(net, x)
    top = type(net).__name__
    flops = {
        name.removeprefix(top).removeprefix("."): sum(ops.values())
        for name, ops in counter.get_flop_counts().items()
        if name != "Global"
    }
    flops[""] = counter.get_total_flops()
    return shapes, sizes, flops


def _node(
    module: nn.Module, path: str, name: str, shapes: dict[str, tuple[int, ...]], flops: dict[str, int], total: int
) -> Node:
    children = tuple(
        _node(child, f"{path}.{key}" if path else key, key, shapes, flops, total)
        for key, child in module.named_children()
    )
    parameters = list(module.parameters())
    count = sum(p.numel() for p in parameters)
    dtypes = {str(p.dtype).removeprefix("torch.") for p in parameters}
    return Node(
        name=name,
        type=type(module).__name__,
        output_shape=shapes.get(path, ()),
        parameters=count,
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=flops.get(path, 0) // 2,
        dtype="/".join(sorted(dtypes)),
        share=count / total,
        children=children,
        path=path,
        own=tuple((key, p.requires_grad) for key, p in module.named_parameters(recurse=False)),
    )
