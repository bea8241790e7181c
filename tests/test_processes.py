"""Signals to the whole process group, kills, and workers that hang: nothing is lost, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import start, wait_for

from torchdeck.core.runs.directory import read_metrics

DATA = """\
import multiprocessing, os, time, torch
from torch.utils.data import Dataset, get_worker_info

KEPT = []

def scan(i):
    return i % 2

class Own(Dataset):
    def __init__(self, pool="", default=False):
        self.targets = torch.arange(600) % 2
        if default:
            multiprocessing.set_start_method(pool, force=True)
        if pool:
            context = multiprocessing.get_context(pool)
            with context.Pool(2) as closed:
                closed.map(scan, range(2))
            KEPT.append(context.Pool(2))  # and never closed
            self.targets = torch.tensor(KEPT[0].map(scan, range(600)))
    def __len__(self):
        return 600
    def __getitem__(self, i):
        if os.path.exists("hang") and get_worker_info():
            time.sleep(1000)
        time.sleep(0.001)
        return torch.randn(8) + self.targets[i], self.targets[i]
"""


class Run:
    def __init__(self, folder: Path, *words: str) -> None:
        (folder / "d.py").write_text(DATA)
        self._folder = folder
        common = (
            "data.name=d.py:Own",
            "trainer.epochs=100000",
            "tracking.graph=false",
            "tracking.tensorboard=false",
            "model.name=mlp",
        )
        sets = [w for value in (*common, *words) for w in ("--set", value)]
        self.process = start("--batch", "--plain", *sets, cwd=folder, start_new_session=True)
        self.path: Path = wait_for(lambda: next(iter((folder / "runs").glob("2*"))))
        self.until(lambda: any(r["event"] == "epoch" for r in read_metrics(self.path)))
        self.children = psutil.Process(self.process.pid).children(recursive=True)

    def until(self, what: Callable[[], bool]) -> None:
        assert wait_for(what)

    def send(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def ended(self) -> int:
        return self.process.wait(30)

    def checkpoints(self) -> set[str]:
        return {p.name for p in (self.path / "checkpoints").glob("step-*.pt")}

    def living(self) -> list[psutil.Process]:
        """Those of its children that are not over."""
        return [c for c in self.children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]

    def nothing_left(self) -> None:
        self.until(lambda: not self.living())


@pytest.mark.parametrize(
    ("workers", "pool", "ending", "code"),
    [
        (2, "fork", signal.SIGTERM, 143),
        (2, "forkserver", signal.SIGINT, 130),
        (0, "forkserver", signal.SIGTERM, 143),
        (0, "spawn", signal.SIGINT, 130),
    ],
)
def test_signals_to_the_whole_group(tmp_path: Path, workers: int, pool: str, ending: signal.Signals, code: int) -> None:
    """A closed terminal, ``timeout``, SLURM and systemd send them to the workers, too, and to a Pool of the user's."""
    run = Run(tmp_path, f"data.workers={workers}", f"data.args.pool={pool}", "data.args.default=true")
    run.send(signal.SIGHUP)
    before = run.checkpoints()
    run.send(signal.SIGUSR1)
    run.until(lambda: run.checkpoints() != before)
    epochs = sum(r["event"] == "epoch" for r in read_metrics(run.path))
    run.until(lambda: sum(r["event"] == "epoch" for r in read_metrics(run.path)) > epochs + 1)
    assert len(run.children) >= workers + 2
    assert run.living() == run.children
    run.send(ending)
    assert run.ended() == code
    assert any(r["event"] == "finished" and r["status"] == "stopped" for r in read_metrics(run.path))
    run.nothing_left()


def test_a_killed_run_leaves_no_process_behind(tmp_path: Path) -> None:
    run = Run(tmp_path, "data.workers=2", "data.args.pool=spawn")
    assert len(run.children) >= 5  # two workers or more, the Pool's, the tracker
    run.process.kill()
    run.process.wait()
    run.nothing_left()


def test_a_worker_that_hangs_is_told_and_a_stop_does_not_wait_for_it(tmp_path: Path) -> None:
    run = Run(tmp_path, "data.workers=1", "trainer.validation_share=0")
    (tmp_path / "hang").touch()
    run.until(lambda: any(r.get("state") == "stalled" for r in read_metrics(run.path)))
    began = time.monotonic()
    run.send(signal.SIGTERM)
    assert run.ended() == 143
    assert time.monotonic() - began < 15
    last = max(r.get("step", 0) for r in read_metrics(run.path))
    assert f"step-{last:09d}.pt" in run.checkpoints()
    run.nothing_left()
