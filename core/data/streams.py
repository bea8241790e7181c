"""Streams: data sets that are iterated and not indexed. Their batches are a function of (seed, epoch, number) alone,
the same with any number of workers; a run that is resumed goes on from the stream's own state, or skips there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from torchdeck.core import usercode
from torchdeck.core.data.adapted import shuffles_in_buffer
from torchdeck.core.data.batches import Batch, FeedOptions
from torchdeck.core.data.fingerprint import fingerprint_of
from torchdeck.core.data.loader import LoaderFeed
from torchdeck.core.data.probe import seeded
from torchdeck.core.data.reader import Failure, ItemReader, Reader
from torchdeck.core.data.source import Part, Samples, Streamed
from torchdeck.core.data.stream_items import StreamItems, stream_of, tried
from torchdeck.core.errors import UserCodeError, UserError
from torchdeck.core.machine.distributed import same_everywhere

#: Items that are read to learn what a stream holds, and the most that a stream to evaluate on may have.
FIRST, MOST = 512, 200_000
#: Items by which streams of several processes are compared.
SOME = 32


class Listed(Dataset):
    """Items in memory."""

    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


def is_stream(dataset: Any) -> bool:
    """Whether a data set can be iterated and not be indexed."""
    iterated_only = hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")
    return isinstance(dataset, IterableDataset) or iterated_only


def opened(dataset: Any, reference: str, part: str, notes: list[str]) -> Part:
    """A stream to train on, of which the first items are read; one to evaluate on is read whole.

    Raises UserError for one that is empty, or to evaluate on and without end.
    """
    stream = stream_of(dataset, reference)
    limit = FIRST if part == "train" else MOST
    with seeded(0), usercode.user_errors():
        items = list(itertools.islice(stream.iterate(0), limit))
    if not items:
        raise UserError(f"data.name = {reference!r}: the stream ({part}) is empty.", field="data.name")
    if part == "train":
        repeats, exact = tried(stream, len(items))
        exact = exact and not shuffles_in_buffer(dataset)  # one that is larger than what was tried
        how = "goes on from its state_dict" if exact else "skips to its place"
        if not repeats:
            how = "goes on with others, for it draws from generators that are seeded anew each time (by the clock)"
        notes.append(
            f"{reference!r} is a stream: classes and statistics are those of its first {len(items)} items, its order "
            f"is its own, nothing is held out of it, and a resumed run {how}."
        )
        return Streamed(Listed(items), stream=stream, length=_length(dataset), repeats=repeats, exact=exact)
    if len(items) == MOST:
        raise UserError(
            f"data.name = {reference!r}: the stream ({part}) goes on after {MOST:,} items; one to evaluate on must "
            "end.",
            field="data.name",
        )
    notes.append(f"The stream ({part}) of {reference!r} is kept in memory: {len(items):,} items.")
    return Samples(Listed(items))


def _length(stream: Any) -> int | None:
    try:
        return len(stream) or None
    except (TypeError, NotImplementedError, AttributeError):
        return None


class Window(Dataset):
    """The items of the batch that is being made, by their numbers in the epoch."""

    def __init__(self) -> None:
        self.items: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


class _Batches(IterableDataset):
    """Makes the batches of a stream in a worker: every so manyth of them."""

    def __init__(
        self,
        part: Streamed,
        reader: Reader | ItemReader,
        window: Window,
        collate_fn: Callable[[list[Any]], Any],
        bounds: list[tuple[int, int]],
        seed: int,
        count: int,
    ) -> None:
        """``count``: items in an epoch."""
        self._stream, self._exact = part.stream, part.exact
        self._reader, self._window, self._collate = reader, window, collate_fn
        self._bounds, self._seed, self._count = bounds, seed, count
        #: Epoch and number of the first batch, in memory that the workers see.
        self.place = torch.zeros(2, dtype=torch.int64).share_memory_()
        #: Epoch and batch at which a run is resumed, and the state of the stream there.
        self.resumed: tuple[int, int, dict[str, Any]] | None = None

    def __iter__(self) -> Iterator[tuple[int, Any, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        epoch, start = self.place.tolist()
        items = StreamItems(self._stream, self._seed, epoch)
        if self.resumed is not None and self.resumed[:2] == (epoch, start):
            items.go_on(self.resumed[2]) if start else items.begin_after(self.resumed[2])
        mine = range(start + worker, len(self._bounds), workers)
        for number in mine:
            yield self._batch(items, epoch, number, last=number == mine[-1])

    def _batch(self, items: StreamItems, epoch: int, number: int, last: bool) -> tuple[int, Any, Any]:
        """How many items the stream had, once it has ended; the batch; and the state of the stream after it."""
        begin, end = self._bounds[number]
        try:
            self._window.items = items.take(begin, end)
            state = items.state() if self._exact else None
            if last and self._exact:
                items.finish(self._count)
                state = items.state() if number == len(self._bounds) - 1 else state
        except UserCodeError as error:
            return 0, Failure(f"The stream {self._reader.name!r}: {error}", True), None
        except UserError as error:
            return 0, Failure(str(error), False), None
        read = self._reader.__getitems__([(epoch, at) for at in range(begin, end)])
        return items.ended, self._collate(read), state


def _as_it_is(batch: Any) -> Any:
    return batch


class StreamFeed(LoaderFeed):
    """The batches of a stream."""

    def __init__(
        self,
        part: Streamed,
        window: Window,
        reader: Reader | ItemReader,
        count: int,
        options: FeedOptions,
        workers: int,
        timeout: float,
        warn: Callable[[str], None],
        collate_by: str | Callable[..., Any] | None = None,
    ) -> None:
        """``reader`` reads from ``window``; ``count``: items in an epoch."""
        self._part, self._window, self._count = part, window, count
        self._told = False
        self._has_targets = collate_by is None and options.layout.split(part.dataset[0])[1] is not None
        self._last: tuple[int, int, dict[str, Any] | None] = (0, 0, None)
        # As many indices as items, which take no memory: the feed counts its batches by them.
        super().__init__(
            reader, torch.zeros(1, dtype=torch.int64).expand(count), options, workers, timeout, warn, collate_by
        )

    def _loaded(self, reader: Reader | ItemReader, collate_fn: Callable[[list[Any]], Any]) -> dict[str, Any]:
        seed = self._options.seed
        self._batches = _Batches(self._part, reader, self._window, collate_fn, self._bounds, seed, self._count)
        return {"dataset": self._batches, "batch_size": None, "collate_fn": _as_it_is}

    def _go_to(self, epoch: int, start: int) -> list[tuple[int, int]]:
        self._batches.place.copy_(torch.tensor([epoch, start]))
        return self._bounds

    def _batch(self, found: Any, epoch: int, number: int, size: int) -> Batch:
        self._last = epoch, number + 1, found[2]
        batch = super()._batch(found[1], epoch, number, size)
        if batch.y is None and self._has_targets:
            raise UserError(
                f"The stream {self._batches._reader.name!r} gives items without a target in batch {number + 1}, though "
                "the first have one.",
                field="data.name",
            )
        return batch

    def state_dict(self) -> dict[str, Any] | None:
        """Where the stream is after the last batch that was given; None where it does not tell."""
        epoch, number, state = self._last
        if state is None:
            return None
        over = number >= len(self._bounds)
        return {**state, "epoch": epoch + over, "batch": 0 if over else number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there, when the feed is begun at that batch."""
        self._batches.resumed = state["epoch"], state["batch"], state

    def _failure(self, found: Any) -> Failure | None:
        ended, batch, _ = found
        if ended and not self._told:
            self._told = True
            self._warn(f"The stream {self._batches._reader.name!r} ended after {ended:,} items and begins anew.")
        return super()._failure(batch)


def items_per_epoch(part: Streamed, steps: int | None, items_per_step: int, name: str) -> int:
    """An epoch of a stream is one pass where it tells its length, else the whole training.

    Raises UserError where neither is known.
    """
    if part.length is not None:
        return part.length
    if steps is None:
        raise UserError(
            f"data.name = {name!r} is a stream that does not tell its length; say how long to train with "
            "trainer.steps.",
            field="trainer.steps",
            also=("data.name",),
        )
    return steps * items_per_step


def readers_of(part: Streamed, workers: int, processes: int, name: str, warn: Callable[[str], None]) -> int:
    """How many workers read a stream, of those that were asked for: one where each would see other items.

    Raises UserError where each process would.
    """
    some = [part.dataset[number] for number in range(min(len(part), SOME))]
    if not same_everywhere(fingerprint_of(some) if part.repeats else ""):
        raise UserError(
            f"The stream {name!r} gives other items in each process; give all of them in each, for batches are shared "
            "out here.",
            field="data.name",
        )
    if part.repeats:
        return workers
    if processes > 1:
        raise UserError(
            f"The stream {name!r} gives other items each time it is begun, for it draws from generators that are "
            f"seeded by the clock; several processes need one order: seed them, or draw from Python's, NumPy's or "
            "torch's.",
            field="data.name",
        )
    if workers > 1:
        warn(f"The stream {name!r} is read by one worker of {workers}: it gives other items each time it is begun.")
    return min(workers, 1)
