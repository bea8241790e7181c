"""Losses of embeddings: of two views of each sample, and of triplets."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchdeck.core.data.items import shapes
from torchdeck.core.errors import UserError


def similarities(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of each of the 2 B views [B, D] with each other [2 B, 2 B], -inf with itself."""
    both = F.normalize(torch.cat([first, second]).flatten(1), dim=1)
    cosine = both @ both.T
    return cosine.masked_fill(torch.eye(len(both), dtype=torch.bool, device=both.device), -torch.inf)


def partners(count: int, device: torch.device) -> Tensor:
    """For each of the 2 B views which is the other one of its sample."""
    return torch.arange(2 * count, device=device).roll(count)


class NTXent:
    """The normalised, temperature-scaled cross entropy of Chen et al. 2020 (SimCLR, arxiv.org/abs/2002.05709,
    equation 1): each of the 2 B views must pick the other one of its sample among the
    2 B - 1 others. The mean over views; it grows with the batch."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, outputs: Any, y: Any) -> Tensor:
        """The loss of embeddings ([B, D], [B, D])."""
        if not (isinstance(outputs, tuple) and len(outputs) == 2):
            raise UserError(
                f"loss.name = 'nt_xent' is of two views, but there are {shapes(outputs)}; of triplets loss.name = "
                "'triplet' is, or one of your own.",
                field="loss.name",
            )
        first, second = outputs
        with torch.autocast(first.device.type, enabled=False):
            logits = similarities(first.float(), second.float()) / self._temperature
        return F.cross_entropy(logits, partners(len(first), first.device))


class Triplet:
    """torch.nn.TripletMarginLoss of (anchor, positive, negative)."""

    def __init__(self, margin: float, p: float) -> None:
        self._loss = torch.nn.TripletMarginLoss(margin=margin, p=p)

    def __call__(self, outputs: Any, y: Any) -> Tensor:
        """The loss of embeddings ([B, D], [B, D], [B, D])."""
        if not (isinstance(outputs, tuple) and len(outputs) == 3):
            raise UserError(
                f"loss.name = 'triplet' is of an anchor, a positive and a negative, but there are {shapes(outputs)}; "
                "of two views loss.name = 'nt_xent' is.",
                field="loss.name",
            )
        return self._loss(*outputs)
