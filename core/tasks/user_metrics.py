"""Metrics of the user's own: functions of all outputs and targets, and objects of torchmetrics or Ignite."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core import usercode
from torchdeck.core.errors import UserError, count
from torchdeck.core.experiment.metric_names import short_name
from torchdeck.core.machine.distributed import world
from torchdeck.core.tasks.metrics import Gathered, Metric, Whole, figures_of


class Added(Metric):
    """A torchmetrics or Ignite metric: updated batch by batch, and computed at the end."""

    def __init__(self, name: str, metric: Any, what: str, classes: tuple[str, ...]) -> None:
        self._name, self._metric, self._what, self._classes = name, metric, what, classes
        metric.reset()

    def update(self, out: Tensor, y: Tensor) -> None:
        """Hand a batch on."""
        if _is_ignites(self._metric):
            self._metric.update(self._metric._output_transform((out, y)))
        else:
            self._metric.update(out, y)

    def compute(self) -> dict[str, float]:
        """What the metric gives."""
        return figures_of(self._name, self._metric.compute(), self._what, self._classes)


class UserMetric:
    """A metric of the user's own: a function of (outputs, targets), or an object of torchmetrics or Ignite."""

    def __init__(self, reference: str, device: torch.device) -> None:
        self.name = short_name(reference)
        self.what = f"tracking.metrics: {reference!r}"
        target = usercode.load(reference, "tracking.metrics")
        if isinstance(target, type):
            target = usercode.call(target, {}, "tracking.metrics")
        target = usercode.with_writer(target)
        if isinstance(target, nn.Module):
            target = target.to(device)
        self._target: Any = target
        #: Whether Ignite computes it, which adds up over processes.
        self.is_ignites = _is_ignites(target)
        self._adds = self.is_ignites or _is_torchmetrics(target)
        if not (self._adds or callable(target)):
            raise UserError(f"{self.what} is not a metric: it can't be called.")

    @property
    def higher_is_better(self) -> bool | None:
        """Whether more of it is better, where it tells."""
        told = getattr(self._target, "higher_is_better", None)
        return told if isinstance(told, bool) else None

    @property
    def gathers(self) -> bool:
        """Whether it is computed on all outputs at once."""
        return not self._adds

    def begin(self, gathered: Gathered, classes: tuple[str, ...]) -> Metric:
        """The metric for one evaluation, whose outputs are in ``gathered`` at the end where it needs them all."""
        if self._adds:
            return Added(self.name, self._target, self.what, classes)
        return Whole(self.name, self._target, gathered, self.what, classes)


def _is_ignites(target: Any) -> bool:
    # Whoever brings one has imported Ignite, which nobody else waits a second for.
    ignite = sys.modules.get("ignite.metrics")
    return ignite is not None and isinstance(target, ignite.Metric)


def _is_torchmetrics(target: Any) -> bool:
    return isinstance(target, nn.Module) and all(hasattr(target, name) for name in ("update", "compute", "reset"))


def user_metrics(references: tuple[str, ...], device: torch.device) -> list[UserMetric]:
    """The metrics that tracking.metrics names.

    Raises UserError for what is none, and in several processes for Ignite's, which add up over them.
    """
    made = [UserMetric(reference, device) for reference in references]
    if world().size > 1 and any(one.is_ignites for one in made):
        raise UserError(
            f"tracking.metrics: Ignite's metrics would be added up over {count(world().size, 'process')} that "
            "each see every sample; give a function or a torchmetrics metric.",
            field="tracking.metrics",
        )
    return made
