"""Samplers: which samples an epoch has, and in which order, as a function of (seed, epoch) alone."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, WeightedRandomSampler

from torchdeck.core import usercode
from torchdeck.core.data.probe import seeded
from torchdeck.core.data.seeds import derive
from torchdeck.core.data.source import Arrays, Part, Streamed
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment

#: Samples of an epoch in their order, by their indices in the part, and where each batch begins and ends; None: as
#: trainer.batch_size says.
Plan = tuple[Tensor, list[tuple[int, int]] | None]


def planner(
    experiment: Experiment, part: Part, indices: Tensor, classes: int, warn: Callable[[str], None]
) -> Callable[[int], Plan] | None:
    """What gives the plan of an epoch: from data.sampler or data.batch_sampler; None where neither is given.

    ``indices`` are the training samples in ``part``; ``classes`` is 0 where the targets are no classes; ``warn`` hears
    where an epoch has another number of samples than the data. Raises UserError for a sampler that can't be used.
    """
    data, seed = experiment.data, experiment.trainer.seed
    field = "data.batch_sampler" if data.batch_sampler else "data.sampler"
    reference = data.batch_sampler or data.sampler
    if reference is None:
        return None
    if isinstance(part, Streamed):
        raise UserError(f"{field} = {reference!r}: a stream gives its own order.", field=field)
    if reference in ("balanced", "weighted"):
        weights = _balanced(part, indices, classes) if reference == "balanced" else _weights(part, indices)
        return functools.lru_cache(1)(lambda epoch: (indices[_drawn(weights, derive(seed, "order", epoch))], None))
    made = usercode.load(reference, field)
    if not callable(made):
        raise UserError(f"{field} = {reference!r} is a {type(made).__name__}, not a class or function.", field=field)
    of_user = _OfUser(made, _training_samples(part, indices), f"{field} = {reference!r}", field, experiment)

    @functools.lru_cache(1)
    def plan(epoch: int) -> Plan:
        positions, bounds = of_user.plan(epoch, batches=data.batch_sampler is not None)
        return indices[positions], bounds

    count = len(plan(0)[0])
    if count != len(indices):
        warn(f"{field} = {reference!r}: an epoch has {count:,} samples, of {len(indices):,} to train on.")
    return plan


def _drawn(weights: Tensor, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return list(WeightedRandomSampler(weights, len(weights), generator=generator))  # type: ignore[arg-type]


def _balanced(part: Part, indices: Tensor, classes: int) -> Tensor:
    """Weights with which each class is drawn as often as any other that occurs."""
    if not classes or part.targets is None or part.targets.ndim != 1 or part.targets.is_floating_point():
        raise UserError(
            "data.sampler = 'balanced' needs the class of each sample: in classification, with a data set that keeps "
            "them as 'targets'; data.sampler = 'weighted' takes weights of yours.",
            field="data.sampler",
        )
    labels = part.targets[indices].long()
    return 1.0 / labels.bincount().double()[labels]


def _weights(part: Part, indices: Tensor) -> Tensor:
    """The weights that the user's data set keeps for its samples."""
    given = None if isinstance(part, Arrays) else getattr(part.dataset, "weights", None)
    if given is None:
        raise UserError(
            "data.sampler = 'weighted' needs a data set of yours with the attribute 'weights': a number for each "
            "sample.",
            field="data.sampler",
        )
    try:
        weights = torch.as_tensor(given).double()
    except (TypeError, ValueError, RuntimeError):
        raise UserError("data.sampler = 'weighted': the data set's 'weights' are no numbers.") from None
    if weights.shape != (len(part),):
        raise UserError(
            f"data.sampler = 'weighted': the data set has {len(part)} samples and weights of the shape "
            f"{list(weights.shape)}; one for each sample is needed.",
            field="data.sampler",
        )
    weights = weights[indices]
    if not weights.isfinite().all() or (weights < 0).any() or not weights.sum() > 0:
        raise UserError(
            "data.sampler = 'weighted': weights must be finite, none negative and some above 0.", field="data.sampler"
        )
    return weights


def _training_samples(part: Part, indices: Tensor) -> Any:
    """What a sampler of the user's is given: the data set, or the samples of it that are trained on; with ``targets``
    where they are known."""
    if isinstance(part, Arrays):
        whole: Any = torch.utils.data.TensorDataset(*(t for t in (part.x, part.y) if isinstance(t, Tensor)))
        if not whole.tensors:
            whole = range(len(part))
    else:
        whole = part.dataset
        if len(indices) == len(part):
            return whole
    samples = Subset(whole, indices.tolist())
    if part.targets is not None:
        samples.targets = part.targets[indices]  # type: ignore[attr-defined]
    return samples


class _OfUser:
    """A torch Sampler class, or a function, of the user's. It is called anew for each epoch, with the generators
    seeded for it, so that what it gives depends on (seed, epoch) alone."""

    def __init__(self, made: Callable[..., Any], samples: Any, where: str, field: str, experiment: Experiment) -> None:
        self._made, self._samples, self._where, self._field = made, samples, where, field
        self._seed, self._batch_size = experiment.trainer.seed, experiment.trainer.batch_size
        self._batches: int | None = None

    def plan(self, epoch: int, batches: bool) -> Plan:
        """Positions among the training samples, and the bounds of the batches where it gives such."""
        given = self._given(epoch)
        if not batches:
            return self._positions(given), None
        lists: list[Sequence[Any]] = []
        for batch in given:
            listed = batch.tolist() if isinstance(batch, Tensor) else batch
            if not isinstance(listed, list | tuple) or not listed:
                what = "an empty batch" if isinstance(listed, list | tuple) else f"a {type(batch).__name__}"
                raise self._error(f"gave {what}; lists of indices are needed, one for each batch")
            lists.append(listed)
        if self._batches is None:
            self._batches = len(lists)
        if len(lists) != self._batches:
            raise self._error(
                f"gives {len(lists)} batches in epoch {epoch + 1} and {self._batches} in the first; each epoch needs "
                "as many"
            )
        ends = torch.tensor([len(one) for one in lists]).cumsum(0).tolist()
        bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        return self._positions([at for one in lists for at in one]), bounds

    def _given(self, epoch: int) -> list[Any]:
        """All that it gives for an epoch."""
        seed = derive(self._seed, "order", epoch)
        offered = {"seed": seed % 2**32, "epoch": epoch, "batch_size": self._batch_size}
        try:
            takes = inspect.signature(self._made).parameters
        except (TypeError, ValueError):
            takes = {}  # type: ignore[assignment]
        arguments = {name: value for name, value in offered.items() if name in takes}
        with seeded(seed), usercode.user_errors():
            made = self._made(self._samples, **arguments)
            if hasattr(made, "set_epoch"):
                made.set_epoch(epoch)
            if not hasattr(made, "__iter__"):
                raise self._error(f"gave a {type(made).__name__}; indices are needed")
            # No sampler needs more; one without end would fill the memory.
            limit, found = 100 * len(self._samples) + 1000, []
            for one in made:
                found.append(one)
                if len(found) > limit:
                    raise self._error(
                        f"goes on after {limit:,} indices, of {len(self._samples):,} samples; an epoch must end"
                    )
        if not found:
            raise self._error(f"gave nothing for epoch {epoch + 1}")
        return found

    def _positions(self, given: list[Any]) -> Tensor:
        count = len(self._samples)
        try:
            positions = torch.tensor([int(at) for at in given])
        except (TypeError, ValueError, RuntimeError):
            raise self._error(
                f"gave {given[0]!r}; indices of samples are needed (lists of them: data.batch_sampler)"
            ) from None
        wrong = positions[(positions < 0) | (positions >= count)]
        if len(wrong):
            raise self._error(
                f"gave the index {int(wrong[0])}; the {count} training samples are numbered 0 to {count - 1}"
            )
        return positions

    def _error(self, text: str) -> UserError:
        return UserError(f"{self._where} {text}.", field=self._field)
