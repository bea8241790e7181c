"""Listeners: threads of their own that take events at their own pace. The recorder writes metrics.jsonl and
train.log."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchdeck.core import files
from torchdeck.core.events import (
    CheckpointWritten,
    EpochEnded,
    Event,
    Failed,
    Finished,
    LogLine,
    Subscription,
    TextWritten,
)
from torchdeck.core.runs.directory import RunDirectory
from torchdeck.core.runs.process import HEARTBEAT


class Listener(threading.Thread):
    """A thread that hands each event of a subscription to ``handle``; an error ends it and is told to ``trouble``."""

    def __init__(self, name: str, subscription: Subscription, on_failure: Callable[[str], None]) -> None:
        super().__init__(name=f"torchdeck-{name}", daemon=True)
        self._subscription = subscription
        self._on_failure = on_failure

    def run(self) -> None:
        """Handle events until the session is over."""
        try:
            while True:
                over = self._subscription.closed
                events = self._subscription.get()
                for event in events:
                    self.handle(event)
                self.tick()
                if over:
                    break
        except OSError as error:
            self._on_failure(f"The run can't be written any more: {error.strerror or error}.")
        except Exception as error:
            self._on_failure(f"{self.name} failed: {type(error).__name__}: {error}.")
        finally:
            self._subscription.close()
            self.end()

    def handle(self, event: Event) -> None:
        """Take one event."""
        raise NotImplementedError

    def tick(self) -> None:
        """Called several times a second, after the events that were there."""

    def end(self) -> None:
        """Let go of what is held open."""


class Recorder(Listener):
    """Writes every event to metrics.jsonl and what is said to train.log; at most a quarter of a second is in memory."""

    def __init__(self, run: RunDirectory, subscription: Subscription, on_failure: Callable[[str], None]) -> None:
        super().__init__("recorder", subscription, on_failure)
        self._run = run
        self._metrics = (run.path / "metrics.jsonl").open("ab")
        self._log = (run.path / "train.log").open("ab")
        self._beat = time.monotonic()

    def handle(self, event: Event) -> None:
        """Write one event."""
        self._metrics.write(event_json(event.record()))
        if isinstance(event, LogLine):
            self._say(event, f"{event.level}: {event.message}")
        elif isinstance(event, TextWritten):
            self._say(event, f"text after epoch {event.epoch}: {event.text}")
        elif isinstance(event, Failed):
            self._say(event, f"failed: {event.message}")
        elif isinstance(event, EpochEnded):
            self._run.epoch_ended(event.epoch, event.step, finite(event.train), finite(event.val), event.best)
            self._say(event, f"epoch {event.epoch}: train {_words(event.train)}; val {_words(event.val)}")
        elif isinstance(event, CheckpointWritten):
            self._say(event, f"checkpoint {event.path} at step {event.step}")
        elif isinstance(event, Finished):
            self._say(event, f"{event.status}: test {_words(event.test)}" if event.test else event.status)

    def _say(self, event: Event, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        self._log.write(f"{stamp} {text}\n".encode())

    def tick(self) -> None:
        """Hand what was written to the system, which keeps it through a kill; beat the heart."""
        self._metrics.flush()
        self._log.flush()
        if time.monotonic() - self._beat >= HEARTBEAT:
            self._beat = time.monotonic()
            self._run.heartbeat()

    def end(self) -> None:
        """Close the files; what a full disk refused is lost, and was told."""
        for file in (self._metrics, self._log):
            try:
                file.close()
            except OSError as error:
                self._on_failure(f"The run can't be written any more: {error.strerror}.")


def _words(metrics: Any) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def finite(metrics: Any) -> dict[str, float | None]:
    """Metrics as strict JSON has them: NaN and infinity become null."""
    return {k: v if math.isfinite(v) else None for k, v in metrics.items()}


def event_json(record: dict[str, Any]) -> bytes:
    """One line of strict JSON; NaN and infinity become the texts "NaN", "Infinity" and "-Infinity"."""
    try:
        return json.dumps(record, allow_nan=False).encode() + b"\n"
    except ValueError:
        return json.dumps(_texts_for_nan(record), allow_nan=False).encode() + b"\n"


def _texts_for_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    if isinstance(value, dict):
        return {k: _texts_for_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_texts_for_nan(v) for v in value]
    return value


def drop_after(path: Path, step: int) -> None:
    """Take events after ``step`` out of metrics.jsonl: the run goes on from a checkpoint at that step.

    The end of the former try (finished, failed) goes too, and a last line that was cut off.
    """
    file = path / "metrics.jsonl"
    if not file.exists():
        return
    kept = []
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        ended = record.get("event") in (Finished.name, Failed.name)
        if line.endswith(b"\n") and record.get("step", 0) <= step and not ended:
            kept.append(line)
    with files.replacing(file) as out:
        out.writelines(kept)
