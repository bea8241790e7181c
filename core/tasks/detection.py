"""Boxes and their classes, by the interface of torchvision's detectors."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import shapes
from torchdeck.core.errors import UserError
from torchdeck.core.models.calls import loss_of
from torchdeck.core.tasks.base import Step, Task, floats
from torchdeck.core.tasks.metrics import Metric


class Detection(Metric):
    """``map``, the mean average precision over IoUs of 0.5 to 0.95 (COCO's), ``map50`` and ``map75``, at one IoU each,
    and ``map_NAME`` of each class that occurs; over all images of the set, by torchmetrics and pycocotools. NaN
    where no image has a box."""

    def __init__(self, names: tuple[str, ...], device: torch.device) -> None:
        from torchmetrics.detection import MeanAveragePrecision

        self._names = names
        # Each process evaluates the whole set. The extended summary holds the precision of each class.
        # torchmetrics' own thresholds are rounded to float32: a recall of 0.3 would not reach that of 0.3.
        self._metric = MeanAveragePrecision(
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0, 1, 101).tolist(),
            extended_summary=True,
            sync_on_compute=False,
            backend="pycocotools",
        )
        self._metric.warn_on_many_detections = False  # the hundred best of an image count, which is COCO's rule
        self._metric = self._metric.to(device)

    def take(self, step: Any) -> None:
        """Take what a model made of a batch."""
        found = [{name: one[name].detach() for name in ("boxes", "scores", "labels")} for one in step.outputs]
        true = [{name: one[name] for name in ("boxes", "labels")} for one in step.targets]
        self._metric.update(found, true)

    def compute(self) -> dict[str, float]:
        """The figures."""
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
            found = self._metric.compute()
        figures = {name: float(found[key]) for name, key in (("map", "map"), ("map50", "map_50"), ("map75", "map_75"))}
        if figures["map"] < 0:
            return dict.fromkeys(figures, math.nan)
        # [IoU, recall, class, area, most detections], -1 where there is nothing: all areas, a hundred detections.
        precision = found["precision"][:, :, :, 0, -1]
        for at, number in enumerate(found["classes"].reshape(-1).tolist()):
            there = precision[:, :, at][precision[:, :, at] > -1]
            if len(there):
                figures[f"map_{self._name(number)}"] = float(there.mean())
        return figures

    def _name(self, number: int) -> str:
        return self._names[number] if 0 <= number < len(self._names) else str(number)


class DetectionTask(Task):
    """A model that is called with a list of images [C, H, W], of any sizes, and a list of dicts with ``boxes`` [N, 4]
    and ``labels`` [N], and gives a dict of losses in training mode, and in evaluation mode a list of dicts with
    ``boxes``, ``labels`` and ``scores``.

    The loss is there while training only; mAP decides which epoch is the best.
    """

    resizes = False
    loss_in_evaluation = False
    decides = "map"

    def begin(self) -> None:
        """A detector makes its losses itself."""
        if self.loss is not None:
            raise UserError(
                f"loss.name = {self._experiment.loss.name!r}: a detector makes its losses itself; leave it out.",
                field="loss.name",
            )
        self.caller = replace(self.caller, spreads=False)

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """Run the model: the losses in training mode, else the boxes that it finds."""
        images, targets = list(batch.x), None if batch.y is None else list(batch.y)
        if not getattr(net, "training", self._net.training):  # the average of the weights is a net of its own
            return Step(floats(net(images)), targets, batch.size)
        raw = net(images, targets)
        found = loss_of(raw)
        if found is None:
            raise UserError(
                f"model.name = {self._experiment.model.name!r} gave {shapes(raw)} in training mode; a detector gives a "
                "dict of losses there (torchvision's interface).",
                field="model.name",
            )
        loss, parts = found
        return Step(None, targets, batch.size, loss.float(), parts)

    def of_task(self, step: Step) -> list[Metric]:
        """mAP."""
        return [Detection(self._info.class_names, self._device)]

    def fits(self, step: Step) -> bool:
        """Whether the outputs are boxes, labels and scores of each image."""
        out = step.outputs
        return isinstance(out, list | tuple) and len(out) == step.size and all(map(_is_found, out))

    def check(self, step: Step) -> None:
        """The model must give boxes; labels of 0 are the background in torchvision's detectors of two stages, and SSD.

        Raises UserError where it is not so.
        """
        name = self._experiment.model.name
        if not self.fits(step):
            raise UserError(
                f"model.name = {name!r} gave {shapes(step.outputs)} in evaluation mode; a list of dicts with boxes, "
                "labels and scores is needed, one for each image (torchvision's interface).",
                field="model.name",
            )
        background = hasattr(self._net, "roi_heads") or type(self._net).__name__ == "SSD"
        if background and any(bool((one["labels"] == 0).any()) for one in step.targets):
            raise UserError(
                f"A box of {self._info.name!r} has the label 0, which {type(self._net).__name__} keeps for the "
                "background; count classes from 1.",
                field="data.name",
            )
        self._warn(
            "A detector gives its loss while training only: validation and test tell mAP, and the best epoch is that "
            "of the greatest."
        )

    def describe(self, outputs: Any) -> list[dict[str, Any]]:
        """Of each image the boxes found, the most certain first."""
        names = self._info.class_names
        return [
            {
                "boxes": [
                    {"box": box, "label": names[label] if label < len(names) else str(label), "score": score}
                    for box, label, score in zip(
                        one["boxes"].tolist(), one["labels"].tolist(), one["scores"].tolist(), strict=True
                    )
                ]
            }
            for one in outputs
        ]


def _is_found(one: Any) -> bool:
    return isinstance(one, Mapping) and all(isinstance(one.get(key), Tensor) for key in ("boxes", "labels", "scores"))
