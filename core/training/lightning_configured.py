"""What configure_optimizers of a LightningModule gives, in all forms that Lightning documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchdeck.core.errors import UserError
from torchdeck.core.tasks.lightning import LightningTask, has, module_hook, module_of


@dataclass
class Scheduled:
    """A scheduler and when it is stepped; the names are those of Lightning's LRSchedulerConfig."""

    scheduler: Any
    name: str | None = None
    interval: str = "epoch"
    frequency: int = 1
    monitor: str | None = None
    strict: bool = True
    reduce_on_plateau: bool = False


class Configured:
    """What configure_optimizers of a module gave: optimizers, and schedulers with what goes with each."""

    def __init__(self, module: Any, name: str) -> None:
        """Raises UserError for what is none of the forms that Lightning documents."""
        self._module, self._what = module, f"configure_optimizers of {name!r}"
        self.optimizers: list[torch.optim.Optimizer] = []
        self.schedulers: list[Scheduled] = []
        #: What is not known and left out, in words.
        self.notes: list[str] = []
        made = module.configure_optimizers()
        if made is None:
            return
        if isinstance(made, tuple | list) and len(made) == 2 and isinstance(made[0], tuple | list):
            for optimizer in made[0]:
                self._add(optimizer)
            for scheduler in made[1] if isinstance(made[1], tuple | list) else [made[1]]:
                self._add_scheduler(scheduler)
            return
        for one in made if isinstance(made, tuple | list) else [made]:
            self._add(one)

    def _error(self, text: str) -> UserError:
        return UserError(f"{self._what} gave {text}.", field="model.name")

    def _add(self, one: Any) -> None:
        if isinstance(one, Mapping):
            self._known(one, ("optimizer", "lr_scheduler", "monitor"))
            self._add(one.get("optimizer"))
            if one.get("lr_scheduler") is not None:
                self._add_scheduler(one["lr_scheduler"], one.get("monitor"))
            return
        if not isinstance(one, torch.optim.Optimizer):
            raise self._error(f"a {type(one).__name__} where an optimizer is needed")
        self.optimizers.append(one)

    def _add_scheduler(self, given: Any, monitor: str | None = None) -> None:
        options = dict(given) if isinstance(given, Mapping) else {"scheduler": given}
        options = self._known(options, tuple(Scheduled.__dataclass_fields__))
        scheduler = options.get("scheduler")
        if not callable(getattr(scheduler, "step", None)):
            raise self._error(f"a {type(scheduler).__name__} where a scheduler is needed")
        judged = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        made = Scheduled(**{"monitor": monitor, "reduce_on_plateau": judged, **options})
        self._check(made)
        self.schedulers.append(made)

    def _check(self, made: Scheduled) -> None:
        """Raises UserError for what Lightning refuses, too."""
        kind = type(made.scheduler).__name__
        if made.interval not in ("step", "epoch"):
            raise self._error(f"interval = {made.interval!r}; 'step' or 'epoch' is needed")
        if not (isinstance(made.frequency, int) and made.frequency >= 1):
            raise self._error(f"frequency = {made.frequency!r}; a number of 1 or more is needed")
        if not self._module.automatic_optimization:
            return
        if made.reduce_on_plateau and made.monitor is None:
            raise self._error(f"a {kind} without 'monitor', the name of the figure that it goes by")
        of_torch = isinstance(
            made.scheduler,
            torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau,
        )
        if not (of_torch or has(self._module, "lr_scheduler_step")):
            raise self._error(f"a {kind}, which is no scheduler of torch's kind; lr_scheduler_step has to step it")
        optimizer = getattr(made.scheduler, "optimizer", None)
        if optimizer is not None and not any(optimizer is one for one in self.optimizers):
            raise self._error(f"a {kind} of another optimizer than those that it gave")

    def _known(self, options: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
        """What is known of a dict; Lightning leaves out the rest, too."""
        unknown = [key for key in options if key not in known]
        if unknown:
            self.notes.append(f"{self._what} gave {', '.join(map(repr, unknown))}, which is not known and left out.")
        return {key: value for key, value in options.items() if key in known}

    def refuse_too_short(self, steps: int, per_epoch: int) -> None:
        """Raises UserError for a scheduler that ends before the training does, beyond which torch's can't be
        stepped."""
        for one in self.schedulers:
            epochs, rest = divmod(steps, per_epoch)
            times = epochs // one.frequency
            if one.interval == "step":
                times = epochs * (per_epoch // one.frequency) + rest // one.frequency
            told = getattr(one.scheduler, "total_steps", None)
            if isinstance(told, int) and told < times and not has(self._module, "lr_scheduler_step"):
                raise self._error(
                    f"a {type(one.scheduler).__name__} of {told:,} steps, which is stepped {times:,} times; "
                    "self.trainer.estimated_stepping_batches tells how many there are"
                )


def configure(task: LightningTask, name: str, device: torch.device) -> Configured:
    """Set the module up as Lightning does, and ask it for its optimizers."""
    module = module_of(task.module)
    with task.attached(module):
        set_up(module)
        module.to(device)  # of which layers may have been made just now
        return Configured(module, name)


def set_up(module: Any) -> None:
    """The hooks in which a module may make its layers."""
    module_hook(module, "prepare_data")
    module_hook(module, "setup", "fit")
    module_hook(module, "configure_model")
