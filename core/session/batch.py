"""The headless mode: trains one experiment, tells how it goes, and obeys signals.

Exit codes: 0 done; 1 the training failed; 2 the user's input is wrong; 130 stopped by Ctrl-C; 143 by SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from torchdeck.core.events import Finished
from torchdeck.core.machine import children
from torchdeck.core.machine.distributed import world
from torchdeck.core.session.reporters import Reporter
from torchdeck.core.session.session import Session

DONE, FAILED, WRONG_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class Signals:
    """Flags that the handlers set, and nothing else: a checkpoint within a handler hangs or corrupts
    (lightning#21406)."""

    def __init__(self, stays: bool = False) -> None:
        """``stays``: the process is not ours to end: a session that was stopped or aborted is waited for."""
        self.stays = stays
        self.interrupts = 0
        self.terminate = False
        self.checkpoint = False
        self.hang_up = False

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.interrupts += 1
        elif number == signal.SIGTERM:
            self.terminate = True
        elif number == signal.SIGHUP:
            self.hang_up = True
        else:
            self.checkpoint = True

    @property
    def ending(self) -> bool:
        """Whether the process is to end."""
        return self.interrupts > 0 or self.terminate


#: What is answered where the process is ours.
_ANSWERED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@contextlib.contextmanager
def handling(signals: Signals) -> Iterator[None]:
    """Note signals as long as this lasts; of a process that is not ours, Ctrl-C alone. Beside the main thread, to which
    none comes, this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    children.usual_in_forks()
    numbers = (signal.SIGINT,) if signals.stays else _ANSWERED
    before = {n: signal.signal(n, signals.note) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_batch(session: Session, reporter: Reporter, signals: Signals | None = None) -> int:
    """Train to the end and return the exit code. Call it in the main thread: signals arrive there only.

    ``signals``: where they are noted, for a caller who trains several sessions.
    """
    signals = signals or Signals()
    if not world().first:
        reporter = Reporter()  # rank 0 tells, and is told; the others only say what went wrong with them
    subscription = session.subscribe()
    finished: Finished | None = None
    told: set[str] = set()
    with handling(signals):
        session.start()
        while True:
            over = subscription.closed
            events = subscription.get(timeout=0.1)
            if reporter.run is None and session.run is not None:
                reporter.run = str(session.run.path)
            for event in events:
                reporter.report(event)
                if isinstance(event, Finished):
                    finished = event
            _obey(signals, session, reporter, told)
            if over:
                break
        while not session.join(0.1):
            _obey(signals, session, reporter, told)
    reporter.close()
    if session.failure is not None:
        if not session.failure_published:  # the status could not be written: that is known only after the events
            reporter.report(session.failure)
        _say_how_to_go_on(session, reporter)
        return WRONG_INPUT if session.failure.user else FAILED
    if finished is not None and finished.status not in ("done", "pruned"):
        _say_how_to_go_on(session, reporter)
        return TERMINATED if signals.terminate else INTERRUPTED
    return DONE


def _obey(signals: Signals, session: Session, reporter: Reporter, told: set[str]) -> None:
    if signals.hang_up and "hang-up" not in told:
        told.add("hang-up")
        _leave_terminal()
    if signals.checkpoint:
        signals.checkpoint = False
        session.control.checkpoint()
    if signals.interrupts >= 2:
        if not signals.stays:
            _end_at_once(session)
        session.control.abort()
    if not world().first:
        return
    if (signals.interrupts or signals.terminate) and "stop" not in told:
        told.add("stop")
        if session.run is None and not signals.stays:  # nothing is begun yet, so nothing can be lost
            reporter.close()
            _exit(TERMINATED if signals.terminate else INTERRUPTED)
        reporter.note("stopping after a checkpoint (Ctrl-C again: at once)")
        session.control.stop()


def _end_at_once(session: Session) -> None:
    """Ask to abort, but don't wait long: every file is whole at any moment."""
    session.control.abort()
    end = time.monotonic() + 2
    while time.monotonic() < end and not session.join(0.05):
        pass
    if session.run is not None:
        print(f"aborted; resume with: {resume_command(session)}", file=sys.stderr, flush=True)
    _exit(INTERRUPTED)


def _exit(code: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    children.kill_all()
    os._exit(code)


def _leave_terminal() -> None:
    """The terminal is gone: whatever would be written to it goes nowhere, and training goes on."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            if os.isatty(descriptor) or not _writable(descriptor):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _writable(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
        return True
    except OSError:
        return False


def resume_command(session: Session) -> str:
    """What to type to go on."""
    assert session.run is not None
    return f"torchdeck --batch --resume {session.run.path}"


def _say_how_to_go_on(session: Session, reporter: Reporter) -> None:
    if session.run is not None and any(session.run.checkpoints.glob("*.pt")):
        reporter.resumable(resume_command(session))
