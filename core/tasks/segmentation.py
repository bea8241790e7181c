"""A class for each pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassConfusionMatrix

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import shapes
from torchdeck.core.errors import UserError, count
from torchdeck.core.models.calls import logits_of
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.metrics import Classification, Metric
from torchdeck.core.tasks.training_loss import TrainingLoss

#: torch's own losses of one logit, or of its sigmoid, for each pixel.
_BINARY = (nn.BCEWithLogitsLoss, nn.BCELoss)


class Segmentation(Classification):
    """``miou`` and ``dice``, the means over classes of intersection over union and of the Dice coefficient;
    ``accuracy`` of the pixels; and ``iou_NAME`` of each class. All of the pixels of the whole set that count; a class
    that neither occurs nor is predicted there, or that is the one ignored, is left out of the means."""

    def __init__(self, names: tuple[str, ...], ignored: int, device: torch.device) -> None:
        super().__init__(len(names))
        self._names, self._ignored, self._device = names, ignored, device
        self._counts: MulticlassConfusionMatrix | None = None

    def take(self, step: Any) -> None:
        """Take what a model made of a batch."""
        self.update(self.as_logits(logits_of(step.outputs)), masks_of(step.targets))

    def update(self, out: Tensor, y: Tensor) -> None:
        """Take logits [B, C, H, W] and masks [B, H, W]."""
        guess = predicted_map(out)
        if self._counts is None:  # a model may have more outputs than the data have classes: these are wrong answers
            self._counts = MulticlassConfusionMatrix(
                max(self._classes, out.shape[1]),
                ignore_index=self._ignored,
                validate_args=False,
                sync_on_compute=False,  # each process evaluates the whole set
            ).to(self._device)
        self._counts.update(guess, y)

    def compute(self) -> dict[str, float]:
        """The figures; none where no pixel counts."""
        if self._counts is None:
            return {}
        every = self._counts.compute()
        self.confusion = every[: self._classes, : self._classes]
        counts = every.cpu().double()
        if not counts.sum():
            return {}
        right, both = counts.diagonal(), counts.sum(0) + counts.sum(1)
        there = both > 0
        there[self._classes :] = False
        if 0 <= self._ignored < self._classes:
            there[self._ignored] = False
        iou, dice = right / (both - right), 2 * right / both
        figures = {
            "miou": float(iou[there].mean()) if there.any() else math.nan,
            "dice": float(dice[there].mean()) if there.any() else math.nan,
            "accuracy": float(right.sum() / counts.sum()),
        }
        each = zip(self._names, iou.tolist(), there.tolist(), strict=False)
        return figures | {f"iou_{name}": value for name, value, known in each if known}


class SegmentationTask(Task):
    """Logits [B, C, H, W] of masks [B, H, W] (or [B, 1, H, W]), of which pixels that are ``task.args.ignore_index`` do
    not count; for two classes also one logit [B, 1, H, W]. Of torchvision's dict of ``out`` and ``aux`` both make the
    loss, by the catalog's losses, and ``out`` the figures."""

    mirrors = True
    resizes = False

    def begin(self) -> None:
        """The loss as masks need it."""
        loss = self.loss
        if loss is not None and isinstance(loss.module, _BINARY) and loss.module.reduction == "mean":
            loss = _binary(loss, self._args["ignore_index"])
        #: Whether a loss of the user's gets the masks in the form that the data give them.
        self._as_given = loss is None or (loss.own and loss.kind != "weighted")
        if loss is not None and not loss.own:
            loss = with_auxiliary(loss, self._args["aux_weight"])
        self.loss = loss

    @property
    def decides(self) -> str:  # type: ignore[override]
        """mIoU, where it is measured."""
        return "miou" if self.measures else "loss"

    @property
    def counts(self) -> bool:
        """Whether right answers are counted while training."""
        return self.measures

    def targets(self, batch: Batch) -> Any:
        """The masks [B, H, W]; for a loss of the user's as the data give them."""
        return batch.y if self._as_given else masks_of(batch.y)

    def keep(self, step: Step) -> Any:
        """How many pixels are right, and how many count, on the device."""
        if not self.measures:
            return None
        masks = masks_of(step.targets)
        counted = masks != self._args["ignore_index"]
        right = predicted_map(self.as_logits(logits_of(step.outputs).detach())) == masks
        return torch.stack([(right & counted).sum(), counted.sum()])

    def count_right(self, kept: list[Any]) -> tuple[float, float]:
        """Right pixels, and those that count."""
        right, counted = torch.stack(kept).sum(0).tolist()
        return float(right), float(counted)

    def unmirrored(self, outputs: Tensor) -> Tensor:
        """Outputs for mirror images, mirrored back."""
        return outputs.flip(-1)

    def of_task(self, step: Step) -> list[Metric]:
        """mIoU, Dice, accuracy and the IoU of each class."""
        return [Segmentation(self._info.class_names, self._args["ignore_index"], self._device)]

    def stands_for_yes(self, outputs: Any) -> bool:
        """A single one for each pixel."""
        out = logits_of(outputs)
        return isinstance(out, Tensor) and out.ndim == 4 and out.shape[1] == 1

    def fits(self, step: Step) -> bool:
        """Whether the outputs are logits of the pixels' classes."""
        out, y, classes = logits_of(step.outputs), step.targets, self._info.classes
        if not (self.measures and isinstance(out, Tensor) and isinstance(y, Tensor)):
            return False
        masks = masks_of(y)
        alike = out.ndim == masks.ndim + 1 and len(out) == len(masks) and out.shape[2:] == masks.shape[1:]
        return alike and (out.shape[1] >= classes > 1 or (out.shape[1] == 1 and classes == 2))

    def check(self, step: Step) -> None:
        """The outputs must be logits of the pixels' classes, unless the loss is the user's own.

        Raises UserError where they are not.
        """
        if self.loss is not None and not self.loss.own:
            self._check_shape(logits_of(step.outputs), masks_of(step.targets))
        super().check(step)

    def _check_shape(self, out: Any, masks: Tensor) -> None:
        name, classes = self._experiment.model.name, self._info.classes
        wanted = [len(masks), classes, *masks.shape[1:]]
        hint = ""
        if isinstance(out, Tensor) and out.ndim == len(wanted) and out.shape[2:] != masks.shape[1:]:
            hint = "; a model whose output is smaller or larger than its input resizes it itself"
        one = isinstance(out, Tensor) and list(out.shape) == [len(masks), 1, *masks.shape[1:]]
        if one and classes == 2 and self._experiment.loss.name != "bce_with_logits":
            hint = "; one logit for two classes goes with loss.name = 'bce_with_logits'"
        elif self.fits(Step(out, masks, len(masks))):
            return
        raise UserError(
            f"model.name = {name!r} returned {shapes(out)} for masks of the shape {list(masks.shape)}; {wanted} is "
            f"needed, for {self._info.name!r} has {count(classes, 'class')}{hint}.",
            field="model.name",
        )

    def describe(self, outputs: Any) -> list[dict[str, Any]]:
        """Of each sample the share of its pixels that each class is predicted for."""
        names, maps = self._info.class_names, predicted_map(self.as_logits(logits_of(outputs)))
        return [
            {"shares": {n: float((one == i).float().mean()) for i, n in enumerate(names) if bool((one == i).any())}}
            for one in maps
        ]


def masks_of(y: Tensor) -> Tensor:
    """Masks as class numbers [B, H, W], of those that may be [B, 1, H, W] or floats."""
    y = y.squeeze(1) if y.ndim == 4 and y.shape[1] == 1 else y
    return y.long()


def predicted_map(logits: Tensor) -> Tensor:
    """The predicted class of each pixel: the largest logit, or the sign of a single one."""
    return (logits[:, 0] > 0).long() if logits.shape[1] == 1 else logits.argmax(1)


def with_auxiliary(loss: TrainingLoss, weight: float) -> TrainingLoss:
    """The loss of the outputs, or of a dict of outputs ``out`` and ``aux`` both, the second ``weight`` times."""

    def both(outputs: Any, y: Tensor) -> Any:
        if not (isinstance(outputs, Mapping) and isinstance(outputs.get("aux"), Tensor)):
            return loss.function(logits_of(outputs), y)
        out, aux = loss.function(logits_of(outputs), y), loss.function(outputs["aux"], y)
        return {"loss": out + weight * aux, "out": out, "aux": aux}

    return TrainingLoss(both, loss.kind, loss.weight_of_targets, weights=loss.weights, takes_all=True)


def _binary(loss: TrainingLoss, ignored: int) -> TrainingLoss:
    """A loss of torch's for one output of each pixel: of those that count, whose masks are floats as it needs them."""

    def of_counted(outputs: Any, y: Tensor) -> Tensor:
        out = logits_of(outputs)
        if out.shape[1] != 1:
            raise UserError(
                f"{type(loss.module).__name__} takes one output of each pixel; the model gives {out.shape[1]}.",
                field="loss.name",
            )
        counted = y != ignored
        return loss.function(out[:, 0][counted], y[counted].to(out.dtype))

    return TrainingLoss(loss.function, "weighted", lambda y: (y != ignored).sum().float(), own=True, call=of_counted)
