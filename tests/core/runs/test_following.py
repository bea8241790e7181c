"""A run followed from its files: the history is what was told, live, cut off, or begun anew."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import QUICK, Train

from torchdeck.core.events import EpochEnded, Event, Failed, Finished, Started, StepSummary, parse_event
from torchdeck.core.runs.follow import Follower
from torchdeck.core.runs.history import History
from torchdeck.core.session.recorder import event_json


def follow(path: Path) -> History:
    history = History()
    for events in Follower(path).poll():
        history.take(events)
    return history


def summary(step: int, losses: list[float], time: float) -> StepSummary:
    return StepSummary(
        epoch=1,
        step=step,
        train={"loss": losses[-1]},
        losses=tuple(losses),
        learning_rate=0.1,
        gradient_norm=None,
        samples_per_second=1.0,
        data_wait=0.0,
        memory=1,
        time=time,
    )


def started(step: int, time: float) -> Started:
    return Started(
        epoch=0,
        step=step,
        epochs=10,
        steps=100,
        epoch_length=10,
        device="cpu",
        precision="fp32",
        parameters=1,
        train_samples=1,
        val_samples=0,
        test_samples=0,
        time=time,
    )


def test_every_event_comes_back_from_its_record(train: Train) -> None:
    trained = train(*QUICK)
    for event in trained.events:
        back = parse_event(json.loads(event_json(event.record())))
        assert back == event, event.name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_has_no_word_for_come_back(value: float) -> None:
    back = parse_event(json.loads(event_json(summary(3, [1.0, value], 5.0).record())))
    assert isinstance(back, StepSummary)
    assert str(back.losses[1]) == str(value)


def test_what_is_not_known_is_passed_over() -> None:
    assert parse_event({"event": "of a later version", "step": 3}) is None
    assert parse_event({"event": "epoch"}) is None
    assert parse_event({}) is None
    event = parse_event({"event": "state", "epoch": 1, "step": 2, "state": "paused", "more": 1, "time": 1.0})
    assert event is not None


def test_the_history_of_the_files_is_that_of_the_events(train: Train) -> None:
    trained = train(*QUICK)
    history = follow(trained.path)
    live = History()
    live.take(trained.events)
    assert history.state == live.state == "done"
    assert history.step == live.step
    assert set(history.names()) == set(live.names()) >= {"train/loss", "val/loss", "val/accuracy", "learning_rate"}
    losses = [loss for e in trained.of(StepSummary) for loss in e.losses]
    found = history.series("train/loss")
    assert found is not None
    np.testing.assert_allclose(found.mean, losses)
    np.testing.assert_array_equal(found.steps, np.arange(1, len(losses) + 1))
    val = history.series("val/accuracy")
    assert val is not None
    assert val.mean.tolist() == [e.val["accuracy"] for e in trained.of(EpochEnded)]
    assert (np.diff(found.times) >= 0).all()


def test_a_line_that_is_half_written_is_taken_once_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    follower = Follower(tmp_path)
    assert list(follower.poll()) == []  # not there yet
    line = event_json(summary(2, [1.0, 0.5], 1.0).record())
    file.write_bytes(line[:20])
    assert [e for part in follower.poll() for e in part] == []
    with file.open("ab") as out:
        out.write(line[20:] + b"not json\n[1, 2]\n\xff\xfe\n" + line)
    assert [type(e) for part in follower.poll() for e in part] == [StepSummary, StepSummary]
    assert list(follower.poll()) == []


def test_a_file_that_is_replaced_is_begun_anew(tmp_path: Path) -> None:
    """A resume takes out what came after its checkpoint (core.runs.recorder.drop_after)."""
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"".join(event_json(summary(n, [1.0], n).record()) for n in range(1, 4)))
    follower = Follower(tmp_path)
    assert sum(len(part) for part in follower.poll()) == 3
    new = tmp_path / "new"
    new.write_bytes(event_json(summary(1, [1.0], 1).record()))
    new.replace(file)
    assert sum(len(part) for part in follower.poll()) == 1
    assert follower.generation == 1


def test_time_of_training_leaves_out_the_gap_before_a_resume() -> None:
    history = History()
    events: list[Event] = [started(0, 1000.0), summary(1, [1.0], 1010.0), summary(2, [1.0], 1020.0)]
    events += [Finished(epoch=1, step=2, status="stopped", time=1021.0)]
    events += [started(2, 90_000.0), summary(3, [1.0], 90_010.0)]
    history.take(events)
    series = history.series("train/loss")
    assert series is not None
    assert series.times.tolist() == pytest.approx([10.0, 20.0, 31.0])
    assert history.state == "running"


def test_a_failure_is_remembered_in_its_words() -> None:
    history = History()
    history.take([started(0, 0.0), Failed(epoch=1, step=3, message="The loss is not a number.", time=1.0)])
    assert (history.state, history.message) == ("failed", "The loss is not a number.")
    assert history.log[-1].level == "error"


def test_a_million_steps_are_taken_in_a_few_seconds_and_bounded_memory() -> None:
    history = History()
    losses = tuple(np.random.default_rng(0).random(20).tolist())
    begun = time.perf_counter()
    history.take([started(0, 0.0)])
    for at in range(0, 1_000_000, 20):
        history.take([summary(at + 20, list(losses), at / 100)])
    series = history.series("train/loss")
    assert series is not None
    assert series.count == 1_000_000
    assert time.perf_counter() - begun < 60
