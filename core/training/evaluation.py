"""Evaluation: metrics over a feed, without a trace on the training that it interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core import usercode
from torchdeck.core.data.batches import Feed
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError, count, first_line
from torchdeck.core.experiment.metric_names import whole_of
from torchdeck.core.models.build import logits_of
from torchdeck.core.training.losses import TrainingLoss
from torchdeck.core.training.metrics import (
    Classification,
    Gathered,
    LossMetric,
    Metric,
    Regression,
    named,
)
from torchdeck.core.training.random import unchanged_random_states
from torchdeck.core.training.user_metrics import UserMetric, user_metrics


@dataclass(frozen=True)
class Report:
    """Metrics of one evaluation, and the confusion matrix (rows: true class) in classification."""

    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Tried:
    """The figures that an evaluation gives: their names, as far as a few samples tell, and the metrics of the user's
    whose figures they don't tell."""

    names: tuple[str, ...]
    unknown: tuple[str, ...]


class Evaluator:
    """Evaluates a model on a feed: loss, and by task accuracy, top5, f1 (macro) or mae, rmse, r2; and the user's
    own."""

    def __init__(
        self,
        info: DataInfo,
        loss: TrainingLoss,
        device: torch.device,
        autocast: Callable[[], Any],
        flip: bool = False,
        metrics: tuple[str, ...] = (),
        channels_last: bool = False,
    ) -> None:
        self._info = info
        self._loss = loss
        self._device = device
        self._autocast = autocast
        self._flip = flip and len(info.input_shape) == 3
        self._channels_last = channels_last and len(info.input_shape) == 3
        self._user = user_metrics(metrics, device)

    def evaluate(self, net: nn.Module, feed: Feed) -> Report:
        """The metrics of ``net`` on every sample of ``feed``.

        Training mode and random states are as before afterwards.

        Raises UserCodeError when the user's model, loss or metric raises, UserError when a metric gives no number, or
        two give a figure of the same name.
        """
        metrics: list[Metric] = []
        counted: Classification | None = None
        with (
            evaluating(net, self._loss.module),
            torch.no_grad(),
            unchanged_random_states(self._device),
            usercode.user_errors(),
        ):
            for x, y in feed.epoch(0):
                out = self.logits(net, x).float()
                if not metrics:
                    metrics = self._begin(feed.samples, out, y)
                    counted = next((m for m in metrics if isinstance(m, Classification)), None)
                own_unit = self._info.in_own_unit(out), self._info.in_own_unit(y)
                for metric in metrics:
                    metric.update(*((out, y) if isinstance(metric, LossMetric) else own_unit))
            figures = named([pair for metric in metrics for pair in metric.compute().items()], "tracking.metrics")
        if counted is None or counted.confusion is None:
            return Report(figures)
        return Report(figures, tuple(map(tuple, counted.confusion.tolist())))

    def logits(self, net: nn.Module, x: Tensor) -> Tensor:
        """The logits of a batch; with test-time augmentation the mean over each image and its mirror image."""
        return forward(net, x, self._autocast, self._channels_last, self._flip)

    def direction(self, name: str) -> bool | None:
        """Whether more of a metric of the user's own is better, where it tells."""
        by_name = {metric.name: metric for metric in self._user}
        whole = whole_of(name, by_name)
        return by_name[whole].higher_is_better if whole is not None else None

    def fits(self, out: Tensor, y: Tensor) -> bool:
        """Whether the outputs are what the metrics of the task are made of: logits of classes, or numbers like the
        targets."""
        if self._info.task == "regression":
            labels = self._loss.own and bool(((y == 0) | (y == 1)).all())  # whose outputs are logits, not amounts
            return out.numel() == y.numel() and not labels
        one_logit = self._info.classes == 2 and out.numel() == len(out)
        return y.numel() in (len(y), len(y) * self._info.classes) and (
            one_logit or (out.ndim == 2 and out.shape[1] >= self._info.classes)
        )

    def try_out(self, out: Tensor, y: Tensor, warn: Callable[[str], None]) -> Tried:
        """Try the metrics on a few samples, so that what gives no number is told before the training; which figures
        there will be.

        Raises UserError for a metric that gives no number, and for two figures of one name. One that raises something
        else may need more samples than these: that is told, and the first evaluation decides.
        """
        found, unknown = [("loss", 0.0)], []
        own_unit = self._info.in_own_unit(out), self._info.in_own_unit(y)
        with unchanged_random_states(self._device):
            for task in self._of_task(out, y):
                task.update(*own_unit)
                found += task.compute().items()
            for metric in self._user:
                figures = self._tried(metric, *own_unit, warn)
                found += figures.items()
                if not figures:
                    unknown.append(metric.name)
        return Tried(tuple(named(found, "tracking.metrics")), tuple(unknown))

    def _tried(self, metric: UserMetric, out: Tensor, y: Tensor, warn: Callable[[str], None]) -> dict[str, float]:
        """What a metric gives; nothing where it raises."""
        gathered = Gathered(len(y), metric.what)
        started = metric.begin(gathered, self._info.class_names)
        try:
            for one in (gathered, started):
                one.update(out, y)
            return started.compute()
        except UserError:
            raise
        except Exception as error:
            warn(
                f"{metric.what} raised {type(error).__name__}: {first_line(error)} on {count(len(y), 'sample')}; "
                "it is tried again with the whole set."
            )
            return {}

    def _of_task(self, out: Tensor, y: Tensor) -> list[Metric]:
        if not self.fits(out, y):
            return []
        return [Classification(self._info.classes) if self._info.classes else Regression(self._info)]

    def _begin(self, samples: int, out: Tensor, y: Tensor) -> list[Metric]:
        metrics: list[Metric] = [LossMetric(self._loss, samples), *self._of_task(out, y)]
        gathering = [metric for metric in self._user if metric.gathers]
        gathered = Gathered(samples, gathering[0].what if gathering else "")
        if gathering:
            metrics.append(gathered)
        return metrics + [metric.begin(gathered, self._info.class_names) for metric in self._user]


def forward(net: nn.Module, x: Tensor, autocast: Callable[[], Any], channels_last: bool, flip: bool) -> Tensor:
    """The logits of a batch, as evaluation and prediction compute them; ``flip``: the mean over each image and its
    mirror image."""
    if channels_last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    with autocast():
        out = logits_of(net(x))
        return (out + logits_of(net(x.flip(-1)))) / 2 if flip else out


@contextmanager
def evaluating(net: nn.Module, loss: nn.Module | None = None) -> Iterator[None]:
    """The model, and a loss that is a module, in evaluation mode; each module's own mode is put back after."""
    tops = [net] if loss is None else [net, loss]
    modes = [(m, m.training) for top in tops for m in top.modules()]
    for top in tops:
        top.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
