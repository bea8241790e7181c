"""What a source of data gives: training and perhaps validation and test samples, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchdeck.core.data.items import AS_USUAL, Layout, tensors_in
from torchdeck.core.data.vocabulary import Codec
from torchdeck.core.errors import UserError


@dataclass(frozen=True)
class Arrays:
    """Samples that fit in memory: ``x`` [N, C, H, W] (uint8 or float) or [N, F] (float, or whole numbers), or several
    inputs as a tuple or dict of tensors [N, ...]; ``y`` [N, ...], such a nesting, or None. Floats are float64 where
    float32 would lose what tells them apart: ``Normalize`` takes the mean out first.
    """

    x: Any
    y: Any
    #: Each sample's row in the file, where it comes from a table.
    rows: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(tensors_in(self.x)[0])

    @property
    def targets(self) -> torch.Tensor | None:
        """The targets of all samples, where they are one tensor."""
        return self.y if isinstance(self.y, Tensor) else None


@dataclass(frozen=True)
class Samples:
    """A map-style Dataset, read sample by sample in the DataLoader.

    ``targets`` are those of all samples, where they are known without reading each sample.
    """

    dataset: Dataset
    targets: torch.Tensor | None = None
    #: What makes a batch of items, where the user gave a DataLoader that has such a function.
    collate: Callable[..., Any] | None = None

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Streamed(Samples):
    """A stream to train on; its first items, as ``dataset``, stand for it where the data are looked at."""

    #: The stream (see ``stream_items``).
    stream: Any = None
    #: How many items it has; None where it does not tell.
    length: int | None = None
    #: Whether it gives the same items each time, and whether it goes on from its state where it was.
    repeats: bool = True
    exact: bool = False


Part = Arrays | Samples


@dataclass(frozen=True)
class Source:
    """Training samples, validation and test samples where the source has its own, and names."""

    train: Part
    test: Part | None
    #: A task's name in the catalog.
    task: str
    image: bool
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    #: Where the data were found, for the log.
    place: str = ""
    val: Part | None = None
    target_names: tuple[str, ...] = ()
    #: What was guessed, left out or changed, in sentences: told in the first lines of a run.
    notes: tuple[str, ...] = ()
    #: Whether a sample is one input, of one shape, and one target. What is not goes to the model as the data set and
    #: its collate function give it.
    plain: bool = True
    #: What tokens stand for, where the data tell, and how many there are.
    vocabulary: tuple[str, ...] = ()
    tokens: int = 0
    #: How tokens become text, where the vocabulary does not tell.
    codec: Codec | None = None
    #: How items are taken apart.
    layout: Layout = AS_USUAL

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that the source itself tells apart."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: part for name, part in named.items() if part is not None}


@dataclass(frozen=True)
class DataInfo:
    """What the model and the metrics need to know of the data."""

    name: str
    #: A task's name in the catalog.
    task: str
    #: Shape of one input as the model gets it: (C, H, W) or (F,); empty where there are several.
    input_shape: tuple[int, ...]
    #: Numbers that the model gives per sample: classes, or targets in regression.
    outputs: int
    class_names: tuple[str, ...] = ()
    #: Regression: mean and standard deviation of the training targets, which are taken out while training.
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    samples: dict[str, int] = field(default_factory=dict)
    place: str = ""
    #: Names of a table's columns.
    feature_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    #: Whether inputs are whole numbers (token ids), which the model gets as int64.
    integer: bool = False
    #: Shape of one image before the transforms; empty for what is no image.
    raw_shape: tuple[int, ...] = ()
    #: A fingerprint of the samples: the same data have the same, wherever they lie.
    fingerprint: str = ""
    #: Shape of one target; empty for a number, and where there are several.
    target_shape: tuple[int, ...] = ()
    #: Whether a sample is one input and one target (see Source).
    plain: bool = True
    vocabulary: tuple[str, ...] = ()
    codec: Codec | None = None
    #: Shape of each input of a sample, where there are several tensors.
    input_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def classes(self) -> int:
        """How many classes; 0 in regression."""
        return len(self.class_names)

    def example(self, count: int) -> torch.Tensor:
        """A batch of zeros of the inputs' shape and type."""
        return torch.zeros(count, *self.input_shape, dtype=torch.int64 if self.integer else torch.float32)

    def in_own_unit(self, values: torch.Tensor) -> torch.Tensor:
        """Outputs or targets [N, ...] in the targets' own unit: in float64 (where the device has it) if they were
        standardised, else as they are."""
        if not self.target_mean:
            return values
        exact = torch.float32 if values.device.type == "mps" else torch.float64
        mean, std = (torch.tensor(v, dtype=exact, device=values.device) for v in (self.target_mean, self.target_std))
        return (values.to(exact).reshape(len(values), -1) * std + mean).reshape(values.shape)


def class_numbers(values: torch.Tensor, where: str) -> torch.Tensor:
    """Class numbers [N] of targets [N] or [N, 1], which may be floats.

    Raises UserError for those that are no class numbers.
    """
    if values.is_floating_point():
        wrong = (values != values.round()).reshape(-1)
        if wrong.any():
            at = int(wrong.nonzero()[0])
            value = float(values.reshape(-1)[at])
            raise UserError(f"{where}: the target of sample {at} is {value:.6g}, which is not the number of a class.")
        values = values.long()
    return targets_of(values.reshape(-1), where)[1]


def targets_of(values: torch.Tensor, where: str) -> tuple[str, torch.Tensor]:
    """The task that a target tensor means, and the target: int64 classes [N], or numbers in float64 of the shape that
    they have, for a loss of the user's compares them with outputs of that shape.

    Raises UserError for targets of another kind.
    """
    if values.dtype.is_complex:
        raise UserError(f"{where}: targets are complex numbers; classes or plain numbers are needed.")
    if values.dtype.is_floating_point:
        if not torch.isfinite(values).all():
            at = int((~torch.isfinite(values.reshape(len(values), -1))).any(1).nonzero()[0])
            raise UserError(f"{where}: the target of sample {at} is not a finite number.")
        return "regression", values.double()
    if values.ndim > 1 and values.shape[-1] == 1:
        values = values.squeeze(-1)
    if values.ndim > 1:
        raise UserError(
            f"{where}: targets are whole numbers of the shape {list(values.shape[1:])} a sample; one class number per "
            "sample is needed (several labels a sample are floats 0 and 1, with a loss of your own)."
        )
    values = values.long()
    if len(values) and int(values.min()) < 0:
        at = int((values < 0).nonzero()[0])
        raise UserError(f"{where}: sample {at} has the label {int(values[at])}; labels begin at 0.")
    return "classification", values
