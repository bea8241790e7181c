"""The queue: files that wait, and one process that trains them in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import kill_below

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.runs.directory import read_info
from torchdeck.core.runs.listing import list_runs
from torchdeck.core.runs.live import live_runs
from torchdeck.core.session.control_server import RemoteControl
from torchdeck.core.session.queue import Item, Queue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path / "runs")
    yield queue
    kill_below(tmp_path)


def experiment(*overrides: str) -> str:
    return toml.dumps(toml.load("iris", ["tracking.graph=false", "tracking.images=false", *overrides]))


def until(what: Callable[[], object], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_what_waits_keeps_its_order(queue: Queue) -> None:
    assert queue.waiting() == []
    a, b, c = (queue.add(experiment(), name) for name in "abc")
    assert [i.title for i in queue.waiting()] == ["a", "b", "c"]
    queue.swap(a, b)
    assert [i.title for i in queue.waiting()] == ["b", "a", "c"]
    queue.remove(c)
    queue.remove(c)
    assert [i.title for i in Queue(queue.root).waiting()] == ["b", "a"]
    assert not queue.served()


def test_what_is_no_item_is_passed_over(queue: Queue) -> None:
    queue.add(experiment(), "good")
    folder = queue.root / ".queue"
    (folder / "00000000000000000001.json").write_text("{")
    (folder / "00000000000000000002.json").write_text('{"id": "2", "unknown": 1}')
    (folder / ".tmp-left").write_text("x")
    assert [i.title for i in queue.waiting()] == ["good"]


def test_a_root_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="can't be written"):
        Queue(file).add(experiment(), "a")


def test_they_are_trained_in_turn_and_a_failure_does_not_stop_the_rest(queue: Queue) -> None:
    queue.add(experiment("trainer.epochs=1", "tracking.name=first"), "first")
    queue.add(experiment("trainer.epochs=1", "model.name=gone.py:Net"), "broken")
    queue.add(experiment("trainer.epochs=1", "tracking.name=second"), "second")
    process = queue.start()
    assert process.wait(120) == 0
    found, _ = list_runs(queue.root)
    assert [(info.status, info.name.rpartition("-")[2]) for info in found] == [("done", "first"), ("done", "second")]
    assert queue.current() is None
    assert queue.waiting() == []
    assert "gone.py" in str(queue.failure())


def test_a_run_that_is_stopped_by_hand_holds_the_rest(queue: Queue) -> None:
    queue.add(experiment("trainer.epochs=1000000"), "long")
    queue.add(experiment("trainer.epochs=1"), "next")
    process = queue.start()
    until(lambda: (item := queue.current()) and item.run)
    assert queue.served()
    run = Path(str(queue.current().run))  # type: ignore[union-attr]
    assert [info.path for info in live_runs()] == [run]
    until(lambda: RemoteControl(run).answers())
    second = queue.start()  # another process finds the lock taken, and does nothing
    assert second.wait(60) == 0
    RemoteControl(run).stop()
    assert process.wait(60) == 130
    assert read_info(run).status == "stopped"
    assert [i.title for i in queue.waiting()] == ["next"]
    assert live_runs() == []


def test_what_was_waiting_survives_a_kill_of_the_process(queue: Queue) -> None:
    queue.add(experiment("trainer.epochs=1000000"), "long")
    queue.add(experiment("trainer.epochs=1"), "next")
    process = queue.start()
    until(lambda: (item := queue.current()) and item.run)
    process.kill()
    process.wait()
    run = Path(str(queue.current().run))  # type: ignore[union-attr]
    assert not queue.served()
    assert read_info(run).status == "dead"
    assert [i.title for i in queue.waiting()] == ["next"]
    assert queue.start().wait(90) == 0
    assert list_runs(queue.root)[0][-1].status == "done"


def test_what_the_code_prints_goes_to_the_run(queue: Queue, tmp_path: Path) -> None:
    code = tmp_path / "chatty.py"
    code.write_text(
        "import torch\nclass Net(torch.nn.Linear):\n"
        "    def __init__(self, num_classes=3):\n        super().__init__(4, num_classes)\n"
        "    def forward(self, x):\n        print('forward!', flush=True)\n        return super().forward(x)\n"
    )
    queue.add(experiment("trainer.epochs=1", f"model.name={code}:Net"), "chatty")
    assert queue.start().wait(90) == 0
    [info] = list_runs(queue.root)[0]
    assert "forward!" in (info.path / "output.log").read_text()


def test_an_item_survives_its_file(queue: Queue) -> None:
    item = queue.add(experiment(), "ü\N{SNOWMAN}", resume=Path("/somewhere"))
    assert queue.waiting() == [item]
    assert isinstance(item, Item)
    assert item.resume == "/somewhere"
