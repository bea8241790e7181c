"""The learning rate as a function of the step: nothing to store, and a run that is prolonged just has more steps.

The formulas are those of torch.optim.lr_scheduler, against which the tests hold them.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from torchdeck.core.experiment.model_schema import Schedule

#: (step from 0, total steps, steps per epoch, parameters) to the factor on the learning rate.
Factor = Callable[[int, int, int, dict[str, Any]], float]


class Schedules(Protocol):
    """What moves the learning rates of a training."""

    def set(self, step: int) -> None:
        """Set the learning rates for step number ``step`` (from 0)."""

    def learning_rate(self) -> float:
        """The learning rate of the first group as it stands."""

    def set_learning_rate(self, value: float, step: int) -> None:
        """Make it ``value`` at that step, and go on from there."""

    def epoch_ended(self, value: float, higher_is_better: bool, figures: Mapping[str, float]) -> bool:
        """Take what an epoch gave; tells whether the learning rate was cut."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""


def _warm(step: int, total: int, share: float) -> float | None:
    """The rising line of a warm-up, or None after it."""
    steps = round(share * total)
    return (step + 1) / (steps + 1) if step < steps else None


def _done(step: int, total: int, share: float) -> float:
    """How much of the way after the warm-up is behind, 0..1."""
    steps = round(share * total)
    return min(1.0, (step - steps) / max(1, total - steps))


def _constant(step: int, total: int, per_epoch: int, p: dict[str, Any]) -> float:
    warm = _warm(step, total, p["warmup"])
    return 1.0 if warm is None else warm


def _step(step: int, total: int, per_epoch: int, p: dict[str, Any]) -> float:
    return p["gamma"] ** (step // per_epoch // p["step_size"])


def _multistep(step: int, total: int, per_epoch: int, p: dict[str, Any]) -> float:
    return p["gamma"] ** bisect.bisect_right(sorted(p["milestones"]), step // per_epoch)


def _exponential(step: int, total: int, per_epoch: int, p: dict[str, Any]) -> float:
    return p["gamma"] ** (step // per_epoch)


def _cosine(step: int, total: int, per_epoch: int, p: dict[str, Any]) -> float:
    warm = _warm(step, total, p["warmup"])
    if warm is not None:
        return warm
    return p["final"] + (1 - p["final"]) * (1 + math.cos(math.pi * _done(step, total, p["warmup"]))) / 2


def _linear(step: int, total: int, per_epoch: int, p: dict[str, Any]) -> float:
    warm = _warm(step, total, p["warmup"])
    return warm if warm is not None else 1 - (1 - p["final"]) * _done(step, total, p["warmup"])


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, share)))


def _one_cycle_share(step: int, total: int, warmup: float) -> tuple[bool, float]:
    """Whether the learning rate rises at that step, and how much of that phase is behind."""
    top = warmup * total - 1
    if step <= top:
        return True, step / top if top > 0 else 1.0
    return False, (step - top) / max(1.0, total - 1 - top)


def _one_cycle(step: int, total: int, per_epoch: int, p: dict[str, Any]) -> float:
    start = 1 / p["div"]
    rising, share = _one_cycle_share(step, total, p["warmup"])
    return _anneal(start, 1.0, share) if rising else _anneal(1.0, start / p["final_div"], share)


_FACTORS: dict[str, Factor] = {
    "constant": _constant,
    "step": _step,
    "multistep": _multistep,
    "exponential": _exponential,
    "cosine": _cosine,
    "linear": _linear,
    "one_cycle": _one_cycle,
    "plateau": lambda step, total, per_epoch, p: 1.0,
}


_NONE: Mapping[str, float] = {}


class Scheduler:
    """Sets the learning rate (and with one_cycle the momentum) of every group before each step."""

    def __init__(
        self,
        schedule: Schedule,
        optimizer: torch.optim.Optimizer,
        total: int,
        per_epoch: int,
        factor: Factor | None = None,
    ) -> None:
        """``factor``: the formula, of a function of the user's own."""
        self._name = schedule.name
        self._args = schedule.resolved()
        self._factor = factor or _FACTORS[schedule.name]
        self._optimizer = optimizer
        self._total, self._per_epoch = total, per_epoch
        self._base = [g["lr"] for g in optimizer.param_groups]
        #: What plateau and a hand on the learning rate multiply.
        self._scale = 1.0
        self._best: float | None = None
        self._bad_epochs = 0

    def set(self, step: int) -> None:
        """Set the learning rate for step number ``step`` (from 0)."""
        factor = self.factor(step)
        for group, base in zip(self._optimizer.param_groups, self._base, strict=True):
            group["lr"] = base * factor
        if self._name == "one_cycle" and self._args["cycle_momentum"]:
            rising, share = _one_cycle_share(step, self._total, self._args["warmup"])
            momentum = _anneal(0.95, 0.85, share) if rising else _anneal(0.85, 0.95, share)
            for group in self._optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                elif group.get("momentum"):
                    group["momentum"] = momentum

    def factor(self, step: int) -> float:
        """What the learning rate of the experiment is multiplied by at that step."""
        return self._factor(step, self._total, self._per_epoch, self._args) * self._scale

    def learning_rate(self) -> float:
        """The learning rate of the first group as it stands."""
        return float(self._optimizer.param_groups[0]["lr"])

    def set_learning_rate(self, value: float, step: int) -> None:
        """Make it ``value`` at that step, and follow the schedule in proportion from there."""
        unscaled = self._base[0] * self._factor(step, self._total, self._per_epoch, self._args)
        self._scale = value / unscaled
        self.set(step)

    def epoch_ended(self, value: float, higher_is_better: bool, figures: Mapping[str, float] = _NONE) -> bool:
        """Plateau: cut the learning rate when the metric has stalled; tells whether it did."""
        if self._name != "plateau" or math.isnan(value):
            return False
        better = self._best is None or (value > self._best if higher_is_better else value < self._best)
        if better:
            self._best, self._bad_epochs = value, 0
            return False
        self._bad_epochs += 1
        if self._bad_epochs <= self._args["patience"]:
            return False
        self._bad_epochs = 0
        before = self._scale
        self._scale = max(self._scale * self._args["gamma"], self._args["min_factor"])
        return self._scale < before

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs: nothing of the formula, only what happened on the way."""
        return {"scale": self._scale, "best": self._best, "bad_epochs": self._bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""
        self._scale, self._best, self._bad_epochs = state["scale"], state["best"], state["bad_epochs"]
