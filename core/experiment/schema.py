"""The Experiment: the complete, validated description of one training.

One frozen pydantic model feeds the TOML file, ``--set key.path=value`` and the form on the screen. Everything in it
has a default. The text under each field is its help.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from torchdeck.core import catalog
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment.metric_names import MEASURED, OF_EACH, TAKEN, metric, short_name, watched
from torchdeck.core.experiment.search_schema import Pruner, Sampler, Search
from torchdeck.core.experiment.section import Picked, Section, Seed, collected, not_own

#: Tasks whose figures are those that the user's code tells.
_OPEN_ENDED = (None, "own", "lightning")

#: What is trained where nothing is said.
DEFAULT_MODEL = "mlp"

Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Transform(Section):
    """One transform: its name, and its parameters beside it."""

    model_config = ConfigDict(extra="allow")
    name: str
    """Name in the catalog, or path/to/file.py:Name."""
    train_only: bool | None = None
    """Of a transform of your own: run it on training samples only; default: where it draws random numbers."""

    def args(self) -> dict[str, Any]:
        """The parameters as written."""
        return dict(self.model_extra or {})

    def record(self) -> dict[str, Any]:
        """All of it as a plain table."""
        return {
            "name": self.name,
            **self.args(),
            **({} if self.train_only is None else {"train_only": self.train_only}),
        }


@collected()
def _check_transforms(kind: str, raw: Any, where: str) -> Any:
    if not isinstance(raw, list | tuple):
        return raw
    checked = []
    for i, item in enumerate(raw):
        item = {"name": item} if isinstance(item, str) else item
        if isinstance(item, Transform):
            item = item.record()
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise UserError(
                f"{where}[{i}] = {item!r} is not a transform; write it like {{name = 'ToTensor'}}.",
                field=f"{where}[{i}]",
            )
        args = {k: v for k, v in item.items() if k != "name"}
        if not catalog.is_user_code(item["name"]):
            entry = catalog.find(kind, item["name"], where=f"{where}[{i}].name")
            own = {"train_only": args.pop("train_only")} if entry.name == "Lambda" and "train_only" in args else {}
            item = {"name": entry.name, **entry.check(args, f"{where}[{i}]"), **own}
        checked.append(item)
    return checked


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


class Data(Picked):
    """What is trained on."""

    name: str = "digits"
    """Data set from the catalog, or your own: path/to/file.py:MyDataset, pkg.module:MyDataset."""
    args: dict[str, Any] = {}
    """Parameters of the data set."""
    root: str | None = None
    """Folder with data sets; default: $TORCHDECK_DATA, ./data, then ~/.cache/torchdeck/data."""
    download: bool = True
    """Whether a missing torchvision data set may be downloaded."""
    shuffle: bool = True
    """Whether training samples come in another order in each epoch; false: always as they lie."""
    test_share: Share = 0.2
    """Share that becomes the test set, where the data come without one."""
    transforms: tuple[Transform, ...] | None = None
    """Applied in this order; default: ToTensor and Normalize for images, Normalize for tables."""
    target_transforms: tuple[Transform, ...] = ()
    """Applied to the target in this order."""
    scale_target: bool | None = None
    """Regression: train on the standardised target; metrics are told in the target's own unit. Default: with the
    data sets and losses of the catalog, but for targets of 0 and 1."""
    num_classes: Annotated[int, Field(ge=1)] | None = None
    """How many classes; default: counted."""
    inputs: tuple[str | int, ...] = ()
    """Which parts of an item are the inputs, by key or position; default: all but the target."""
    target: str | int | None = None
    """Which part of an item is the target; default: label, target, y and the like, or the last one."""
    collate: str | None = None
    """How items become a batch: path/to/file.py:my_collate; default: they are stacked."""
    sampler: str | None = None
    """Which samples an epoch has, in which order: balanced (each class as often), weighted (by the data set's weights),
    or a Sampler class or function of your own, called with the training samples: path/to/file.py:MySampler."""
    batch_sampler: str | None = None
    """Which samples are in each batch: a class or function of your own, called with the training samples (and
    batch_size, epoch or seed, where it takes them), that gives lists of indices."""
    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    """DataLoader processes for data that do not live on the device; default: chosen from the cores."""
    timeout: Annotated[float, Field(gt=0, le=86400)] = 300
    """Seconds after which a DataLoader worker that has not delivered counts as hung."""

    @model_validator(mode="after")
    def _one_order(self) -> Data:
        """Raises UserError where two settings say in which order samples come, or a sampler is none."""
        if self.sampler and self.batch_sampler:
            raise UserError("data.sampler and data.batch_sampler: only one can be given.", field="data.batch_sampler")
        if (self.sampler or self.batch_sampler) and not self.shuffle:
            raise UserError(
                "data.shuffle = false: data.sampler and data.batch_sampler give the order.", field="data.shuffle"
            )
        known = ("balanced", "weighted")
        if self.sampler and self.sampler not in known and ":" not in self.sampler:
            raise UserError(
                f"data.sampler = {self.sampler!r} is unknown; give {', '.join(known)} or path/to/file.py:MySampler.",
                field="data.sampler",
            )
        return self

    @field_validator("transforms", mode="before")
    @classmethod
    def _transforms(cls, raw: Any) -> Any:
        return _check_transforms("transform", raw, "data.transforms")

    @field_validator("target_transforms", mode="before")
    @classmethod
    def _target_transforms(cls, raw: Any) -> Any:
        return _check_transforms("target_transform", raw, "data.target_transforms")


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


class Loss(Picked):
    """What is minimised."""

    name: str | None = None
    """Loss from the catalog, or your own: path/to/file.py:my_loss; default: cross_entropy, or mse for regression."""
    args: dict[str, Any] = {}
    """Parameters of the loss."""


class ImageSize(Section):
    """Train on images of this size until that share of all steps is done."""

    until: Annotated[float, Field(gt=0, lt=1)]
    """Share of all steps."""
    size: Annotated[int, Field(ge=4, le=4096)]
    """Side of the images in pixels."""


class TrainerOptions(Section):
    """How training runs."""

    epochs: Annotated[int, Field(ge=1, le=10**7)] = 10
    """Passes over the training set."""
    steps: Annotated[int, Field(ge=1, le=10**12)] | None = None
    """End after that many optimizer steps instead."""
    batch_size: Annotated[int, Field(ge=1, le=10**7)] = 64
    """Samples in a batch."""
    accumulate: Annotated[int, Field(ge=1, le=10**5)] = 1
    """Batches whose gradients are added up for one step."""
    eval_batch_size: Annotated[int, Field(ge=1, le=10**7)] | None = None
    """Samples in a batch of validation and test; default: at least 512."""
    validation_share: Share = 0.1
    """Share of the training set held back for validation, where the data have no validation set of their own."""
    validate_on: Literal["validation", "test"] = "validation"
    """test: evaluate on the test set after every epoch, as tutorials do; nothing is held back, and what the test set
    tells is not of unseen data any more."""
    device: str = "auto"
    """auto (cuda, then mps, then cpu), cuda, cuda:N, mps or cpu."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """auto: bf16 on GPUs that have it, else fp16 with a gradient scaler; fp32 on CPU."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Among several processes (torchrun): ddp keeps the whole model in each, fsdp a part of each weight, for models
    that are too large."""
    clip_norm: Positive | None = None
    """Gradients are scaled down to this norm."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of an exponential moving average of the weights, which is then what is evaluated and exported; 0: off."""
    flip_test: bool = False
    """Test-time augmentation: average the logits of each image and its mirror image."""
    image_sizes: tuple[ImageSize, ...] = ()
    """Progressive resizing: smaller, faster images first; the rest of the steps use the full size."""
    early_stopping: Annotated[int, Field(ge=0)] = 0
    """End when the watched metric has not improved for this many epochs; 0: never."""
    monitor: str = "auto"
    """Metric of the best checkpoint: accuracy, loss, f1, rmse, maximize my_metric, ...; auto: accuracy, or loss for
    regression."""
    eval_steps: Annotated[int, Field(ge=0)] = 0
    """Evaluate on the validation set every so many steps, too; 0: only at the end of epochs."""
    checkpoint_steps: Annotated[int, Field(ge=0)] = 0
    """A checkpoint every so many steps; 0: only by time and at the end of epochs."""
    checkpoint_minutes: Annotated[float, Field(gt=0, le=1e5)] = 5.0
    """A checkpoint at least so often; the most that a crash can lose."""
    keep: Annotated[int, Field(ge=1, le=10**5)] = 2
    """Generations of checkpoints that are kept beside the best."""
    seed: Seed = 0
    """One seed for weights, split, order of samples, augmentation and dropout."""
    deterministic: bool = False
    """Only deterministic algorithms (slower on GPUs; CPU runs are reproducible anyway)."""
    compile: bool | Literal["auto"] = False
    """torch.compile the model; auto: time the first steps both ways and keep what is faster."""
    callbacks: tuple[str, ...] = ()
    """Functions of your own that are called with each event: path/to/file.py:my_callback."""
    profile: bool = False
    """Write a profiler trace of a few steps into the run directory."""

    @field_validator("device")
    @classmethod
    @collected()
    def _device(cls, value: str) -> str:
        name, _, number = value.partition(":")
        if name not in ("auto", "cuda", "mps", "cpu") or (number and not (name == "cuda" and number.isdigit())):
            raise UserError(
                f"trainer.device = {value!r} is not known; choose from auto, cuda, cuda:N, mps, cpu.",
                field="trainer.device",
            )
        return value

    @model_validator(mode="after")
    @collected()
    def _sizes_in_order(self) -> TrainerOptions:
        untils = [s.until for s in self.image_sizes]
        if untils != sorted(set(untils)):
            raise UserError(
                f"trainer.image_sizes: 'until' must rise from one entry to the next, but is {untils}.",
                field="trainer.image_sizes",
            )
        return self


class Tracking(Section):
    """What is written down."""

    name: str | None = None
    """Name of the run; default: made from the data set and the model."""
    tags: tuple[str, ...] = ()
    """Words to find the run by."""
    note: str = ""
    """Anything worth remembering."""
    every_steps: Annotated[int, Field(ge=1)] = 20
    """A summary of training every so many steps (and at least once a second)."""
    metrics: tuple[str, ...] = ()
    """Metrics of your own: path/to/file.py:my_metric, called with (logits, targets)."""
    tensorboard: bool = True
    """Write TensorBoard events."""
    graph: bool = True
    """The model's graph in TensorBoard."""
    images: bool = True
    """A grid of training images and the confusion matrix in TensorBoard."""
    histograms: bool = False
    """Histograms of all parameters in TensorBoard, once an epoch."""

    @property
    def metric_names(self) -> list[str]:
        """What the metrics of your own are called."""
        return [short_name(reference) for reference in self.metrics]


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
