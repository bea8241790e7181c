"""How a model is called with the inputs of a batch, and what of its output are the logits and the loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.infer import target_parameter
from torchdeck.core.data.items import map_tensors
from torchdeck.core.errors import UserError, did_you_mean

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Caller:
    """Calls a model by the signature of its forward: inputs by position or, of a dict, by the names of parameters."""

    #: How many inputs it takes by position at least and at most; None: any number.
    least: int = 1
    most: int | None = None
    #: The names of its parameters; None: any.
    names: frozenset[str] | None = None
    #: The parameter that takes the target, where there is one: the model then gives the loss.
    target: str | None = None
    #: Whether several inputs are spread over its parameters; a detector takes a list of images as it is.
    spreads: bool = True
    #: What the model is called, for messages.
    model: str = "the model"

    def __call__(self, forward: Callable[..., Any], x: Any, y: Any = None) -> Any:
        """What the model makes of the inputs ``x``; ``y``: the target, for a model that takes it.

        Raises UserError for a dict with a key that forward does not take.
        """
        extra = {self.target: y} if self.target is not None and y is not None else {}
        if isinstance(x, Tensor):
            return forward(x, **extra)
        if isinstance(x, Mapping):
            return self._by_name(forward, x, extra)
        if self.spreads and isinstance(x, tuple | list) and self.takes(len(x)):
            return forward(*x, **extra)
        parts = self._parts_of(x)
        return forward(**parts, **extra) if len(parts) > 1 else forward(x, **extra)

    def _parts_of(self, x: Any) -> dict[str, Any]:
        """What an object, such as a batch of graphs, holds of what forward takes by name; empty where forward takes the
        object itself."""
        if isinstance(x, str | bytes | tuple | list) or not self.names:
            return {}
        found = {name: getattr(x, name, None) for name in sorted(self.names)}
        held = {name: value for name, value in found.items() if value is not None}
        return held if len(held) >= self.least else {}

    def takes(self, count: int) -> bool:
        """Whether forward takes so many inputs by position."""
        return self.least <= count and (self.most is None or count <= self.most)

    def _by_name(self, forward: Callable[..., Any], x: Mapping[Any, Any], extra: dict[str, Any]) -> Any:
        if self.names is None or all(key in self.names for key in x):
            return forward(**{str(key): value for key, value in x.items()}, **extra)
        if self.takes(1) and not any(key in self.names for key in x):
            return forward(x, **extra)  # one parameter takes the dict itself
        unknown = next(key for key in x if key not in self.names)
        raise UserError(
            f"An item holds {unknown!r}, which forward of {self.model} does not take "
            f"({did_you_mean(str(unknown), sorted(self.names))}); name what the model gets in data.inputs.",
            field="data.inputs",
        )


def caller_of(net: nn.Module | Callable[..., Any], model: str) -> Caller:
    """How to call ``net``, whose name in the experiment is ``model``."""
    forward = net.forward if isinstance(net, nn.Module) else net
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):
        return Caller(model=model)
    target = target_parameter(forward)
    positional = [p for p in parameters if p.kind in _POSITIONAL and p.name != target]
    any_number = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return Caller(
        least=sum(p.default is inspect.Parameter.empty for p in positional),
        most=None if any_number else len(positional),
        names=None if any_name else frozenset(p.name for p in parameters if p.name != target),
        target=target,
        model=repr(model),
    )


def in_precision_of(net: Any, tree: Any) -> Any:
    """Floats of 32 bits as float64 for a model that computes in it throughout, as its writer has it."""
    kinds = {p.dtype for p in net.parameters() if p.is_floating_point()} if isinstance(net, nn.Module) else set()
    if kinds != {torch.float64}:
        return tree
    return map_tensors(lambda t: t.double() if t.dtype == torch.float32 else t, tree)


def logits_of(output: Any) -> Any:
    """The logits in what a model returns: the tensor itself, the ``logits`` of a Hugging Face or Inception output or of
    a dict, or the first of a tuple (PointNet and Inception give auxiliary outputs after it; nanoGPT its loss)."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return next((output[key] for key in ("logits", "out", "outputs", "output") if key in output), output)
    found = getattr(output, "logits", None)
    if found is not None:
        return found
    if isinstance(output, tuple | list) and output:
        first = [part for part in output if not (isinstance(part, Tensor) and part.ndim == 0)]
        return first[0] if first and isinstance(first[0], Tensor) else output
    return output


def loss_of(output: Any) -> tuple[Tensor, dict[str, Tensor]] | None:
    """The loss that a model of the user's gives itself, and its parts: ``loss`` of an output or a dict, the scalar in a
    tuple, or a dict of losses, which are added up (torchvision's detectors); None where it gives none."""
    if isinstance(output, Tensor):
        return (output, {}) if output.ndim == 0 else None
    if isinstance(output, Mapping):
        return _of_mapping(output)
    found = getattr(output, "loss", None)
    if isinstance(found, Tensor):
        return found, {}
    if isinstance(output, tuple | list):
        scalar = next((part for part in output if isinstance(part, Tensor) and part.numel() == 1), None)
        return None if scalar is None else (scalar.reshape(()), {})
    return None


def _of_mapping(output: Mapping[Any, Any]) -> tuple[Tensor, dict[str, Tensor]] | None:
    scalars = {str(k): v.reshape(()) for k, v in output.items() if isinstance(v, Tensor) and v.numel() == 1}
    if "loss" in scalars:
        return scalars.pop("loss"), {name: value for name, value in scalars.items() if "loss" in name}
    if not scalars or len(scalars) < len(output):
        return None
    return sum(scalars.values(), start=next(iter(scalars.values())) * 0), scalars
