"""Several labels a sample, each 0 or 1."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelExactMatch, MultilabelF1Score

from torchdeck.core.data.items import shapes
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.metrics import Metric


class Multilabel(Metric):
    """``f1`` (the mean over labels) and ``f1_micro`` (over all samples and labels at once) of the labels predicted,
    ``exact_match``, the share of samples whose labels are all right, and ``map``: the mean of the average precision of
    each label that occurs. As scikit-learn's f1_score, accuracy_score and average_precision_score have them."""

    def __init__(self, labels: int, threshold: float, device: torch.device) -> None:
        self._threshold = threshold
        # Each process evaluates the whole set: nothing is to be added up over them.
        common: dict[str, Any] = {"num_labels": labels, "validate_args": False, "sync_on_compute": False}
        self._predicted = MetricCollection(
            {
                "f1": MultilabelF1Score(average="macro", **common),
                "f1_micro": MultilabelF1Score(average="micro", **common),
                "exact_match": MultilabelExactMatch(**common),
            },
            compute_groups=False,
        ).to(device)
        self._precision = MultilabelAveragePrecision(average="none", **common).to(device)
        self._occurs = torch.zeros(labels, dtype=torch.bool, device=device)

    def update(self, out: Tensor, y: Tensor) -> None:
        """Take logits [B, K] and labels of 0 and 1 [B, K]."""
        y = y.reshape(len(y), -1)
        # In float32 the probabilities of confident labels would all be 1, in no order.
        p = out.reshape(y.shape).to(torch.float32 if out.device.type == "mps" else torch.float64).sigmoid()
        labels = y.long()
        self._predicted.update((p >= self._threshold).long(), labels)
        self._precision.update(p, labels)
        self._occurs |= (labels == 1).any(0)

    def compute(self) -> dict[str, float]:
        """The figures; no ``map`` where no label occurs."""
        figures = {name: float(value) for name, value in self._predicted.compute().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that some label does not occur
            each = self._precision.compute().reshape(-1)[self._occurs]
        return figures | {"map": float(each.mean())} if len(each) else figures


class MultilabelTask(Task):
    """Logits [B, K] of labels [B, K], each 0 or 1."""

    mirrors = True

    @property
    def decides(self) -> str:  # type: ignore[override]
        """f1, where it is measured."""
        return "f1" if self.measures else "loss"

    def of_task(self, step: Step) -> list[Metric]:
        """f1, exact match and mAP."""
        return [Multilabel(_labels(self._info), self._args["threshold"], self._device)]

    def stands_for_yes(self, outputs: Any) -> bool:
        """Each label's does."""
        return isinstance(outputs, Tensor)

    def fits(self, step: Step) -> bool:
        """Whether the outputs are a logit of each label."""
        out, y = step.outputs, step.targets
        if not (isinstance(out, Tensor) and isinstance(y, Tensor) and len(out) == len(y)):
            return False
        return self.measures and out.numel() == y.numel() == len(y) * _labels(self._info)

    def check(self, step: Step) -> None:
        """The outputs must be a logit of each label, unless the loss is the user's own.

        Raises UserError where they are not.
        """
        if self.loss is not None and not self.loss.own and not self.fits(step):
            raise UserError(
                f"model.name = {self._experiment.model.name!r} returned {shapes(step.outputs)} for a batch of "
                f"{step.size}; {[step.size, _labels(self._info)]} is needed, a logit of each label of "
                f"{self._info.name!r}.",
                field="model.name",
            )
        super().check(step)

    def describe(self, outputs: Any) -> list[dict[str, Any]]:
        """Of each sample the labels predicted, and the probability of each label."""
        names = self._info.class_names
        found = []
        for row in self.as_logits(outputs.reshape(len(outputs), -1).float()).sigmoid().tolist():
            each = dict(zip(names, row, strict=True))
            predicted = [name for name, p in each.items() if p >= self._args["threshold"]]
            found.append({"predicted": predicted, "probabilities": each})
        return found


def _labels(info: DataInfo) -> int:
    return info.classes or info.outputs
