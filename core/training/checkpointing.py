"""When a checkpoint is due, and whether the weights are worth one."""

from __future__ import annotations

import time

import torch
from torch import nn

from torchdeck.core.experiment.trainer_schema import TrainerOptions

#: Seconds between checkpoints at the end of epochs that are neither the best nor the last: epochs of a few
#: milliseconds would else spend more time on the disk than on training.
_EPOCH_CHECKPOINT = 10.0


class CheckpointClock:
    """By steps and by time: when the next checkpoint is due."""

    def __init__(self, options: TrainerOptions) -> None:
        self._steps, self._seconds = options.checkpoint_steps, options.checkpoint_minutes * 60
        #: The step of the last checkpoint; -1 before the first.
        self.last_step = -1
        self.restart()

    def restart(self) -> None:
        """Count the time from now on."""
        self._since = time.monotonic()

    def wrote(self, step: int) -> None:
        """A checkpoint was written."""
        self.last_step = step
        self.restart()

    def due(self, step: int) -> bool:
        """Whether one is due in mid-epoch."""
        if self._steps and step % self._steps == 0:
            return True
        return time.monotonic() - self._since >= self._seconds

    def due_after_epoch(self, step: int) -> bool:
        """Whether one is due at the end of an epoch, be it neither the best nor the last."""
        return self.due(step) or time.monotonic() - self._since >= _EPOCH_CHECKPOINT


def finite_weights(net: nn.Module) -> bool:
    """Whether every weight is a finite number; one look at the device."""
    norms = [p.detach() for p in net.parameters() if p.is_floating_point()]
    if not norms:
        return True
    return bool(torch.isfinite(torch.stack(torch._foreach_norm(norms, float("inf")))).all())
