"""What is told of a run when it begins: in run.json, in its name, and in its first event."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchdeck.core.events import Started
from torchdeck.core.experiment.hyperparameters import flat
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.runs.directory import git_state

if TYPE_CHECKING:
    from torchdeck.core.training.build import Built


def run_facts(experiment: Experiment, built: Built, folder: Path) -> dict[str, Any]:
    """The values of run.json; ``folder``: where the run was started."""
    info, trainer = built.data.info, built.trainer
    return {
        "data": info.name,
        "model": experiment.model.name,
        "task": info.task,
        "seed": experiment.trainer.seed,
        "tags": list(experiment.tracking.tags),
        "note": experiment.tracking.note,
        "device": str(built.device),
        "precision": trainer.precision.name,
        "threads": built.threads,
        "parameters": built.parameters,
        "epochs": trainer.total_epochs,
        "steps": trainer.total_steps,
        "hyperparameters": flat(experiment),
        "higher_is_better": trainer.monitor.higher_is_better,
        "best_metric": trainer.monitor.name,
        "validated_on": experiment.trainer.validate_on,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "folder": str(folder),
        **git_state(folder),
    }


def name_of_run(experiment: Experiment, built: Built) -> str:
    """What the user calls the run, or what it trains on what."""
    return experiment.tracking.name or f"{_short(built.data.info.name)}-{_short(experiment.model.name)}"


def _short(name: str) -> str:
    """A catalog name as it is; of the user's own only the class."""
    return name.rpartition(":")[2]


def started_event(experiment: Experiment, built: Built) -> Started:
    """The event of the beginning."""
    trainer, samples = built.trainer, built.data.info.samples
    return Started(
        epoch=trainer.step // trainer.epoch_length,
        step=trainer.step,
        epochs=trainer.total_epochs,
        steps=trainer.total_steps,
        epoch_length=trainer.epoch_length,
        device=str(built.device),
        precision=trainer.precision.name,
        parameters=built.parameters,
        train_samples=samples["train"],
        val_samples=built.data.val.samples if built.data.val is not None else 0,
        test_samples=samples["test"],
        validated_on=experiment.trainer.validate_on,
        task=built.data.info.task,
    )
