"""What an experiment says of its model, and of what makes it learn: task, loss, optimizer and schedule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from torchdeck.core import catalog
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment.section import Picked, Section, collected, not_own

#: What is trained where nothing is said.
DEFAULT_MODEL = "mlp"


def _check_parts(kind: str, parts: dict[str, Any], default: str) -> dict[str, Any]:
    """The tables of parts, their names and arguments checked against the catalog.

    Raises UserError for a part that can't be called so, and for what the catalog does not have.
    """
    checked: dict[str, Any] = {}
    for part, table in parts.items():
        where = f"{kind}.parts.{part}"
        if not part.isidentifier() or part.startswith("_"):
            raise UserError(
                f"{where}: {part!r} can't be the name of a part; take a word such as generator.", field=where
            )
        checked[part] = table
        if not isinstance(table, dict):
            continue
        name = table.get("name") or (default if kind == "optimizer" else None)
        if not isinstance(name, str) or catalog.is_user_code(name):
            continue
        entry = catalog.find(kind, name, where=f"{where}.name")
        args = table.get("args", {})
        if isinstance(args, dict):
            named = {"name": entry.name} if table.get("name") else {}
            checked[part] = table | named | {"args": entry.check(args, f"{where}.args")}
    return checked


class Task(Picked):
    """What is made of a batch: its loss and its figures."""

    name: str = "auto"
    """What is learned: classification, segmentation, language, ...; auto: taken from the first sample, the model and
    the loss, and told in the first lines of a run."""
    args: dict[str, Any] = {}
    """Parameters of the task."""
    step: str | None = None
    """A step of your own: path/to/file.py:step, called with (model, batch); it returns the loss, or a dict with it. One
    called with (models, optimizers, batch) makes its own optimizer steps, as a GAN needs. A step that plays in an
    environment needs a data set all the same: one whose items are, say, seeds of episodes."""

    @classmethod
    def picks_itself(cls, raw: dict[str, Any]) -> bool:
        """Which task it is, and so which parameters it has, is told later."""
        return raw.get("name", "auto") == "auto"

    @model_validator(mode="before")
    @classmethod
    @collected()
    def _args_of_some_task(cls, raw: Any) -> Any:
        """Raises UserError for a parameter that no task has, where the task is told later."""
        args = raw.get("args") if isinstance(raw, dict) and cls.picks_itself(raw) else None
        if not isinstance(args, dict) or not args:
            return raw
        params = {p.name: p for entry in catalog.entries("task") for p in entry.params}
        unknown = next((key for key in args if key not in params), None)
        if unknown is not None:
            raise UserError(
                f"task.args.{unknown} is not a parameter of any task; {did_you_mean(str(unknown), params)}",
                field=f"task.args.{unknown}",
            )
        return raw | {"args": {key: params[key].check(value, f"task.args.{key}") for key, value in args.items()}}

    @model_validator(mode="after")
    def _known(self) -> Task:
        return not_own(self)


class ModelPart(Section):
    """One of several modules that are trained together."""

    name: str
    """Model from the catalog, or your own: path/to/file.py:Generator, pkg.module:Generator."""
    args: dict[str, Any] = {}
    """Parameters of the model."""


class Model(Picked):
    """What is trained."""

    name: str = DEFAULT_MODEL
    """Model from the catalog, or your own: path/to/file.py:MyNet, pkg.module:MyNet."""
    args: dict[str, Any] = {}
    """Parameters of the model."""
    weights: str | None = None
    """Weights to start from: torchvision's by name (DEFAULT, IMAGENET1K_V2), or a .pt, .pth, .ckpt or .safetensors
    file."""
    partial: bool = False
    """Load the weights that fit, though others don't; the rest keeps its fresh values."""
    freeze: tuple[str, ...] = ()
    """Parameters that are not trained, as name patterns: 'features.*'."""
    channels_last: bool | None = None
    """Memory layout NHWC, faster for convolutions; default: on for models with convolutions."""
    parts: dict[str, ModelPart] = {}
    """Several modules for a step of your own (task.step), each with a name and args:
    model.parts.generator.name = 'gan.py:Generator'; the first is the one that is exported."""

    @model_validator(mode="before")
    @classmethod
    @collected()
    def _named_by_parts(cls, raw: Any) -> Any:
        """A model of parts is called after them."""
        parts = raw.get("parts") if isinstance(raw, dict) else None
        if not parts or not isinstance(parts, dict):
            return raw
        name = raw.get("name", DEFAULT_MODEL)
        if (
            isinstance(name, str)
            and name != DEFAULT_MODEL
            and (catalog.is_user_code(name) or catalog.has("model", name))
        ):
            raise UserError(
                f"model.name = {name!r} and model.parts are both given; leave one out.",
                field="model.name",
                also=("model.parts",),
            )
        return raw | {"name": "+".join(map(str, parts))}

    @field_validator("parts", mode="before")
    @classmethod
    @collected()
    def _parts_are_known(cls, raw: Any) -> Any:
        return _check_parts("model", raw, "mlp") if isinstance(raw, dict) else raw

    @classmethod
    def picks_itself(cls, raw: dict[str, Any]) -> bool:
        """Whether its name is made of its parts', and is none of the catalog."""
        return bool(raw.get("parts"))

    def entry(self) -> catalog.Entry | None:
        """The catalog's entry, or None for code of the user's own and for several parts."""
        return None if self.parts else super().entry()


class Loss(Picked):
    """What is minimised."""

    name: str | None = None
    """Loss from the catalog, or your own: path/to/file.py:my_loss; default: cross_entropy, or mse for regression."""
    args: dict[str, Any] = {}
    """Parameters of the loss."""


class OptimizerPart(Section):
    """The optimizer of one part of the model; what is not given is as in [optimizer], but for the parameters of
    another optimizer."""

    name: str | None = None
    """Optimizer from torch.optim, or your own; default: optimizer.name."""
    args: dict[str, Any] = {}
    """Parameters of the optimizer."""
    lr: Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False)] | None = None
    """Learning rate, at its peak; default: optimizer.lr, or of another optimizer the catalog's."""
    weight_decay: Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)] | None = None
    """Weight decay; default: optimizer.weight_decay, or of another optimizer the catalog's."""


class Optimizer(Picked):
    """How weights are changed."""

    name: str = "AdamW"
    """Optimizer from torch.optim, or your own: path/to/file.py:Lion, pkg.module:Class."""
    args: dict[str, Any] = {}
    """Parameters of the optimizer."""
    lr: Annotated[float, Field(gt=0, le=1e3, allow_inf_nan=False)] | None = None
    """Learning rate, at its peak; default: the catalog's for that optimizer, or that of your own."""
    weight_decay: Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)] | None = None
    """Weight decay; default: the catalog's for that optimizer, or that of your own."""
    backbone_lr_factor: Annotated[float, Field(ge=0, le=1e3, allow_inf_nan=False)] = 1.0
    """Learning rate of all layers but the last one, as a factor on lr: 0.1 is usual in fine-tuning."""
    decay_norms_and_biases: bool = False
    """Whether norms' parameters and biases decay too."""
    parts: dict[str, OptimizerPart] = {}
    """Of a step that makes its own optimizer steps: what differs for one part of the model, such as
    optimizer.parts.generator.lr = 2e-4; each part has an optimizer of its own."""

    @model_validator(mode="after")
    @collected()
    def _parts_are_known(self) -> Optimizer:
        _check_parts("optimizer", {name: part.model_dump() for name, part in self.parts.items()}, self.name)
        return self

    def of_part(self, part: str) -> Optimizer:
        """What holds for one part of the model."""
        own = self.parts.get(part, OptimizerPart())
        if own.name is not None and own.name.lower() != self.name.lower():
            given = own.model_dump(exclude_none=True)
            return Optimizer.model_validate(given | {"decay_norms_and_biases": self.decay_norms_and_biases})
        values = {"lr": own.lr, "weight_decay": own.weight_decay}
        changed = {name: value for name, value in values.items() if value is not None}
        mine = self.model_dump(exclude={"parts"}) | changed | {"args": self.args | own.args}
        return Optimizer.model_validate(mine)

    def learning_rate(self) -> float | None:
        """The learning rate: given, or the catalog's; None where an optimizer of the user's own has its own."""
        entry = self.entry()
        return self.lr if self.lr is not None or entry is None else entry.fact("lr")

    def decay(self) -> float | None:
        """The weight decay: given, or the catalog's; None where an optimizer of the user's own has its own."""
        entry = self.entry()
        return self.weight_decay if self.weight_decay is not None or entry is None else entry.fact("weight_decay")


class Schedule(Picked):
    """How the learning rate moves."""

    name: str = "constant"
    """Schedule from the catalog, or your own: a class like torch's schedulers (torch.optim.lr_scheduler:CyclicLR), or a
    function of (step, total_steps, epoch_length) that gives a factor."""
    args: dict[str, Any] = {}
    """Parameters of the schedule."""
    interval: Literal["epoch", "step"] | None = None
    """How often a scheduler of your own is stepped; default: once an epoch, or once a step where it counts steps."""

    @model_validator(mode="after")
    @collected()
    def _interval_of_own(self) -> Schedule:
        if self.interval is not None and self.entry() is not None:
            raise UserError(
                f"schedule.interval is for schedulers of your own; {self.name} knows its steps.",
                field="schedule.interval",
            )
        return self
