"""Samples read one by one through DataLoader workers, under a watchdog: nothing hangs in silence.

Like the feed of resident data, it can start at any batch of any epoch and gives the very same batches.
"""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _remove_worker_pids

from torchdeck.core import usercode
from torchdeck.core.data.batches import Batch, Feed, FeedOptions
from torchdeck.core.data.items import tensors_in, to_device
from torchdeck.core.data.reader import Failure, ItemReader, Key, Reader, collate, collate_items
from torchdeck.core.data.seeds import derive
from torchdeck.core.errors import TrainingError, UserCodeError, UserError
from torchdeck.core.machine import children


class _Keys:
    """The (epoch, index) keys of each batch: what the DataLoader calls a batch sampler."""

    def __init__(self, batches: list[list[Key]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class LoaderFeed(Feed):
    """Samples read one by one through a DataLoader, with a watchdog over its workers."""

    gives_views = True

    def __init__(
        self,
        reader: Reader | ItemReader,
        indices: Tensor,
        options: FeedOptions,
        workers: int,
        timeout: float,
        warn: Callable[[str], None],
        collate_by: str | Callable[..., Any] | None = None,
    ) -> None:
        """``collate_by``: the user's function that makes a batch of items, or a reference to it."""
        super().__init__(indices, options)
        collate_fn = functools.partial(collate, name=reader.name)
        if isinstance(reader, ItemReader):
            collate_fn = functools.partial(
                collate_items, name=reader.name, function=collate_by, boxes=reader.boxes is not None
            )
        self._workers = workers
        self._timeout = timeout
        self._warn = warn
        self._keys = _Keys([])
        self._loader: DataLoader = DataLoader(
            **self._loaded(reader, collate_fn),
            num_workers=workers,
            pin_memory=options.device.type == "cuda",
            worker_init_fn=functools.partial(_start_worker, os.getpid()) if workers else None,
            # Whoever waits for a batch looks up once a second: a stop must not wait for a worker that hangs.
            timeout=1 if workers else 0,
            persistent_workers=workers > 0,
            # fork copies a process that has threads, whose locks then may never open again; a fork server is one for
            # the whole process, and a signal to the group would end one that user code has started.
            multiprocessing_context="spawn" if workers else None,
            # Seeds of the workers; every sample sets its own, so the global generator need not be touched.
            generator=torch.Generator().manual_seed(derive(options.seed, "workers")),
        )
        self._iterator: Any = None
        self._watchdog: _Watchdog | None = None
        self._stuck = False

    def _loaded(self, reader: Reader | ItemReader, collate_fn: Callable[[list[Any]], Any]) -> dict[str, Any]:
        """What the DataLoader reads, and how."""
        return {"dataset": reader, "batch_sampler": self._keys, "collate_fn": collate_fn}

    def _go_to(self, epoch: int, start: int) -> list[tuple[int, int]]:
        """Have batch ``start`` of an epoch read next; where its batches begin and end."""
        ordered, bounds = self._planned(epoch)
        keys = _keys(epoch, ordered.tolist())
        self._keys.batches = [keys[a:b] for a, b in bounds[start:]]
        return bounds

    def _failure(self, found: Any) -> Failure | None:
        """What went wrong with what a worker has given."""
        return found if isinstance(found, Failure) else None

    @property
    def processes(self) -> list[Any]:
        """The worker processes, in the order in which batches are dealt out to them."""
        return self._iterator._workers if self._iterator is not None else []

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of that epoch from number ``start`` on.

        Raises UserError or UserCodeError for a sample that can't be read, TrainingError for a worker that died or
        hangs.
        """
        bounds = self._go_to(epoch, start)
        iterator = self._start()
        if self._workers:
            self._iterator = iterator
            if self._watchdog is None:
                self._watchdog = _Watchdog(self, self._timeout, self._warn)
        for number in range(start, len(bounds)):
            found = self._next(iterator, number - start)
            failure = self._failure(found)
            if failure is not None:
                raise (UserCodeError if failure.user_code else UserError)(failure.message)
            begin, end = bounds[number]
            yield self._batch(found, epoch, number, end - begin)

    def _batch(self, found: Any, epoch: int, number: int, size: int) -> Batch:
        options = self._options
        found = to_device(found, options.device)
        if options.plain:
            x, y = found
            x, y = self._finish(x, y, epoch, number)
            return Batch(x, y, size)
        if not tensors_in(found) and (found is None or found == [] or found == () or found == {}):
            raise UserError(
                f"data.collate gave {found!r} for a batch of {options.layout.where!r}; it must return a batch.",
                field="data.collate",
            )
        size = _kept(found, size)
        x, y = options.layout.split(found)
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim and y.ndim and len(x) != len(y):
            raise UserError(f"A batch of {options.layout.where!r} has {len(x)} inputs and {len(y)} targets.")
        return Batch(x, y, size, found)

    def _start(self) -> Any:
        try:
            # Workers are told the command line of this process at their start, and import the user's code with it.
            with children.shielded(), usercode.own_arguments(""), self._patient():
                iterator = iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"The data set can't be sent to DataLoader workers ({error}); set data.workers=0."
            ) from None
        if self._workers:
            _unwatch(iterator)
        return iterator

    @contextmanager
    def _patient(self) -> Iterator[None]:
        """Workers that go on answer before an epoch begins, those, too, that had no batch before and still import the
        user's code: they have as long as for a batch."""
        if self._iterator is None:
            yield
            return
        short, self._iterator._timeout = self._iterator._timeout, self._timeout
        try:
            yield
        finally:
            self._iterator._timeout = short

    def _next(self, iterator: Any, number: int) -> Any:
        watchdog = self._watchdog
        if watchdog is None:
            return next(iterator)
        began = time.monotonic()
        watchdog.waiting = (number, began)
        try:
            return self._waited(iterator, watchdog, began)
        except RuntimeError as error:
            if watchdog.killed:
                raise TrainingError(
                    f"DataLoader worker {watchdog.killed} has not delivered for {self._timeout:g} s and was ended; see "
                    "data.workers and data.timeout."
                ) from None
            if _worker_died(error):
                raise TrainingError(
                    f"A DataLoader worker died ({str(error).splitlines()[0]}); if memory ran out, use fewer with "
                    "data.workers."
                ) from None
            raise
        finally:
            watchdog.waiting = None

    def _waited(self, iterator: Any, watchdog: _Watchdog, began: float) -> Any:
        while True:
            try:
                return next(iterator)
            except RuntimeError as error:
                if not _timed_out(error) or watchdog.killed:
                    raise
            self._stuck = True
            self.waiting(time.monotonic() - began)
            self._stuck = False

    def close(self) -> None:
        """End the workers and their watchdog; workers that hang are killed."""
        if self._watchdog is not None:
            self._watchdog.over.set()
            self._watchdog = None
        if self._iterator is not None:
            for worker in self.processes if self._stuck else ():
                worker.kill()
            self._iterator._shutdown_workers()
            self._iterator = None
        self._loader._iterator = None


def _kept(batch: Any, size: int) -> int:
    """How many samples a batch has of ``size`` that were read: a collate function may drop some. Batches whose first
    dimension is time have the samples in the second."""
    tensors = [t for t in tensors_in(batch) if t.ndim]
    lengths = {len(t) for t in tensors}
    if len(lengths) != 1 or any(size in t.shape[:2] for t in tensors):
        return size
    kept = lengths.pop()
    return kept if 0 < kept < size else size


def _keys(epoch: int, numbers: list[int]) -> list[Key]:
    """What each sample is asked for by: epoch and index, and where a sampler draws it again, the how manyth time it is,
    so that it is changed at random in another way."""
    if len(set(numbers)) == len(numbers):
        return [(epoch, index) for index in numbers]
    times: Counter[int] = Counter()
    keys: list[Key] = []
    for index in numbers:
        keys.append((epoch, index, times[index]) if times[index] else (epoch, index))
        times[index] += 1
    return keys


def _worker_died(error: RuntimeError) -> bool:
    """Whether a DataLoader's worker has died; torch raises a plain RuntimeError for it."""
    text = str(error)
    return "worker" in text and ("exited unexpectedly" in text or "killed by signal" in text)


def _timed_out(error: RuntimeError) -> bool:
    """Whether a DataLoader's worker has not delivered in time; torch raises a plain RuntimeError for it."""
    return "DataLoader timed out" in str(error)


class _Watchdog(threading.Thread):
    """Tells when a worker has not delivered for a while, and kills it after the time-out, so that nothing hangs."""

    def __init__(self, feed: LoaderFeed, timeout: float, warn: Callable[[str], None]) -> None:
        super().__init__(name="torchdeck-watchdog", daemon=True)
        self._feed, self._timeout, self._warn = feed, timeout, warn
        #: The batch that is waited for, and since when.
        self.waiting: tuple[int, float] | None = None
        self.over = threading.Event()
        #: The worker that was killed.
        self.killed = ""
        self.start()

    def run(self) -> None:
        """Look once a second."""
        patience = min(30.0, self._timeout / 2)
        told = 0.0
        while not self.over.wait(min(1.0, self._timeout / 10)):
            waiting, workers = self.waiting, self._feed.processes
            if waiting is None or not workers:
                told = 0.0
                continue
            # Batches are dealt out to the workers in turn, so the number tells whose turn it is.
            worker = workers[waiting[0] % len(workers)]
            name = f"{waiting[0] % len(workers)} (pid {worker.pid})"
            waited = time.monotonic() - waiting[1]
            if waited >= self._timeout:
                self.killed = name
                worker.kill()
                return
            if waited - told >= patience:
                told = waited
                self._warn(f"DataLoader worker {name} has not delivered for {waited:.0f} s.")


def _unwatch(iterator: Any) -> None:
    """Take the workers from torch's list of those whose end its SIGCHLD handler raises, out of the blue, in the main
    thread, once any DataLoader was made there. Whoever waits for a batch here is told of it in any case."""
    if iterator._worker_pids_set:
        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False


def _start_worker(trainer: int, number: int) -> None:
    """Workers leave signals to the process that trains: a Ctrl-C reaches the whole group, and must end in a checkpoint
    there. They end with it, also where it was killed."""
    children.leave_to_parent()
    children.end_with(trainer)
    atexit.register(os._exit, 0)  # taking torch down in good order takes seconds, and there is nothing to put in order
    torch.set_num_threads(1)


def default_workers(device: torch.device, cores: int) -> int:
    """Workers when data.workers is not set: a GPU is fed by several; a CPU that trains has few cores to spare."""
    if device.type == "cpu":
        return 0 if cores <= 2 else min(2, cores // 4)
    return max(1, min(8, cores - 1))
