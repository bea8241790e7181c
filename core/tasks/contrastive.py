"""Embeddings in which views of one sample are near each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import shapes, tensors_in
from torchdeck.core.errors import UserError
from torchdeck.core.models.calls import logits_of
from torchdeck.core.tasks.base import Step, Task, floats
from torchdeck.core.tasks.contrastive_losses import partners, similarities
from torchdeck.core.tasks.metrics import Metric

#: Samples of a set beyond which nearest neighbours are not looked for: each is compared with each.
_MOST = 20_000
#: Samples that are compared with all others at once.
_ROWS = 1024


class Retrieval(Metric):
    """``top1`` and ``top5``: the share of views whose most similar other view of the batch, or one of the five most
    similar, is the other one of its sample (by the cosine of the embeddings). A smaller batch makes that easier:
    compare figures of one trainer.eval_batch_size. ``top5`` where a batch has more than five others.
    ``triplet_accuracy``: the share of anchors that are nearer to their positive than to their negative."""

    def __init__(self) -> None:
        self._right: Any = 0
        self._among_five: Any = 0
        self._views = self._views_of_five = 0
        self._nearer: Any = 0
        self._triplets = 0

    def update(self, out: Any, y: Any) -> None:
        """Take the embeddings of each view [B, D]."""
        first, second = (part.flatten(1) for part in out[:2])
        count = 2 * len(first)
        if count > 2:
            cosine, partner = similarities(first, second), partners(len(first), first.device)
            # Those that are more similar: of equals, as where all embeddings are the same, none counts as found.
            before = (cosine >= cosine.gather(1, partner[:, None])).sum(1) - 1
            self._right = self._right + (before == 0).sum()
            self._views += count
            if count > 6:
                self._among_five = self._among_five + ((before >= 0) & (before < 5)).sum()
                self._views_of_five += count
        if len(out) > 2:
            third = out[2].flatten(1)
            nearer = F.pairwise_distance(first, second) < F.pairwise_distance(first, third)
            self._nearer = self._nearer + nearer.sum()
            self._triplets += len(first)

    def compute(self) -> dict[str, float]:
        """The figures."""
        found = {"top1": float(self._right) / self._views} if self._views else {}
        if self._views_of_five:
            found["top5"] = float(self._among_five) / self._views_of_five
        if self._triplets:
            found["triplet_accuracy"] = float(self._nearer) / self._triplets
        return found


class Neighbours(Metric):
    """``neighbour_accuracy``: the share of samples whose nearest other sample of the whole set, by the cosine of the
    embeddings of first views, has the same label; whatever the batches."""

    def __init__(self) -> None:
        self._embeddings: list[Tensor] = []
        self._labels: list[Tensor] = []

    def update(self, out: Any, y: Any) -> None:
        """Take the embeddings of the first views [B, D] and the labels [B]."""
        self._embeddings.append(F.normalize(out[0].flatten(1), dim=1))
        self._labels.append(y.reshape(-1))

    def compute(self) -> dict[str, float]:
        """The figure; none of a single sample."""
        every, labels = torch.cat(self._embeddings), torch.cat(self._labels)
        if len(every) < 2:
            return {}
        right: Any = 0
        for begin in range(0, len(every), _ROWS):
            cosine = every[begin : begin + _ROWS] @ every.T
            here = torch.arange(begin, begin + len(cosine), device=every.device)
            cosine[here - begin, here] = -torch.inf
            right = right + (labels[cosine.argmax(1)] == labels[here]).sum()
        return {"neighbour_accuracy": float(right) / len(every)}


class ContrastiveTask(Task):
    """Embeddings [B, D] of each view: two views that random transforms make of one input, or those that the items hold:
    pairs, triplets (anchor, positive, negative), either with a label behind them. Labels are for the figures, and for
    a loss of the user's.

    A model that takes one input gets all views in one batch, as SimCLR has it; one that takes as many as there are gets
    them side by side.
    """

    resizes = False

    def targets(self, batch: Batch) -> Any:
        """The labels; None where there are none."""
        return None if _is_view(batch) else batch.y

    def one_call(self, batch: Batch) -> Any:
        """All views: side by side where the model takes as many, else in one batch."""
        views = views_of(batch)
        if len(views) == 1:
            return views[0]
        return tuple(views) if self.caller.least == len(views) else torch.cat(views)

    def forward(self, net: Callable[..., Any], batch: Batch) -> Step:
        """Embed all views."""
        views, labels = self.one_call(batch), self.targets(batch)
        if isinstance(views, tuple):
            return Step(floats(self.outputs(self.caller(net, views, labels))), labels, batch.size)
        embedded = logits_of(self.caller(net, views))
        if not isinstance(embedded, Tensor):
            raise UserError(
                f"model.name = {self._experiment.model.name!r} returned {shapes(embedded)}; an embedding of each view "
                "[B, D] is needed.",
                field="model.name",
            )
        outputs = tuple(embedded.float().split(batch.size)) if len(views_of(batch)) > 1 else embedded.float()
        return Step(outputs, labels, batch.size)

    def of_task(self, step: Step) -> list[Metric]:
        """Retrieval among the batch and, of labelled samples, nearest neighbours in the set."""
        return [Retrieval(), *([Neighbours()] if self._labelled(step) else [])]

    def metrics(self, step: Step, samples: int) -> list[Metric]:
        """The loss and the figures; neighbours of sets that are not too large."""
        found = super().metrics(step, samples)
        return [m for m in found if samples <= _MOST or not isinstance(m, Neighbours)]

    def _labelled(self, step: Step) -> bool:
        y = step.targets
        return isinstance(y, Tensor) and y.numel() == step.size and not y.is_floating_point()

    def fits(self, step: Step) -> bool:
        """Whether the outputs are an embedding of each of two views or more."""
        out = step.outputs
        alike = isinstance(out, tuple) and len(out) > 1 and all(isinstance(o, Tensor) and o.ndim >= 2 for o in out)
        return self.measures and alike and out[0].shape == out[1].shape

    def check(self, step: Step) -> None:
        """There must be two views at least, unless the loss is the user's own.

        Raises UserError where there are not.
        """
        if self.loss is not None and not self.loss.own and not isinstance(step.outputs, tuple):
            raise UserError(
                f"task.name = 'contrastive' needs two views of each sample: random transforms in data.transforms, or "
                f"items that hold them; those of {self._info.name!r} give {shapes(step.outputs)}.",
                field="data.transforms",
            )
        super().check(step)


def views_of(batch: Batch) -> list[Tensor]:
    """The views in a batch: those of its inputs and, where that is one of them too, its target."""
    found = list(batch.x.values()) if isinstance(batch.x, Mapping) else batch.x
    views = list(found) if isinstance(found, tuple | list) else [found]
    return [*views, batch.y] if _is_view(batch) else views


def _is_view(batch: Batch) -> bool:
    """Whether the target is a view, as in items (view, view) and (anchor, positive, negative)."""
    x = tensors_in(batch.x)
    y = batch.y
    return isinstance(y, Tensor) and bool(x) and y.ndim > 1 and y.shape == x[0].shape and y.dtype == x[0].dtype
