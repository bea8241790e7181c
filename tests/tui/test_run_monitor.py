"""Which run is shown, as the queue goes on from one to the next; no process trains here, its files are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from torchdeck.core.session.queue import Item, Queue
from torchdeck.tui.run_monitor import RunMonitor


def begin(queue: Queue, title: str) -> tuple[Item, Path]:
    queue.add("", title)
    item = queue.take()
    assert item is not None
    run = queue.root / title
    run.mkdir()
    queue.began(item, run)
    return item, run


def test_the_new_run_stays_shown_beside_the_last(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    monitor = RunMonitor(tmp_path)
    for title in ("a", "b", "c"):
        item, run = begin(queue, title)
        assert {monitor.poll().run for _ in range(4)} == {run}
        queue.ended(item, None)
        assert {monitor.poll().run for _ in range(4)} == {run}


def test_a_run_whose_end_was_not_seen_does_not_come_back(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    monitor = RunMonitor(tmp_path)
    first, _ = begin(queue, "a")
    monitor.poll()
    begin(queue, "killed")  # it never becomes the last one
    monitor.poll()
    queue.ended(first, None)
    _, run = begin(queue, "c")
    assert {monitor.poll().run for _ in range(4)} == {run}


def test_while_a_run_starts_the_one_before_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(tmp_path)
    monitor = RunMonitor(tmp_path)
    item, _ = begin(queue, "a")
    monitor.poll()
    monitor.history.state = "done"
    queue.ended(item, None)
    assert monitor.poll().state == "done"
    queue.add("", "b")
    queue.take()
    monkeypatch.setattr(monitor, "someone_trains", lambda: True)
    looks = [monitor.poll() for _ in range(4)]
    assert {(snapshot.state, snapshot.run) for snapshot in looks} == {("starting", None)}
    assert len({id(snapshot.history) for snapshot in looks}) == 1


def test_queueing_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monitor = RunMonitor(tmp_path)
    monkeypatch.setattr(Queue, "start", lambda self: started.append(self))
    monitor.enqueue("", "a")
    monitor.poll()
    assert not started and [item.title for item in monitor.queue.waiting()] == ["a"]
    monitor.serve()
    assert len(started) == 1


def test_a_run_of_another_tool_shows_its_curves_as_they_are_written(tmp_path: Path) -> None:
    """Attached to, it was "starting" for ever."""
    writer = SummaryWriter(str(tmp_path / "mine"))
    writer.add_scalar("train/loss", 0.5, 1)
    writer.flush()
    monitor = RunMonitor(tmp_path)
    monitor.attach(tmp_path / "mine")
    seen = monitor.poll()
    assert (seen.state, seen.active, seen.run) == ("events", False, tmp_path / "mine")
    for step in range(2, 5):
        writer.add_scalar("train/loss", 1 / step, step)
        writer.add_scalar("val/acc", 0.9, step)
    writer.close()
    seen = monitor.poll()
    loss, accuracy = seen.history.series("train/loss"), seen.history.series("val/accuracy")
    assert loss is not None and loss.steps.tolist() == [1, 2, 3, 4]
    assert accuracy is not None and accuracy.last == pytest.approx(0.9)
