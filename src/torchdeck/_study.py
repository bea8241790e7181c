"""Searches from Python: ``search``, and studies as they lie on the disk."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from torchdeck._experiment import Described, Options, describe
from torchdeck._run import Run, import_pandas
from torchdeck._session import interrupted
from torchdeck._train import refuse_nested
from torchdeck.core import usercode
from torchdeck.core.errors import TrainingError, UserError
from torchdeck.core.session.batch import Signals

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.trial import FrozenTrial

    from torchdeck._experiment import AnyExperiment
    from torchdeck._objects import Data, Loss, Model
    from torchdeck.core.search.study import Study as Opened


@dataclass(frozen=True)
class Trial:
    """One trial of a study."""

    number: int
    #: running, waiting, complete, pruned or failed.
    state: str
    #: By objective, such as ``accuracy``: the best epoch's, on the validation set; empty before the trial is over.
    values: Mapping[str, float]
    #: By searched key, such as ``optimizer.lr``.
    params: Mapping[str, Any]
    #: Its run; None before it has one.
    run: Run | None
    #: Seconds that it took, or takes so far; None before it began.
    seconds: float | None = None
    #: Why it has failed or was pruned; empty where that needs no word.
    reason: str = ""

    @property
    def value(self) -> float:
        """The value of the first objective.

        Raises UserError where there is none.
        """
        if not self.values:
            raise UserError(f"Trial {self.number} has no value: it is {self.state}.")
        return next(iter(self.values.values()))


class Study:
    """A study's directory, read whenever it is asked; workers may be searching on."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises UserError when there is no study."""
        self.path = Path(path).expanduser().absolute()
        _ = self._opened

    @cached_property
    def _opened(self) -> Opened:
        from torchdeck.core.search.opening import open_folder

        return open_folder(self.path)

    def __repr__(self) -> str:
        return f"torchdeck.Study({str(self.path)!r})"

    @property
    def name(self) -> str:
        """Its name."""
        return self._opened.name

    @property
    def optuna(self) -> optuna.Study:
        """Optuna's own study, for its plots and importances."""
        return self._opened.optuna

    @property
    def trials(self) -> list[Trial]:
        """All trials, by number."""
        with self._opened.errors():
            return [self._trial(one) for one in self._opened.trials()]

    @property
    def best(self) -> Trial:
        """The best trial.

        Raises UserError before one is complete, and with several objectives, which have a ``front``.
        """
        if len(self._opened.objectives) > 1:
            names = ", ".join(one.name for one in self._opened.objectives)
            raise UserError(
                f"The study {self.name!r} has several objectives ({names}) and no single best; take study.front."
            )
        found = self.front
        if not found:
            raise UserError(f"The study {self.name!r} has no complete trial yet.")
        return found[0]

    @property
    def front(self) -> list[Trial]:
        """The Pareto front: the trials that no other beats in all objectives; with one objective the best alone."""
        with self._opened.errors():
            return [self._trial(one) for one in self._opened.best()]

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each trial: state, objectives, parameters, seconds, and the run's directory.

        Raises UserError where pandas is not installed.
        """
        rows = [
            {"number": one.number, "state": one.state}
            | dict(one.values)
            | dict(one.params)
            | {"seconds": one.seconds, "run": str(one.run.path) if one.run is not None else None}
            for one in self.trials
        ]
        frame: pd.DataFrame = import_pandas().DataFrame(rows)
        return frame.set_index("number") if rows else frame

    def _trial(self, one: FrozenTrial) -> Trial:
        from torchdeck.core.search.rows import trial_row

        row = trial_row(one, self._opened)
        names = [objective.name for objective in self._opened.objectives]
        there = bool(row.run) and (self.path / row.run / "run.json").exists()
        return Trial(
            row.number,
            row.state,
            dict(zip(names, row.values, strict=False)),
            dict(row.fields),
            Run(self.path / row.run) if there else None,
            row.seconds(),
            row.reason,
        )


def search(
    experiment: AnyExperiment = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    trials: int | None = None,
    objectives: str | Sequence[str] | None = None,
    workers: int = 1,
    model: Model | None = None,
    data: Data | None = None,
    loss: Loss | None = None,
    runs: str | os.PathLike[str] = "runs",
    progress: bool | None = None,
    **options: Unpack[Options],
) -> Study:
    """Search until so many trials are done, and give the study.

    >>> study = torchdeck.search("digits", space={"optimizer.lr": "1e-4 .. 0.1 log"}, trials=30)
    >>> study.best.params, study.best.value, study.best.run.path

    Args:
    experiment, overrides, model, data, loss, options: As for ``torchdeck.train``. Each trial trains a fresh model, so
    a class, or a function that makes one, stands for a module. ``name`` is the study's; one that is there goes on.
        space: What is searched, by key: ``"1e-4 .. 0.1 log"``, ``"32 .. 512 step 32"``, ``"SGD | AdamW"`` or a list of
            choices; default: the experiment's own.
        trials: So many in all, also over several calls; default: the experiment's ``search.trials``.
        objectives: ``accuracy``, ``loss``, ``minimize my_metric``, ``parameters``, ...; several seek a Pareto front.
        workers: So many processes, each with its GPU or its share of the cores.
        progress: Whether a line is told of each trial; default: on a terminal.

    Ctrl-C stops after a checkpoint; called again, the search goes on.

    Raises:
        UserError: What was given is wrong.
        TrainingError: All trials have failed; ``error.run`` is the study's directory.
        KeyboardInterrupt: Ctrl-C; ``error.run`` is the study's directory.
    """
    from torchdeck.core.search import opening, serve
    from torchdeck.core.search.objectives import with_directions
    from torchdeck.core.search.report import TrialReporter

    refuse_nested()
    described = _described(
        experiment, overrides, space, objectives, {"model": model, "data": data, "loss": loss}, options
    )
    _refuse_unsuitable(described, workers, trials)
    with usercode.giving(described.objects):
        study = opening.create(with_directions(described.experiment), Path(runs).expanduser())
        serve.vouch(study, study.unvouched_pickle(), False)
        with study.errors():
            if trials is not None:
                study.set_limits(trials=trials)
            study.allow()
        shown = sys.stdout.isatty() if progress is None else progress
        reporter = TrialReporter(study, "plain" if shown else "quiet")
        reporter.begin()
        signals = Signals(stays=True)
        _, failure = serve.search(study, reporter, signals, workers)
        with study.errors():
            reporter.end(None)
    if signals.interrupts:
        raise interrupted(
            f"The search was stopped by Ctrl-C; called again, it goes on in {str(study.folder)!r}.", study.folder
        )
    if failure is not None:
        error = TrainingError(failure)
        error.run = study.folder
        raise error
    return Study(study.folder)


def _described(
    experiment: AnyExperiment,
    overrides: Mapping[str, Any] | None,
    space: Mapping[str, Any] | None,
    objectives: str | Sequence[str] | None,
    objects: Mapping[str, Any],
    options: Options,
) -> Described:
    more: dict[str, Any] = {}
    given: dict[str, Any] = dict(options)
    if "name" in given:
        more["search.name"] = given.pop("name")
    if space is not None:
        more["search.space"] = {key: list(value) if isinstance(value, tuple) else value for key, value in space.items()}
    if objectives is not None:
        more["search.objectives"] = [objectives] if isinstance(objectives, str) else list(objectives)
    return describe(experiment, overrides, objects, given, more)


def _refuse_unsuitable(described: Described, workers: int, trials: int | None) -> None:
    """Raises UserError for what a search can't do with objects, and for numbers that make no sense."""
    for name, number in (("trials", trials), ("workers", workers)):
        if number is not None and number < 1:
            raise UserError(f"{name} = {number}: it must be at least 1.")
    if not described.objects:
        return
    from torch import nn

    if workers > 1:
        names = ", ".join(described.objects)
        raise UserError(
            f"workers = {workers}: other processes can't rebuild what was given as objects ({names}); leave "
            "workers out, or name code by path/to/file.py:Name."
        )
    for thing in described.objects.values():
        if isinstance(thing, nn.Module) and any(True for _ in thing.parameters()):
            raise UserError(
                f"A search trains a fresh model in each trial, but {type(thing).__name__} is one that is made; "
                "give its class, or a function that makes one."
            )
