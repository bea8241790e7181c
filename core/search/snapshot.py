"""A study as it stands now, in plain values: what screens and commands show."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import TrialState

from torchdeck.core.experiment.dimension import Dimension
from torchdeck.core.search.objectives import Objective
from torchdeck.core.search.rows import TrialRow, trial_row
from torchdeck.core.search.study import Limits, Study
from torchdeck.core.search.watch import Owners


@dataclass(frozen=True)
class StudySnapshot:
    """One look; ``rows`` in the order of their numbers."""

    name: str
    folder: Path
    rows: tuple[TrialRow, ...]
    objectives: tuple[Objective, ...]
    dimensions: Mapping[str, Dimension]
    #: Numbers of the best trial, or of the Pareto front.
    best: tuple[int, ...]
    limits: Limits
    sampler: str
    pruner: str
    #: Whether workers are to stop.
    stopped: bool
    #: Trials whose process lives.
    working: int

    @property
    def counts(self) -> Mapping[str, int]:
        """How many trials are in each state, without those learned from former runs."""
        return Counter(row.state for row in self.rows if not row.former)

    @property
    def begun(self) -> float:
        """When its first trial began; 0 before."""
        return min((row.started for row in self.rows if row.started and not row.former), default=0.0)

    @property
    def keys(self) -> list[str]:
        """The fields that are searched, and those that trials had besides (or a function of the user's own drew)."""
        return list(dict.fromkeys([*self.dimensions, *(key for row in self.rows for key in row.fields)]))

    def row(self, number: int) -> TrialRow | None:
        """One trial by its number."""
        return next((row for row in self.rows if row.number == number), None)

    def better(self, a: float, b: float) -> bool:
        """Whether a value of the first objective is better than another."""
        return a > b if self.objectives[0].higher else a < b


class StudyPoller:
    """Looks at a study again and again; what is over is read once."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._owners = Owners()
        self._over: dict[int, TrialRow] = {}

    def poll(self) -> StudySnapshot:
        """The study now.

        Raises UserError when the storage fails.
        """
        study = self.study
        with study.errors():
            study.refresh()
            trials = study.optuna.get_trials(deepcopy=False)
            rows = []
            for trial in trials:
                row = self._over.get(trial.number)
                if row is None:
                    row = trial_row(trial, study)
                    if trial.state.is_finished():
                        self._over[trial.number] = row
                rows.append(row)
            working = sum(t.state == TrialState.RUNNING and self._owners.alive(t) for t in trials)
            return StudySnapshot(
                study.name,
                study.folder,
                tuple(rows),
                study.objectives,
                dict(study.space.dimensions),
                tuple(t.number for t in study.best()),
                study.limits,
                study.experiment.sampler.name,
                study.pruner_name,
                study.stopped,
                working,
            )


def finishing(snapshot: StudySnapshot, now: float | None = None) -> float | None:
    """Seconds until the study is over at its rate so far; None before two trials are."""
    over = sorted(row.ended for row in snapshot.rows if row.ended and not row.former)
    left = snapshot.limits.trials - sum(
        not row.former and row.state not in ("waiting", "running") for row in snapshot.rows
    )
    if len(over) < 2 or left <= 0:
        return None
    recent = over[-20:]
    rate = (recent[-1] - recent[0]) / (len(recent) - 1)
    return max(0.0, left * rate - ((now or time.time()) - recent[-1]))
