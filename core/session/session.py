"""A session: a run being trained in this process, in a thread of its own.

It builds what the experiment describes, makes the run directory once that has worked, trains, and ends with a status
and a reason. It tells all in events and obeys Control.
"""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchdeck.core.control import Aborted, Control
from torchdeck.core.errors import Diverged, TrainingError, UserCodeError, UserError, ran_out_of_memory
from torchdeck.core.events import (
    CheckpointWritten,
    Event,
    Failed,
    Finished,
    LogLine,
    Publisher,
    Subscription,
    kept_status,
)
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import children, distributed
from torchdeck.core.runs.directory import RunDirectory, check_root, read_metrics
from torchdeck.core.runs.folder import folder_of, located
from torchdeck.core.runs.live import Mark
from torchdeck.core.session.callbacks import Callbacks, load_callbacks
from torchdeck.core.session.control_server import ControlServer
from torchdeck.core.session.facts import name_of_run, run_facts, started_event
from torchdeck.core.session.recorder import Listener, Recorder, drop_after, finite
from torchdeck.core.usercode import objects, writer

if TYPE_CHECKING:
    from torchdeck.core.checkpoints.write import CheckpointWriter
    from torchdeck.core.training.build import Built
    from torchdeck.core.training.evaluation import Report


@dataclass(frozen=True)
class TrialOf:
    """The trial of a search that a session trains: its run's name, and who judges it after each evaluation.

    The test set is not read: what is chosen by it could not be judged by it any more.
    """

    study: str
    number: int
    #: Name of its run directory.
    name: str
    judge: Callable[[int, int, dict[str, float], bool], bool]


class Session:
    """One training in a background thread. ``start`` returns at once; ``join`` waits for the end."""

    def __init__(
        self,
        experiment: Experiment,
        root: Path,
        resume: Path | None = None,
        trial: TrialOf | None = None,
        base: str = "",
    ) -> None:
        """``base``: what the experiment was made from, in words, for the log."""
        self.experiment = experiment.to_share()
        self.trial = trial
        self.control = Control()
        self.run: RunDirectory | None = None
        #: done, pruned, stopped, aborted or failed, once it is over.
        self.status: str | None = None
        #: How it ended and the figures of the end; None before, and for one that failed.
        self.finished: Finished | None = None
        self.failure: Failed | None = None
        #: What was raised, where it has failed.
        self.error: Exception | None = None
        #: Whether the settings themselves were to blame: the loss diverged, or the memory did not suffice.
        self.untrainable = False
        #: Why the run can't be written any more; None while it can.
        self.write_failure: str | None = None
        self.failure_published = False
        self._root, self._resume, self._base = root, resume, base
        self._publisher = Publisher()
        self._built: Built | None = None
        self._listeners: list[Listener] = []
        self._door: ControlServer | None = None
        self._mark: Mark | None = None
        self._writer: CheckpointWriter | None = None
        #: What each checkpoint tells besides the training's state, named as the user did.
        self._header: dict[str, Any] = {}
        self._callbacks: list[tuple[str, Callable[[Event], Any]]] = []
        self._train_seconds = 0.0
        self._notes: list[str] | None = []
        #: What the user's code writes with.
        self._user_writer = writer.RunWriter()
        self._objects = objects.known_objects()
        self._thread = threading.Thread(target=self._main, name="torchdeck-training", daemon=True)

    def subscribe(self, readings: int = 1000) -> Subscription:
        """The events from now on; subscribe before ``start`` to have them all."""
        return self._publisher.subscribe(readings)

    def start(self) -> None:
        """Begin to build and train."""
        self._thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of all that belongs to the session; tells whether it is over."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def built(self) -> Built | None:
        """What was built; None before."""
        return self._built

    @property
    def step(self) -> int:
        """Steps done; cheap to ask at any time, from any thread."""
        return self._built.trainer.step if self._built else 0

    # --- in the thread -----------------------------------------------------------------------------------------------

    def _main(self) -> None:
        children.leave_to_main_thread()
        try:
            with objects.giving(self._objects):
                self._train()
        except (UserError, TrainingError) as error:
            self.error = error
            self.untrainable = isinstance(error, Diverged)
            # What the user's own code raises in mid-run is a failed training; data that can't be read never are.
            own_code = isinstance(error, UserCodeError) and self._has_trained()
            self._fail(str(error), isinstance(error, UserError) and not own_code)
        except MemoryError as error:
            self.error = error
            from torchdeck.core.training.memory import explain

            self.untrainable = True
            self._fail(explain(error, self.experiment, self._built), False)
        except Exception as error:
            self.error = error
            self._fail(self._explain(error), False, traceback.format_exc())
        finally:
            self._end()

    def _train(self) -> None:
        from torchdeck.core.training.build import build_trainer
        from torchdeck.core.training.header import checkpoint_header
        from torchdeck.core.training.trainer import goes_on

        state = None
        first = distributed.world().first
        if first:
            writer.use(self._user_writer)
        if self._resume is not None and first:
            self.run = RunDirectory.reopen(self._resume)
            state = self._checkpoint_to_resume()
        elif first:
            check_root(self._root)
        try:
            folder = self._folder()
            experiment = located(self.experiment, folder, self._warn)
            self._callbacks = load_callbacks(experiment.trainer.callbacks) if first else []
            judge = self.trial.judge if self.trial is not None else goes_on
            self._built = built = build_trainer(
                experiment, self.control, self._publisher.publish, self._warn, state, self._save, judge
            )
        except BaseException:
            self._tell_notes()
            raise
        trainer = built.trainer
        if first:
            self._open_run(built, folder)
            if self._base:
                self._publisher.publish(LogLine(level="debug", message=f"The experiment was made from {self._base}."))
            assert self.run is not None
            self._writer = self._start_writer()
            self._header = checkpoint_header(
                self.experiment, str(folder), built.data, trainer.task, trainer.channels_last
            )
        self._publisher.publish(started_event(self.experiment, built))
        self._tell_notes()
        began = time.monotonic()
        try:
            self.status = trainer.run(self.run.path / "profile" if self.run is not None else None)
        except Aborted:
            self.status = "aborted"
        self._train_seconds = time.monotonic() - began
        self._close_writer()
        if self.write_failure:
            raise TrainingError(self.write_failure)
        self._finish(built, self.status)

    def _checkpoint_to_resume(self) -> dict[str, Any] | None:
        """None for a run that ended before its first checkpoint."""
        from torchdeck.core.checkpoints.read import newest

        assert self.run is not None
        state = newest(self.run.checkpoints, self._warn)
        if state is None:
            if any(record.get("event") == CheckpointWritten.name for record in read_metrics(self.run.path)):
                raise UserError(f"--resume: the checkpoints of {str(self.run.path)!r} are gone; start a new run.")
            self._warn(
                f"{str(self.run.path)!r} ended before its first checkpoint; it begins anew, with its own "
                f"experiment and seed."
            )
        return state

    def _folder(self) -> Path:
        """Where the run was started; for one that came from another machine, where it goes on."""
        former = folder_of(self._resume) if self._resume is not None else None
        return former if former is not None and former.is_dir() else Path.cwd()

    def _open_run(self, built: Built, folder: Path) -> None:
        step = built.trainer.step
        text = toml.dumps(self.experiment)
        facts = run_facts(self.experiment, built, folder)
        if self.run is None and self.trial is not None:
            facts |= {"study": self.trial.study, "trial": self.trial.number}
            self.run = RunDirectory.create(self._root, self.trial.name, text, facts, exact=True)
        elif self.run is None:
            self.run = RunDirectory.create(self._root, name_of_run(self.experiment, built), text, facts)
        else:
            try:
                self.run.begin(text, step, **facts)
                drop_after(self.run.path, step)
            except OSError as error:
                raise UserError(
                    f"The run {str(self.run.path)!r} can't be written: {error.strerror or error}."
                ) from None
        self._open_door()
        self._listen(Recorder(self.run, self._publisher.subscribe(100_000), self._report_write_failure))
        if self._callbacks:
            self._listen(Callbacks(self._callbacks, self._publisher.subscribe(100_000), self._report_write_failure))
        if self.experiment.tracking.tensorboard:
            from torchdeck.core.session.tensorboard import TensorBoard

            subscription = self._publisher.subscribe(100_000)
            board = TensorBoard(self.run.path, self.experiment, built, step, subscription, self._report_write_failure)
            self._user_writer.attach(board.writer, lambda: self.step)
            self._listen(board)
        else:
            self._user_writer.detach()

    def _open_door(self) -> None:
        """Let other processes of the user find the run and control it."""
        assert self.run is not None
        try:
            self._door = ControlServer(self.run.path, self.control)
        except OSError as error:
            self._warn(f"The run can't be controlled from other processes: {error.strerror or error}.")
        self._mark = Mark(self.run.path)

    def _listen(self, listener: Listener) -> None:
        listener.start()
        self._listeners.append(listener)

    def _start_writer(self) -> CheckpointWriter:
        from torchdeck.core.checkpoints.write import CheckpointWriter

        assert self.run is not None
        return CheckpointWriter(
            self.run.checkpoints, self.experiment.trainer.keep, self._publisher.publish, self._report_write_failure
        )

    def _save(self, state: dict[str, Any], best: bool) -> None:
        """A checkpoint is due."""
        assert self._writer is not None
        self._writer.submit(self._header | state, best)

    def _close_writer(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _finish(self, built: Built, status: str) -> None:
        """The test set is read once, at the end, with the weights of the best epoch."""
        trainer = built.trainer
        val: Report | None = None
        test: Report | None = None
        if status == "done" and self.trial is None:
            from torchdeck.core.session.final_evaluation import evaluate_best

            val, test = evaluate_best(built, self.run.checkpoints if self.run is not None else None)
        shown = test or val
        self.finished = Finished(
            epoch=trainer.epoch,
            step=trainer.step,
            status=status,
            val=val.metrics if val else {},
            test=test.metrics if test else {},
            confusion=shown.confusion if shown else (),
            class_names=built.data.info.class_names,
            seconds=self._seconds(),
        )
        self._publisher.publish(self.finished)

    def _seconds(self) -> float:
        """Seconds of training, those before a resume as well."""
        before: float = self.run.get("seconds", 0.0) if self.run is not None else 0.0
        return before + self._train_seconds

    # --- the end -----------------------------------------------------------------------------------------------------

    def _has_trained(self) -> bool:
        return self._built is not None and self.step > self._built.first_step

    def _explain(self, error: Exception) -> str:
        from torchdeck.core.training.memory import explain

        if ran_out_of_memory(error):
            self.untrainable = True
            return explain(error, self.experiment, self._built)
        text = str(error).strip().splitlines()
        return f"{type(error).__name__}: {text[0] if text else 'no message'}"

    def _fail(self, message: str, user: bool, trace: str = "") -> None:
        self.status = "failed"
        if trace:
            self._publisher.publish(LogLine(level="debug", message=trace))  # for train.log
        trainer = self._built.trainer if self._built else None
        self.failure = Failed(epoch=trainer.epoch if trainer else 0, step=self.step, message=message, user=user)
        self._publisher.publish(self.failure)
        self.failure_published = True

    def _end(self) -> None:
        """Whatever has happened: checkpoints and listeners finish, the status is written, nothing is left running."""
        with contextlib.ExitStack() as stack:  # the last pushed is done first, and each whatever the others raise
            if self.run is not None:
                stack.callback(self.run.close)
            if self._listeners:  # else nothing was begun, and an old run keeps its old status
                stack.callback(self._write_status)
            for listener in self._listeners:
                stack.callback(listener.join)
            if self._mark is not None:
                stack.callback(self._mark.remove)
            if self._door is not None:
                stack.callback(self._door.close)
            stack.callback(self._publisher.close)
            stack.callback(self._user_writer.detach)
            stack.callback(distributed.leave)
            if self._built is not None:
                stack.callback(self._built.data.close)
            stack.callback(self._close_writer)

    def _write_status(self) -> None:
        assert self.run is not None
        values: dict[str, Any] = {
            "status": kept_status(self.status) if self.status is not None else None,
            "ended": time.time(),
            "seconds": self._seconds(),
        }
        if self.failure is not None:
            values["message"] = self.failure.message
        if self.finished is not None and self.finished.test:
            values["test"] = finite(self.finished.test)
        try:
            self.run.update(**values)
        except OSError as error:
            # The disk is full or gone; the process' death tells that the run is over.
            if self.failure is None:
                self.status = "failed"
                self.failure = Failed(epoch=0, step=self.step, message=f"The run can't be written: {error.strerror}.")

    def _report_write_failure(self, message: str) -> None:
        """From a listener or the writer: the run must not go on unrecorded."""
        if self.write_failure is None:
            self.write_failure = message
        if self._built is not None:
            self._built.trainer.fail(self.write_failure)

    def _warn(self, text: str) -> None:
        if self._notes is None:
            self._publisher.publish(LogLine(level="warning", message=text))
        else:
            self._notes.append(text)

    def _tell_notes(self) -> None:
        """What was said while the run was built, now that those who write it down listen."""
        notes, self._notes = self._notes or [], None
        for text in dict.fromkeys(notes):
            self._warn(text)
