"""Streams: data sets that are iterated and not indexed. Their batches are a function of (seed, epoch, number) alone,
the same with any number of workers; a run that is resumed goes on from the stream's own state, or skips there."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from torch.utils.data._utils import worker as torch_worker

from torchdeck.core import usercode
from torchdeck.core.data.batches import Batch, FeedOptions
from torchdeck.core.data.loader import LoaderFeed
from torchdeck.core.data.probe import kept_random_states, seed_generators, seeded
from torchdeck.core.data.reader import Failure, ItemReader, Reader
from torchdeck.core.data.seeds import derive
from torchdeck.core.data.source import Part, Samples, Streamed
from torchdeck.core.errors import UserCodeError, UserError

#: Items that are read to learn what a stream holds, and the most that a stream to evaluate on may have.
FIRST, MOST = 512, 200_000


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


def opened(stream: Any, reference: str, part: str, notes: list[str]) -> Part:
    """A stream to train on, of which the first items are read; one to evaluate on is read whole.

    Raises UserError for one that is empty, or to evaluate on and without end.
    """
    limit = FIRST if part == "train" else MOST
    with seeded(0), usercode.user_errors():
        _set_epoch(stream, 0)
        items = list(itertools.islice(iter(stream), limit))
    if not items:
        raise UserError(f"data.name = {reference!r}: the stream ({part}) is empty.", field="data.name")
    if part == "train":
        notes.append(
            f"{reference!r} is a stream: classes and statistics are those of its first {len(items)} items, its order "
            f"is its own, nothing is held out of it, and a resumed run "
            f"{'goes on from its state_dict' if keeps_state(stream) else 'skips to its place'}."
        )
        return Streamed(Listed(items), stream=stream, length=_length(stream))
    if len(items) == MOST:
        raise UserError(
            f"data.name = {reference!r}: the stream ({part}) goes on after {MOST:,} items; one to evaluate on must "
            "end.",
            field="data.name",
        )
    notes.append(f"The stream ({part}) of {reference!r} is kept in memory: {len(items):,} items.")
    return Samples(Listed(items))


def keeps_state(stream: Any) -> bool:
    """Whether a stream tells where it is (``state_dict``, ``load_state_dict``), in plain values that a checkpoint may
    hold."""
    if not all(callable(getattr(stream, name, None)) for name in ("state_dict", "load_state_dict")):
        return False
    try:
        return _is_plain(stream.state_dict())
    except Exception:  # before it is iterated some have none
        return False


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.Tensor)


def _length(stream: Any) -> int | None:
    try:
        return len(stream) or None
    except (TypeError, NotImplementedError, AttributeError):
        return None


def _set_epoch(stream: Any, epoch: int) -> None:
    if callable(getattr(stream, "set_epoch", None)):
        stream.set_epoch(epoch)


class Window(Dataset):
    """The items of the batch that is being made, by their numbers in the epoch."""

    def __init__(self) -> None:
        self.items: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


class _Items:
    """The items of an epoch, one after the other. What the stream draws at random comes from generators of its own,
    and it sees no worker: it gives all of its items to each, and the batches are shared out here."""

    def __init__(self, stream: Any, seed: int, epoch: int, name: str) -> None:
        self._stream, self._seed, self._epoch, self._name = stream, seed, epoch, name
        self._iterator: Iterator[Any] | None = None
        self._states: Any = None
        self._at = self._in_pass = self._passes = 0
        #: How many items the first pass had, once it is over.
        self.ended = 0

    def state(self) -> dict[str, Any] | None:
        """Where it is, for a checkpoint; None where the stream does not tell."""
        if self._states is None or self._iterator is None or not keeps_state(self._stream):
            return None
        version, words, gauss = self._states[0]
        kind, keys, position, has_gauss, cached = self._states[1]
        return {
            "stream": self._stream.state_dict(),
            "counts": [self._at, self._in_pass, self._passes, self.ended],
            "python": [version, list(words), gauss],
            "numpy": [kind, keys.tolist(), position, has_gauss, cached],
            "torch": self._states[2],
        }

    def go_on(self, state: dict[str, Any]) -> None:
        """Be where ``state`` was."""
        self._at, self._in_pass, self._passes, self.ended = state["counts"]
        with usercode.user_errors():
            _set_epoch(self._stream, self._epoch + self._passes)
            self._stream.load_state_dict(state["stream"])
            self._iterator = iter(self._stream)
        version, words, gauss = state["python"]
        kind, keys, *rest = state["numpy"]
        self._states = (version, tuple(words), gauss), (kind, np.array(keys, dtype=np.uint32), *rest), state["torch"]

    def take(self, first: int, last: int) -> dict[int, Any]:
        """The items from number ``first`` to before ``last``, by number.

        Raises UserError for a stream that can't be begun anew, UserCodeError for what it raises itself.
        """
        info, torch_worker._worker_info = torch_worker._worker_info, None
        try:
            with kept_random_states(), usercode.user_errors():
                if self._states is not None:
                    random.setstate(self._states[0])
                    np.random.set_state(self._states[1])
                    torch.set_rng_state(self._states[2])
                while self._at < first:
                    self._next()
                found = {number: self._next() for number in range(first, last)}
                self._states = random.getstate(), np.random.get_state(), torch.get_rng_state()
                return found
        finally:
            torch_worker._worker_info = info

    def _next(self) -> Any:
        while True:
            if self._iterator is None:
                seed_generators(derive(self._seed, "stream", self._epoch, self._passes))
                _set_epoch(self._stream, self._epoch + self._passes)
                self._iterator, self._in_pass = iter(self._stream), 0
            for item in self._iterator:
                self._at, self._in_pass = self._at + 1, self._in_pass + 1
                return item
            if not self._in_pass:
                raise UserError(
                    f"The stream {self._name!r} gave nothing when it was begun anew; its __iter__ must begin at the "
                    "start each time.",
                    field="data.name",
                )
            self.ended = self.ended or self._in_pass
            self._iterator, self._passes = None, self._passes + 1


class _Batches(IterableDataset):
    """Makes the batches of a stream in a worker: every so manyth of them."""

    def __init__(
        self,
        stream: Any,
        reader: Reader | ItemReader,
        window: Window,
        collate_fn: Callable[[list[Any]], Any],
        bounds: list[tuple[int, int]],
        seed: int,
    ) -> None:
        self._stream, self._reader, self._window, self._collate = stream, reader, window, collate_fn
        self._bounds, self._seed = bounds, seed
        #: Epoch and number of the first batch, in memory that the workers see.
        self.place = torch.zeros(2, dtype=torch.int64).share_memory_()
        #: Epoch and batch at which a run is resumed, and the state of the stream there.
        self.resumed: tuple[int, int, dict[str, Any]] | None = None

    def __iter__(self) -> Iterator[tuple[int, Any, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        epoch, start = self.place.tolist()
        items = _Items(self._stream, self._seed, epoch, self._reader.name)
        if self.resumed is not None and self.resumed[:2] == (epoch, start):
            items.go_on(self.resumed[2])
        for first, last in self._bounds[start + worker :: workers]:
            yield self._batch(items, epoch, first, last)

    def _batch(self, items: _Items, epoch: int, first: int, last: int) -> tuple[int, Any, Any]:
        try:
            self._window.items = items.take(first, last)
        except UserCodeError as error:
            return 0, Failure(f"The stream {self._reader.name!r}: {error}", True), None
        except UserError as error:
            return 0, Failure(str(error), False), None
        read = self._reader.__getitems__([(epoch, number) for number in range(first, last)])
        return items.ended, self._collate(read), items.state()


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
        collate_by: str | None = None,
    ) -> None:
        """``reader`` reads from ``window``; ``count``: items in an epoch."""
        self._part, self._window = part, window
        self._told = False
        self._last: tuple[int, int, dict[str, Any] | None] = (0, 0, None)
        # As many indices as items, which take no memory: the feed counts its batches by them.
        super().__init__(
            reader, torch.zeros(1, dtype=torch.int64).expand(count), options, workers, timeout, warn, collate_by
        )

    def _loaded(self, reader: Reader | ItemReader, collate_fn: Callable[[list[Any]], Any]) -> dict[str, Any]:
        seed = self._options.seed
        self._batches = _Batches(self._part.stream, reader, self._window, collate_fn, self._bounds, seed)
        return {"dataset": self._batches, "batch_size": None, "collate_fn": _as_it_is}

    def _go_to(self, epoch: int, start: int) -> list[tuple[int, int]]:
        self._batches.place.copy_(torch.tensor([epoch, start]))
        return self._bounds

    def _batch(self, found: Any, epoch: int, number: int, size: int) -> Batch:
        self._last = epoch, number + 1, found[2]
        return super()._batch(found[1], epoch, number, size)

    def state_dict(self) -> dict[str, Any] | None:
        """Where the stream is after the last batch that was given; None where it does not tell."""
        epoch, number, state = self._last
        if state is None or number >= len(self._bounds):
            return None
        return {"epoch": epoch, "batch": number, **state}

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
