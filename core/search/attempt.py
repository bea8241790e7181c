"""One trial, trained from its beginning or its checkpoint: an ordinary session, or the user's own objective."""

from __future__ import annotations

import contextlib
import inspect
import math
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import optuna
from optuna.trial import TrialState

from torchdeck.core import usercode
from torchdeck.core.errors import UserError
from torchdeck.core.events import Event, Failed, LogLine
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.runs import process
from torchdeck.core.search import keep
from torchdeck.core.search.study import Study, trial_id
from torchdeck.core.search.values import values_of
from torchdeck.core.search.watch import Watch
from torchdeck.core.session import batch
from torchdeck.core.session.batch import Signals
from torchdeck.core.session.reporters import Reporter
from torchdeck.core.session.session import Session, TrialOf


class Interrupted(Exception):
    """The trial was stopped, and waits to go on."""


class _Quiet(Reporter):
    """A trial's line tells how it went; what is said of the data is the same in each, and told once."""

    _said: ClassVar[set[str]] = set()

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def handle(self, event: Event) -> None:
        if isinstance(event, Failed) or (isinstance(event, LogLine) and event.message in self._said):
            return
        if isinstance(event, LogLine):
            self._said.add(event.message)
        super().handle(event)

    def note(self, text: str) -> None:
        """Told by whoever runs the study."""
        self._note(text)

    def resumable(self, command: str) -> None:
        """Nothing: trials are resumed by themselves."""


def _takes_train(function: Callable[..., Any]) -> bool:
    """Whether an objective takes ``train`` beside the trial."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds for p in inspect.signature(function).parameters.values()) > 1


class Attempt:
    """One trial, trained from its beginning or its checkpoint."""

    def __init__(
        self,
        study: Study,
        trial: optuna.Trial,
        signals: Signals,
        out_of_time: Callable[[], bool],
        note: Callable[[str], None],
    ) -> None:
        self._study, self._trial, self._signals, self._note = study, trial, signals, note
        self._session: Session | None = None
        self._watch = Watch(study, trial, self._obey, out_of_time)
        #: What the watch has asked for: stop, prune, or pause (to go on another time).
        self._wish = ""
        #: Why nothing can be trained any more.
        self.broken: str | None = None
        self._warned = False

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
        trial_of = TrialOf(self._study.name, self._trial.number, run.name, self._judge_of(experiment))
        session = self._session = Session(experiment, self._study.folder, resume, trial_of)
        with self._study.errors():
            self._trial.set_user_attr("run", run.name)
        batch.run_batch(session, _Quiet(self._note), self._signals)
        return session

    def _judge_of(self, experiment: Experiment) -> Callable[[int, int, Mapping[str, float], bool], bool]:
        objective = self._study.objectives[0]
        by_steps = experiment.trainer.eval_steps > 0
        single = len(self._study.objectives) == 1
        # What was told before a death is told again by the checkpoint's successor: it is judged where it was judged.
        told = max(self._study.storage.get_trial(trial_id(self._trial)).intermediate_values, default=0)

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
                if not self._warned:
                    self._warned = True
                    self._note(str(error))
                return False

        return judge

    def _outcome(self, session: Session) -> tuple[TrialState, list[float] | None, str]:
        run = session.run
        if session.write_failure is not None:
            self.broken = session.write_failure
            raise Interrupted
        if session.status == "stopped" and (self._signals.ending or self._wish == "pause"):
            raise Interrupted
        if session.status == "aborted" and self._signals.ending:
            raise Interrupted
        if run is not None:
            self._describe(session)
        if session.status == "failed":
            assert session.failure is not None
            reason = session.failure.message.splitlines()[0]
            # What can't be trained is as good as pruned: the sampler learns to keep away from it.
            return (TrialState.PRUNED if session.untrainable else TrialState.FAIL), None, reason
        if session.status == "pruned":
            return TrialState.PRUNED, None, "by hand" if self._wish == "prune" else ""
        values = objective_values(self._study, session)
        if values is None:
            return TrialState.FAIL, None, _why_without_values(session)
        return TrialState.COMPLETE, values, "stopped by hand" if session.status == "stopped" else ""

    def _describe(self, session: Session) -> None:
        """What a dashboard shows of the trial beside its parameters and values."""
        run = session.run
        assert run is not None
        told = {
            "epoch": run.get("epoch"),
            "best_epoch": run.get("best_epoch"),
            "seconds": run.get("seconds"),
            "parameters": run.get("parameters"),
            "host": process.identity()["host"],
        } | {f"val_{k}": v for k, v in (run.get("best") or {}).items()}
        for key, value in told.items():
            if value is not None:
                with self._study.errors():
                    self._trial.set_user_attr(key, round(value, 6) if isinstance(value, float) else value)

    # --- the user's own objective
    # --------------------------------------------------------------------------------------

    def _run_function(self, reference: str) -> tuple[TrialState, list[float] | None, str]:
        function = usercode.load(reference, "search.function")
        if not callable(function):
            raise UserError(f"search.function: {reference!r} can't be called.", field="search.function")
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

        try:
            result = self._call(function, train)
        except optuna.TrialPruned as error:
            return TrialState.PRUNED, None, str(error)
        if result is None and trained:
            return self._outcome(trained[0])
        values = values_of(result, len(self._study.objectives), f"search.function: {reference!r}")
        return TrialState.COMPLETE, values, ""

    def _call(self, function: Callable[..., Any], train: Callable[..., Any]) -> Any:
        """What the function returns.

        Raises TrialPruned and Interrupted as they come, UserError for anything else that it raises.
        """
        with _raising(self._signals):
            try:
                with usercode.user_errors():
                    try:
                        return function(self._trial, train) if _takes_train(function) else function(self._trial)
                    except (optuna.TrialPruned, Interrupted) as error:  # they come through the user's lines, too
                        ended = error
            except KeyboardInterrupt:
                raise Interrupted from None
            except UserError:
                raise
            except (Exception, SystemExit) as error:  # in no line of the user's: wrong arguments, memory, ...
                text = str(error).strip().splitlines()
                told = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
                raise UserError(f"search.function raised {told}", field="search.function") from None
        raise ended

    # --- commands
    # ------------------------------------------------------------------------------------------------------

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


def _why_without_values(session: Session) -> str:
    """Why a trial that was trained has no figures to search by."""
    if session.built is not None and session.built.trainer.task.makes_own_steps:
        return "its task.step makes its own optimizer steps and is not evaluated: there is no figure to search by"
    return "it was ended before its first evaluation"


def objective_values(study: Study, session: Session) -> list[float] | None:
    """The values of the objectives at the best epoch; None when there was none.

    Raises UserError for a metric that was never measured.
    """
    from torchdeck.core.search.costs import cost

    best = session.run.get("best") if session.run is not None else None
    if not best:
        return None
    found = []
    for objective in study.objectives:
        if objective.cost:
            found.append(cost(objective.name, session))
        elif best.get(objective.name) is None and objective.name in best and not found:
            found.append(math.inf if objective.higher else -math.inf)  # null; what was watched is never NaN
        elif best.get(objective.name) is None:
            raise UserError(
                f"search.objectives: {objective.name!r} is not measured, or not a number; choose from "
                f"{', '.join(best)}.",
                field="search.objectives",
            )
        else:
            found.append(float(best[objective.name]))
    return found
