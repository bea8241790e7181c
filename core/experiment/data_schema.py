"""What an experiment says of its data."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from torchdeck.core import catalog
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.section import Picked, Section, Share, collected


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
