"""One class a sample, and several labels a sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.losses_known import kind_of_loss
from torchdeck.core.errors import UserError, count
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.losses import classes_of, predicted
from torchdeck.core.tasks.metrics import Classification, Metric


class ClassificationTask(Task):
    """Logits [B, C] of classes [B] or one-hot [B, C]; one logit [B] or [B, 1] for two classes."""

    mirrors = True

    def begin(self) -> None:
        """Losses of the user's get the targets in the form that the data give them, but those of torch for classes."""
        loss = self.loss
        of_classes = loss is not None and (
            not loss.own or loss.kind == "weighted" or kind_of_loss(loss.function) == "classes"
        )
        self._as_given = not of_classes

    def targets(self, batch: Batch) -> Any:
        """Class numbers [B], one-hot [B, C], or as the data give them."""
        y = batch.y
        if self._as_given or not isinstance(y, Tensor) or y.numel() != len(y):
            return y
        return classes_of(y)

    @property
    def decides(self) -> str:  # type: ignore[override]
        """Accuracy, where it is counted."""
        return "accuracy" if self.measures else "loss"

    @property
    def counts(self) -> bool:
        """Whether right answers are counted while training."""
        return self.measures

    def keep(self, step: Step) -> Any:
        """The logits and the targets: what is right is counted once a summary, not every step."""
        return (step.outputs.detach(), step.targets) if self.measures else None

    def count_right(self, kept: list[Any]) -> tuple[float, float]:
        """Right answers and samples."""
        outputs, targets = (torch.cat(part) for part in zip(*kept, strict=True))
        logits = self.as_logits(outputs)
        return float((predicted(logits) == classes_of(targets)).sum()), float(len(targets))

    def of_task(self, step: Step) -> list[Metric]:
        """Accuracy, top5, f1 and the confusion matrix."""
        return [Classification(self._info.classes)]

    def stands_for_yes(self, outputs: Any) -> bool:
        """A single one for two classes."""
        return isinstance(outputs, Tensor) and outputs.numel() == len(outputs)

    def fits(self, step: Step) -> bool:
        """Whether the outputs are logits of the classes."""
        out, y, classes = step.outputs, step.targets, self._info.classes
        if not (isinstance(out, Tensor) and isinstance(y, Tensor)):
            return False
        one_logit = classes == 2 and out.numel() == len(out)
        return y.numel() in (len(y), len(y) * classes) and (one_logit or (out.ndim == 2 and out.shape[1] >= classes))

    def check(self, step: Step) -> None:
        """The outputs must be logits of the classes, unless the loss is the user's own.

        Raises UserError where they are not.
        """
        if self.loss is not None and not self.loss.own:
            self._check_shape(step.outputs, step.size)
        super().check(step)

    def _check_shape(self, out: Any, size: int) -> None:
        name, classes = self._experiment.model.name, self._info.classes
        if not isinstance(out, Tensor):
            raise UserError(
                f"model.name = {name!r} returned a {type(out).__name__}; a tensor [batch, outputs] is needed.",
                field="model.name",
            )
        shape = list(out.shape)
        one_logit = self._experiment.loss.name == "bce_with_logits" and classes == 2
        if one_logit and shape in ([size, 1], [size]):
            return
        rows = out.ndim == 2 and shape[0] == size
        if rows and shape[1] >= classes:
            return
        if rows:
            raise UserError(
                f"model.name = {name!r} has {count(shape[1], 'output')}, but {self._info.name!r} has "
                f"{classes} classes.",
                field="model.name",
            )
        raise UserError(
            f"model.name = {name!r} returned the shape {shape} for a batch of {size}; {[size, classes]} is needed.",
            field="model.name",
        )
