"""Evaluation: metrics over a feed, without a trace on the training that it interrupts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core import usercode
from torchdeck.core.data.batches import Batch, Feed
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError, count, first_line
from torchdeck.core.experiment.metric_names import whole_of
from torchdeck.core.models.calls import logits_of
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.metrics import (
    Classification,
    Gathered,
    LossMetric,
    Metric,
    named,
)
from torchdeck.core.tasks.user_metrics import UserMetric, user_metrics
from torchdeck.core.training.random import unchanged_random_states


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
    """Evaluates a model on a feed: the loss, the figures of the task, and the user's own."""

    def __init__(
        self,
        info: DataInfo,
        task: Task,
        device: torch.device,
        autocast: Callable[[], Any],
        flip: bool = False,
        metrics: tuple[str, ...] = (),
        channels_last: bool = False,
    ) -> None:
        """``flip``: whether the outputs are the mean of those of each image and its mirror image."""
        self._info, self._task = info, task
        self._device = device
        self._autocast = autocast
        self._flip = flip and task.mirrors and len(info.input_shape) == 3
        self._channels_last = channels_last and len(info.input_shape) == 3
        self._user = user_metrics(metrics, device)

    def evaluate(self, net: nn.Module, feed: Feed, part: str = "val") -> Report:
        """The metrics of ``net`` on every sample of ``feed``, which is that ``part`` of the data.

        Training mode and random states are as before afterwards.

        Raises UserCodeError when the user's model, loss or metric raises, UserError when a metric gives no number, or
        two give a figure of the same name.
        """
        metrics: list[Metric] = []
        counted: Classification | None = None
        with (
            evaluating(net, loss_module(self._task)),
            torch.no_grad(),
            unchanged_random_states(self._device),
            usercode.user_errors(),
        ):
            self._task.evaluation_began(net, part)
            for batch in feed.epoch(0):
                step = self.step(net, batch)
                if not metrics:
                    metrics = self._begin(feed.samples, step)
                    counted = next((m for m in metrics if isinstance(m, Classification)), None)
                own_unit = self._in_own_unit(step)
                for metric in metrics:
                    metric.take(step if isinstance(metric, LossMetric) else own_unit)
            late = {name: float(value) for name, value in self._task.evaluation_ended(net).items()}
            found = [pair for metric in metrics for pair in metric.compute().items() if pair[0] not in late]
            figures = named([*found, *late.items()], "tracking.metrics")
            self._task.evaluated()
        if counted is None or counted.confusion is None:
            return Report(figures)
        return Report(figures, tuple(map(tuple, counted.confusion.tolist())))

    def text(self, net: nn.Module, epoch: int) -> str | None:
        """What the task shows in words after an epoch; training mode and random states are as before afterwards."""
        if not self._task.writes:
            return None
        with evaluating(net), torch.no_grad(), unchanged_random_states(self._device), self._autocast():
            return self._task.text(net, epoch)

    def step(self, net: nn.Module, batch: Batch) -> Step:
        """What the model makes of a batch; with test-time augmentation the mean over each image and its mirror
        image."""
        with self._autocast():
            batch = in_layout(batch, self._channels_last)
            return self._task.forward(flipped(net, self._task.unmirrored) if self._flip else net, batch)

    def _in_own_unit(self, step: Step) -> Step:
        out, y = self._task.in_own_unit(step.outputs), self._task.in_own_unit(step.targets)
        return Step(out, y, step.size, step.loss, step.parts)

    def direction(self, name: str) -> bool | None:
        """Whether more of a metric of the user's own is better, where it tells."""
        by_name = {metric.name: metric for metric in self._user}
        whole = whole_of(name, by_name)
        return by_name[whole].higher_is_better if whole is not None else None

    def try_out(self, step: Step, warn: Callable[[str], None]) -> Tried:
        """Try the metrics on a few samples, so that what gives no number is told before the training; which figures
        there will be.

        Raises UserError for a metric that gives no number, and for two figures of one name. One that raises something
        else may need more samples than these: that is told, and the first evaluation decides.
        """
        task, unknown = self._task, []
        self.refuse_without_outputs(step)
        # A few images of a detector may have no box, and no figure.
        always = ("loss", *step.parts) if task.loss_in_evaluation else task.figures[1:]
        found = [(name, 0.0) for name in always]
        own_unit = self._in_own_unit(step)
        with unchanged_random_states(self._device):
            for metric in task.metrics(step, step.size)[1:]:
                metric.take(own_unit)
                found += [(name, value) for name, value in metric.compute().items() if name not in always]
            for one in self._user:
                figures = self._tried(one, own_unit, warn)
                found += figures.items()
                if not figures:
                    unknown.append(one.name)
        return Tried(tuple(named(found, "tracking.metrics")), tuple(unknown))

    def refuse_without_outputs(self, step: Step) -> None:
        """Raises UserError where there are metrics of the user's, and a step that gives nothing to measure."""
        if not (self._user and step.outputs is None):
            return
        may = "return a dict with 'loss', 'outputs' and 'targets'"
        may = "log it in validation_step (self.log)" if self._task.name == "lightning" else may
        raise UserError(
            f"{self._user[0].what} is of outputs and targets, and the step gives no outputs; {may}.",
            field="tracking.metrics",
        )

    def _tried(self, metric: UserMetric, step: Step, warn: Callable[[str], None]) -> dict[str, float]:
        """What a metric gives; nothing where it raises."""
        gathered = Gathered(step.size, metric.what)
        started = metric.begin(gathered, self._info.class_names)
        try:
            for one in (gathered, started):
                one.take(step)
            return started.compute()
        except UserError:
            raise
        except Exception as error:
            warn(
                f"{metric.what} raised {type(error).__name__}: {first_line(error)} on {count(step.size, 'sample')}; "
                "it is tried again with the whole set."
            )
            return {}

    def _begin(self, samples: int, step: Step) -> list[Metric]:
        metrics = self._task.metrics(step, samples)
        gathering = [metric for metric in self._user if metric.gathers]
        gathered = Gathered(samples, gathering[0].what if gathering else "")
        if gathering:
            metrics.append(gathered)
        return metrics + [metric.begin(gathered, self._info.class_names) for metric in self._user]


def loss_module(task: Task) -> nn.Module | None:
    """The loss of a task where it is a module, which may have parameters of its own."""
    return task.loss.module if task.loss is not None else None


def flipped(
    net: Callable[..., Any], unmirrored: Callable[[Tensor], Tensor] = lambda outputs: outputs
) -> Callable[[Tensor], Tensor]:
    """The mean of what a model makes of each image and its mirror image; ``unmirrored``: what makes of the outputs for
    mirror images those for the images themselves (Task.unmirrored)."""

    def both(x: Tensor) -> Tensor:
        return (logits_of(net(x)) + unmirrored(logits_of(net(x.flip(-1))))) / 2

    return both


def in_layout(batch: Batch, channels_last: bool) -> Batch:
    """The batch with its images' channels last in memory, where the model has them so."""
    if not (channels_last and isinstance(batch.x, Tensor) and batch.x.ndim == 4):
        return batch
    return batch._replace(x=batch.x.contiguous(memory_format=torch.channels_last))


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
