"""The mean and the standard deviation that are taken out of the targets of a regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchdeck.core.data.infer import only_0_and_1
from torchdeck.core.data.source import Source
from torchdeck.core.data.statistics import moments
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.text import numbers_in_words


def target_scale(
    source: Source, train_at: Tensor, experiment: Experiment, warn: Callable[[str], None]
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that are taken out of the targets: of plain regression on data of the catalog with a
    loss of the catalog, not of a data set or for a loss of the user's, and not of 0 and 1, unless data.scale_target
    says so.

    Raises UserError for targets that are all the same, from which a loss of the catalog learns nothing.
    """
    targets, name, asked = source.train.targets, experiment.data.name, experiment.data.scale_target
    none = torch.zeros(0, dtype=torch.float64)
    if source.task != "regression":
        return none, none
    if targets is None:
        if asked:
            warn(f"data.scale_target = true: {name!r} does not tell its targets beforehand; they are left as they are.")
        return none, none
    y = targets[train_at].reshape(len(train_at), -1)
    constant = (y == y[0]).all(0)
    own_data = experiment.data.entry() is None
    own_loss = experiment.loss.name is not None and experiment.loss.entry() is None
    if bool(constant.all()) and not own_loss and len(y) > 1:
        raise UserError(
            f"data.name = {name!r}: every target is {numbers_in_words(y[0].tolist(), 4)}; there is nothing to learn.",
            field="data.name",
        )
    zeros_and_ones = bool(((y == 0) | (y == 1)).all())
    if asked is False or (asked is None and (own_loss or own_data or zeros_and_ones)):
        return none, none
    found = moments(y, torch.arange(len(y)))
    mean, std = found.mean, found.std()
    names = source.target_names or tuple(str(i) for i in range(len(mean)))
    told = [
        f"{n} {m:.6g}, always" if same else f"{n} {m:.6g} ± {s:.6g}"
        for n, m, s, same in zip(names, mean.tolist(), std.tolist(), constant.tolist(), strict=False)
    ]
    warn(
        f"Targets are standardised for the training (mean ± standard deviation: {', '.join(told[:4])}"
        f"{', ...' if len(told) > 4 else ''}); metrics, predictions and exports are in their own unit. "
        "data.scale_target = false leaves them as they are."
    )
    return mean, std


def tell_zeros_and_ones(known: Tensor | None, some: Any, name: str, warn: Callable[[str], None]) -> None:
    """Tell that floats which may be labels are taken as numbers, by the targets of all samples, or by ``some`` where
    these are not known beforehand."""
    targets = some if known is None else known
    if isinstance(targets, Tensor) and targets.numel() and only_0_and_1(targets):
        warn(
            f"The targets of {name!r} are floats 0 and 1, taken as numbers (the task is regression); give whole "
            "numbers for classes, or say in task.name what they are (classification, multilabel, segmentation)."
        )
