"""Splits: by class where the classes are known, seeded, complete; and the source's own parts as they are."""

from __future__ import annotations

import torch
from torch import Tensor

from torchdeck.core.data.seeds import derive
from torchdeck.core.data.source import Part, Source, Streamed
from torchdeck.core.experiment.data_schema import Data
from torchdeck.core.experiment.trainer_schema import TrainerOptions


def split_parts(source: Source, data: Data, trainer: TrainerOptions) -> dict[str, tuple[Part, Tensor]]:
    """The samples of train, val and test: of which part, and their indices in it.

    What a source has of its own is used as it is; where it lacks a test set, or a validation set, that is cut from the
    training samples. A source with a validation set but no test set keeps all of its training samples.
    """
    if isinstance(source.train, Streamed):
        parts = whole(source)
        own = {name: part for name, part in source.parts.items() if name != "train"}
        return {**parts, **{name: (part, torch.arange(len(part))) for name, part in own.items()}}
    n = len(source.train)
    cut = source.test is None and source.val is None
    keep, test_at = hold_out(source, torch.arange(n), data.test_share if cut else 0.0, derive(trainer.seed, "test"))
    share = trainer.validation_share if source.val is None and trainer.validate_on == "validation" else 0.0
    train_at, val_at = hold_out(source, keep, share, derive(trainer.seed, "validation"))
    test = (source.train, test_at) if source.test is None else (source.test, torch.arange(len(source.test)))
    val = (source.train, val_at) if source.val is None else (source.val, torch.arange(len(source.val)))
    return {"train": (source.train, train_at), "val": val, "test": test}


def whole(source: Source) -> dict[str, tuple[Part, Tensor]]:
    """The parts where nothing is evaluated: all training samples are trained on."""
    all_of_it, nothing = torch.arange(len(source.train)), torch.arange(0)
    return {"train": (source.train, all_of_it), "val": (source.train, nothing), "test": (source.train, nothing)}


def hold_out(source: Source, indices: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices to keep and to hold out, both in rising order; by class where the classes are known."""
    if not share or len(indices) < 2:
        return indices, indices[:0]
    generator = torch.Generator().manual_seed(seed)
    targets = source.train.targets if source.task == "classification" else None
    groups = [indices]
    if targets is not None and targets.numel() == len(targets):
        labels = targets.reshape(-1)[indices]
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
