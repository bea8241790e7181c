"""The Experiment: the complete, validated description of one training.

One frozen pydantic model feeds the TOML file, ``--set key.path=value`` and the form on the screen. Everything in it
has a default. The text under each field is its help.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from torchdeck.core import catalog
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment.data_schema import Data
from torchdeck.core.experiment.metric_names import MEASURED, OF_EACH, TAKEN, metric, watched
from torchdeck.core.experiment.model_schema import Loss, Model, Optimizer, Schedule, Task
from torchdeck.core.experiment.search_schema import Pruner, Sampler, Search
from torchdeck.core.experiment.section import Section, collected
from torchdeck.core.experiment.trainer_schema import Tracking, TrainerOptions

#: Tasks whose figures are those that the user's code tells.
_OPEN_ENDED = (None, "own", "lightning")


class Experiment(Section):
    """The complete description of one training, and of a search over its fields."""

    data: Data = Data()
    task: Task = Task()
    model: Model = Model()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    trainer: TrainerOptions = TrainerOptions()
    tracking: Tracking = Tracking()
    search: Search = Search()
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()

    @model_validator(mode="after")
    @collected()
    def _fits_together(self) -> Experiment:
        entry = self.data.entry()
        self._check_parts()
        self._check_loss()
        self._check_metrics()
        if entry and entry.fact("download") and self.data.root:
            root = Path(self.data.root).expanduser()
            if root.exists() and not root.is_dir():
                raise UserError(f"data.root = {self.data.root!r} is not a folder.", field="data.root")
        return self

    def chosen_task(self) -> str | None:
        """The task, as far as the experiment tells it: given, or that of a data set of the catalog; None where it is
        taken from the first sample."""
        if self.task.step is not None:
            return "own"
        if self.task.name != "auto":
            return self.task.name
        entry = self.data.entry()
        return entry.fact("task") if entry else None

    def _check_parts(self) -> None:
        """Raises UserError for parts that nothing trains."""
        for key, parts in (("model.parts", self.model.parts), ("optimizer.parts", self.optimizer.parts)):
            if parts and self.task.step is None:
                raise UserError(
                    f"{key}: several parts are trained by a step of your own; name it in task.step.",
                    field=key,
                    also=("task.step",),
                )
        unknown = next(
            (name for name in self.optimizer.parts if self.model.parts and name not in self.model.parts), None
        )
        if unknown is not None:
            raise UserError(
                f"optimizer.parts.{unknown}: there is no model.parts.{unknown}; "
                f"{did_you_mean(unknown, list(self.model.parts))}",
                field=f"optimizer.parts.{unknown}",
            )

    def _check_loss(self) -> None:
        """Raises UserError for a loss that does not fit the task."""
        task = self.chosen_task()
        if self.task.step is not None and self.task.name not in ("auto", "own"):
            raise UserError(
                f"task.step is a step of your own, which task.name = {self.task.name!r} has no use for; leave one out.",
                field="task.step",
                also=("task.name",),
            )
        if self.task.step is not None and self.loss.name is not None:
            raise UserError(
                f"loss.name = {self.loss.name!r} would not be used: task.step makes the loss.",
                field="loss.name",
                also=("task.step",),
            )
        loss = self.loss.entry() if self.loss.name else None
        if not task or loss is None or task in loss.fact("tasks"):
            return
        fitting = ", ".join(e.name for e in catalog.entries("loss") if task in e.fact("tasks"))
        told = f"task.name = {task!r}"
        if self.task.name == "auto":
            told = f"data.name = {self.data.name!r}, which is {task}"
        raise UserError(
            f"loss.name = {self.loss.name!r} does not fit {told}; "
            f"{'choose from ' + fitting if fitting else 'give one of your own'}.",
            field="loss.name",
            also=("task.name" if self.task.name != "auto" else "data.name",),
        )

    def _check_metrics(self) -> None:
        """Names of metrics: of the user's own each once and none that is taken; what decides must be measured."""
        task = self.chosen_task()
        built_in = tuple(dict.fromkeys(n for t, names in MEASURED.items() for n in names if task in (None, t)))
        own = self.tracking.metric_names
        for name in own:
            if name in {"loss", *TAKEN, *(MEASURED[task] if task else ())}:
                raise UserError(
                    f"tracking.metrics: the name {name!r} is taken; call the metric something else.",
                    field="tracking.metrics",
                )
            if own.count(name) > 1:
                raise UserError(
                    f"tracking.metrics has two metrics named {name!r}; call one of them something else.",
                    field="tracking.metrics",
                )
        sought = [("trainer.monitor", self.trainer.monitor)]
        if self.search.function is None:
            sought += [("search.objectives", text) for text in self.search.objectives]
        for key, text in sought:
            self._check_sought(key, text, built_in, own)

    def _check_sought(self, key: str, text: str, built_in: Sequence[str], own: Sequence[str]) -> None:
        direction, _, _ = text.strip().rpartition(" ")
        if direction.strip() not in ("", "maximize", "minimize"):
            raise UserError(f"{key} = {text!r} is not of the form 'maximize METRIC' or 'minimize METRIC'.", field=key)
        name = watched(text)[0]
        name = metric(name)[1] if key == "search.objectives" else name
        parts = tuple(f"{n}_" for n in (*own, *OF_EACH))  # of each class, or of each target
        costs = ("parameters", "latency", "seconds") if key == "search.objectives" else ()
        if name in ("auto", *built_in, *own, *costs) or name.startswith(parts):
            return
        if self.chosen_task() in _OPEN_ENDED:
            return  # what the code of the user's own tells is known when it runs
        raise UserError(f"{key} = {text!r} is not measured; {did_you_mean(name, [*built_in, *own, *costs])}", field=key)

    def to_share(self) -> Experiment:
        """What may stand in runs, checkpoints and databases: without the URL of a storage, which may hold a password,
        and to which each machine knows its own way."""
        if "://" not in self.search.storage:
            return self
        return self.model_copy(update={"search": self.search.model_copy(update={"storage": "auto"})})
