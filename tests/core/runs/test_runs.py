"""The run directory tells the truth, also of a dead process, a full disk and a read-only folder."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import Train, command, start, verb
from test_batch import ENDLESS, only_run, wait_for_steps

from torchdeck.core import files
from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.errors import UserError
from torchdeck.core.events import EpochEnded, StepSummary
from torchdeck.core.runs import process
from torchdeck.core.runs.directory import RunDirectory, find_run, read_info, read_metrics
from torchdeck.core.runs.listing import list_runs
from torchdeck.core.session.recorder import event_json


def test_metrics_jsonl_holds_every_event(train: Train) -> None:
    run = train("trainer.epochs=2")
    records = list(read_metrics(run.path))
    assert next(r["event"] for r in records if r["event"] != "checkpoint") == "started"
    assert [r["step"] for r in records if r["event"] == "step"] == [e.step for e in run.of(StepSummary)]
    losses = [v for r in records if r["event"] == "step" for v in r["losses"]]
    assert len(losses) == 42  # one for every step, whatever the summaries' pace
    assert [r["val"] for r in records if r["event"] == "epoch"] == [e.val for e in run.of(EpochEnded)]
    assert records[-1]["event"] == "finished"
    log = (run.path / "train.log").read_text()
    assert "epoch 2: train loss" in log


def test_points_are_on_disk_within_a_second(tmp_path: Path) -> None:
    running = start("--batch", "--json", *ENDLESS, "--set", "tracking.every_steps=1", cwd=tmp_path)
    try:
        wait_for_steps(tmp_path, 20)
        assert running.stdout
        told: list[dict] = []
        end = time.monotonic() + 2
        while time.monotonic() < end:
            told.append(json.loads(running.stdout.readline()))
    finally:
        running.kill()
    running.wait()
    on_disk = max(r["step"] for r in read_metrics(only_run(tmp_path)) if r["event"] == "step")
    a_second_before = [e["step"] for e in told if e["event"] == "step" and e["time"] < told[-1]["time"] - 1]
    assert on_disk >= a_second_before[-1]


@pytest.mark.parametrize(
    ("change", "heartbeat_age", "lives"),
    [
        ({}, 1e9, True),  # this very process: the heartbeat doesn't matter
        ({"pid": 2**22 + 1}, 0, False),
        ({"process_started": 1.0}, 0, False),  # the pid is another's now
        ({"boot_id": "another"}, 0, False),  # started anew since
        ({"host": "elsewhere", "boot_id": "another"}, 1, True),
        ({"host": "elsewhere", "boot_id": "another"}, 1000, False),
        ({"pid_namespace": "pid:[1]"}, 1, True),  # another container on this machine
        ({"pid_namespace": "pid:[1]"}, 1000, False),
    ],
)
def test_running_is_told_from_dead(change: dict, heartbeat_age: float, lives: bool) -> None:
    assert process.alive(process.identity() | change, time.time() - heartbeat_age) is lives


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    time.sleep(1)
    who = process.identity() | {"pid": child.pid, "process_started": psutil.Process(child.pid).create_time()}
    assert not process.alive(who, time.time())
    child.wait()


def test_files_are_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.replacing(path) as file:
        file.write(b"half of the ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    files.link(path, tmp_path / "g")
    files.link(path, tmp_path / "g")  # once more: the same file already
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "g"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"status": 3}', '{"status": "done"}', '{"status": "done", "layout": 99}', "\xff"]
)
def test_broken_run_json_is_a_sentence_and_the_list_lives_on(train: Train, tmp_path: Path, content: str) -> None:
    good = train("trainer.epochs=1")
    bad = tmp_path / "runs" / "bad"
    bad.mkdir()
    (bad / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError):
        read_info(bad)
    found, broken = list_runs(tmp_path / "runs")
    assert [r.path for r in found] == [good.path]
    assert len(broken) == 1


def test_runs_are_found_by_name_path_and_beginning(tmp_path: Path) -> None:
    made = [RunDirectory.create(tmp_path, "same name!", "", {}) for _ in range(2)]
    names = [m.path.name for m in made]
    assert len(set(names)) == 2
    assert all("same-name" in n for n in names)
    assert find_run(names[1], tmp_path) == made[1].path
    assert find_run(str(made[0].path), Path("/nowhere")) == made[0].path
    with pytest.raises(UserError, match="is the beginning of 2 runs"):
        find_run(names[0][:4], tmp_path)
    with pytest.raises(UserError, match="There is no run 'zzz'"):
        find_run("zzz", tmp_path)


def test_nan_becomes_strict_json() -> None:
    record = {"a": float("nan"), "b": [float("inf"), 1.0], "c": {"d": float("-inf")}}
    assert json.loads(event_json(record), parse_constant=pytest.fail) == {
        "a": "NaN",
        "b": ["Infinity", 1.0],
        "c": {"d": "-Infinity"},
    }


def test_a_root_that_is_a_file_or_read_only(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    done = verb("--batch", cwd=tmp_path)
    assert done.returncode == 2
    assert "Runs can't be written to 'runs'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_the_run_and_keeps_what_was_good(small_disk: Path, tmp_path: Path) -> None:
    done = command(
        "--batch",
        "--plain",
        *ENDLESS,
        "--set",
        "trainer.checkpoint_steps=20",
        "--runs",
        str(small_disk / "runs"),
        "--set",
        "trainer.keep=1000",
        "--set",
        "tracking.tensorboard=false",
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    assert "can't be written" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = (small_disk / "runs").iterdir()
    info = read_info(run)
    assert info.status in ("failed", "dead")
    whole = list((run / "checkpoints").glob("*.pt"))
    assert whole
    for path in whole:
        load_checkpoint(path, "t")
    assert not list(run.rglob(".tmp-*"))


def test_a_read_only_run_is_refused(train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=1")
    made = subprocess.run(["mount", "--bind", "-o", "ro", str(run.path), str(run.path)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(run.path)], check=True)
        done = verb("--batch", "--resume", str(run.path), "--set", "trainer.epochs=2", cwd=tmp_path)
        assert done.returncode == 2
        assert "can't be written: Read-only file system" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    finally:
        subprocess.run(["umount", "-l", str(run.path)], check=True)
    assert read_info(run.path).status == "done"


def test_leftovers_of_a_kill_are_swept(train: Train) -> None:
    run = train("trainer.epochs=1")
    for folder in (run.path, run.path / "checkpoints"):
        (folder / f"{files.TEMPORARY}x").write_text("half")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "step", "st')
    again = train("trainer.epochs=2", resume=run.path)
    assert again.status == "done"
    assert not list(run.path.rglob(f"{files.TEMPORARY}*"))
    assert [r["epoch"] for r in read_metrics(run.path) if r["event"] == "epoch"] == [1, 2]
    assert (run.path / "lock").stat().st_size > 0
