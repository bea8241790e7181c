"""A run's history, whoever wrote it: from metrics.jsonl where it is one of ours, from event files else."""

from __future__ import annotations

from pathlib import Path

from torchdeck.core.errors import UserError
from torchdeck.core.runs.follow import Follower
from torchdeck.core.runs.foreign import EventRun
from torchdeck.core.runs.history import History
from torchdeck.core.series import LIMIT


class Opened:
    """A run that is looked at; ``poll`` reads what is new."""

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        """``limit``: points of a series before neighbours are joined."""
        self.path = path
        self._limit = limit
        self.history = History(limit)
        self._follower: Follower | None = None
        self._events: EventRun | None = None
        self._generation = 0
        self._damage_told = 0

    def poll(self) -> bool:
        """Read what was written since; tells whether there was anything.

        Raises UserError when the run can't be read (any more).
        """
        try:
            if self._follower is None and self._events is None:
                if (self.path / "run.json").exists():
                    self._follower = Follower(self.path)
                else:
                    self._events = EventRun(self.path, self._limit)
            return self._poll_ours() if self._follower is not None else self._poll_events()
        except OSError as error:
            raise UserError(f"The run {str(self.path)!r} can't be read: {error.strerror or error}.") from None

    def _poll_ours(self) -> bool:
        assert self._follower is not None
        changed = False
        for events in self._follower.poll():
            if self._follower.generation != self._generation:
                self._generation, self.history = self._follower.generation, History(self._limit)
            self.history.take(events)
            changed = True
        return changed

    def _poll_events(self) -> bool:
        assert self._events is not None
        with self.history.lock:
            changed = self._events.poll()
            if changed:
                self.history.adopt(self._events.series())
            damaged = self._events.damaged
            if damaged > self._damage_told:
                self.history.say(
                    "warning", f"{damaged:,} bytes of the event files are damaged and were passed over", 0.0
                )
                self._damage_told = damaged
        return changed

    def close(self) -> None:
        """Let go of files."""
        if self._follower is not None:
            self._follower.close()


def histories(paths: list[Path]) -> list[Opened]:
    """Runs, read to their end.

    Raises UserError when one can't be read.
    """
    found = [Opened(path) for path in paths]
    for one in found:
        one.poll()
    return found
