"""Schedules of the user's own: classes like torch's schedulers, functions that give one, and functions of the step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchdeck.core import usercode
from torchdeck.core.errors import UserError, first_line
from torchdeck.core.experiment.metric_names import figure_of
from torchdeck.core.experiment.model_schema import Schedule
from torchdeck.core.training.own_optimizers import parameters_of
from torchdeck.core.training.schedules import Factor, Scheduler

#: What of an optimizer's groups schedulers change.
_CHANGED = ("lr", "momentum", "betas")


class TorchSchedule:
    """A scheduler of torch's kind, stepped by the epoch or by the step, with the interface of Scheduler.

    A hand on the learning rate multiplies what the scheduler says from then on.
    """

    def __init__(
        self,
        make: Callable[[str], Any],
        optimizer: torch.optim.Optimizer,
        per_epoch: int,
        by_step: bool,
        judged: bool,
        span: int | None = None,
        figure: str | None = None,
        what: str = "the scheduler",
    ) -> None:
        """``make``: called with "min" or "max", as the metric is the better for being lower or higher, gives the
        scheduler. ``judged``: whether it is stepped with the metric (ReduceLROnPlateau). ``span``: how many steps it
        was told that there are, where it was. ``figure``: the metric that it goes by, where that is not the watched
        one. ``what``: its name in messages."""
        self._what = what
        self._figure = figure_of(figure) if figure else None
        self._make, self._optimizer = make, optimizer
        #: Steps of the training between two steps of the scheduler.
        self._every = 1 if by_step else per_epoch
        self._judged, self._span = judged, span
        #: A scheduler that goes by a metric is made when it is known which way is better.
        self._scheduler: Any = None if judged else make("min")
        self._mode = "min"
        self._done = 0
        self._scale = 1.0
        self._rates = [group["lr"] for group in optimizer.param_groups]

    def set(self, step: int) -> None:
        """Set the learning rates for step number ``step`` (from 0)."""
        if not self._judged:
            while self._done < step // self._every:
                self._step()
        self._apply()

    def _step(self, *value: float) -> bool:
        """Step the scheduler; tells whether the first learning rate fell. It sees the rates that it has set itself."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        before = self._rates[0]
        try:
            with usercode.user_errors():
                self._scheduler.step(*value)
        except (ValueError, RuntimeError, TypeError, KeyError) as error:  # torch's own: of the user's it is told above
            raise UserError(
                f"{self._what} raised {type(error).__name__}: {first_line(error)}.", field="schedule.name"
            ) from error
        self._done += 1
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        return bool(self._rates[0] < before)

    def _apply(self) -> None:
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self._scale

    def learning_rate(self) -> float:
        """The learning rate of the first group as it stands."""
        return float(self._optimizer.param_groups[0]["lr"])

    def set_learning_rate(self, value: float, step: int) -> None:
        """Make it ``value`` at that step, and follow the schedule in proportion from there."""
        self.set(step)
        if not self._rates[0]:
            raise UserError("The schedule's learning rate is 0 here; nothing is in proportion to it.")
        self._scale = value / float(self._rates[0])
        self._apply()

    def epoch_ended(self, value: float, higher_is_better: bool, figures: Mapping[str, float]) -> bool:
        """A scheduler that goes by a metric takes it; tells whether the learning rate was cut.

        Raises UserError where there is no such metric.
        """
        if not self._judged:
            return False
        if self._figure is not None:
            if self._figure not in figures:
                raise UserError(
                    f"The scheduler goes by {self._figure!r}, which is not measured; there are {', '.join(figures)}."
                )
            value = figures[self._figure]
        if self._scheduler is None:
            self._mode = "max" if higher_is_better else "min"
            self._scheduler = self._make(self._mode)
        cut = self._step(value)
        self._apply()
        return cut

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        groups = [{k: g[k] for k in _CHANGED if k in g} for g in self._optimizer.param_groups]
        return {
            "scheduler": None if self._scheduler is None else plain_state(self._scheduler),
            "mode": self._mode,
            "done": self._done,
            "scale": self._scale,
            "rates": [float(rate) for rate in self._rates],
            "groups": groups,
            "span": self._span,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was.

        Raises UserError where the schedule was made for another number of steps.
        """
        if state["span"] != self._span:
            raise UserError(
                f"--resume: schedule.name was made for {state['span']:,} steps, and now there are {self._span:,}; a "
                "schedule that is told how many there are can't be prolonged."
            )
        if state["scheduler"] is not None:
            self._mode = state["mode"]
            self._scheduler = self._make(self._mode) if self._scheduler is None else self._scheduler
            load_plain_state(self._scheduler, state["scheduler"])
        self._done, self._scale, self._rates = state["done"], state["scale"], list(state["rates"])
        for group, kept in zip(self._optimizer.param_groups, state["groups"], strict=True):
            group.update(kept)


def is_plain(value: Any) -> bool:
    """Whether a value may stand in a checkpoint that runs no code: functions of a scheduler are made anew."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str | torch.Tensor)


def plain_state(scheduler: Any) -> dict[str, Any]:
    """The state of a scheduler like torch's, as a checkpoint may hold it."""
    return {name: value for name, value in scheduler.state_dict().items() if is_plain(value)}


def load_plain_state(scheduler: Any, kept: Mapping[str, Any]) -> None:
    """Back to what ``plain_state`` gave; what it left out stays as it was made anew."""
    scheduler.load_state_dict({**scheduler.state_dict(), **kept})


def build_schedule(
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    total: int,
    per_epoch: int,
    tell: Callable[[str], None] = lambda text: None,
) -> Scheduler | TorchSchedule:
    """The schedule of an experiment, over ``total`` steps of which ``per_epoch`` are an epoch; ``tell`` hears what was
    taken for granted.

    Raises UserError for one that can't be used.
    """
    if schedule.entry() is not None:
        return Scheduler(schedule, optimizer, total, per_epoch)
    what = f"schedule.name = {schedule.name!r}"
    target = usercode.load(schedule.name, "schedule.name")
    if not callable(target):
        raise UserError(f"{what} is a {type(target).__name__}, not a schedule.", field="schedule.name")
    parameters = parameters_of(target)
    first = next(iter(parameters), None)
    if isinstance(target, type) and first is None:
        raise UserError(
            f"{what} takes no optimizer, as a scheduler like torch's does: __init__(self, optimizer, ...).",
            field="schedule.name",
        )
    if not isinstance(target, type) and first != "optimizer":
        factor = _own_factor(schedule, target)
        for step in {0, total // 2, total - 1}:  # so that one that can't be used is told before training
            factor(step, total, per_epoch, schedule.resolved())
        return Scheduler(schedule, optimizer, total, per_epoch, factor)
    _refuse_texts(schedule)
    by_step = schedule.interval == "step" or (schedule.interval is None and any(n in parameters for n in _BY_STEP))
    span = {
        name: value
        for name, value in _span(total, per_epoch, by_step).items()
        if name in parameters
        and name not in schedule.args
        and parameters[name].default in (None, inspect.Parameter.empty)
    }

    def make(mode: str) -> Any:
        args = {**schedule.args, **span, first or "optimizer": optimizer}
        if judged and "mode" in parameters:
            args.setdefault("mode", mode)
        return usercode.call(target, args, "schedule")

    judged = is_judged(target)
    made = TorchSchedule(make, optimizer, per_epoch, by_step, judged, total if span else None, what=what)
    _check(make("min") if judged else made._scheduler, what)
    _check_length(made._scheduler, total if by_step else -(-total // per_epoch), what)
    if schedule.interval is None and not judged:
        tell(f"{what} is stepped once {'a step' if by_step else 'an epoch'}; schedule.interval says otherwise.")
    return made


def is_judged(scheduler: Any) -> bool:
    """Whether a scheduler, or its class, is stepped with a metric."""
    return "metrics" in parameters_of(getattr(scheduler, "step", None))


#: Parameters of schedulers that count steps.
_BY_STEP = ("total_steps", "steps_per_epoch", "num_training_steps")


def _span(total: int, per_epoch: int, by_step: bool) -> dict[str, int]:
    """What is filled in where a scheduler has no value of its own for it: how long the training is."""
    steps = total if by_step else -(-total // per_epoch)
    return {"total_steps": total, "num_training_steps": total, "T_max": steps, "total_iters": steps}


def _check(made: Any, what: str) -> None:
    """Raises UserError for what is no scheduler."""
    lacking = [name for name in ("step", "state_dict", "load_state_dict") if not callable(getattr(made, name, None))]
    if lacking:
        raise UserError(
            f"{what} gave a {type(made).__name__} without {lacking[0]}(); a scheduler like torch's is needed (a class "
            "or a function that takes the optimizer), or a function of (step, total_steps, epoch_length) that gives a "
            "factor on the learning rate.",
            field="schedule.name",
        )


def _refuse_texts(schedule: Schedule) -> None:
    """Raises UserError for the name of a function where a scheduler wants the function itself."""
    for name, value in schedule.args.items():
        if isinstance(value, str) and (value.rpartition(":")[0].endswith(".py") or name in ("lr_lambda", "scale_fn")):
            raise UserError(
                f"schedule.args.{name} = {value!r} is a text. Name the function in schedule.name (of the step, or of "
                "the epoch; it gives a factor), or a function of (optimizer) that makes the scheduler.",
                field=f"schedule.args.{name}",
            )


def _check_length(scheduler: Any, steps: int, what: str) -> None:
    """Raises UserError for a scheduler that ends before the training does, beyond which torch's can't be stepped."""
    told = getattr(scheduler, "total_steps", None)
    if isinstance(told, int) and told < steps - 1:
        raise UserError(
            f"{what} ends after {told:,} steps, and is stepped {steps:,} times; leave out schedule.args.total_steps "
            "(or epochs and steps_per_epoch), which is filled in.",
            field="schedule.args",
        )


#: What a function gets by position, in this order.
_IN_ORDER = ("step", "total_steps", "epoch_length")


def _own_factor(schedule: Schedule, function: Callable[..., Any]) -> Factor:
    """A function of (step, total_steps, epoch_length, **schedule.args) as the formula of a schedule: it gets those that
    it names, or where it calls them otherwise, as many as it needs by position.

    Raises UserError for one that can't be called so.
    """
    what = f"schedule.name = {schedule.name!r}"
    names = list(parameters_of(function))
    needed = [
        name
        for name, p in parameters_of(function).items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and name not in schedule.args
    ]
    by_position = not set(needed) <= {*_IN_ORDER, "epoch"}
    misplaced = [n for at, n in enumerate(needed) if n in (*_IN_ORDER, "epoch") and _IN_ORDER[at : at + 1] != (n,)]
    if by_position and (len(needed) > len(_IN_ORDER) or misplaced):
        raise UserError(
            f"{what} needs {', '.join(needed)}; a function of (step, total_steps, epoch_length) or of some of these, "
            "whose other parameters have defaults or stand in schedule.args, is needed.",
            field="schedule.name",
        )

    def factor(step: int, total: int, per_epoch: int, args: dict[str, Any]) -> float:
        known = {"step": step, "total_steps": total, "epoch_length": per_epoch, "epoch": step // per_epoch}
        given = {name: value for name, value in known.items() if name in names}
        with usercode.user_errors():
            if by_position or not given:
                value = function(*list(known.values())[: max(1, len(needed))], **args)
            else:
                value = function(**given, **args)
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UserError(f"{what} gave {value!r} at step {step}; a factor of 0 or more is needed.")
        return float(value)

    return factor
