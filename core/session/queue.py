"""The queue below a runs folder: experiments that wait, and the one process that trains them in turn.

``.queue/`` holds one file per waiting experiment, ``current.json`` (what is being trained), ``failed.json`` (why the
last one could not begin), ``output.log`` and ``lock``, which the process that trains holds. All is on disk: whoever
added an experiment may leave, and a kill loses nothing that waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torchdeck.core import files
from torchdeck.core.errors import UserError
from torchdeck.core.events import Event, Failed, Started
from torchdeck.core.machine.launch import command, environment, last_line
from torchdeck.core.session.reporters import Reporter

_FOLDER = ".queue"


@dataclass(frozen=True)
class Item:
    """An experiment to be trained, or a run to go on with."""

    id: str
    #: TOML.
    experiment: str
    #: What to call it while it waits.
    title: str
    #: Directory of the run to go on with.
    resume: str | None = None
    #: Once it is trained: the process, and its run's directory as soon as there is one.
    pid: int | None = None
    run: str | None = None


class Queue:
    """The queue of one runs folder; any process may read it and add to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folder = root / _FOLDER

    # --- for everybody -----------------------------------------------------------------------------------------------

    def add(self, experiment: str, title: str, resume: Path | None = None, first: bool = False) -> Item:
        """Put an experiment at the end of the queue, or before all others.

        Raises UserError when it can't be written.
        """
        number = time.time_ns() if not first else time.time_ns() - 10**18
        item = Item(f"{number:020d}", experiment, title, str(resume) if resume else None)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._write(self._folder / f"{item.id}.json", item)
            (self._folder / "failed.json").unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"Runs can't be written to {str(self.root)!r}: {error.strerror}.") from None
        return item

    def waiting(self) -> list[Item]:
        """What waits, in order."""
        found = []
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.glob("*.json")):
                if path.stem.isdigit() and (item := _read(path)) is not None:
                    found.append(item)
        return found

    def remove(self, item: Item) -> None:
        """Take a waiting experiment out; nothing happens when it is gone already."""
        (self._folder / f"{item.id}.json").unlink(missing_ok=True)

    def swap(self, item: Item, other: Item) -> None:
        """Let two waiting experiments change places."""
        for old, new in ((item, other), (other, item)):
            self._write(self._folder / f"{new.id}.json", replace(old, id=new.id))

    def current(self) -> Item | None:
        """What is being trained, or was when its process was killed."""
        return _read(self._folder / "current.json")

    def last(self) -> Item | None:
        """What was trained last and had a run directory: a short run may begin and end between two looks."""
        return _read(self._folder / "last.json")

    def failure(self) -> str | None:
        """Why the last experiment could not begin; None when it could."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads((self._folder / "failed.json").read_text(encoding="utf-8"))["message"])
        return None

    def served(self) -> bool:
        """Whether a process trains what waits."""
        with contextlib.suppress(OSError), files.holding(self._folder / "lock", create=False) as free:
            return not free
        return False

    def last_output(self) -> str:
        """The last line that the training process printed before it had a run directory."""
        return last_line(self._folder / "output.log")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process that trains what waits, in a session of its own: it outlives this process and its terminal.

        Raises UserError when it can't be started.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / "output.log").open("wb") as output:
                return subprocess.Popen(
                    _command(self.root),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=environment(),
                )
        except OSError as error:
            raise UserError(f"The training process can't be started: {error.strerror}.") from None

    # --- for the process that trains ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def serving(self) -> Iterator[bool]:
        """Hold the lock; gives False when another process does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with files.holding(self._folder / "lock") as mine:
            yield mine

    def take(self) -> Item | None:
        """The first that waits becomes the current one."""
        for item in self.waiting():
            taken = replace(item, pid=os.getpid())
            self._write(self._folder / "current.json", taken)
            self.remove(item)
            return taken
        return None

    def began(self, item: Item, run: Path) -> None:
        """The current experiment has its run directory."""
        self._write(self._folder / "current.json", replace(item, run=str(run)))

    def ended(self, item: Item, failure: str | None) -> None:
        """The current experiment is over; ``failure`` tells why it could not begin."""
        if failure is not None:
            files.write_text(self._folder / "failed.json", json.dumps({"message": failure, "title": item.title}))
        current = self.current()
        if current is not None and current.run:
            self._write(self._folder / "last.json", current)
        (self._folder / "current.json").unlink(missing_ok=True)

    def _write(self, path: Path, item: Item) -> None:
        files.write_text(path, json.dumps({k: v for k, v in asdict(item).items() if v is not None}))


class QueueReporter(Reporter):
    """Tells the queue where its run is, and sends what the process prints from then on to the run directory."""

    def __init__(self, queue: Queue, item: Item) -> None:
        super().__init__()
        self._queue, self._item = queue, item
        self.failure: str | None = None
        self._begun = False

    def handle(self, event: Event) -> None:
        """Only the beginning and a failure matter here: the run's own files tell the rest."""
        if isinstance(event, Started) and self.run is not None:
            self._begun = True
            with (Path(self.run) / "output.log").open("ab") as output:
                for descriptor in (1, 2):
                    os.dup2(output.fileno(), descriptor)
            self._queue.began(self._item, Path(self.run))
        elif isinstance(event, Failed) and not self._begun:  # of a run that was to go on, too
            self.failure = event.message

    def note(self, text: str) -> None:
        """Nobody reads it."""


def serve(root: Path) -> int:
    """Train what waits, in turn; each in a fresh process image, so that nothing of one run is left in the next.

    After a run that was stopped by hand the rest keeps waiting. Returns the exit code of the last.
    """
    from torchdeck.core.experiment import toml
    from torchdeck.core.session import batch
    from torchdeck.core.session.session import Session

    queue = Queue(root)
    with queue.serving() as mine:
        item = queue.take() if mine else None
        if item is None:
            return batch.DONE
        reporter = QueueReporter(queue, item)
        failure: str | None = None
        try:
            experiment = toml.loads(item.experiment, item.title)
            code = batch.run_batch(Session(experiment, root, Path(item.resume) if item.resume else None), reporter)
        except UserError as error:
            failure, code = str(error), batch.WRONG_INPUT
        queue.ended(item, failure or reporter.failure)
    if code in (batch.INTERRUPTED, batch.TERMINATED) or not queue.waiting():
        return code
    words = _command(root)
    os.execve(words[0], words, environment())  # noqa: S606
    return code


def _command(root: Path) -> list[str]:
    return command("torchdeck.core.session.serve", str(root.absolute()))


def _read(path: Path) -> Item | None:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        return Item(**values)
    except (OSError, ValueError, TypeError):
        return None
