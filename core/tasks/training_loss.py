"""A loss of (outputs, targets): what the gradient is of, and how the losses of batches add up to that of a set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchdeck.core.data.items import map_tensors, tensors_in

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


def weight_of(weight: Tensor | None, ignored: int, y: Tensor) -> Tensor:
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
            # With two pairs of outputs: samples of different weight may by chance have the same loss.
            for first in (0, 2):
                for other in range(1, min(classes, _CLASSES_TRIED)):
                    for pair in ([0, other], [other, other]):
                        targets = torch.tensor(pair, device=y.device)
                        kinds.add(_kind_of(loss, outputs[first : first + 2], targets, 1, noise))
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
