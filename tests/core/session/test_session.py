"""Control steers a running session; events tell what it did."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from conftest import Train

from torchdeck.core.control import Control
from torchdeck.core.errors import UserError
from torchdeck.core.events import CheckpointWritten, EpochEnded, Evaluated, Finished, StateChanged, StepSummary
from torchdeck.core.experiment import toml
from torchdeck.core.runs.directory import read_info
from torchdeck.core.session.session import Session

LONG = ("trainer.epochs=100000", "tracking.tensorboard=false")


@pytest.fixture
def session(tmp_path: Path):
    made = Session(toml.load("digits", LONG), tmp_path / "runs")
    yield made
    made.control.abort()
    made.join(20)


def wait_for(subscription, kind, condition=lambda e: True, timeout: float = 60):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for event in subscription.get(0.2):
            if isinstance(event, kind) and condition(event):
                return event
    raise AssertionError(f"no {kind.__name__}")


def test_pause_holds_the_run_and_obeys_meanwhile(session: Session) -> None:
    events = session.subscribe()
    session.start()
    wait_for(events, StepSummary)
    session.control.pause()
    paused = wait_for(events, StateChanged, lambda e: e.state == "paused")
    at = session.step
    assert at == paused.step
    session.control.evaluate()
    assert wait_for(events, Evaluated).val["accuracy"] > 0
    session.control.checkpoint()
    assert wait_for(events, CheckpointWritten, lambda e: e.step == at).path == f"checkpoints/step-{at:09d}.pt"
    session.control.set_learning_rate(1e-5)
    assert wait_for(events, StateChanged).state == "learning rate 1e-05"
    assert session.step == at
    session.control.resume()
    wait_for(events, StateChanged, lambda e: e.state == "running")
    summary = wait_for(events, StepSummary, lambda e: e.step > at + 10)
    assert summary.learning_rate < 2e-5
    session.control.stop()
    finished = wait_for(events, Finished)
    assert session.join(30)
    assert finished.status == session.status == "stopped"
    assert session.run is not None
    assert (session.run.path / "checkpoints" / "last.pt").exists()
    assert read_info(session.run.path).status == "stopped"


def test_a_paused_run_can_be_stopped(session: Session) -> None:
    events = session.subscribe()
    session.start()
    session.control.pause()
    wait_for(events, StateChanged)
    session.control.stop()
    assert wait_for(events, Finished).status == "stopped"


def test_abort_ends_without_a_new_checkpoint(train: Train) -> None:
    run = train(*LONG, "trainer.validation_share=0", stop_at=5, command="abort")
    assert run.status == "aborted"
    assert not run.of(CheckpointWritten)
    assert run.of(Finished)[0].status == "aborted"
    assert read_info(run.path).status == "stopped"


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_learning_rate_must_be_positive(value: float) -> None:
    with pytest.raises(UserError, match="must be a positive number"):
        Control().set_learning_rate(value)


def test_a_listener_that_hangs_does_not_hold_training_up(train: Train, tmp_path: Path) -> None:
    session = Session(toml.load("digits", ["trainer.epochs=3", "tracking.tensorboard=false"]), tmp_path / "runs")
    hung = session.subscribe(readings=2)  # never read until the end
    session.start()
    assert session.join(60)
    events = hung.get(0)
    assert [e.epoch for e in events if isinstance(e, EpochEnded)] == [1, 2, 3]
    assert sum(isinstance(e, StepSummary) for e in events) == 2
    assert session.status == "done"
