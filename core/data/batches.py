"""Batches on the training device, in an order that is a function of (seed, epoch) alone.

Every feed can start at any batch of any epoch and gives the very batches that an uninterrupted run would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchdeck.core.data.seeds import derive
from torchdeck.core.data.source import Arrays
from torchdeck.core.data.transforms import BatchOp

Batch = tuple[Tensor, Tensor]


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
    target_op: Callable[[Tensor], Tensor]
    shuffle: bool
    #: Whether a transform of the batch draws random numbers.
    random: bool = False
    #: Whether a last batch of one is left out, and batches are shared out among processes.
    training: bool = False
    #: Whether inputs are whole numbers, which stay so (as int64).
    integer: bool = False
    #: Which of several processes this is, among how many (training only).
    rank: int = 0
    processes: int = 1

    def bounds(self, count: int) -> list[tuple[int, int]]:
        """Where this process' batches begin and end, in an epoch of ``count`` samples."""
        return share_of(batch_bounds(count, self.batch_size, self.training), self.rank, self.processes)


class Feed:
    """Batches of some samples, epoch by epoch, from any batch on."""

    def __init__(self, indices: Tensor, options: FeedOptions) -> None:
        self.indices = indices
        self._options = options
        self._bounds = options.bounds(len(indices))
        self._generator = torch.Generator(device=options.device)
        #: Called once a second, with the seconds so far, while a batch is waited for; it may raise to end the waiting.
        self.waiting: Callable[[float], None] = lambda seconds: None

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.indices)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of that epoch from number ``start`` on: inputs [B, ...], targets [B] or [B, T]."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what is held."""

    def _ordered(self, epoch: int) -> Tensor:
        """The samples' indices in the order of that epoch."""
        if not self._options.shuffle:
            return self.indices
        return self.indices[order(len(self.indices), self._options.seed, epoch)]

    def _finish(self, x: Tensor, y: Tensor, epoch: int, number: int) -> Batch:
        """The batch transforms, with a random draw that depends on (seed, epoch, batch) alone."""
        o = self._options
        if o.random:
            self._generator.manual_seed(derive(o.seed, "augment", epoch, number * o.processes + o.rank))
        for op in o.ops:
            x = op(x, self._generator)
        return (x.long() if o.integer else x.float()).to(o.device), o.target_op(y)


def moved(t: Tensor, device: torch.device) -> Tensor:
    """On the device; float64 stays on the CPU where the device has none (mps) until the mean is taken out."""
    return t if device.type == "mps" and t.dtype == torch.float64 else t.to(device, non_blocking=True)


#: Samples that are indexed and transformed at once where no random numbers are drawn: with batches of 64 of a small
#: model, a twentieth of a step went into starting these operations for each batch.
_TOGETHER = 512


class ResidentFeed(Feed):
    """Samples that live as one tensor on the device (or in memory where that is too small) and are indexed there."""

    def __init__(self, arrays: Arrays, indices: Tensor, options: FeedOptions) -> None:
        super().__init__(indices, options)
        self._x, self._y = arrays.x, arrays.y

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of that epoch from number ``start`` on."""
        o = self._options
        indices = self._ordered(epoch).to(self._x.device)
        together = 1 if o.random or o.processes > 1 else max(1, _TOGETHER // o.batch_size)
        for number in range(start, len(self._bounds), together):
            bounds = self._bounds[number : number + together]
            begin = bounds[0][0]
            at = indices[begin : bounds[-1][1]]
            x = moved(self._x.index_select(0, at), o.device)
            y = moved(self._y.index_select(0, at), o.device)
            x, y = self._finish(x, y, epoch, number)
            for first, last in bounds:
                yield x[first - begin : last - begin], y[first - begin : last - begin]


def evaluation_batch_size(given: int | None, training: int) -> int:
    """Samples per batch where no gradients are kept."""
    return given or max(512, min(training * 2, 4096))


def resident_device(arrays: Sequence[Arrays], device: torch.device, free: int) -> torch.device:
    """The device that the data live on: the training device, unless they would take more than half its free memory, or
    are float64 and the device has none (mps)."""
    total = sum(a.x.numel() * a.x.element_size() + a.y.numel() * a.y.element_size() for a in arrays)
    exact = device.type == "mps" and any(torch.float64 in (a.x.dtype, a.y.dtype) for a in arrays)
    return device if total <= free / 2 and not exact else torch.device("cpu")
