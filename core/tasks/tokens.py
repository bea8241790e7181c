"""Tokens and their logits: what language models and classifiers of tokens have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchdeck.core.data.items import tensors_in
from torchdeck.core.tasks.metrics import Classification


def tokens_in(x: Any) -> Tensor | None:
    """The tokens among the inputs of a batch: the tensor itself, ``input_ids`` of a dict, or the first whole numbers
    [B, T]; None where there are none."""
    if isinstance(x, Mapping) and isinstance(x.get("input_ids"), Tensor):
        return x["input_ids"]
    whole = [t for t in tensors_in(x) if t.ndim == 2 and not (t.is_floating_point() or t.dtype == torch.bool)]
    return whole[0] if whole else None


def classes_last(logits: Any, y: Any, classes: int = 0) -> Tensor | None:
    """Logits in the shape of the targets and the classes behind it, whether the model gives them so ([B, T, C]), with
    the classes second ([B, C, T]) or in one row ([B * T, C]); None for what are no logits of these targets. Of two
    readings that are possible, when there are as many tokens as classes, the classes are last."""
    if not (isinstance(logits, Tensor) and isinstance(y, Tensor)) or not y.ndim:
        return None
    if logits.ndim == y.ndim + 1 and logits.shape[:-1] == y.shape and logits.shape[-1] >= classes:
        return logits
    if logits.ndim == y.ndim + 1 and logits.ndim > 2 and logits[:, 0].shape == y.shape and logits.shape[1] >= classes:
        return logits.movedim(1, -1)
    if logits.ndim == 2 and len(logits) == y.numel() and logits.shape[1] >= classes:
        return logits.reshape(*y.shape, logits.shape[1])
    return None


class CountedTokens(Classification):
    """Accuracy and f1 (macro) of the tokens that count, over all of a set, and their confusion matrix."""

    def __init__(self, classes: int, ignored: int) -> None:
        super().__init__(classes)
        self._ignored = ignored

    def update(self, out: Any, y: Any) -> None:
        """Take the logits of tokens, in any order of ``classes_last``, and their classes [B, T]."""
        logits = classes_last(out, y, self._classes)
        assert logits is not None
        counted = y != self._ignored
        super().update(logits[counted], y[counted])

    def compute(self) -> dict[str, float]:
        """The figures."""
        figures = super().compute() if self._seen else {}
        figures.pop("top5", None)
        return figures
