"""Commands into a session: thread-safe, obeyed by the training thread between two steps."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

from torchdeck.core.errors import UserError

Name = Literal["pause", "resume", "stop", "prune", "abort", "checkpoint", "evaluate", "set_learning_rate"]


class Aborted(Exception):
    """The training was told to end at once."""


@dataclass(frozen=True)
class Command:
    """One command; ``value`` is the learning rate of set_learning_rate."""

    name: Name
    value: float | None = None


class Control:
    """The only way into a running session.

    Every method returns at once; the training thread obeys after the step it is in. Events tell when it has.
    """

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._given = threading.Condition()

    def pause(self) -> None:
        """Hold before the next step, until resume, stop or abort."""
        self._give(Command("pause"))

    def resume(self) -> None:
        """Go on after a pause."""
        self._give(Command("resume"))

    def stop(self) -> None:
        """Write a checkpoint, then end."""
        self._give(Command("stop"))

    def prune(self) -> None:
        """Write a checkpoint, then end as a trial that was given up."""
        self._give(Command("prune"))

    def abort(self) -> None:
        """End without a checkpoint."""
        self._give(Command("abort"))

    def checkpoint(self) -> None:
        """Write a checkpoint now."""
        self._give(Command("checkpoint"))

    def evaluate(self) -> None:
        """Evaluate on the validation set now."""
        self._give(Command("evaluate"))

    def set_learning_rate(self, value: float) -> None:
        """Use this learning rate from the next step on; the schedule goes on from it in proportion.

        Raises UserError for what is not a positive, finite number.
        """
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"The learning rate must be a positive number, not {value!r}.")
        self._give(Command("set_learning_rate", value))

    def _give(self, command: Command) -> None:
        with self._given:
            self._commands.append(command)
            self._given.notify()

    def take(self) -> Command | None:
        """The next command, or None (training thread only)."""
        return self._commands.popleft() if self._commands else None

    def wait(self, timeout: float | None = None) -> Command | None:
        """The next command, after waiting for it (training thread only)."""
        with self._given:
            self._given.wait_for(lambda: bool(self._commands), timeout)
            return self.take()
