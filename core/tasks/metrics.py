"""Metrics over the samples of a whole set, whatever the batches: sums where they add up, else all outputs at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchdeck.core.data.source import DataInfo
from torchdeck.core.data.statistics import Moments
from torchdeck.core.errors import UserError
from torchdeck.core.machine import devices
from torchdeck.core.tasks.losses import classes_of, predicted
from torchdeck.core.tasks.training_loss import TrainingLoss

#: Numbers of a metric that gives several.
_MOST = 100
#: Outputs of fewer bytes are gathered for a loss of the user's whatever it seems to be.
_FEW = 2**26
#: Targets that are told one by one, beside their mean.
_TARGETS = 20


class NoNumber(UserError):
    """A metric of the user's gives something that is no number."""


class Metric:
    """Something measured over a set: ``update`` with each batch's outputs and targets, then ``compute``."""

    #: Whether the outputs are probabilities of yes, whose logits are taken.
    of_probabilities = False

    def take(self, step: Any) -> None:
        """Take what a model made of a batch (tasks.base.Step), in the targets' own unit."""
        self.update(self.as_logits(step.outputs), step.targets)

    def as_logits(self, outputs: Any) -> Any:
        """Outputs as the metric takes them."""
        return outputs.logit() if self.of_probabilities else outputs

    def update(self, out: Any, y: Any) -> None:
        """Take a batch: outputs [N, ...] and targets [N, ...], on the device."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The figures by name."""
        raise NotImplementedError


class LossMetric(Metric):
    """The loss of the set: that of the whole set in one batch, however it was cut."""

    def __init__(self, loss: TrainingLoss, samples: int) -> None:
        self._loss = loss
        self._total: Any = 0.0
        self._weight: Any = 0.0
        self._samples = samples
        self._seen = 0
        self._gathered: Gathered | None = None
        self._parts: dict[str, Any] = {}

    def take(self, step: Any) -> None:
        """Take a batch."""
        out, y = step.outputs, step.targets
        if not self._seen and self._at_once(out, y):
            self._gathered = Gathered(self._samples, "The loss")
        self._seen += step.size
        if self._gathered is not None:
            self._gathered.update(out, y)
            return
        loss, parts = self._loss.with_parts(out, y)
        weight = self._loss.weight(y, step.size)
        self._total = self._total + self._weighed(loss, weight)
        self._weight = self._weight + weight
        for name, part in parts.items():
            self._parts[name] = self._parts.get(name, 0.0) + self._weighed(part, weight)

    def _weighed(self, value: Tensor, weight: Tensor | int) -> Tensor:
        value = _exact(value)
        part = value if self._loss.kind == "sum" else value * weight
        # A batch whose targets are all ignored has no loss.
        return torch.where(weight > 0, part, 0.0) if isinstance(weight, Tensor) else part

    def _at_once(self, out: Any, y: Any) -> bool:
        if not (isinstance(out, Tensor) and isinstance(y, Tensor)):
            return False
        if self._loss.kind in ("mean", "sum") and self._loss.measured:
            return (
                gathered_bytes(out, y, self._samples) < _FEW
            )  # what was tried on a few holds for all: no need to trust
        return self._loss.kind == "whole"

    def compute(self) -> dict[str, float]:
        """The mean by weight; of a sum the mean over samples; and so of each part."""
        of_sum = self._seen if self._loss.kind == "sum" else 1
        if self._gathered is not None:
            loss, parts = self._loss.with_parts(*self._gathered.tensors(self._gathered.device))
            return {name: float(value) / of_sum for name, value in {"loss": loss, **parts}.items()}
        weight = float(of_sum if self._loss.kind == "sum" else self._weight)
        sums = {"loss": self._total, **self._parts}
        return {name: float(value) / weight if weight else math.nan for name, value in sums.items()}


def _exact(value: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return value.double() if value.device.type != "mps" else value


class StepLoss(Metric):
    """The loss that comes with each step, and its parts: their means over samples, or by what each step counts for. How
    the loss of a batch is made of its samples is the model's own affair."""

    def __init__(self, weigh: Callable[[Any], Tensor | int] = lambda step: step.size) -> None:
        self._weigh = weigh
        self._sums: dict[str, Any] = {}
        self._weights: dict[str, Any] = {}

    def take(self, step: Any) -> None:
        """Take a batch; a part that it lacks does not count in that part's mean."""
        weight = self._weigh(step)
        for name, value in {"loss": step.loss, **step.parts}.items():
            if value is None:
                continue
            part = _exact(value.detach()) * weight
            # Where all targets are ignored there is no loss.
            part = torch.where(weight > 0, part, 0.0) if isinstance(weight, Tensor) else part
            self._sums[name] = self._sums.get(name, 0.0) + part
            self._weights[name] = self._weights.get(name, 0) + weight

    def compute(self) -> dict[str, float]:
        """The means."""
        weights = {name: float(weight) for name, weight in self._weights.items()}
        return {name: float(value) / weights[name] if weights[name] else math.nan for name, value in self._sums.items()}


class Classification(Metric):
    """Accuracy, top5 (of more than five classes), f1 (macro), and the confusion matrix [true, predicted]."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.confusion: Tensor | None = None
        self._right: Any = 0
        self._top5: Any = 0
        self._seen = 0

    def update(self, out: Tensor, y: Tensor) -> None:
        """Take a batch of logits [N, C] and classes [N] or one-hot [N, C]."""
        n, labels, guess = self._classes, classes_of(y), predicted(out)
        self._seen += len(y)
        self._right = self._right + (guess == labels).sum()
        inside = (labels >= 0) & (labels < n)  # not what a loss ignores
        cells = labels[inside] * n + guess[inside].clamp(max=n - 1)
        found = torch.bincount(cells, minlength=n * n).reshape(n, n)
        self.confusion = found if self.confusion is None else self.confusion + found
        if n > 5 and out.ndim == 2 and out.shape[1] > 5:
            self._top5 = self._top5 + (out.topk(5, 1).indices == labels[:, None]).any(1).sum()

    def compute(self) -> dict[str, float]:
        """The figures; classes that neither occur nor are predicted are left out of the mean (as scikit-learn does)."""
        if self.confusion is None:
            return {}
        figures = {"accuracy": float(self._right) / self._seen}
        if self._classes > 5:
            figures["top5"] = float(self._top5) / self._seen
        counts = self.confusion.cpu().double()
        both = counts.sum(0) + counts.sum(1)
        f1 = (2 * counts.diagonal() / both)[both > 0]
        return figures | {"f1": float(f1.mean()) if len(f1) else math.nan}


class Regression(Metric):
    """mae, rmse and r2 of each target by itself, in its own unit and in float64, and the means over targets. Targets of
    more dimensions, images and series of several numbers, are one: the root of the mean squared error of all its
    numbers, and r2 as scikit-learn's r2_score has it with ``multioutput="variance_weighted"``."""

    def __init__(self, info: DataInfo) -> None:
        self._names = info.target_names
        self._are_one = len(info.target_shape) > 1
        self._sums: Any = None
        self._targets = Moments()

    def update(self, out: Tensor, y: Tensor) -> None:
        """Take a batch of predictions and targets [N] or [N, T] in their own unit."""
        y = y.reshape(len(y), -1).to("cpu", torch.float64)
        error = out.reshape(y.shape).to("cpu", torch.float64) - y
        sums = torch.stack([error.abs().sum(0), (error**2).sum(0)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._targets.add(y.T)

    def compute(self) -> dict[str, float]:
        """The figures. r2 as scikit-learn's r2_score has it: 1 or 0 for a target that never changes, by whether it is
        met; NaN for a single sample."""
        if self._sums is None:
            return {}
        absolute, squared = self._sums
        count, spread = self._targets.count, self._targets.squares
        if self._are_one:
            absolute, squared, spread = absolute.mean(0, True), squared.mean(0, True), spread.mean(0, True)
        r2 = torch.where(spread > 0, 1 - squared / spread, (squared == 0).double())
        if count < 2:
            r2 = torch.full_like(r2, math.nan)
        each = {"mae": absolute / count, "rmse": (squared / count).sqrt(), "r2": r2}
        figures = {name: float(values.mean()) for name, values in each.items()}
        if 1 < len(r2) <= _TARGETS:
            names = self._names if len(self._names) == len(r2) else tuple(str(i) for i in range(len(r2)))
            told = [(f"{m}_{n}", float(v)) for m, values in each.items() for n, v in zip(names, values, strict=True)]
            figures = named([*figures.items(), *told], "The targets")
        return figures


def gathered_bytes(out: Tensor, y: Tensor, samples: int) -> int:
    """What the outputs and targets of so many samples take, by those of a batch."""
    return samples * (out[0].numel() * out.element_size() + y[0].numel() * y.element_size())


class Gathered(Metric):
    """Outputs and targets of the whole set on the CPU, within bounds: one copy for all metrics that read them at the
    end. ``what`` needs them."""

    def __init__(self, samples: int, what: str) -> None:
        self._samples, self._what = samples, what
        self.device = torch.device("cpu")
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, out: Tensor, y: Tensor) -> None:
        """Keep a batch.

        Raises UserError when all of them would take more than half of the free memory.
        """
        if not self._outputs:
            needed = gathered_bytes(out, y, self._samples)
            free = devices.memory_free(torch.device("cpu"))
            if needed > free / 2:
                raise UserError(
                    f"{self._what} needs the outputs of all {self._samples:,} samples at once, "
                    f"{needed / 2**30:.1f} GiB of "
                    f"{free / 2**30:.1f} GiB that are free; give a torchmetrics or Ignite metric, which adds up "
                    f"by batches."
                )
        self.device = out.device
        self._outputs.append(out.detach().cpu())
        self._targets.append(y.cpu())

    def compute(self) -> dict[str, float]:
        """No figures of its own."""
        return {}

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Outputs and targets in tensors of the caller's own, which it may change."""
        return torch.cat(self._outputs).to(device), torch.cat(self._targets).to(device)


class Whole(Metric):
    """A function of the outputs and targets of the whole set, which ``gathered`` keeps, on the CPU."""

    def __init__(
        self,
        name: str,
        function: Callable[[Tensor, Tensor], Any],
        gathered: Gathered,
        what: str,
        classes: tuple[str, ...] = (),
    ) -> None:
        self._name, self._function, self._gathered, self._what = name, function, gathered, what
        self._classes = classes

    def update(self, out: Tensor, y: Tensor) -> None:
        """Nothing: the batches are gathered once for all."""

    def compute(self) -> dict[str, float]:
        """What the function gives, once."""
        outputs, targets = self._gathered.tensors(torch.device("cpu"))
        return figures_of(self._name, self._function(outputs, targets), self._what, self._classes)


def figures_of(name: str, value: Any, what: str, classes: tuple[str, ...] = ()) -> dict[str, float]:
    """A metric's value as figures by name: of a vector one for each class (or number), of a dict those of each key.

    Raises NoNumber for what is none, UserError for two figures of one name.
    """
    if isinstance(value, Mapping):
        inner = [figures_of(f"{name}_{key}", one, what, classes) for key, one in value.items()]
        return named([figure for figures in inner for figure in figures.items()], what)
    try:
        if value is None or isinstance(value, str | bytes):
            raise TypeError
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
    except (TypeError, ValueError):
        raise NoNumber(f"{what} gave {type(value).__name__} {value!r}; a number is needed.") from None
    if array.size == 1:
        return {name: float(array.reshape(()))}
    if array.ndim != 1 or not 0 < array.size <= _MOST:
        raise NoNumber(
            f"{what} gave an array of the shape {list(array.shape)}; a number is needed, or a vector of {_MOST} "
            f"at most."
        )
    names = classes if len(classes) == len(array) else tuple(str(i) for i in range(len(array)))
    return named([(f"{name}_{n}", float(v)) for n, v in zip(names, array, strict=True)], what)


def named(figures: Iterable[tuple[str, float]], what: str) -> dict[str, float]:
    """Figures by name.

    Raises UserError where two have the same: the later would take the place of the other.
    """
    found: dict[str, float] = {}
    for name, value in figures:
        if name in found:
            raise UserError(f"{what}: two figures are named {name!r}; call one of them something else.")
        found[name] = value
    return found
