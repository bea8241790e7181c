"""Control, obeyed: what the training thread does with commands between two steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from torchdeck.core.control import Command
from torchdeck.core.errors import TrainingError
from torchdeck.core.events import Evaluated, LogLine, StateChanged
from torchdeck.core.machine import distributed

if TYPE_CHECKING:
    from torchdeck.core.training.trainer import Trainer


class Aborted(Exception):
    """The user asked to end at once."""


class Ended(Exception):
    """The training ends while it waits for data: there is no step to end it after."""


def while_waiting(trainer: Trainer, seconds: float) -> None:
    """Called once a second while the training thread waits for a batch: tell when that is unusual, and obey.

    Raises Ended when the training is to stop, Aborted on abort.
    """
    if trainer.world.size > 1:
        return  # commands are obeyed by all at the same step
    if not trainer.stalled and seconds > max(5.0, 10 * trainer.usual):
        trainer.stalled = True
        _tell_state(trainer, "stalled")
        trainer.publish(
            LogLine(level="warning", message=f"no batch has come for {seconds:.0f} s: the data loader is waited for")
        )
    obey(trainer)
    if trainer.stopping or trainer.pruned:
        raise Ended


def obey(trainer: Trainer) -> None:
    """Do what was commanded since the last step; in a pause, wait here for what comes.

    Raises Aborted on abort, TrainingError when the run can't be written any more.
    """
    if trainer.world.size > 1:
        _obey_together(trainer)
        return
    command = trainer.control.take()
    while (command is not None or trainer.paused) and not trainer.stopping:
        if command is not None:
            _do(trainer, command)
        if trainer.write_failure is not None:
            raise TrainingError(trainer.write_failure)
        command = trainer.control.wait(1.0) if trainer.paused else trainer.control.take()


def _obey_together(trainer: Trainer) -> None:
    """Every process does what rank 0 was told, at the same step: once a summary, for sharing takes time."""
    every = trainer.experiment.tracking.every_steps
    due = trainer.step % every == 0 or trainer.step % trainer.epoch_length == 0
    while (due or trainer.paused) and not trainer.stopping:
        command = None
        if trainer.world.first:
            command = trainer.control.wait(1.0) if trainer.paused else trainer.control.take()
        command = distributed.share(command)
        if command is not None:
            _do(trainer, command)
        elif not trainer.paused:
            return


def _do(trainer: Trainer, command: Command) -> None:
    match command.name:
        case "pause" if not trainer.paused:
            trainer.paused = True
            trainer.paused_at = time.monotonic()
            _tell_state(trainer, "paused")
        case "resume" if trainer.paused:
            trainer.paused = False
            trainer.skip_time(time.monotonic() - trainer.paused_at)
            _tell_state(trainer, "running")
        case "stop" | "prune":
            trainer.stopping, trainer.paused = True, False
            trainer.pruned = command.name == "prune"
            if trainer.last_saved_step != trainer.step:
                trainer.write_checkpoint()
        case "abort":
            raise Aborted
        case "checkpoint":
            trainer.write_checkpoint()
        case "evaluate":
            report = trainer.evaluate()
            if report is not None:
                trainer.publish(Evaluated(epoch=trainer.epoch, step=trainer.step, val=report.metrics))
        case "set_learning_rate":
            assert command.value is not None
            trainer.scheduler.set_learning_rate(command.value, trainer.step)
            _tell_state(trainer, f"learning rate {command.value:g}")


def _tell_state(trainer: Trainer, state: str) -> None:
    trainer.publish(StateChanged(epoch=trainer.epoch, step=trainer.step, state=state))
