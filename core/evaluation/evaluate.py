"""A trained model on any data set: the same metrics as in training, by the same code."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import cast

import torch

from torchdeck.core.data.evaluation import evaluation_feed
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation.trained import Trained
from torchdeck.core.experiment.data_schema import Data
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices
from torchdeck.core.tasks.base import Task
from torchdeck.core.tasks.build import build_task
from torchdeck.core.tasks.training_loss import Kind
from torchdeck.core.training.evaluation import Evaluator, Report


@dataclass(frozen=True)
class EvaluationResult:
    """The metrics of a model on one part of a data set."""

    data: str
    #: test, val, train or all.
    split: str
    samples: int
    #: Of how many that the data have in all.
    total: int
    report: Report
    class_names: tuple[str, ...]


def evaluate_model(
    trained: Trained,
    data: Data | None = None,
    split: str | None = None,
    device: str = "auto",
    warn: Callable[[str], None] = lambda text: None,
    net: torch.nn.Module | None = None,
) -> EvaluationResult:
    """Evaluate on the data that it was trained on (default: the test set), or on others (default: all of them). Inputs
    are prepared as in training.

    ``net``: another network in place of the checkpoint's (an exported one, a quantised one).

    Raises UserError when the data don't fit the model.
    """
    experiment = _with(trained, data)
    chosen = devices.choose_device(device)
    evaluated = evaluation_feed(
        experiment, trained.info, trained.experiment.data, split, chosen, warn, data is not None
    )
    info, feed = evaluated.info, evaluated.feed
    if tuple(info.input_shape) != trained.info.input_shape:
        raise UserError(
            f"data.name = {info.name!r} gives inputs of the shape {list(info.input_shape)}, but the model was "
            f"trained on {list(trained.info.input_shape)}; add transforms that make them alike to data.transforms.",
            field="data.name",
        )
    target = trained.net if net is None else net
    target = target.to(chosen) if net is None else target
    channels_last = trained.channels_last if net is None else False
    evaluator = Evaluator(
        info,
        _task(trained, target, info, chosen, warn),
        chosen,
        nullcontext,
        experiment.trainer.flip_test,
        experiment.tracking.metrics,
        channels_last,
    )
    try:
        report = evaluator.evaluate(target, feed, "test" if evaluated.split == "test" else "val")
    finally:
        feed.close()
    return EvaluationResult(info.name, evaluated.split, evaluated.samples, evaluated.total, report, info.class_names)


def _with(trained: Trained, data: Data | None) -> Experiment:
    """The experiment with other data, prepared in the way the model was trained for."""
    chosen = trained.experiment.data if data is None else data
    if data is None or data.transforms is None:
        chosen = chosen.model_copy(update={"transforms": trained.transforms})
    if data is not None:
        chosen = chosen.model_copy(update={"target_transforms": trained.experiment.data.target_transforms})
    return trained.experiment.model_copy(update={"data": chosen})


def _task(
    trained: Trained, net: torch.nn.Module, info: DataInfo, device: torch.device, warn: Callable[[str], None]
) -> Task:
    """The task of the training, with the weights that its loss had there and what it had learned.

    Raises UserError when the code of the loss has changed since.
    """
    weights = None if trained.class_weights is None else torch.tensor(trained.class_weights)
    task = build_task(trained.experiment, info, net, device, class_weights=weights, warn=warn)
    loss = task.loss
    if loss is None:
        return task
    if loss.module is not None and trained.loss_state is not None:
        try:
            loss.module.load_state_dict(trained.loss_state)
        except RuntimeError as error:
            last = str(error).splitlines()[-1].strip()
            name = trained.experiment.loss.name
            raise UserError(f"{str(trained.path)!r} does not fit loss.name = {name!r} any more: {last}") from None
    if loss.kind == "whole" and trained.loss_kind in ("mean", "sum", "batches"):
        loss.kind, loss.measured = cast(Kind, trained.loss_kind), True  # as the run found out
    return task
