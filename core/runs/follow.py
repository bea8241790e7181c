"""Following a run from its files, while it is written or long after: metrics.jsonl is the one truth.

Whoever watches (the workbench that started the run, one that attached to it, one on another machine over a network
disk) reads the same events in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pydantic_core import from_json

from torchdeck.core.events import Event, parse_event

#: Bytes read at once, so that a long history comes in parts.
_PART = 1 << 22

#: Bytes of a process' output that are read at once, and in one line of it.
_MUCH, _LONGEST = 1 << 16, 500


class Follower:
    """The events of one run, in order, as they are written. It never raises for what is in the file."""

    def __init__(self, run: Path) -> None:
        self._path = run / "metrics.jsonl"
        self._file: IO[bytes] | None = None
        self._rest = b""
        #: How often the file was begun anew: a resume takes out the events after its checkpoint.
        self.generation = 0

    def poll(self) -> Iterator[list[Event]]:
        """What was written since the last call, in parts of some megabytes; nothing when nothing was.

        When ``generation`` has changed after a part, that part begins the file anew: forget what came before.
        """
        if not self._open():
            return
        assert self._file is not None
        while data := self._file.read(_PART):
            lines = (self._rest + data).split(b"\n")
            self._rest = lines.pop()
            yield [event for line in lines if (event := _event(line)) is not None]

    def _open(self) -> bool:
        try:
            there = self._path.stat()
            if self._file is not None:
                ours = os.fstat(self._file.fileno())
                if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino) and there.st_size >= self._file.tell():
                    return True
                self.close()
                self.generation += 1
            self._file = self._path.open("rb")
        except OSError:
            return self._file is not None
        return True

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, b""


class Output:
    """What a run's process prints (output.log), as it comes; of much only the newest part."""

    def __init__(self, run: Path) -> None:
        self._path = run / "output.log"
        self._at = 0
        self._rest = b""

    def poll(self) -> list[str]:
        """The lines that were finished since the last call."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if size < self._at:
                    self._at, self._rest = 0, b""
                if size - self._at > _MUCH:
                    self._at, self._rest = size - _MUCH, b""
                file.seek(self._at)
                data = file.read(_MUCH)
        except OSError:
            return []
        self._at += len(data)
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()[-_LONGEST:]
        return [line[:_LONGEST].decode(errors="replace").rstrip() for line in lines if line.strip()]


def _event(line: bytes) -> Event | None:
    try:
        record = from_json(line)
    except ValueError:
        return None
    return parse_event(record) if isinstance(record, dict) else None
