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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from torchdeck.core import usercode
from torchdeck.core.data.batches import Batch, Feed, FeedOptions, moved
from torchdeck.core.data.classes import wrong_label
from torchdeck.core.data.probe import seeded
from torchdeck.core.data.samples import pair
from torchdeck.core.data.seeds import derive
from torchdeck.core.data.source import Samples
from torchdeck.core.data.transforms import as_tensor, to_unit
from torchdeck.core.errors import TrainingError, UserCodeError, UserError
from torchdeck.core.machine import children


@dataclass(frozen=True)
class Failure:
    """What went wrong while a sample was read, carried out of a worker as plain text."""

    message: str
    user_code: bool


#: A sample: input, target, and its index in the data.
Item = tuple[Tensor, Tensor, int]

_NONE: Mapping[int, str] = {}


class Reader(Dataset):
    """Reads one sample as a pair of tensors and its index, for (epoch, index); random transforms draw by (seed, epoch, index)."""

    def __init__(
        self,
        part: Samples,
        transform: Callable[[Any], Any],
        target_transform: Callable[[Any], Any],
        seed: int,
        classes: int,
        name: str,
        unit: bool = True,
        unknown: Mapping[int, str] = _NONE,
    ) -> None:
        """``unit``: whether a transform brings pixels of any depth to 0 to 1; ``unknown``: classes that are refused."""
        self._part = part
        self._unit = unit
        self._transform = transform
        self._target_transform = target_transform
        self._seed = seed
        self._classes = classes
        self._unknown = unknown
        self.name = name

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, key: tuple[int, int]) -> Item | Failure:
        epoch, index = key
        try:
            with usercode.user_errors(), seeded(derive(self._seed, "sample", epoch, index)):
                x, y = pair(self._part.dataset[index], self.name)
                self._check_depth(x, index)
                x = self._tensor(self._transform(x), index)
                y = self._target(y, index)
            self._check(x, y, index)
            return x, y, index
        except UserCodeError as error:
            return Failure(f"Sample {index} of {self.name!r}: {error}", True)
        except UserError as error:
            return Failure(str(error), False)
        except Exception as error:
            return Failure(f"Sample {index} of {self.name!r} can't be read: {type(error).__name__}: {error}.", False)

    def _tensor(self, x: Any, index: int) -> Tensor:
        try:
            return as_tensor(x)
        except UserError:
            kind = "None" if x is None else f"a {type(x).__name__}"
            raise UserError(
                f"The input of sample {index} of {self.name!r} is {kind}; a tensor, an array, numbers or an image is needed."
            ) from None

    def _check_depth(self, x: Any, index: int) -> None:
        """Image files of 16 bits come as 0 to 1, others as 0 to 255: one range needs ToTensor."""
        if not self._unit and getattr(self._part.dataset, "decodes", False) and isinstance(x, Tensor):
            raise UserError(
                f"Sample {index} of {self.name!r} is an image of 16 bits; add ToTensor to data.transforms, which brings "
                "images of 8 and of 16 bits to the same range."
            )

    def _target(self, y: Any, index: int) -> Tensor:
        y = self._target_transform(y)
        try:
            return torch.as_tensor(y)
        except (TypeError, ValueError, RuntimeError):
            raise UserError(
                f"The target of sample {index} of {self.name!r} is {type(y).__name__}; a class number or numbers are needed."
            ) from None

    def _check(self, x: Tensor, y: Tensor, index: int) -> None:
        if x.is_floating_point() and not torch.isfinite(x).all():
            raise UserError(f"Sample {index} of {self.name!r} holds NaN or infinite values.")
        if x.is_complex() or y.is_complex():
            raise UserError(f"Sample {index} of {self.name!r} holds complex numbers; plain ones are needed.")
        if y.is_floating_point() and not torch.isfinite(y).all():
            raise UserError(f"The target of sample {index} of {self.name!r} holds NaN or infinite values.")
        if self._classes and y.ndim == 0 and not 0 <= int(y) < self._classes:
            raise wrong_label(f"Sample {index} of {self.name!r}", int(y), self._classes)
        if self._unknown and y.ndim == 0 and int(y) in self._unknown:
            raise UserError(
                f"Sample {index} of {self.name!r} is of the class {self._unknown[int(y)]!r}, which the model was not "
                "trained on."
            )


def collate(items: list[Item | Failure], name: str) -> Batch | Failure:
    """Samples of the data called ``name`` stacked to a batch, or the first failure."""
    failure = next((i for i in items if isinstance(i, Failure)), None)
    if failure:
        return failure
    read: list[Item] = items  # type: ignore[assignment]
    inputs, targets = [x for x, _, _ in read], [y for _, y, _ in read]
    for what, values in (("inputs", inputs), ("targets", targets)):
        shapes = {tuple(value.shape): index for value, (_, _, index) in zip(values, read, strict=True)}
        if len(shapes) > 1:
            (a, at_a), (b, at_b) = sorted(shapes.items())[:2]
            more = "; add a Resize to data.transforms" if values is inputs and len(a) == 3 else ""
            return Failure(
                f"The data have {what} of several sizes, such as {list(a)} and {list(b)} (samples {at_a} and "
                f"{at_b} of {name!r}){more}.",
                False,
            )
    if len({x.dtype for x in inputs}) > 1:  # images of 8 bits among others of 16, which are floats from 0 to 1
        inputs = [to_unit(x) for x in inputs]
    return torch.stack(inputs), torch.stack(targets)


class _Keys:
    """The (epoch, index) keys of each batch: what the DataLoader calls a batch sampler."""

    def __init__(self, batches: list[list[tuple[int, int]]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class LoaderFeed(Feed):
    """Samples read one by one through a DataLoader, with a watchdog over its workers."""

    def __init__(
        self,
        reader: Reader,
        indices: Tensor,
        options: FeedOptions,
        workers: int,
        timeout: float,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__(indices, options)
        self._workers = workers
        self._timeout = timeout
        self._warn = warn
        self._keys = _Keys([])
        self._loader: DataLoader = DataLoader(
            reader,
            batch_sampler=self._keys,
            num_workers=workers,
            collate_fn=functools.partial(collate, name=reader.name),
            pin_memory=options.device.type == "cuda",
            worker_init_fn=functools.partial(_start_worker, os.getpid()) if workers else None,
            # Whoever waits for a batch looks up once a second: a stop must not wait for a worker that hangs.
            timeout=1 if workers else 0,
            persistent_workers=workers > 0,
            # fork copies a process that has threads, whose locks then may never open again; a fork server is one for the
            # whole process, and a signal to the group would end one that user code has started.
            multiprocessing_context="spawn" if workers else None,
            # Seeds of the workers; every sample sets its own, so the global generator need not be touched.
            generator=torch.Generator().manual_seed(derive(options.seed, "workers")),
        )
        self._iterator: Any = None
        self._watchdog: _Watchdog | None = None
        self._stuck = False

    @property
    def processes(self) -> list[Any]:
        """The worker processes, in the order in which batches are dealt out to them."""
        return self._iterator._workers if self._iterator is not None else []

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of that epoch from number ``start`` on: inputs [B, ...] float, targets [B] or [B, T].

        Raises UserError or UserCodeError for a sample that can't be read, TrainingError for a worker that died or hangs.
        """
        numbers = self._ordered(epoch).tolist()
        self._keys.batches = [[(epoch, i) for i in numbers[a:b]] for a, b in self._bounds[start:]]
        iterator = self._start()
        if self._workers:
            self._iterator = iterator
            if self._watchdog is None:
                self._watchdog = _Watchdog(self, self._timeout, self._warn)
        for number in range(start, len(self._bounds)):
            found = self._next(iterator, number - start)
            if isinstance(found, Failure):
                raise (UserCodeError if found.user_code else UserError)(found.message)
            x, y = (moved(t, self._options.device) for t in found)
            yield self._finish(x, y, epoch, number)

    def _start(self) -> Any:
        try:
            # Workers are told the command line of this process at their start, and import the user's code with it.
            with children.shielded(), usercode.own_arguments(""):
                return iter(self._loader)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"The data set can't be sent to DataLoader workers ({error}); set data.workers=0."
            ) from None

    def _next(self, iterator: Any, number: int) -> Batch | Failure:
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

    def _waited(self, iterator: Any, watchdog: _Watchdog, began: float) -> Batch | Failure:
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
