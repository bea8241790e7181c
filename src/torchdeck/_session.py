"""A training in the background, as Python sees it: its events, what is asked of it, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from torchdeck._run import Run
from torchdeck.core.errors import Error, TrainingError
from torchdeck.core.events import Event, Failed
from torchdeck.core.session import batch
from torchdeck.core.session.batch import Signals
from torchdeck.core.session.reporters import Reporter
from torchdeck.core.session.session import Session as Engine


def interrupted(message: str, run: Path | None) -> KeyboardInterrupt:
    """What Ctrl-C raises in the end, with the run's directory, or the study's, as ``run``.

    It is KeyboardInterrupt itself: of a subclass Python would not let the process end by the signal, by which a
    shell's loop knows that it is to end, too.
    """
    error = KeyboardInterrupt(message)
    error.run = run  # type: ignore[attr-defined]
    return error


#: After more interrupts than these nobody waits: it hangs in somebody's code, and ends with the process.
_HANGS = 2


class Session:
    """A training in a thread of this process, begun by ``torchdeck.start``.

    Iterating gives its events (``torchdeck.EpochEnded`` and so on), from the first to the last, as they come; a slow
    reader never slows the training. As a context manager it waits for the end, also after a ``break``, and stops the
    training after a checkpoint where the block raises, Ctrl-C included.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._events = engine.subscribe(100_000)

    def __repr__(self) -> str:
        return f"<torchdeck.Session {self.status}, step {self.step}>"

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._engine.control.resume()  # what is paused would never end
            self.wait()
            return
        self.stop()
        self._await_end()
        if isinstance(error, KeyboardInterrupt):
            error.run = self.run.path if self.run is not None else None  # type: ignore[attr-defined]
            error.add_note(str(self._interrupted()))

    @property
    def run(self) -> Run | None:
        """The run that it writes; None until everything is built."""
        return Run(self._engine.run.path) if self._engine.run is not None else None

    @property
    def status(self) -> str:
        """``running``, and once it is over ``done``, ``stopped``, ``aborted`` or ``failed``."""
        return self._engine.status or "running"

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self._engine.step

    def pause(self) -> None:
        """Hold before the next step."""
        self._engine.control.pause()

    def resume(self) -> None:
        """Go on after a pause."""
        self._engine.control.resume()

    def stop(self) -> None:
        """Write a checkpoint, then end."""
        self._engine.control.stop()

    def abort(self) -> None:
        """End at once, without a checkpoint."""
        self._engine.control.abort()

    def checkpoint(self) -> None:
        """Write a checkpoint now."""
        self._engine.control.checkpoint()

    def evaluate(self) -> None:
        """Evaluate on the validation set now; ``torchdeck.Evaluated`` tells the figures."""
        self._engine.control.evaluate()

    def set_learning_rate(self, value: float) -> None:
        """Use this learning rate from the next step on; the schedule goes on from it in proportion.

        Raises UserError for what is not a positive, finite number.
        """
        self._engine.control.set_learning_rate(value)

    def wait(self) -> Run:
        """Wait for the end, and give the run. Ctrl-C stops after a checkpoint, a second one at once.

        Raises Error (``UserError``, ``UserCodeError``, ``TrainingError``) where it has failed, KeyboardInterrupt after
        Ctrl-C.
        """
        return self._outcome(self._await_end())

    def _await_end(self, reporter: Reporter | None = None) -> int:
        """Wait for the end, and tell ``reporter`` of everything until then; returns how often Ctrl-C came meanwhile."""
        signals, heard, over = Signals(stays=True), 0, False
        with batch.handling(signals):
            while not over and heard <= _HANGS:
                over = self._engine.join(0.1) if reporter is None else self._report_to(reporter)
                if signals.interrupts > heard:
                    heard = signals.interrupts
                    self._interrupt(heard, reporter)
        return heard

    def _report_to(self, reporter: Reporter) -> bool:
        """Tell of the events that have come; whether they were the last."""
        engine = self._engine
        over = self._events.closed and engine.join(0)
        for event in self._events.get(0.1):
            if reporter.run is None and engine.run is not None:
                reporter.run = str(engine.run.path)
            if not isinstance(event, Failed):  # which is raised
                reporter.report(event)
        return over

    def _outcome(self, interrupts: int) -> Run:
        if interrupts and self.status != "done":
            raise self._interrupted()
        return self._ended()

    def _ended(self) -> Run:
        engine = self._engine
        path = engine.run.path.absolute() if engine.run is not None else None
        if engine.failure is not None:
            error = engine.error
            if not isinstance(error, Error):
                error = TrainingError(engine.failure.message)
                error.__cause__ = engine.error
            error.run = path
            raise error.with_traceback(None)  # what lies between is ours; a cause keeps its own
        assert path is not None
        return Run(path)

    def follow(self, reporter: Reporter) -> Run:
        """Tell ``reporter`` of everything to the end, as the command does; Ctrl-C stops after a checkpoint, a second
        one at once.

        Raises as ``wait``, and KeyboardInterrupt after Ctrl-C.
        """
        interrupts = self._await_end(reporter)
        reporter.close()
        return self._outcome(interrupts)

    def _interrupt(self, times: int, reporter: Reporter | None) -> None:
        if times == 1:
            if reporter is not None:
                reporter.note("stopping after a checkpoint (Ctrl-C again: at once)")
            self.stop()
        else:
            self.abort()

    def _interrupted(self) -> KeyboardInterrupt:
        run = self._engine.run
        if run is None or not any(run.checkpoints.glob("*.pt")):
            return interrupted(
                "The training was ended by Ctrl-C before its first checkpoint.", run.path if run is not None else None
            )
        return interrupted(
            f"The training was stopped by Ctrl-C at step {self.step:,}; it goes on with "
            f"torchdeck.train(resume={str(run.path)!r}).",
            run.path,
        )
