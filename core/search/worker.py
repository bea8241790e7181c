"""A worker: asks for trials and trains them, one after the other, until the study is over.

A trial belongs to the process that trains it: process id, start time and boot (core.runs.process), and for workers on
other machines a heartbeat, are kept with it. Whoever asks for a trial first looks for those whose process is gone, and
lets them wait again: they keep their number and their values, and go on from their checkpoint. (Optuna's own heartbeat
fails such a trial and copies it, and works with ``optimize()`` only, optuna#6283.)
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from core import batch, usercode
from core.batch import Signals
from core.errors import UserError
from core.events import Event, Failed
from core.experiment import Experiment
from core.reporters import Reporter
from core.runs import process
from core.search import keep
from core.search import storage as storages
from core.search.storage import StorageError
from core.search.study import Study
from core.search.watch import PROCESS, Owners, Watch
from core.training.session import Session, TrialOf

#: That a trial was begun; how often its process died without having come further, and how often that may be.
BEGUN, DEATHS, _MOST_DEATHS = "torchdeck:begun", "torchdeck:deaths", 6

#: Seconds that a worker waits for a database that does not answer.
_PATIENCE = 60.0


T = TypeVar("T")


class Interrupted(Exception):
    """The trial was stopped, and waits to go on."""


class Worker:
    """Trains trials in this process. ``told`` is called with each trial that is over."""

    def __init__(self, study: Study, told: Callable[[FrozenTrial], None], note: Callable[[str], None]) -> None:
        self.study = study
        self._told, self._note = told, note
        self._owners = Owners()
        self._began = time.monotonic()
        self._started_at = time.time()
        self._unwell = False
        #: Why the study ended before its time; None when it did not.
        self.failure: str | None = None

    def work(self) -> int:
        """Until the study is over; returns the exit code. Call it in the main thread: signals arrive there only."""
        signals = Signals()
        with batch.handling(signals), contextlib.ExitStack() as stack:
            if self.study.experiment.search.function is None:
                # Before a trial is asked for, which a death in these seconds would else be counted against.
                import core.tracking.tensorboard
                import core.training.build  # noqa: F401
                from core.data.load import keeping_source

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
            set_attribute(study, trial._trial_id, BEGUN, True)
            set_attribute(study, trial._trial_id, PROCESS, process.identity())
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
                self.study.storage.set_trial_user_attr(trial._trial_id, "reason", reason)
                self.study.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                self._note(f"trial {trial.number} has failed: {reason}")
            else:
                set_attribute(self.study, trial._trial_id, DEATHS, (deaths, comes_to))
                set_attribute(self.study, trial._trial_id, BEGUN, True)
                self.study.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                self._note(f"trial {trial.number} was left by a process that is gone; it goes on")

    # --- training ----------------------------------------------------------------------------------------------------

    def _train(self, trial: optuna.Trial, signals: Signals) -> None:
        one = _Attempt(self.study, trial, signals, self._out_of_time, self._note)
        with one.watched():
            try:
                outcome = one.run()
            except (Interrupted, StorageError):
                outcome = None  # it goes on from its checkpoint
            except UserError as error:
                outcome = TrialState.FAIL, None, str(error)
        self._tell(trial, outcome)
        if one.broken is not None:
            raise UserError(one.broken)

    def _tell(self, trial: optuna.Trial, outcome: tuple[TrialState, list[float] | None, str] | None) -> None:
        study = self.study

        def tell() -> bool:
            with study.errors():
                if outcome is None:
                    study.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                    return False
                state, values, reason = outcome
                if reason:
                    trial.set_user_attr("reason", reason)
                keep.publish(study, trial, values)
                study.optuna.tell(trial, values, state)
                return True

        try:
            over = self._patiently(tell)
        except (ValueError, optuna.exceptions.UpdateFinishedTrialError):
            self._note(f"trial {trial.number} was taken over by another worker; what was trained here is left out")
            return
        if over:
            with study.errors():
                keep.tidy(study)
                self._told(study.storage.get_trial(trial._trial_id))

    def _patiently(self, what: Callable[[], T]) -> T:
        """Do it, again and again for a while where a database does not answer: a network that fails for a moment must
        not end a search. (A file's lock is waited for by itself, and a full disk does not heal.)

        Raises StorageError in the end.
        """
        end = time.monotonic() + (_PATIENCE if storages.file_of(self.study.url) is None else 0.0)
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
    over = [
        t for t in trials if t.state.is_finished() and t.datetime_complete and t.datetime_complete.timestamp() >= since
    ]
    over.sort(key=lambda t: t.datetime_complete.timestamp())  # type: ignore[union-attr]
    last = over[-limit:]
    if len(last) < limit or any(t.state != TrialState.FAIL for t in last):
        return None
    reasons = [str(t.user_attrs.get("reason", "no reason is known")).splitlines()[0] for t in last]
    common = max(reasons, key=reasons.count)
    rest = "" if reasons.count(common) == limit else f" ({reasons.count(common)} of them)"
    return f"The last {limit} trials have all failed{rest}: {common}"


def _stalled(study: Study, patience: int) -> bool:
    if not patience or len(study.objectives) > 1:
        return False
    over = sorted(
        (t for t in study.trials() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)), key=lambda t: t.number
    )
    best = study.best()
    return bool(best) and sum(t.number > best[0].number for t in over) >= patience


class _Quiet(Reporter):
    """A trial's line tells how it went."""

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def handle(self, event: Event) -> None:
        if not isinstance(event, Failed):
            super().handle(event)

    def note(self, text: str) -> None:
        """Trials go on by themselves: how, need not be said."""
        if not text.startswith("go on with"):
            self._note(text)


def _takes_train(function: Callable[..., Any]) -> bool:
    """Whether an objective takes ``train`` beside the trial."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds for p in inspect.signature(function).parameters.values()) > 1


class _Attempt:
    """One trial, trained from its beginning or its checkpoint."""

    def __init__(self, study: Study, trial: optuna.Trial, signals: Signals, out_of_time: Callable[[], bool],
                 note: Callable[[str], None]) -> None:  # fmt: skip
        self._study, self._trial, self._signals, self._note = study, trial, signals, note
        self._session: Session | None = None
        self._watch = Watch(study, trial, self._obey, out_of_time)
        #: What the watch has asked for: stop, prune, or pause (to go on another time).
        self._wish = ""
        #: Why nothing can be trained any more.
        self.broken: str | None = None
        self._told_trouble = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Beat the heart, and look for commands."""
        self._watch.start()
        try:
            yield
        finally:
            self._watch.end()

    def run(self) -> tuple[TrialState, list[float] | None, str]:
        """State, values and reason of the trial.

        Raises Interrupted when it is to go on another time, UserError for what is wrong with it.
        """
        study = self._study
        if study.experiment.search.function is not None:
            return self._run_function(study.experiment.search.function)
        with study.errors():
            values = study.space.suggest(self._trial)
        return self._outcome(self._run_session(values))

    # --- an ordinary trial -------------------------------------------------------------------------------------------

    def _run_session(self, values: Mapping[str, Any]) -> Session:
        experiment = self._study.experiment_of(values, self._trial.number)
        run = self._study.run_of(self._trial.number)
        resume = keep.resumable(run)
        trial_of = TrialOf(self._study.name, self._trial.number, self._judge_of(experiment))
        session = self._session = Session(experiment, self._study.folder, resume, trial_of)
        with self._study.errors():
            self._trial.set_user_attr("run", run.name)
        batch.run(session, _Quiet(self._note), self._signals)
        return session

    def _judge_of(self, experiment: Experiment) -> Callable[[int, int, Mapping[str, float], bool], bool]:
        objective = self._study.objectives[0]
        by_steps = experiment.trainer.eval_steps > 0
        single = len(self._study.objectives) == 1
        # What was told before a death is told again by the checkpoint's successor: it is judged where it was judged.
        told = max(self._study.storage.get_trial(self._trial._trial_id).intermediate_values, default=0)

        def judge(epoch: int, step: int, val: Mapping[str, float], best: bool) -> bool:
            value, at = val.get(objective.name), step if by_steps else epoch
            if value is None or not single or at < told:
                return False
            try:
                with self._study.errors(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the last one told before a death is told twice
                    self._trial.report(value, at)
                    return self._study.prunes and self._trial.should_prune()
            except UserError as error:  # the storage may be back at the next epoch
                if not self._told_trouble:
                    self._told_trouble = True
                    self._note(str(error))
                return False

        return judge

    def _outcome(self, session: Session) -> tuple[TrialState, list[float] | None, str]:
        run = session.run
        if session.trouble is not None:
            self.broken = session.trouble
            raise Interrupted
        if session.status == "stopped" and (self._signals.ending or self._wish == "pause"):
            raise Interrupted
        if run is not None:
            self._describe(session)
        if session.status == "failed":
            assert session.failure is not None
            reason = session.failure.message.splitlines()[0]
            # What can't be trained is as good as pruned: the sampler learns to keep away from it.
            return (TrialState.PRUNED if session.hopeless else TrialState.FAIL), None, reason
        if session.status == "pruned":
            return TrialState.PRUNED, None, "by hand" if self._wish == "prune" else ""
        values = self._values(session)
        if values is None:
            return TrialState.FAIL, None, "it was ended before its first evaluation"
        return TrialState.COMPLETE, values, "stopped by hand" if session.status == "stopped" else ""

    def _values(self, session: Session) -> list[float] | None:
        """The values of the objectives at the best epoch; None when there was none.

        Raises UserError for a metric that was never measured.
        """
        from core.search.costs import cost

        best = session.run.get("best") if session.run is not None else None
        if not best:
            return None
        found = []
        for objective in self._study.objectives:
            if objective.cost:
                found.append(cost(objective.name, session))
            elif best.get(objective.name) is None:
                raise UserError(
                    f"search.objectives: {objective.name!r} is not measured, or not a number; choose from {', '.join(best)}."
                )
            else:
                found.append(float(best[objective.name]))
        return found

    def _describe(self, session: Session) -> None:
        """What a dashboard shows of the trial beside its parameters and values."""
        run = session.run
        assert run is not None
        told = {"epoch": run.get("epoch"), "best_epoch": run.get("best_epoch"), "seconds": run.get("seconds"),
                "parameters": run.get("parameters"), "host": process.identity()["host"]} | {f"val_{k}": v for k, v in (run.get("best") or {}).items()}  # fmt: skip
        for key, value in told.items():
            if value is not None:
                with self._study.errors():
                    self._trial.set_user_attr(key, round(value, 6) if isinstance(value, float) else value)

    # --- the user's own objective --------------------------------------------------------------------------------------

    def _run_function(self, reference: str) -> tuple[TrialState, list[float] | None, str]:
        function = usercode.load(reference, "search.function")
        if not callable(function):
            raise UserError(f"search.function: {reference!r} can't be called.")
        trained: list[Session] = []

        def train(values: Mapping[str, Any]) -> dict[str, float]:
            """Train the experiment with these values; gives the best epoch's metrics of the validation set."""
            session = self._run_session(values)
            trained[:] = [session]
            state, _, reason = self._outcome(session)
            if state == TrialState.PRUNED:
                raise optuna.TrialPruned(reason)
            if state == TrialState.FAIL:
                raise UserError(reason)
            assert session.run is not None
            return dict(session.run.get("best") or {})

        result: Any = None
        ended: Exception | None = None
        with _raising(self._signals):
            try:
                with usercode.user_errors():
                    try:
                        result = function(self._trial, train) if _takes_train(function) else function(self._trial)
                    except (optuna.TrialPruned, Interrupted) as error:  # they come through the user's lines, too
                        ended = error
            except KeyboardInterrupt:
                raise Interrupted from None
        if isinstance(ended, optuna.TrialPruned):
            return TrialState.PRUNED, None, str(ended)
        if ended is not None:
            raise ended
        if result is None and trained:
            return self._outcome(trained[0])
        values = list(result) if isinstance(result, list | tuple) else [result]
        if len(values) != len(self._study.objectives) or not all(isinstance(v, int | float) for v in values):
            raise UserError(
                f"search.function: {reference!r} returned {result!r}, not {len(self._study.objectives)} numbers."
            )
        return TrialState.COMPLETE, [float(v) for v in values], ""

    # --- commands ------------------------------------------------------------------------------------------------------

    def _obey(self, wish: str) -> bool:
        """From the watch: stop, prune or pause. Gives whether it could be done yet."""
        if self._session is None or self._session.run is None:
            return False
        self._wish = wish
        if wish == "prune":
            self._session.control.prune()
        else:
            self._session.control.stop()
        return True


@contextlib.contextmanager
def _raising(signals: Signals) -> Iterator[None]:
    """While the user's own code runs, Ctrl-C and SIGTERM end it; a session that it trains notes them as ever."""

    def interrupt(number: int, frame: Any) -> None:
        signals.note(number, frame)
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
