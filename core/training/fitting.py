"""Data and a model that fits them, in the order in which random numbers are drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from torchdeck.core.data.load import LoadedData, load_data
from torchdeck.core.errors import Error
from torchdeck.core.experiment.model_schema import Task
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.models.build import GivesLoss, build_model
from torchdeck.core.training.random import seed_everything


def is_tried_itself(experiment: Experiment, data: LoadedData) -> bool:
    """What a step of the user's own calls the model with, only it knows; it is tried itself."""
    return experiment.task.step is not None or data.info.task == "lightning"


class _Notes:
    """What is told while data are loaded, held back until it is known that they stay; then told at once, for the data's
    workers have something to tell all the time."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._held: list[str] | None = []

    def __call__(self, text: str) -> None:
        """Tell, or hold back."""
        if self._held is None:
            self._warn(text)
        else:
            self._held.append(text)

    def release(self) -> None:
        """Tell what was held back."""
        held, self._held = self._held or [], None
        for text in held:
            self._warn(text)


def data_and_model(
    experiment: Experiment, device: torch.device, warn: Callable[[str], None]
) -> tuple[Experiment, LoadedData, nn.Module]:
    """Data and a model that fits, and the experiment: with the task of a model that turned out to give its loss itself,
    for which the data are loaded again, as they are.

    Raises UserError when data or model are wrong, or don't fit.
    """
    notes = _Notes(warn)
    try:
        data = load_data(experiment, device, notes)
        seed_everything(experiment.trainer.seed)
        sample = None if is_tried_itself(experiment, data) else data.sample
        net = build_model(experiment.model, data.info, notes, sample)
    except GivesLoss as error:
        data.close()
        with_own_task = of_its_own_loss(experiment, error)
    except Error:
        notes.release()
        raise
    else:
        notes.release()
        return experiment, data, net
    warn(f"The task is own: model.name = {experiment.model.name!r} gives its loss itself. task.name says otherwise.")
    return data_and_model(with_own_task, device, warn)


def of_its_own_loss(experiment: Experiment, error: GivesLoss) -> Experiment:
    """The experiment with the task of a model that gives its loss itself.

    Raises the error where the user has named the task or a loss.
    """
    if experiment.task.name != "auto" or experiment.loss.name is not None:
        raise error
    return experiment.model_copy(update={"task": Task(name="own")})
