"""The task of an experiment, made for its data and its model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core import catalog
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.models.calls import caller_of
from torchdeck.core.tasks.base import Task
from torchdeck.core.tasks.losses import build_loss
from torchdeck.core.tasks.training_loss import TrainingLoss

#: Tasks that have no loss of the catalog: the model, a step or a loss of the user's own makes it.
_WITHOUT = ("own", "lightning", "detection")


def build_task(
    experiment: Experiment,
    info: DataInfo,
    net: nn.Module,
    device: torch.device,
    train_targets: Tensor | None = None,
    class_weights: Tensor | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Task:
    """The task, with its loss. ``train_targets``: the classes of the training samples, for balanced weights;
    ``class_weights``: those that a training had.

    Raises UserError when the loss does not fit the task.
    """
    loss = _loss(experiment, info, net, device, train_targets, class_weights)
    made: Any = catalog.find("task", info.task).load_factory()
    return made(experiment, info, net, loss, device, warn)


def _loss(
    experiment: Experiment,
    info: DataInfo,
    net: nn.Module,
    device: torch.device,
    train_targets: Tensor | None,
    class_weights: Tensor | None,
) -> TrainingLoss | None:
    """None where the model or the step gives it."""
    if info.task == "lightning" and experiment.loss.name is not None:
        raise UserError(
            f"loss.name = {experiment.loss.name!r} would not be used: the LightningModule makes its loss.",
            field="loss.name",
        )
    if experiment.loss.name is None:
        gives_loss = caller_of(net, experiment.model.name).target is not None
        if gives_loss or info.task in _WITHOUT:
            return None
    return build_loss(experiment, info, device, train_targets, class_weights)
