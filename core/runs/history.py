"""What a run has told so far, ready to be drawn: its scalars as series, where it stands, and what it said."""

from __future__ import annotations

import math
import threading
from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from torchdeck.core.events import (
    CheckpointWritten,
    EpochEnded,
    Evaluated,
    Event,
    Failed,
    Finished,
    LogLine,
    Metrics,
    Started,
    StateChanged,
    StepSummary,
    TextWritten,
    kept_status,
)
from torchdeck.core.progress import Progress
from torchdeck.core.series import LIMIT, Series
from torchdeck.core.text import metrics_line, metrics_short

#: Lines of the log that are kept.
_LINES = 2000

#: Points that may wait until somebody looks at their series.
_MANY = 20_000


@dataclass(frozen=True)
class LogEntry:
    """One line of the log; ``level`` is debug, info, warning, error or print."""

    time: float
    level: str
    text: str


class _Incoming:
    """Points that came since a series was last looked at: appended one by one to plain arrays, which is cheap."""

    def __init__(self) -> None:
        self.steps, self.times, self.values = array("d"), array("d"), array("d")


class History:
    """Everything that is shown of a run. One thread takes events, another reads; ``lock`` is held for both.

    Series are named ``train/loss``, ``val/accuracy``, ``learning_rate`` and so on. Their times are seconds of training:
    the gaps between a stop and a resume are left out.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        """``limit``: points of a series before neighbours are joined."""
        self._limit = limit
        self.lock = threading.RLock()
        self._series: dict[str, Series] = {}
        self._incoming: dict[str, _Incoming] = {}
        self.progress = Progress()
        self.log: deque[LogEntry] = deque(maxlen=_LINES)
        #: Lines ever said: what a display compares to know whether there are new ones.
        self.lines = 0
        #: starting, running, paused, done, pruned, stopped or failed.
        self.state = "starting"
        self.message = ""
        self.summary: StepSummary | None = None
        self.epoch: EpochEnded | None = None
        self.best: EpochEnded | None = None
        self.finished: Finished | None = None
        self.checkpoint: CheckpointWritten | None = None
        #: Events taken; a display that saw the same number has nothing to do.
        self.version = 0
        self._offset: float | None = None
        self._at = 0.0

    @property
    def started(self) -> Started | None:
        """How training began, or last went on."""
        return self.progress.started

    @property
    def step(self) -> int:
        """Steps done."""
        return self.progress.step

    def names(self) -> list[str]:
        """Names of all series."""
        return list(self._series)

    def series(self, name: str) -> Series | None:
        """A series with all points so far; hold ``lock`` while using it."""
        found = self._series.get(name)
        incoming = self._incoming.get(name)
        if found is not None and incoming is not None and incoming.values:
            found.extend(
                *(np.frombuffer(part, dtype=np.float64) for part in (incoming.steps, incoming.times, incoming.values))
            )
            self._incoming[name] = _Incoming()
        return found

    def take(self, events: Iterable[Event]) -> None:
        """Add events, oldest first."""
        with self.lock:
            for event in events:
                self._take(event)
                self.version += 1
            for name, incoming in list(self._incoming.items()):
                if len(incoming.values) > _MANY:
                    self.series(name)

    def _take(self, event: Event) -> None:
        self.progress.update(event)
        if isinstance(event, StepSummary):
            self._take_summary(event)
            return
        if isinstance(event, Started):
            self._offset = event.time - self._at
            self.state, self.message, self.finished = "running", "", None
            self._say(
                event,
                "info",
                f"{'resumed' if event.step else 'started'} on {event.device} ({event.precision})"
                + (f" from step {event.step:,}" if event.step else ""),
            )
            return
        self._at = event.time - self._begin(event)
        if isinstance(event, EpochEnded):
            self._take_epoch(event)
        elif isinstance(event, Evaluated):
            self._add_all("val", event.step, event.val)
            val = self.started.val_name if self.started else "val"
            self._say(event, "info", f"evaluated at step {event.step:,}: {val} {metrics_line(event.val)}")
        elif isinstance(event, CheckpointWritten):
            self.checkpoint = event
            self._say(event, "debug", f"checkpoint at step {event.step:,}{', the best so far' if event.best else ''}")
        elif isinstance(event, LogLine):
            self._say(event, event.level, event.message)
        elif isinstance(event, TextWritten):
            self._say(event, "print", f"text after epoch {event.epoch}: {event.text}")
        elif isinstance(event, StateChanged):
            if event.state in ("paused", "running", "stalled"):
                self.state = event.state
            self._say(event, "info", f"{event.state} at step {event.step:,}")
        elif isinstance(event, Failed):
            self.state, self.message = "failed", event.message
            self._say(event, "error", event.message)
        elif isinstance(event, Finished):
            self._take_end(event)

    def _begin(self, event: Event) -> float:
        if self._offset is None:
            self._offset = event.time
        return self._offset

    def _take_summary(self, event: StepSummary) -> None:
        now = event.time - self._begin(event)
        n = len(event.losses)
        if n:
            incoming = self._to("train/loss")
            # The steps of a summary lie evenly between the one before and this one.
            width = min(max(now - self._at, 0.0), 60.0) / n
            incoming.steps.extend(range(event.step - n + 1, event.step + 1))
            incoming.times.extend([now - i * width for i in range(n - 1, -1, -1)])
            incoming.values.extend(event.losses)
        for name, value in event.train.items():
            if name != "loss" or not n:
                self._add(f"train/{name}", event.step, now, value)
        self._add("learning_rate", event.step, now, event.learning_rate)
        if event.gradient_norm is not None:
            self._add("gradient_norm", event.step, now, event.gradient_norm)
        self._add("samples_per_second", event.step, now, event.samples_per_second)
        self._add("data_wait", event.step, now, event.data_wait)
        self._add("memory", event.step, now, event.memory)
        self.summary = event
        self._at = now
        if self.state == "starting":
            self.state = "running"

    def _take_epoch(self, event: EpochEnded) -> None:
        self.epoch = event
        if event.best:
            self.best = event
        self._add_all("val", event.step, event.val)
        val = self.started.val_name if self.started else "val"
        text = f"epoch {event.epoch:,}  train {metrics_short(event.train)}" + (
            f"  {val} {metrics_short(event.val)}" if event.val else ""
        )
        self._say(event, "info", text + ("  best" if event.best else ""))

    def _take_end(self, event: Finished) -> None:
        self.finished, self.state = event, kept_status(event.status)
        part, metrics = ("test", event.test) if event.test else ("val", event.val)
        told = f": {part} {metrics_line(metrics)}" if metrics else ""
        self._say(event, "info", f"{event.status} at step {event.step:,}{told}")

    def _add_all(self, part: str, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._add(f"{part}/{name}", step, self._at, value)

    def _to(self, name: str) -> _Incoming:
        if name not in self._series:
            self._series[name] = Series(self._limit)
            self._incoming[name] = _Incoming()
        return self._incoming[name]

    def _add(self, name: str, step: float, time: float, value: float) -> None:
        incoming = self._to(name)
        incoming.steps.append(step)
        incoming.times.append(time)
        incoming.values.append(math.nan if value is None else value)

    def fail(self, message: str) -> None:
        """The run has failed, as its events could not tell any more."""
        with self.lock:
            self.state, self.message = "failed", message
            self.version += 1

    def adopt(self, series: dict[str, Series]) -> None:
        """Take series that somebody else fills while ``lock`` is held."""
        self._series = dict(series)
        self.version += 1

    def say(self, level: str, text: str, time: float) -> None:
        """Add a line to the log."""
        self._line(time, level, text)

    def printed(self, lines: Iterable[str], time: float) -> None:
        """What the run's process printed, without characters that a terminal would obey."""
        with self.lock:
            for text in lines:
                self._line(time, "print", "".join(c if c.isprintable() else " " for c in text))
                self.version += 1

    def _say(self, event: Event, level: str, text: str) -> None:
        self._line(event.time, level, text)

    def _line(self, time: float, level: str, text: str) -> None:
        self.lines += 1
        self.log.append(LogEntry(time, level, text))
