"""Processes that are started here: what signals reach them, and that none of them outlives this one."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker

import psutil

#: Signals that a terminal or a job manager sends to the whole process group, and that the training process answers for
#: all.
_ANSWERED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)

#: Those of them that nobody ends a single process with. SIGTERM is what a Pool ends its workers with.
_FOR_THE_GROUP = tuple(number for number in _ANSWERED if number != signal.SIGTERM)

#: The process that started this one and whose end is its end, too; set in its environment.
PARENT = "TORCHDECK_PARENT"


def leave_to_main_thread() -> None:
    """In the thread that trains, and in all that user code starts there: signals to the group are left to the main
    thread.

    A mask is inherited by threads, through fork and through exec, so it reaches a Pool of any start method, where
    nothing of ours runs in the children: a closed terminal or a Ctrl-C must not end them while the run goes on.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_GROUP)


def start_tracker() -> None:
    """Start multiprocessing's resource tracker, where there is none: whoever needs it first would start it, which
    unblocks SIGINT and SIGTERM in that thread."""
    if not hasattr(signal, "pthread_sigmask"):
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started within this block, by this thread, get no signal that is sent to the whole group, from
    their first moment on; ``leave_to_parent`` ends that."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    start_tracker()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ANSWERED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """In a worker: signals to the group are ignored, and processes that user code forks here get them as usual."""
    for number in _ANSWERED:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ANSWERED)
    usual_in_forks()


def usual_in_forks() -> None:
    """Processes that user code forks (a multiprocessing.Pool) begin with the usual handlers: a Pool ends its workers
    with SIGTERM and waits for ever for one that only makes a note of it. They end with the process that forked them: a
    worker that waits for a lock of a sibling that was killed would else stay for ever."""
    global _registered
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True
        os.register_at_fork(before=_note_parent, after_in_child=_usual)


_registered = False
_forking = 0


def _note_parent() -> None:
    global _forking
    _forking = os.getpid()


def _usual() -> None:
    for number in _ANSWERED:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        with contextlib.suppress(ValueError, OSError):  # not in the main thread of the interpreter
            signal.signal(number, usual)
    with contextlib.suppress(ValueError, OSError):
        signal.set_wakeup_fd(-1)
    end_with(_forking)


def kill_all() -> None:
    """Kill what multiprocessing started here, ahead of an exit that does without Python's own end: workers of a Pool
    that wait for that lock would wait for ever."""
    for child in multiprocessing.active_children():
        with contextlib.suppress(OSError, ValueError):  # it has just ended
            child.kill()


def exit_within(seconds: float, code: int) -> None:
    """Once the interpreter exits, let it not take longer than this: the Pool of a user whose workers the signal killed
    waits for ever for a lock that one of them held."""
    exiting = threading.Event()

    def end() -> None:
        exiting.wait()
        time.sleep(seconds)
        kill_all()
        os._exit(code)

    threading.Thread(target=end, name="torchdeck-exit", daemon=True).start()
    atexit.register(exiting.set)


def end_with(pid: int, ending: Callable[[], None] = lambda: os._exit(1)) -> None:
    """Call ``ending`` as soon as the process ``pid`` is gone, however that ended: from a thread that waits for it."""
    threading.Thread(target=_watch, args=(pid, ending), name="torchdeck-parent", daemon=True).start()


def _watch(pid: int, ending: Callable[[], None]) -> None:
    with contextlib.suppress(AttributeError, OSError):  # before Linux 5.3, and elsewhere
        descriptor = os.pidfd_open(pid)
        select.select([descriptor], [], [])
        ending()
        return
    while psutil.pid_exists(pid):
        time.sleep(1)
    ending()


def end_with_parent() -> None:
    """Where the process that started this one asks for it: end as after SIGTERM when it is gone, in seconds."""
    parent = os.environ.pop(PARENT, "")
    if parent.isdigit():
        end_with(int(parent), _terminate)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(8)  # for a checkpoint
    os._exit(143)
