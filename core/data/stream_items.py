"""The items of a stream, one after the other: seeded, begun anew, gone on with, and tried whether that is exact."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data._utils import worker as torch_worker

from torchdeck.core import usercode
from torchdeck.core.data.probe import equal, kept_random_states, seed_generators
from torchdeck.core.data.seeds import derive
from torchdeck.core.errors import UserError

#: How many items are compared where a stream is tried.
_COMPARED = 16


@dataclass
class Stream:
    """A stream of the user's, and what is known of it."""

    dataset: Any
    name: str
    #: What its state_dict was before it was first iterated; None where it has none.
    start: dict[str, Any] | None = None
    #: Whether it was iterated, and not to its end: what keeps its place would go on there.
    open: bool = False

    def iterate(self, epoch: int) -> Iterator[Any]:
        """Its items from the first on."""
        if self.open and self.start is not None:
            self.dataset.load_state_dict(copy.deepcopy(self.start))
        set_epoch(self.dataset, epoch)
        self.open = True
        return iter(self.dataset)


def stream_of(dataset: Any, name: str) -> Stream:
    """A stream that was not iterated yet."""
    kept = _state_of(dataset) if callable(getattr(dataset, "load_state_dict", None)) else None
    return Stream(dataset, name, copy.deepcopy(kept))


def set_epoch(dataset: Any, epoch: int) -> None:
    """Tell a data set which epoch it is, where it takes that."""
    if callable(getattr(dataset, "set_epoch", None)):
        dataset.set_epoch(epoch)


def _state_of(holder: Any) -> dict[str, Any] | None:
    """The state that a stream or its iterator tells, in plain values that a checkpoint may hold; None where it has no
    such."""
    if not callable(getattr(holder, "state_dict", None)):
        return None
    try:
        state = holder.state_dict()
    except Exception:  # before it is iterated some have none
        return None
    return state if isinstance(state, dict) and _is_plain(state) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.Tensor)


class StreamItems:
    """The items of an epoch. What the stream draws at random comes from generators of its own, and it sees no worker:
    it gives all of its items to each, and the batches are shared out by who reads them."""

    def __init__(self, stream: Stream, seed: int, epoch: int) -> None:
        self._stream, self._seed, self._epoch = stream, seed, epoch
        self._iterator: Iterator[Any] | None = None
        self._states: Any = None
        self._at = self._in_pass = self._passes = 0
        self._may_be_over = False
        #: How many items the first pass had, once it is over.
        self.ended = 0

    def state(self) -> dict[str, Any] | None:
        """Where it is, for a checkpoint; None where the stream does not tell."""
        if self._states is None:
            return None
        state = _state_of(self._stream.dataset) if self._stream.start is not None else _state_of(self._iterator)
        if state is None:
            return None
        version, words, gauss = self._states[0]
        kind, keys, position, has_gauss, cached = self._states[1]
        return {
            "stream": copy.deepcopy(state),
            "counts": [self._at, self._in_pass, self._passes, self.ended],
            "python": [version, list(words), gauss],
            "numpy": [kind, keys.tolist(), position, has_gauss, cached],
            "torch": self._states[2],
        }

    def go_on(self, state: dict[str, Any]) -> None:
        """Be where ``state`` was."""
        dataset = self._stream.dataset
        self._at, self._in_pass, self._passes, self.ended = state["counts"]
        with usercode.user_errors():
            set_epoch(dataset, self._epoch + self._passes)
            if self._stream.start is not None:
                dataset.load_state_dict(copy.deepcopy(state["stream"]))
            self._iterator = iterator = iter(dataset)
            if self._stream.start is None:
                iterator.load_state_dict(copy.deepcopy(state["stream"]))
        self._stream.open = True
        version, words, gauss = state["python"]
        kind, keys, *rest = state["numpy"]
        self._states = (version, tuple(words), gauss), (kind, np.array(keys, dtype=np.uint32), *rest), state["torch"]

    def begin_after(self, state: dict[str, Any]) -> None:
        """Begin with a stream that was read to its end, and then had this state."""
        with usercode.user_errors():
            if self._stream.start is not None:
                self._stream.dataset.load_state_dict(copy.deepcopy(state["stream"]))
                self._stream.open, self._may_be_over = False, True

    def take(self, first: int, last: int) -> dict[int, Any]:
        """The items from number ``first`` to before ``last``, by number.

        Raises UserError for a stream that can't be begun anew, UserCodeError for what it raises itself.
        """
        with self._seeded():
            while self._at < first:
                self._next()
            return {number: self._next() for number in range(first, last)}

    def finish(self, count: int) -> None:
        """Read on to the end of a pass of ``count`` items, which is known by there being no more: what keeps its place
        begins anew only then."""
        if self._stream.start is None or self._passes or self._at < 1:
            return
        with self._seeded():
            while self._at < count and not self._passes:
                self._next()
            if self._iterator is not None and not self._passes:
                self._stream.open = next(self._iterator, self) is not self

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """While items are read, the generators are those of the stream, and there is no worker."""
        info, torch_worker._worker_info = torch_worker._worker_info, None
        try:
            with kept_random_states(), usercode.user_errors():
                if self._states is not None:
                    random.setstate(self._states[0])
                    np.random.set_state(self._states[1])
                    torch.set_rng_state(self._states[2])
                yield
                self._states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        finally:
            torch_worker._worker_info = info

    def _next(self) -> Any:
        while True:
            if self._iterator is None:
                seed_generators(derive(self._seed, "stream", self._epoch, self._passes))
                self._iterator, self._in_pass = self._stream.iterate(self._epoch + self._passes), 0
            for item in self._iterator:
                self._at, self._in_pass = self._at + 1, self._in_pass + 1
                return item
            self._stream.open, self._iterator = False, None
            if self._may_be_over:
                self._may_be_over = False
                continue
            if not self._in_pass:
                raise UserError(
                    f"The stream {self._stream.name!r} gave nothing when it was begun anew; its __iter__ must begin at "
                    "the start each time.",
                    field="data.name",
                )
            self.ended = self.ended or self._in_pass
            self._passes += 1


def tried(stream: Stream, count: int) -> tuple[bool, bool]:
    """Whether a stream gives the same items each time it is begun with the same seeds, and whether it goes on from its
    state with the items that come next, after any of the first ``count`` (a buffer of shuffled items is in no state).

    Raises UserError for a stream that can't be begun anew, UserCodeError for what it raises itself.
    """
    items = StreamItems(stream, 0, 0)
    first = items.take(0, _COMPARED)
    if not equal(first, StreamItems(stream, 0, 0).take(0, _COMPARED)):
        return False, False
    if items.state() is None:
        return True, False
    items = StreamItems(stream, 0, 0)
    states: dict[int, dict[str, Any] | None] = {}
    found: dict[int, Any] = {}
    for at in sorted({min(8, count), count // 3, count // 2 + 1, count * 3 // 4}):
        found |= items.take(len(found), at)
        states[at] = items.state()
    found |= items.take(len(found), len(found) + _COMPARED)
    return True, all(_goes_on(stream, state, at, found) for at, state in states.items())


def _goes_on(stream: Stream, state: dict[str, Any] | None, at: int, found: Mapping[int, Any]) -> bool:
    """Whether the stream gives the items that were found after number ``at``, having been in that state there."""
    if state is None:
        return False
    end = min(at + _COMPARED, len(found))
    resumed = StreamItems(stream, 0, 0)
    try:
        resumed.go_on(state)
        return equal({number: found[number] for number in range(at, end)}, resumed.take(at, end))
    except Exception:  # it is then not gone on from
        return False
