"""The typed events of a session, and how they reach listeners without ever holding up the training thread.

Events are frozen. *Readings* (step summaries, log lines) may be thinned for a listener that is slow: the oldest of
those it has not read yet are dropped and counted. All others are never lost.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Metrics = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run, at a moment (seconds since 1970)."""

    name: ClassVar[str] = "event"
    #: Whether a slow listener may miss it.
    reading: ClassVar[bool] = False
    time: float = field(default_factory=time.time)

    def record(self) -> dict[str, Any]:
        """The event as a plain dict with ``event`` first, ready for JSON; empty fields are left out."""
        values = {k: v for k, v in vars(self).items() if v is not None and v != {} and v != ()}
        return {"event": self.name, **values}


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """Training begins (or goes on, where ``step`` > 0)."""

    name: ClassVar[str] = "started"
    epoch: int
    step: int
    #: Totals as planned: early stopping may end sooner.
    epochs: int
    steps: int
    epoch_length: int
    device: str
    precision: str
    parameters: int
    train_samples: int
    val_samples: int
    test_samples: int
    #: What stands for the validation set: it, or test, the test set itself.
    validated_on: str = "validation"
    #: What is learned: the name of the task, given or taken from the data.
    task: str = ""

    @property
    def val_name(self) -> str:
        """What figures of validation are called: where they are of the test set, that is said."""
        return "val (test)" if self.validated_on == "test" else "val"


@dataclass(frozen=True, kw_only=True)
class StepSummary(Event):
    """Readings over the steps since the last summary."""

    name: ClassVar[str] = "step"
    reading: ClassVar[bool] = True
    epoch: int
    #: Optimizer steps done since the run began.
    step: int
    #: Means over the steps since the last summary: loss, accuracy.
    train: Metrics
    #: The loss of each of those steps, in order; the last is that of ``step``.
    losses: tuple[float, ...]
    learning_rate: float
    gradient_norm: float | None
    samples_per_second: float
    #: Share of the time spent waiting for data.
    data_wait: float
    #: Bytes: of the process on CPU, allocated on the device elsewhere.
    memory: int


@dataclass(frozen=True, kw_only=True)
class EpochEnded(Event):
    """An epoch is done: means over it, and validation."""

    name: ClassVar[str] = "epoch"
    epoch: int
    step: int
    train: Metrics
    val: Metrics
    learning_rate: float
    seconds: float
    #: Whether the watched metric is the best so far.
    best: bool


@dataclass(frozen=True, kw_only=True)
class Evaluated(Event):
    """An evaluation that was asked for in mid-run."""

    name: ClassVar[str] = "evaluated"
    epoch: int
    step: int
    val: Metrics


@dataclass(frozen=True, kw_only=True)
class CheckpointWritten(Event):
    """A checkpoint is on disk, whole."""

    name: ClassVar[str] = "checkpoint"
    epoch: int
    step: int
    path: str
    bytes: int
    best: bool


@dataclass(frozen=True, kw_only=True)
class LogLine(Event):
    """Something to tell in words."""

    name: ClassVar[str] = "log"
    reading: ClassVar[bool] = True
    level: str
    message: str


@dataclass(frozen=True, kw_only=True)
class TextWritten(Event):
    """What a language model writes after an epoch."""

    name: ClassVar[str] = "text"
    reading: ClassVar[bool] = True
    epoch: int
    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class StateChanged(Event):
    """Paused, going on, or the learning rate was set by hand."""

    name: ClassVar[str] = "state"
    epoch: int
    step: int
    state: str


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """The run ended in an error; the message is one clear sentence."""

    name: ClassVar[str] = "failed"
    epoch: int
    step: int
    message: str
    #: Whether the user's input was wrong (exit code 2) rather than the training (1).
    user: bool = False


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """The run is over: done, pruned or stopped."""

    name: ClassVar[str] = "finished"
    epoch: int
    step: int
    #: done, pruned, stopped or aborted.
    status: str
    val: Metrics = field(default_factory=dict)
    test: Metrics = field(default_factory=dict)
    #: Counts, rows: true class, columns: predicted class (test set, else validation).
    confusion: tuple[tuple[int, ...], ...] = ()
    class_names: tuple[str, ...] = ()
    #: Of training, all parts of a run that was resumed together.
    seconds: float = 0.0


def kept_status(status: str) -> str:
    """How a run that ended so is listed and shown: ended by hand it is stopped, with a checkpoint or without."""
    return "stopped" if status == "aborted" else status


_KINDS: dict[str, type[Event]] = {
    kind.name: kind
    for kind in (
        Started,
        StepSummary,
        EpochEnded,
        Evaluated,
        CheckpointWritten,
        LogLine,
        TextWritten,
        StateChanged,
        Failed,
        Finished,
    )
}
_FIELDS = {kind: frozenset(kind.__dataclass_fields__) for kind in _KINDS.values()}
_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def parse_event(record: Mapping[str, Any]) -> Event | None:
    """The event that ``record`` was made of; None for a kind or fields that this version does not know.

    The texts "NaN", "Infinity" and "-Infinity" that strict JSON has in place of such numbers become numbers again.
    """
    kind = _KINDS.get(record.get("event", ""))
    if kind is None:
        return None
    known = _FIELDS[kind]
    values = {key: _number(value) for key, value in record.items() if key in known}
    if kind is StepSummary:
        values = {"gradient_norm": None, "losses": (), "train": {}} | values
    elif kind is EpochEnded:
        values = {"train": {}, "val": {}} | values
    elif kind is Evaluated:
        values.setdefault("val", {})
    try:
        return kind(**values)
    except TypeError:
        return None


def _number(value: Any) -> Any:
    if type(value) is str:
        return _NOT_FINITE.get(value, value)
    if type(value) is dict:
        return {k: _number(v) for k, v in value.items()}
    if type(value) is list:
        if value and type(value[0]) is list:
            return tuple(_number(v) for v in value)
        return tuple(_NOT_FINITE.get(v, v) if type(v) is str else v for v in value)
    return value


class Subscription:
    """A listener's own queue. Reading it waits; writing to it never does.

    Readings don't wake the listener, which comes for them at its own pace: each wake-up takes a core from training.
    ``readings`` is how many unread readings are kept: when more come, the oldest go and are counted in ``dropped``.
    """

    def __init__(self, readings: int = 1000) -> None:
        self._readings: deque[tuple[int, Event]] = deque(maxlen=readings)
        self._others: deque[tuple[int, Event]] = deque()
        self._number = 0
        self._closed = False
        self._ready = threading.Condition()
        self.dropped = 0

    def put(self, event: Event) -> None:
        """Add an event (from the training thread)."""
        with self._ready:
            self._number += 1
            if event.reading:
                self.dropped += len(self._readings) == self._readings.maxlen
                self._readings.append((self._number, event))
            else:
                self._others.append((self._number, event))
                self._ready.notify()

    def get(self, timeout: float = 0.25) -> list[Event]:
        """All unread events, oldest first: at once when one that is no reading has come, else after ``timeout``
        seconds."""
        with self._ready:
            self._ready.wait_for(lambda: self._closed or bool(self._others), timeout)
            readings, others = list(self._readings), list(self._others)
            self._readings.clear()
            self._others.clear()
        return [event for _, event in heapq.merge(readings, others, key=lambda numbered: numbered[0])]

    def __iter__(self) -> Iterator[Event]:
        """Every event until the session is over."""
        while True:
            over = self._closed  # asked first: what is put before the end is read after it
            yield from self.get()
            if over:
                return

    @property
    def closed(self) -> bool:
        """Whether no further event will come (unread ones may be left)."""
        return self._closed

    def close(self) -> None:
        """No event will come any more."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()


class Publisher:
    """Hands each event to every subscription."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []
        self._closed = False

    def subscribe(self, readings: int = 1000) -> Subscription:
        """A new subscription; it sees events from now on."""
        subscription = Subscription(readings)
        with self._lock:
            if self._closed:
                subscription.close()
            else:
                self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a subscription and close it."""
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
        subscription.close()

    def publish(self, event: Event) -> None:
        """Hand an event on; takes microseconds however slow the listeners are."""
        with self._lock:
            subscriptions = tuple(self._subscriptions)
        for subscription in subscriptions:
            subscription.put(event)

    def close(self) -> None:
        """Tell every subscription that no event will come any more."""
        with self._lock:
            self._closed = True
            subscriptions = tuple(self._subscriptions)
        for subscription in subscriptions:
            subscription.close()
