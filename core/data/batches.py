"""Batches on the training device, in an order that is a function of (seed, epoch) alone.

Every feed can start at any batch of any epoch and gives the very batches that an uninterrupted run would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchdeck.core.data.items import AS_USUAL, Layout, map_tensors, tensors_in, to_device
from torchdeck.core.data.masks import moved
from torchdeck.core.data.seeds import derive
from torchdeck.core.data.source import Arrays
from torchdeck.core.data.transforms import BatchOp
from torchdeck.core.errors import UserError


class Batch(NamedTuple):
    """Samples on the training device."""

    #: The inputs [B, ...]: a tensor, or any nesting of tensors.
    x: Any
    #: The targets [B, ...], or any nesting; None where the data have none.
    y: Any
    #: How many samples.
    size: int
    #: What the data set and its collate function gave, where that is not (x, y).
    whole: Any = None

    @property
    def given(self) -> Any:
        """The batch as its data set gives it, which a step of the user's own gets."""
        return (self.x, self.y) if self.whole is None else self.whole

    @property
    def listed(self) -> bool:
        """Whether the inputs are a list of samples, each by itself, as a detector's images are."""
        if not isinstance(self.x, list | tuple) or len(self.x) != self.size:
            return False
        # Three images of three channels are as long as a batch of three; boxes are told of each image by itself.
        y = self.y
        each = isinstance(y, list | tuple) and len(y) == self.size and all(isinstance(one, Mapping) for one in y)
        return each or not _stacked(self.x, self.size)

    def first(self, count: int) -> Batch:
        """The first samples: of tensors, and of a list of inputs that differ in size (images of a detector)."""
        part = slice(0, count)
        if self.listed:
            return Batch(self.x[part], None if self.y is None else self.y[part], min(count, self.size))
        whole = None if self.whole is None else _part_of(self.whole, part)
        return Batch(_part_of(self.x, part), _part_of(self.y, part), min(count, self.size), whole)


def order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of the samples in that epoch: a permutation of 0..count-1."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


def batch_bounds(count: int, size: int, training: bool = True) -> list[tuple[int, int]]:
    """Where each batch begins and ends. In training a last batch of one is left out: batch norm can't take it."""
    bounds = [(i, min(i + size, count)) for i in range(0, count, size)]
    if training and size > 1 and len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds.pop()
    return bounds


def share_of(bounds: list[tuple[int, int]], rank: int, processes: int) -> list[tuple[int, int]]:
    """The batches of one of several processes: every so manyth, the same number for each of them.

    Batches that don't go round come from the end of the order, so that others are left out in the next epoch.
    """
    each = len(bounds) // processes
    return [bounds[number * processes + rank] for number in range(each)]


@dataclass(frozen=True)
class FeedOptions:
    """What both feeds need: how batches are cut, transformed and seeded."""

    batch_size: int
    device: torch.device
    seed: int
    #: Transforms of the batch on the device.
    ops: Sequence[BatchOp]
    #: Transform of the target on the device (one-hot, standardising).
    target_op: Callable[[Any], Any]
    shuffle: bool
    #: Whether a transform of the batch draws random numbers.
    random: bool = False
    #: What is done to masks beside each of ``ops`` (core.data.masks); empty where targets are no masks.
    mask_ops: Sequence[BatchOp | None] = ()
    #: Whether a last batch of one is left out, and batches are shared out among processes.
    training: bool = False
    #: Whether inputs are whole numbers, which stay so (as int64).
    integer: bool = False
    #: Whether inputs and targets are one tensor each, to be prepared; what is not is handed on as it is.
    plain: bool = True
    layout: Layout = AS_USUAL
    #: How many views of each sample random transforms make; of more than one, inputs are a tuple of them.
    views: int = 1
    #: Which of several processes this is, among how many (training only).
    rank: int = 0
    processes: int = 1
    #: A sampler's plan of an epoch (see sampling.planner); None: the samples are shuffled, or come as they lie.
    plan: Callable[[int], tuple[Tensor, list[tuple[int, int]] | None]] | None = None

    def bounds(self, count: int, given: list[tuple[int, int]] | None = None) -> list[tuple[int, int]]:
        """Where this process' batches begin and end, in an epoch of ``count`` samples; ``given``: those of all."""
        bounds = batch_bounds(count, self.batch_size, self.training) if given is None else given
        return share_of(bounds, self.rank, self.processes)


class Feed:
    """Batches of some samples, epoch by epoch, from any batch on."""

    #: Whether samples come as several views [B, views, ...] already, each transformed by itself.
    gives_views = False

    def __init__(self, indices: Tensor, options: FeedOptions) -> None:
        self.indices = indices
        self._options = options
        self._bounds = options.bounds(len(indices)) if options.plan is None else self._planned(0)[1]
        self._generator = torch.Generator(device=options.device)
        #: Called once a second, with the seconds so far, while a batch is waited for; it may raise to end the waiting.
        self.waiting: Callable[[float], None] = lambda seconds: None

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def samples(self) -> int:
        """How many samples an epoch has."""
        return len(self.indices) if self._options.plan is None else len(self._options.plan(0)[0])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of that epoch from number ``start`` on: inputs [B, ...], targets [B] or [B, T]."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any] | None:
        """What a checkpoint keeps beside the number of the next batch, in plain values; None where that is all."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""

    def close(self) -> None:
        """Let go of what is held."""

    def _planned(self, epoch: int) -> tuple[Tensor, list[tuple[int, int]]]:
        """The samples' indices in the order of that epoch, and where this process' batches begin and end in it.

        Raises UserError for a sampler that does not give as many batches as in the first epoch.
        """
        o = self._options
        if o.plan is not None:
            ordered, given = o.plan(epoch)
            bounds = o.bounds(len(ordered), given)
            if epoch and len(bounds) != len(self._bounds):
                raise UserError(
                    f"The sampler gives {len(bounds)} batches ({len(ordered)} samples) in epoch {epoch + 1} and "
                    f"{len(self._bounds)} in the first; each epoch needs as many.",
                    field="data.sampler",
                )
            return ordered, bounds
        ordered = self.indices[order(len(self.indices), o.seed, epoch)] if o.shuffle else self.indices
        return ordered, self._bounds

    def _finish(self, x: Any, y: Any, epoch: int, number: int) -> tuple[Any, Any]:
        """The batch transforms, with a random draw that depends on (seed, epoch, batch) alone."""
        o = self._options
        if not o.plain:
            return x, y
        place = epoch, number * o.processes + o.rank
        if o.mask_ops and isinstance(y, Tensor) and y.ndim > 2:
            return self._with_masks(x, o.target_op(y), *place)
        if o.views == 1:
            return self._transformed(x, *place), o.target_op(y)
        views = x.unbind(1) if self.gives_views else (x,) * o.views
        return tuple(self._transformed(x, *place, i) for i, x in enumerate(views)), o.target_op(y)

    def _transformed(self, x: Tensor, *place: int) -> Tensor:
        """The inputs of a batch, with random draws that depend on the seed and its place alone."""
        o = self._options
        if o.random:
            self._generator.manual_seed(derive(o.seed, "augment", *place))
        for op in o.ops:
            x = op(x, self._generator)
        return (x.long() if o.integer else x.float()).to(o.device)

    def _with_masks(self, x: Tensor, y: Tensor, *place: int) -> tuple[Tensor, Tensor]:
        """The same, of images and their masks."""
        o = self._options
        if o.random:
            self._generator.manual_seed(derive(o.seed, "augment", *place))
        x, y = moved(x, y, o.ops, o.mask_ops, self._generator)
        return x.float().to(o.device), y.to(o.device)


#: Samples that are indexed and transformed at once where no random numbers are drawn: with batches of 64 of a small
#: model, a twentieth of a step went into starting these operations for each batch.
_TOGETHER = 512


class ResidentFeed(Feed):
    """Samples that live as tensors on the device (or in memory where that is too small) and are indexed there."""

    def __init__(self, arrays: Arrays, indices: Tensor, options: FeedOptions) -> None:
        super().__init__(indices, options)
        self._parts = arrays.x, arrays.y
        self._home = tensors_in(arrays.x)[0].device

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of that epoch from number ``start`` on."""
        o = self._options
        ordered, all_bounds = self._planned(epoch)
        indices = ordered.to(self._home)
        together = 1 if o.random or o.processes > 1 else max(1, _TOGETHER // o.batch_size)
        for number in range(start, len(all_bounds), together):
            bounds = all_bounds[number : number + together]
            begin = bounds[0][0]
            at = indices[begin : bounds[-1][1]]
            x, y = (to_device(_at(part, at), o.device) for part in self._parts)
            x, y = self._finish(x, y, epoch, number)
            for first, last in bounds:
                here = slice(first - begin, last - begin)
                yield Batch(_part_of(x, here), _part_of(y, here), last - first)


def _stacked(tree: Any, size: int) -> bool:
    """Whether the tensors of a nesting each hold a batch of so many samples."""
    return all(t.ndim and len(t) == size for t in tensors_in(tree))


def _at(tree: Any, at: Tensor) -> Any:
    return tree.index_select(0, at) if isinstance(tree, Tensor) else map_tensors(lambda t: t.index_select(0, at), tree)


def _part_of(tree: Any, here: slice) -> Any:
    return tree[here] if isinstance(tree, Tensor) else map_tensors(lambda t: t[here], tree)


def evaluation_batch_size(given: int | None, training: int) -> int:
    """Samples per batch where no gradients are kept."""
    return given or max(512, min(training * 2, 4096))


def resident_device(arrays: Sequence[Arrays], device: torch.device, free: int) -> torch.device:
    """The device that the data live on: the training device, unless they would take more than half its free memory, or
    are float64 and the device has none (mps)."""
    tensors = [t for a in arrays for t in tensors_in((a.x, a.y))]
    total = sum(t.nbytes for t in tensors)
    exact = device.type == "mps" and any(t.dtype == torch.float64 for t in tensors)
    return device if total <= free / 2 and not exact else torch.device("cpu")
