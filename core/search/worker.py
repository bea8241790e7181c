"""A worker: asks for trials and trains them, one after the other, until the study is over.

A trial belongs to the process that trains it: process id, start time and boot (core.runs.process), and for workers on
other machines a heartbeat, are kept with it. Whoever asks for a trial first looks for those whose process is gone, and
lets them wait again: they keep their number and their values, and go on from their checkpoint. (Optuna's own heartbeat
fails such a trial and copies it, and works with ``optimize()`` only, optuna#6283.)
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from torchdeck.core.errors import UserError
from torchdeck.core.machine import children
from torchdeck.core.runs import process
from torchdeck.core.search import keep
from torchdeck.core.search import storage as storages
from torchdeck.core.search.attempt import Attempt, Interrupted
from torchdeck.core.search.storage import StorageError
from torchdeck.core.search.study import Study, trial_id
from torchdeck.core.search.watch import PROCESS, Owners
from torchdeck.core.session import batch
from torchdeck.core.session.batch import Signals

#: That a trial was begun; how often its process died without having come further, and how often that may be.
BEGUN, DEATHS, _MOST_DEATHS = "torchdeck:begun", "torchdeck:deaths", 6

#: Seconds that a worker waits for a database that does not answer.
_PATIENCE = 60.0


T = TypeVar("T")


class Worker:
    """Trains trials in this process. ``told`` is called with each trial that is over.

    ``began``: when the search was started (Unix time), where another process did that.
    """

    def __init__(
        self, study: Study, told: Callable[[FrozenTrial], None], note: Callable[[str], None], began: float | None = None
    ) -> None:
        self.study = study
        self._told, self._note = told, note
        self._owners = Owners()
        self._started_at = time.time()
        self._began = time.monotonic() - (0.0 if began is None else self._started_at - began)
        self._unwell = False
        #: Why the study ended before its time; None when it did not.
        self.failure: str | None = None

    def work(self, signals: Signals | None = None) -> int:
        """Until the study is over; returns the exit code. Call it in the main thread: signals arrive there only."""
        signals = signals or Signals()
        with batch.handling(signals), contextlib.ExitStack() as stack:
            children.end_with_parent()
            if self.study.experiment.search.function is None:
                # Before a trial is asked for, which a death in these seconds would else be counted against.
                import torchdeck.core.session.tensorboard
                import torchdeck.core.training.build  # noqa: F401
                from torchdeck.core.data.load_source import keeping_source

                stack.enter_context(keeping_source())
            # What is there now lasts: to look through all of torch's objects after each trial takes half a second.
            gc.freeze()
            trained = 0
            try:
                while not signals.ending:
                    trial = self._patiently(self._next)
                    if trial is None:
                        break
                    self._train(trial, signals)
                    # What one trial leaves behind must not add up (optuna#1224).
                    gc.collect()
                    trained += 1
                    if trained == 1:  # what the first one imported, too
                        gc.freeze()
            except UserError as error:
                self.failure = str(error)
                return batch.FAILED
        if self.failure is None and not signals.ending:
            with self.study.errors():
                self.failure = _none_worked(self.study.trials(), self._started_at)
        if self.failure is not None:
            return batch.FAILED
        if signals.ending:
            return batch.TERMINATED if signals.terminate else batch.INTERRUPTED
        return batch.DONE

    # --- asking ------------------------------------------------------------------------------------------------------

    def _next(self) -> optuna.Trial | None:
        study = self.study
        with study.errors(), study.locked():
            self._revive()
            study.refresh()
            trials = study.trials()
            if study.stopped or (study.exhausted and not any(t.state == TrialState.WAITING for t in trials)):
                return None
            limits = study.limits
            self.failure = _all_failing(trials, limits.failures, self._started_at)
            if self.failure is not None or self._out_of_time() or _stalled(study, limits.patience):
                return None
            began = [t for t in trials if t.state != TrialState.WAITING or BEGUN in t.system_attrs]
            again = any(t.state == TrialState.WAITING for t in began)
            if len(began) >= limits.trials and not again:
                return None
            trial = study.ask()
            set_attribute(study, trial_id(trial), BEGUN, True)
            set_attribute(study, trial_id(trial), PROCESS, process.identity())
            return trial

    def _out_of_time(self) -> bool:
        minutes = self.study.limits.minutes
        return minutes is not None and time.monotonic() - self._began >= minutes * 60

    def _revive(self) -> None:
        """Trials whose process is gone wait again; the lock is held, so that nobody is between asking and signing."""
        for trial in self.study.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._owners.alive(trial):
                continue
            deaths, came_to = trial.system_attrs.get(DEATHS, (0, 0))
            comes_to = len(trial.intermediate_values)
            deaths = 1 if comes_to > came_to else deaths + 1
            if deaths >= _MOST_DEATHS:
                reason = f"its process died {deaths} times in the same place"
                self.study.storage.set_trial_user_attr(trial_id(trial), "reason", reason)
                self.study.storage.set_trial_state_values(trial_id(trial), TrialState.FAIL)
                self._note(f"trial {trial.number} has failed: {reason}")
            else:
                set_attribute(self.study, trial_id(trial), DEATHS, (deaths, comes_to))
                set_attribute(self.study, trial_id(trial), BEGUN, True)
                self.study.storage.set_trial_state_values(trial_id(trial), TrialState.WAITING)
                self._note(f"trial {trial.number} was left by a process that has ended; it continues")

    # --- training ----------------------------------------------------------------------------------------------------

    def _train(self, trial: optuna.Trial, signals: Signals) -> None:
        one = Attempt(self.study, trial, signals, self._out_of_time, self._note)
        with one.watched():
            try:
                outcome = one.run()
            except (Interrupted, StorageError):
                outcome = None  # it goes on from its checkpoint
            except UserError as error:
                outcome = TrialState.FAIL, None, str(error)
            except Exception as error:  # from a library that the user's objective calls, without a line of theirs
                outcome = TrialState.FAIL, None, f"{type(error).__name__}: {error}"
        self._tell(trial, outcome)
        if one.broken is not None:
            raise UserError(one.broken)

    def _tell(self, trial: optuna.Trial, outcome: tuple[TrialState, list[float] | None, str] | None) -> None:
        study = self.study

        def tell() -> bool:
            with study.errors():
                if outcome is None:
                    study.storage.set_trial_state_values(trial_id(trial), TrialState.WAITING)
                    return False
                state, values, reason = outcome
                if reason:
                    trial.set_user_attr("reason", reason)
                keep.publish(study, trial, values)
                study.optuna.tell(trial, values, state)
                return True

        try:
            over = self._patiently(tell)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError) as error:
            if study.storage.get_trial(trial_id(trial)).state == TrialState.RUNNING:
                self._tell(trial, (TrialState.FAIL, None, str(error)))
                return
            self._note(f"trial {trial.number} was taken over by another worker; what was trained here is left out")
            return
        if over:
            with study.errors():
                keep.tidy(study)
                self._told(study.storage.get_trial(trial_id(trial)))

    def _patiently(self, what: Callable[[], T]) -> T:
        """Do it, again and again for a while where a database does not answer: a network that fails for a moment must
        not end a search. (A file's lock is waited for by itself, and a full disk does not heal.)

        Raises StorageError in the end.
        """
        end = time.monotonic() + (_PATIENCE if storages.sqlite_file(self.study.url) is None else 0.0)
        while True:
            try:
                return what()
            except StorageError as error:
                if time.monotonic() > end:
                    raise
                if not self._unwell:
                    self._unwell = True
                    self._note(f"{error} Trying again for {_PATIENCE:.0f} s.")
                time.sleep(1.0)


def set_attribute(study: Study, trial_id: int, key: str, value: Any) -> None:
    """One of a trial's own attributes."""
    study.storage.set_trial_system_attr(trial_id, key, value)


def _all_failing(trials: list[FrozenTrial], limit: int, since: float) -> str | None:
    """The common reason when the last so many trials have all failed, as one sentence."""
    last = _over(trials, since)[-limit:]
    if len(last) < limit or any(t.state != TrialState.FAIL for t in last):
        return None
    reasons = [str(t.user_attrs.get("reason", "no reason is known")).splitlines()[0] for t in last]
    common = max(reasons, key=reasons.count)
    rest = "" if reasons.count(common) == limit else f" ({reasons.count(common)} of them)"
    told = f"The last {limit} trials have all failed" if limit > 1 else "The trial has failed"
    return f"{told}{rest}: {common}"


def _none_worked(trials: list[FrozenTrial], since: float) -> str | None:
    """The common reason when all trials that have ended since have failed, however few they are."""
    count = len(_over(trials, since))
    return _all_failing(trials, count, since) if count else None


def _over(trials: list[FrozenTrial], since: float) -> list[FrozenTrial]:
    """The trials that have ended since, in the order in which they did."""
    over = [
        t for t in trials if t.state.is_finished() and t.datetime_complete and t.datetime_complete.timestamp() >= since
    ]
    return sorted(over, key=lambda t: t.datetime_complete.timestamp())  # type: ignore[union-attr]


def _stalled(study: Study, patience: int) -> bool:
    if not patience or len(study.objectives) > 1:
        return False
    best = study.best()
    over = [t.number for t in study.trials() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return bool(best) and sum(number > best[0].number for number in over) >= patience
