"""Control, obeyed: what the training thread does with commands between two steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from torchdeck.core.control import Aborted, Command, Control
from torchdeck.core.machine import distributed

if TYPE_CHECKING:
    from torchdeck.core.training.trainer import Trainer


class Commands:
    """Takes commands from a Control and has a trainer carry them out."""

    def __init__(self, control: Control, every_steps: int) -> None:
        """``every_steps``: among several processes, how many steps lie between two looks at the commands."""
        self._control, self._every_steps = control, every_steps
        self._world = distributed.world()
        self._paused_at: float | None = None

    def obey(self, trainer: Trainer) -> None:
        """Do what was commanded since the last step; in a pause, wait here for what comes.

        Raises Aborted on abort, TrainingError when the run can't be written any more.
        """
        if self._world.size > 1:
            self._obey_together(trainer)
            return
        command = self._control.take()
        while (command is not None or self._paused) and not trainer.stopping:
            if command is not None:
                self._do(trainer, command)
            trainer.raise_if_failed()
            command = self._next()

    def _obey_together(self, trainer: Trainer) -> None:
        """Every process does what rank 0 was told, at the same step: once a summary, for sharing takes time."""
        due = trainer.step % self._every_steps == 0 or trainer.step % trainer.epoch_length == 0
        while (due or self._paused) and not trainer.stopping:
            command = distributed.share(self._next() if self._world.first else None)
            if command is not None:
                self._do(trainer, command)
            elif not self._paused:
                return

    @property
    def _paused(self) -> bool:
        return self._paused_at is not None

    def _next(self) -> Command | None:
        return self._control.wait(1.0) if self._paused else self._control.take()

    def _do(self, trainer: Trainer, command: Command) -> None:
        match command.name:
            case "pause" if self._paused_at is None:
                self._paused_at = time.monotonic()
                trainer.tell_state("paused")
            case "resume" if self._paused_at is not None:
                trainer.skip_time(time.monotonic() - self._paused_at)
                self._paused_at = None
                trainer.tell_state("running")
            case "stop" | "prune":
                self._paused_at = None
                trainer.stop(pruned=command.name == "prune")
            case "abort":
                raise Aborted
            case "checkpoint":
                trainer.write_checkpoint()
            case "evaluate":
                trainer.evaluate_now()
            case "set_learning_rate":
                assert command.value is not None
                trainer.set_learning_rate(command.value)
