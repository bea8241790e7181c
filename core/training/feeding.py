"""The batches of each step, and the watch over how long they are waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from torchdeck.core.data.batches import Batch, Feed
from torchdeck.core.training.window import AccumulationWindow


class Feeding:
    """Groups the batches of a feed into steps, over all epochs, and tells when they fail to come."""

    def __init__(
        self, feed: Feed, accumulate: int, epoch_length: int, window: AccumulationWindow, tell: Callable[[str], None]
    ) -> None:
        """``accumulate`` batches make a step, ``epoch_length`` steps an epoch. ``window`` counts the seconds of
        waiting. ``tell`` hears "stalled" when data are waited for longer than is usual, and "running" when they come
        again."""
        self._feed, self._accumulate, self._epoch_length = feed, accumulate, epoch_length
        self._window, self._tell = window, tell
        self._stalled = False
        #: How many seconds a step usually takes.
        self.usual = 3.0

    def steps(self, step: int) -> Iterator[list[Batch]]:
        """The batches of each step from step number ``step`` (from 0) on, without end."""
        epoch, position = divmod(step, self._epoch_length)
        while True:
            yield from self._epoch(epoch, position)
            epoch, position = epoch + 1, 0

    def _epoch(self, epoch: int, position: int) -> Iterator[list[Batch]]:
        feed = self._feed.epoch(epoch, position * self._accumulate)
        group: list[Batch] = []
        while (batch := self._next(feed)) is not None:
            group.append(batch)
            if len(group) == self._accumulate:
                yield group
                group = []
        if group:
            yield group

    def _next(self, feed: Iterator[Batch]) -> Batch | None:
        began = time.perf_counter()
        batch = next(feed, None)
        self._window.waited += time.perf_counter() - began
        if self._stalled:
            self._stalled = False
            self._tell("running")
        return batch

    def still_waiting(self, seconds: float) -> bool:
        """No batch has come for that many seconds; tells whether that is unusual and was not told yet."""
        if self._stalled or seconds <= max(5.0, 10 * self.usual):
            return False
        self._stalled = True
        self._tell("stalled")
        return True
