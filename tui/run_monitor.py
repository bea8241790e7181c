"""The one door between runs and the screen: follows a run from its files, watches the queue, sends Control.

Nothing here draws. ``poll`` is called in a thread and gives a frozen snapshot; the history in it is shared and has a
lock of its own. Runs are trained in processes of their own, which outlive the workbench.
"""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from torchdeck.core.checkpoints.names import LAST, generations
from torchdeck.core.control import Control
from torchdeck.core.errors import UserError
from torchdeck.core.runs.directory import RunInfo, read_info
from torchdeck.core.runs.follow import Follower, Output
from torchdeck.core.runs.history import History
from torchdeck.core.runs.live import live_runs
from torchdeck.core.runs.opened import Opened
from torchdeck.core.session.control_server import RemoteControl
from torchdeck.core.session.queue import Item, Queue
from torchdeck.core.tracking.files import parts_of

#: Seconds between two looks at whether the run's process still lives.
_ALIVE_EVERY = 2.0

#: States in which a run is over.
OVER = ("done", "pruned", "stopped", "failed", "dead")

#: The state of a run of another tool, of which only the curves are there.
FOREIGN = "events"


@dataclass(frozen=True)
class Snapshot:
    """What there is to show now."""

    history: History
    #: idle, starting, running, paused, done, pruned, stopped, failed or dead.
    state: str
    run: Path | None
    #: The process that trains the run, as long as it does.
    pid: int | None
    waiting: tuple[Item, ...]
    #: Why the last experiment could not begin, once.
    refusal: str | None
    #: Counts what the history has taken: nothing to draw when it is as before.
    version: int

    @property
    def active(self) -> bool:
        """Whether a run is going on, or about to."""
        return self.state == "starting" or self.under_way

    @property
    def under_way(self) -> bool:
        """Whether the run takes commands."""
        return self.state in ("running", "paused", "stalled")


def going_on(run: Path) -> str:
    """What resuming the run means, in words."""
    folder = run / "checkpoints"
    if generations(folder) or (folder / LAST).exists():
        return f"{run.name} is resumed now, or when its turn comes in the queue"
    return f"{run.name} has no checkpoint: it starts over in its directory"


def _status(item: Item) -> str | None:
    """How the run of an item stands; None when it has none that can be read."""
    try:
        return read_info(Path(item.run)).status if item.run else None
    except UserError:
        return None


class RunMonitor:
    """Follows one run at a time, and starts what waits. One thread calls ``poll``; the rest may be called from any."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.queue = Queue(root)
        self.history = History()
        self.run: Path | None = None
        self._follower: Follower | None = None
        self._foreign: Opened | None = None
        self._generation = 0
        self._output: Output | None = None
        self._process: subprocess.Popen[bytes] | None = None
        #: Of the run that is followed.
        self._state = "idle"
        self._nothing = History()
        self._pid: int | None = None
        self._looked = 0.0
        last = self.queue.last()
        #: Items of the queue whose runs were shown, or could have been: none is shown a second time by itself.
        self._seen = {last.id} if last else set()
        self._cancelled = False
        self._wanted = False
        #: The last run that was over when it was wished that what waits be trained.
        self._over: str | None = None
        self._starting = threading.Lock()
        self._wish: Path | None = None

    # --- what the user asks for --------------------------------------------------------------------------------------

    def enqueue(self, experiment: str, title: str) -> None:
        """Queue an experiment; who trains already takes it in its turn, else it waits for ``serve``.

        Raises UserError when that can't be done.
        """
        self.queue.add(experiment, title)

    def add(self, experiment: str, title: str, resume: Path | None = None) -> None:
        """Queue an experiment and have somebody train it.

        Raises UserError when that can't be done.
        """
        self.queue.add(experiment, title, resume)
        self.serve()

    def serve(self) -> None:
        """Have what waits trained: now, or as soon as the process that ends just now is gone.

        Raises UserError when no process can be started.
        """
        current, last = self.queue.current(), self.queue.last()
        over = current if current is not None and self._is_over(current) else last
        self._over = over.id if over else None
        self._wanted = True
        self._start_wanted()

    def _is_over(self, item: Item) -> bool:
        if item.run == str(self.run) and self._state in OVER:
            return True
        return _status(item) in OVER

    def _start_wanted(self) -> None:
        with self._starting:  # the screen and the thread that looks both may
            if not self._wanted or self.someone_trains():
                return
            self._wanted = False
            last = self.queue.last()
            if last is not None and last.id != self._over and _status(last) == "stopped":
                return  # stopped by hand since then: what waits is held, as the process that trained holds it
            if self.queue.waiting():
                self._process = self.queue.start()

    def attach(self, run: Path) -> None:
        """Follow this run from its beginning, from the next look on: the thread that looks may be reading now."""
        self._wish = run

    def _attach(self, run: Path) -> None:
        self._wish = None
        if self._follower is not None:
            self._follower.close()
        self.run, self.history = run, History()
        self._follower, self._foreign, self._output = None, None, None
        self._generation, self._looked = 0, 0.0
        if not (run / "run.json").exists() and _has_events(run):
            self._foreign = Opened(run)
        else:
            self._follower, self._output = Follower(run), Output(run)

    def cancel(self) -> None:
        """End the process that is about to train, before it has a run: nothing is begun, so nothing is lost."""
        if self._process_lives():
            assert self._process is not None
            self._process.terminate()
            self._cancelled = True

    @property
    def control(self) -> Control:
        """Control over the run that is followed.

        Raises UserError when there is none.
        """
        if self.run is None:
            raise UserError("There is no run yet: start one with s.")
        return RemoteControl(self.run)

    def others(self) -> list[RunInfo]:
        """Runs that are being trained on this machine and are not followed here."""
        ours = self.run.resolve() if self.run else None
        return [info for info in live_runs() if info.path.resolve() != ours]

    # --- in a thread -------------------------------------------------------------------------------------------------

    def poll(self) -> Snapshot:
        """Read what is new."""
        if self._wish is not None:
            self._attach(self._wish)
        current = self.queue.current()
        begun = [item for item in (current, self.queue.last()) if item is not None and item.run]
        if begun and begun[0].run and begun[0].id not in self._seen:
            self._attach(Path(begun[0].run))
        self._seen.update(item.id for item in begun)
        refusal = self._refusal(current)
        if not self.queue.waiting():
            self._wanted = False
        try:
            self._start_wanted()
        except UserError as error:
            refusal = str(error)
        self._follow()
        if self.run is not None:
            self._state = self._state_of_run()
        waiting = tuple(self.queue.waiting())
        if not self._begins(current, waiting):
            return Snapshot(self.history, self._state, self.run, self._pid, waiting, refusal, self.history.version)
        self._pid = None
        if self.run is not None and current is not None and current.resume == str(self.run):
            return Snapshot(self.history, "starting", self.run, None, waiting, refusal, self.history.version)
        # What was trained before is not the run that begins.
        return Snapshot(self._nothing, "starting", None, None, waiting, refusal, 0)

    def _follow(self) -> None:
        if self._foreign is not None:
            try:
                self._foreign.poll()
            except UserError as error:
                self.history.fail(str(error))
            else:
                self.history = self._foreign.history
            return
        if self._follower is None:
            return
        for events in self._follower.poll():
            if self._follower.generation != self._generation:
                self._generation = self._follower.generation
                self.history = History()
            self.history.take(events)
            if self._wish is not None:
                return
        if self._output is not None:
            self.history.printed(self._output.poll(), time.time())

    def _begins(self, current: Item | None, waiting: tuple[Item, ...]) -> bool:
        """Whether a run is about to begin: somebody trains, it has no directory yet, and nothing else is looked at."""
        if self.run is not None and self._state not in (*OVER, FOREIGN):
            return False
        if current is not None:
            return not current.run and self.someone_trains()
        return self._process_lives() and (self.run is None or bool(waiting))

    def _state_of_run(self) -> str:
        now = time.monotonic()
        state = self.history.state
        if self._foreign is not None:
            self._pid = None
            return "failed" if state == "failed" else FOREIGN
        if state in OVER[:-1]:
            self._pid = None
        elif now - self._looked >= _ALIVE_EVERY:
            self._looked = now
            state = self._look(state)
        elif self._state == "dead":
            state = "dead"
        return state

    def _look(self, state: str) -> str:
        assert self.run is not None
        try:
            info = read_info(self.run)
        except UserError:
            return state
        who = info.get("process")
        self._pid = who.get("pid") if info.status == "running" and isinstance(who, dict) else None
        if info.status == "running":
            return "starting" if state == "starting" else state
        if info.status == "failed":  # on a full disk run.json may be the only file that could still tell
            self.history.fail(str(info.get("message") or "The run failed without an error message."))
        return info.status

    def someone_trains(self) -> bool:
        """Whether a process of ours, or one that serves the same queue, is there to train."""
        return self._process_lives() or self.queue.served()

    def _process_lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _refusal(self, current: Item | None) -> str | None:
        """Why what was started here could not begin; told once."""
        if self._process is None or self._process.poll() is None:
            return None
        code, self._process = self._process.returncode, None
        if self._cancelled:
            self._cancelled = False
            if current is not None and not current.run:
                self.queue.ended(current, None)
            return None
        failure = self.queue.failure()
        if failure is not None:
            return failure
        if current is not None and not current.run:
            self.queue.ended(current, None)
            last = self.queue.last_output()
            return f"The training process ended at once (exit code {code}){': ' + last if last else ''}."
        return None


def _has_events(run: Path) -> bool:
    try:
        return bool(parts_of(run))
    except OSError:
        return False
