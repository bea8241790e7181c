"""Which kind of step a training makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.tasks.base import Task
from torchdeck.core.tasks.lightning import LightningTask
from torchdeck.core.tasks.own import StepsTask
from torchdeck.core.training import sharding
from torchdeck.core.training.lightning_manual import LightningManualStep
from torchdeck.core.training.lightning_step import LightningStep
from torchdeck.core.training.manual import ManualStep
from torchdeck.core.training.step import OptimizerStep


def build_step(
    experiment: Experiment,
    net: nn.Module,
    task: Task,
    device: torch.device,
    tell: Callable[[str], None] = lambda text: None,
) -> OptimizerStep | ManualStep | LightningManualStep:
    """The step of a training: ours, or what the task makes itself. ``tell`` hears what is decided on the way."""
    if sharding.is_asked_for(experiment):
        sharding.refuse_unable(experiment, task, False)
    if isinstance(task, StepsTask):
        return ManualStep(experiment, net, task, device)
    if isinstance(task, LightningTask):
        if task.makes_own_backward:
            return LightningManualStep(experiment, net, task, device, tell)
        return LightningStep(experiment, net, task, device, tell)
    return OptimizerStep(experiment, net, task, device, tell)
