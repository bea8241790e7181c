"""Data and a model that fits them, in the order in which random numbers are drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from torchdeck.core.data.load import LoadedData, load_data
from torchdeck.core.experiment.schema import Experiment, Task
from torchdeck.core.models.build import GivesLoss, build_model
from torchdeck.core.training.random import seed_everything


def is_tried_itself(experiment: Experiment, data: LoadedData) -> bool:
    """What a step of the user's own calls the model with, only it knows; it is tried itself."""
    return experiment.task.step is not None or data.info.task == "lightning"


def data_and_model(
    experiment: Experiment, device: torch.device, warn: Callable[[str], None]
) -> tuple[Experiment, LoadedData, nn.Module]:
    """Data and a model that fits, and the experiment: with the task of a model that turned out to give its loss itself,
    for which the data are loaded again, as they are.

    Raises UserError when data or model are wrong, or don't fit.
    """
    told: list[str] = []
    again = False
    try:
        data = load_data(experiment, device, told.append)
        seed_everything(experiment.trainer.seed)
        sample = None if is_tried_itself(experiment, data) else data.sample
        return experiment, data, build_model(experiment.model, data.info, told.append, sample)
    except GivesLoss as error:
        data.close()
        with_own_task = of_its_own_loss(experiment, error)
        again = True
    finally:
        for text in [] if again else told:
            warn(text)
    warn(f"The task is own: model.name = {experiment.model.name!r} gives its loss itself. task.name says otherwise.")
    return data_and_model(with_own_task, device, warn)


def of_its_own_loss(experiment: Experiment, error: GivesLoss) -> Experiment:
    """The experiment with the task of a model that gives its loss itself.

    Raises the error where the user has named the task or a loss.
    """
    if experiment.task.name != "auto" or experiment.loss.name is not None:
        raise error
    return experiment.model_copy(update={"task": Task(name="own")})
