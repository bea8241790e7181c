"""Splits: by class where the classes are known, seeded, complete."""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.source import Source


def hold_out(source: Source, indices: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices to keep and to hold out, both in rising order; by class where the classes are known."""
    if not share or len(indices) < 2:
        return indices, indices[:0]
    generator = torch.Generator().manual_seed(seed)
    targets = source.train.targets if source.task == "classification" else None
    groups = [indices]
    if targets is not None:
        labels = targets[indices]
        groups = [indices[labels == label] for label in labels.unique()]
    held: list[Tensor] = []
    owed = 0.0  # what rounding has left over, carried to the next class, so that the total is right
    for group in groups:
        owed += len(group) * share
        take = min(round(owed), len(group) - 1)
        owed -= take
        held.append(group[torch.randperm(len(group), generator=generator)[:take]])
    out = torch.cat(held).sort().values
    keep = torch.ones(len(source.train), dtype=torch.bool)
    keep[out] = False
    return indices[keep[indices]], out
