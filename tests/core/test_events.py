"""Events reach listeners; slow listeners lose readings only."""

from __future__ import annotations

import threading
import time

from torchdeck.core.events import CheckpointWritten, EpochEnded, LogLine, Publisher, StepSummary


def reading(step: int) -> StepSummary:
    return StepSummary(
        epoch=1,
        step=step,
        train={"loss": 1.0},
        losses=(1.0,),
        learning_rate=0.1,
        gradient_norm=None,
        samples_per_second=1.0,
        data_wait=0.0,
        memory=0,
    )


def epoch(number: int) -> EpochEnded:
    return EpochEnded(epoch=number, step=number, train={}, val={}, learning_rate=0.1, seconds=1.0, best=False)


def test_a_slow_listener_keeps_the_latest_readings_and_every_epoch() -> None:
    publisher = Publisher()
    slow = publisher.subscribe(readings=3)
    for step in range(1000):
        publisher.publish(reading(step))
        if step % 100 == 0:
            publisher.publish(epoch(step // 100))
            publisher.publish(CheckpointWritten(epoch=1, step=step, path="p", bytes=1, best=False))
    events = slow.get(0)
    assert [e.step for e in events if isinstance(e, StepSummary)] == [997, 998, 999]
    assert [e.epoch for e in events if isinstance(e, EpochEnded)] == list(range(10))
    assert sum(isinstance(e, CheckpointWritten) for e in events) == 10
    assert slow.dropped == 997


def test_publishing_never_waits_for_a_listener() -> None:
    publisher = Publisher()
    publisher.subscribe(readings=10)  # nobody reads it
    began = time.perf_counter()
    for step in range(20_000):
        publisher.publish(reading(step))
    assert time.perf_counter() - began < 10  # a listener that is waited for would never end this


def test_iterating_ends_when_the_publisher_closes() -> None:
    publisher = Publisher()
    subscription = publisher.subscribe()
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.extend(e.epoch for e in subscription))  # type: ignore[attr-defined]
    thread.start()
    for number in range(50):
        publisher.publish(epoch(number))
    publisher.close()
    thread.join(10)
    assert not thread.is_alive()
    assert seen == list(range(50))
    assert publisher.subscribe().closed


def test_unsubscribed_listeners_get_nothing_more() -> None:
    publisher = Publisher()
    subscription = publisher.subscribe()
    publisher.unsubscribe(subscription)
    publisher.publish(epoch(1))
    assert subscription.get(0) == []


def test_records_are_plain_and_named() -> None:
    record = LogLine(level="info", message="hello", time=5.0).record()
    assert record == {"event": "log", "time": 5.0, "level": "info", "message": "hello"}
    assert next(iter(record)) == "event"
