"""A study: its folder, its storage, the experiment that is searched, and its trials.

``runs/NAME/`` holds ``study.json`` (name, storage), the storage's file where it has one, a run directory for each trial
(``NAME-0007``), ``best.pt`` (a link to the best trial's best checkpoint), ``artifacts/`` and ``lock``. All else is in
Optuna's storage, so that a worker on another machine needs its URL and nothing else.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import metric_names as names
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.experiment.space import Space
from torchdeck.core.runs.directory import folder_name
from torchdeck.core.runs.trust import known
from torchdeck.core.search import storage as storages
from torchdeck.core.search.build import build_pruner, build_sampler, pruner_name
from torchdeck.core.search.objectives import Objective, objectives

#: System attributes: of the study, and of trials that don't count (learned from former runs).
EXPERIMENT, ID, STOP, LIMITS = "torchdeck:experiment", "torchdeck:id", "torchdeck:stop", "torchdeck:limits"
EXHAUSTED, FORMER = "torchdeck:exhausted", "torchdeck:former"


@dataclass(frozen=True)
class Limits:
    """When a study ends; what is None has no limit."""

    trials: int
    minutes: float | None = None
    patience: int = 0
    failures: int = 5


class Study:
    """A study that is open in this process."""

    def __init__(
        self, folder: Path, url: str, storage: Any, handle: optuna.Study, experiment: Experiment | None = None
    ) -> None:
        """``experiment``: of a study that is being made."""
        self.folder, self.url = folder, url
        self._raw_storage = storage
        self.optuna = handle
        # Samplers that have tried everything ask the study to stop, which Optuna allows within optimize() only.
        handle.stop = self._exhaust  # type: ignore[method-assign]
        self._text = ""
        if experiment is not None:
            self.take(experiment)
        else:
            self.refresh()

    def refresh(self) -> None:
        """Take over what others have changed of the space.

        Raises UserError for a study that was not made by torchdeck.
        """
        text = self.attribute(EXPERIMENT)
        if not isinstance(text, str):
            where = storages.hidden(self.url)
            raise UserError(f"The study {self.name!r} in {where!r} was not made by torchdeck: it has no experiment.")
        if text != self._text:
            self._text = text
            self.take(toml.loads(text, f"the study {self.name!r}"))

    def take(self, experiment: Experiment) -> None:
        """Search this experiment from now on."""
        self.experiment = experiment
        self.space = Space(experiment)
        self.objectives: tuple[Objective, ...] = objectives(experiment)
        self.optuna.pruner = build_pruner(experiment)
        self.pruner_name = pruner_name(experiment)
        self.prunes = self.pruner_name != "none"

    def _exhaust(self) -> None:
        self.set_attribute(EXHAUSTED, True)

    @property
    def exhausted(self) -> bool:
        """Whether every combination was tried, or is being tried."""
        if self.experiment.sampler.name == "grid":  # which would else try again what another worker is at
            return len(self.trials()) >= math.prod(len(values) for values in self.space.grid().values())
        return self.experiment.sampler.name == "brute-force" and bool(self.attribute(EXHAUSTED))

    @property
    def name(self) -> str:
        """Its name."""
        return self.optuna.study_name

    @property
    def storage(self) -> Any:
        """Optuna's storage."""
        return self.optuna._storage

    def attribute(self, key: str) -> Any:
        """One of the study's own attributes; None where it has none."""
        return self.storage.get_study_system_attrs(self.optuna._study_id).get(key)

    def set_attribute(self, key: str, value: Any) -> None:
        """Change one of the study's own attributes."""
        self.storage.set_study_system_attr(self.optuna._study_id, key, value)

    def trials(self) -> list[FrozenTrial]:
        """Its trials, without those that were learned from former runs."""
        return [t for t in self.optuna.get_trials(deepcopy=False) if FORMER not in t.system_attrs]

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Turns what goes wrong in the storage into one sentence."""
        return storages.storage_errors(self.url)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study's lock among all its workers."""
        engine = getattr(self._raw_storage, "engine", None)
        with storages.locked_study(self.folder), storages.locked_in_database(self.url, self.name, engine):
            yield

    # --- limits ------------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """When it ends: as its workers were told last."""
        values = self.attribute(LIMITS) or {}
        search = self.experiment.search
        return Limits(
            values.get("trials", search.trials),
            values.get("minutes", search.minutes),
            values.get("patience", search.patience),
            search.failures,
        )

    def set_limits(self, **values: Any) -> None:
        """Change limits: trials, minutes, patience."""
        self.set_attribute(LIMITS, {**(self.attribute(LIMITS) or {}), **values})

    def stop(self) -> None:
        """Have all workers stop after a checkpoint; what runs goes on at the next start."""
        self.set_attribute(STOP, time.time())

    def allow(self) -> None:
        """Let workers work again."""
        if self.attribute(STOP):
            self.set_attribute(STOP, 0)

    @property
    def stopped(self) -> bool:
        """Whether workers are to stop."""
        return bool(self.attribute(STOP))

    # --- trials ------------------------------------------------------------------------------------------------------

    def ask(self) -> optuna.Trial:
        """A trial to run: one that waits, or a new one. The caller holds the lock."""
        self.optuna.sampler = build_sampler(self.experiment, self.space, len(self.optuna.get_trials(deepcopy=False)))
        return self.optuna.ask()

    def unvouched(self) -> str | None:
        """The code that working on this study would run though nobody here vouched for it; None where there is none."""
        from torchdeck.core.runs.consent import code_in

        if known(self.attribute(ID)):
            return None
        return code_in(self.experiment) or self.unvouched_pickle()

    def unvouched_pickle(self) -> str | None:
        """The same, of what lies in the storage alone: Optuna's CMA-ES keeps its state as a pickle."""
        if known(self.attribute(ID)) or self.experiment.sampler.name != "CMA-ES":
            return None
        return "the pickle in which CMA-ES keeps its state"

    def experiment_of(self, values: Mapping[str, Any], number: int | None = None) -> Experiment:
        """The experiment of a trial with these values: an ordinary one, which ``torchdeck --batch`` takes."""
        raw = self.space.apply(values).model_dump(mode="json", exclude_unset=True)
        first = self.objectives[0]
        if not first.cost and self.experiment.search.function is None:
            told = names.direction_of(first.name, self.experiment.tracking.metric_names) == first.higher
            raw = toml.put(raw, ("trainer", "monitor"), first.name if told else first.text)
        if number is not None:
            tracking = raw.get("tracking", {})
            tags = [*tracking.get("tags", ()), self.name]
            raw = toml.put(raw, ("tracking", "tags"), list(dict.fromkeys(tags)))
            for name in ("graph", "images"):  # a trace of the model takes longer than a short trial's epoch
                if name not in tracking:
                    raw = toml.put(raw, ("tracking", name), False)
        return toml.build(raw, f"trial {number}")

    def experiment_of_trial(self, fields: Mapping[str, Any], run: str) -> Experiment:
        """The experiment of a trial that is there, from its values; where the user's own function trained it, its
        run's.

        Raises UserError when that trained none.
        """
        if self.experiment.search.function is None:
            return self.experiment_of(fields)
        file = self.folder / run / "experiment.toml"
        if not run or not file.exists():
            raise UserError("The trial has no run: search.function trained none of torchdeck's.")
        return toml.build(toml.read(file), str(file))

    def enqueue(self, values: Mapping[str, Any]) -> None:
        """Have these values tried next; fields that are left out are sampled.

        Raises UserError when they are outside of the space.
        """
        self.optuna.enqueue_trial(self.space.encode(values), skip_if_exists=True)

    def best(self) -> list[FrozenTrial]:
        """The best trial; with several objectives those of the Pareto front; none before the first is complete."""
        done = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        if not done:
            return []
        if len(self.objectives) > 1:
            return sorted((t for t in self.optuna.best_trials if FORMER not in t.system_attrs), key=lambda t: t.number)
        return [min(done, key=lambda t: (self.rank(t.values[0]), t.number))]

    def rank(self, value: float) -> float:
        """A value of the first objective so that less is better."""
        return -value if self.objectives[0].higher else value

    def run_of(self, number: int) -> Path:
        """The directory of a trial's run, whether it is there or not."""
        return self.folder / f"{folder_name(self.name)}-{number:04d}"


def trial_id(trial: optuna.Trial | FrozenTrial) -> int:
    """What optuna's storages know a trial by; optuna gives it under this name alone."""
    return trial._trial_id
