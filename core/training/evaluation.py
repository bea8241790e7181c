"""Evaluation: Ignite's metrics over a feed, without a trace on the training that it interrupts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from ignite.engine import Engine
from ignite.metrics import (
    Average,
    ConfusionMatrix,
    Loss,
    MeanAbsoluteError,
    Metric,
    RootMeanSquaredError,
    TopKCategoricalAccuracy,
)
from ignite.metrics.regression import R2Score
from torch import Tensor, nn

from core import usercode
from core.data.batches import Batch, Feed
from core.data.source import DataInfo
from core.distributed import world
from core.errors import UserError
from core.models.build import logits_of
from core.training.losses import LossFunction, classes_of, predicted
from core.training.random import unchanged_random_states


@dataclass(frozen=True)
class Report:
    """Metrics of one evaluation, and the confusion matrix (rows: true class) in classification."""

    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] = ()


class Evaluator:
    """Evaluates a model on a feed: loss, and by task accuracy, top5, f1 (macro) or mae, rmse, r2; and the user's own."""

    def __init__(self, info: DataInfo, loss: LossFunction, device: torch.device, autocast: Callable[[], Any],
                 flip: bool = False, user_metrics: tuple[str, ...] = (), channels_last: bool = False) -> None:  # fmt: skip
        self._info = info
        self._loss = loss
        self._device = device
        self._autocast = autocast
        self._flip = flip and len(info.input_shape) == 3
        self._channels_last = channels_last and len(info.input_shape) == 3
        self._user = {_short_name(r): _user_metric(r, device) for r in user_metrics}

    def evaluate(self, net: nn.Module, feed: Feed) -> Report:
        """The metrics of ``net`` on every sample of ``feed``.

        Training mode and random states are as before afterwards.

        Raises UserCodeError when the user's model, loss or metric raises.
        """

        def step(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
            x, y = batch
            return self.logits(net, x).float(), y

        engine = Engine(step)
        for name, metric in self._metrics().items():
            metric.attach(engine, name)
        with evaluating(net), torch.no_grad(), unchanged_random_states(self._device), usercode.user_errors():
            engine.run(feed.epoch(0), max_epochs=1, epoch_length=len(feed))
        return self._report(engine.state.metrics)

    def logits(self, net: nn.Module, x: Tensor) -> Tensor:
        """The logits of a batch; with test-time augmentation the mean over each image and its mirror image."""
        return forward(net, x, self._autocast, self._channels_last, self._flip)

    def _metrics(self) -> dict[str, Metric]:
        device = self._device
        # On mps there is no float64, in which Ignite keeps its sums.
        home = torch.device("cpu") if device.type == "mps" else device
        metrics: dict[str, Metric] = {"loss": Loss(self._loss, device=home)}
        if self._info.task == "classification":
            labels = lambda out: (predicted(out[0]), classes_of(out[1]))  # noqa: E731
            count = self._info.classes
            metrics["accuracy"] = _SimpleAccuracy(output_transform=labels, device=home)
            metrics["confusion"] = ConfusionMatrix(count, output_transform=lambda o: (_one_hot_of(o, count), classes_of(o[1])),
                                                   device=home)  # fmt: skip
            if count > 5:
                metrics["top5"] = TopKCategoricalAccuracy(
                    5, output_transform=lambda o: (o[0], classes_of(o[1])), device=home
                )
        else:
            unscaled = self._unscale
            for name, kind in (("mae", MeanAbsoluteError), ("rmse", RootMeanSquaredError), ("r2", R2Score)):
                metrics[name] = kind(output_transform=unscaled, device=home)
        for name, own in self._user.items():
            metrics[name] = own if isinstance(own, Metric) else Average(_called(own), device=home)
        return metrics

    def _unscale(self, out: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Predictions and targets in the target's own unit, flat: several targets count as several samples."""
        prediction, y = out[0].reshape(out[1].shape), out[1]
        if self._info.target_mean:
            mean = torch.tensor(self._info.target_mean, device=y.device)
            std = torch.tensor(self._info.target_std, device=y.device)
            if y.ndim == 1:
                mean, std = mean[0], std[0]
            prediction, y = prediction * std + mean, y * std + mean
        return prediction.reshape(-1), y.reshape(-1)

    def _report(self, computed: dict[str, Any]) -> Report:
        confusion = computed.pop("confusion", None)
        metrics = {name: float(value) for name, value in computed.items()}
        if confusion is None:
            return Report(metrics)
        # Ignite adds up over processes, each of which has seen every sample.
        counts = confusion.double() / world().size
        hits = counts.diagonal()
        both = counts.sum(0) + counts.sum(1)
        # Classes that neither occur nor are predicted are left out of the mean (as scikit-learn does).
        f1 = (2 * hits / both)[both > 0]
        metrics["f1"] = float(f1.mean()) if len(f1) else math.nan
        order = [n for n in ("loss", "accuracy", "top5", "f1") if n in metrics]
        ordered = {n: metrics[n] for n in (*order, *(n for n in metrics if n not in order))}
        return Report(ordered, tuple(tuple(round(v) for v in row) for row in counts.tolist()))


class _SimpleAccuracy(Metric):
    """Share of right classes. Ignite's own Accuracy guesses the kind of task from the first batch's values."""

    def reset(self) -> None:
        self._right: Any = 0
        self._seen = 0

    def update(self, output: tuple[Tensor, Tensor]) -> None:
        classes, y = output
        self._right = self._right + (classes == y).sum()
        self._seen += len(y)

    def compute(self) -> float:
        return float(self._right) / self._seen if self._seen else math.nan


def _one_hot_of(out: tuple[Tensor, Tensor], count: int) -> Tensor:
    """Scores [N, classes] whose largest is the predicted class, also where the model has one logit or spare ones."""
    return nn.functional.one_hot(predicted(out[0]).clamp(max=count - 1), count)


def _called(function: Callable[[Tensor, Tensor], Any]) -> Callable[[tuple[Tensor, Tensor]], Tensor]:
    def apply(out: tuple[Tensor, Tensor]) -> Tensor:
        value = function(out[0], out[1])
        # One number per batch stands for each sample of it, so that a smaller last batch weighs less.
        return torch.as_tensor(value, dtype=torch.float64, device="cpu").reshape(1, 1).expand(len(out[1]), 1)

    return apply


def _user_metric(reference: str, device: torch.device) -> Any:
    target = usercode.load(reference, "tracking.metrics")
    if isinstance(target, type):
        target = usercode.call(target, {}, "tracking.metrics")
    if isinstance(target, nn.Module):
        target = target.to(device)
    if not (callable(target) or isinstance(target, Metric)):
        raise UserError(f"tracking.metrics: {reference!r} is not a metric: it can't be called.")
    return target


def _short_name(reference: str) -> str:
    return reference.rpartition(":")[2].rpartition(".")[2]


def forward(net: nn.Module, x: Tensor, autocast: Callable[[], Any], channels_last: bool, flip: bool) -> Tensor:
    """The logits of a batch, as evaluation and prediction compute them; ``flip``: the mean over each image and its
    mirror image."""
    if channels_last and x.ndim == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    with autocast():
        out = logits_of(net(x))
        return (out + logits_of(net(x.flip(-1)))) / 2 if flip else out


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; each module's own mode is put back after."""
    modes = [(m, m.training) for m in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
