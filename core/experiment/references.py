"""What an experiment names of the user's code, without running any of it."""

from __future__ import annotations

from pathlib import Path

from torchdeck.core.experiment.schema import Experiment


def references(experiment: Experiment) -> list[str]:
    """Everything in an experiment that may name code of the user's: ``path/to/file.py:Name`` or ``pkg.module:Name``."""
    transforms = (*(experiment.data.transforms or ()), *experiment.data.target_transforms)
    named: list[str | None] = [
        experiment.search.function,
        *([part.name for part in experiment.model.parts.values()] or [experiment.model.name]),
        experiment.loss.name,
        experiment.data.name,
        experiment.data.collate,
        experiment.data.sampler if ":" in (experiment.data.sampler or "") else None,
        experiment.data.batch_sampler,
        experiment.task.step,
        experiment.optimizer.name,
        *(part.name for part in experiment.optimizer.parts.values() if part.name),
        experiment.schedule.name,
        *experiment.trainer.callbacks,
        *experiment.tracking.metrics,
        *(t.name for t in transforms),
        *(str(t.args().get("function", "")) for t in transforms),
    ]
    return [name for name in named if name]


def files_named(experiment: Experiment) -> list[Path]:
    """The Python files among them."""
    places = (name.rpartition(":")[0] for name in references(experiment))
    return [Path(place).expanduser() for place in places if place.endswith(".py")]
