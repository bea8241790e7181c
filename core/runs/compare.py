"""What differs between runs, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.hyperparameters import flat
from torchdeck.core.runs.rows import Row

#: Keys that say nothing of the training itself.
_SILENT = ("tracking.",)


@dataclass(frozen=True)
class Difference:
    """A key whose value is not the same in all runs; None where a run does not have it."""

    key: str
    values: tuple[Any, ...]


def hyperparameters(row: Row) -> dict[str, Any]:
    """A run's experiment on one level, from run.json, else from experiment.toml; empty for other tools' runs."""
    if row.hyperparameters:
        return dict(row.hyperparameters)
    try:
        return flat(toml.build(toml.read(row.path / "experiment.toml"), str(row.path)))
    except UserError:
        return {}


def run_differences(rows: Sequence[Row]) -> list[Difference]:
    """The hyperparameters in which the runs differ, in the order of an experiment."""
    every = [hyperparameters(row) for row in rows]
    found = []
    for key in dict.fromkeys(key for one in every for key in one):
        values = tuple(one.get(key) for one in every)
        if key.startswith(_SILENT) or all(value == values[0] for value in values):
            continue
        found.append(Difference(key, values))
    return found
