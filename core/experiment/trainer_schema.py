"""What an experiment says of how training runs, and of what is written down of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.metric_names import short_name
from torchdeck.core.experiment.section import Section, Seed, Share, collected

Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


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
