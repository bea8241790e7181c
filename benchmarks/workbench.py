"""The workbench: first paint, keys while training, what it costs the training, traffic, and memory over a long run."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.terminal import WORKBENCH, Terminal, terminal
from torchdeck.core.events import StepSummary
from torchdeck.core.runs.follow import Follower
from torchdeck.core.runs.listing import list_runs
from torchdeck.core.runs.process import identity
from torchdeck.core.session.control_server import RemoteControl

#: The least that a Textual app can be.
_BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App):
    def compose(self):
        yield Static("first paint")
Bare().run()
"""

_RUN = ("fashion-mlp", "--set", "tracking.graph=false", "--set", "tracking.images=false")


def _verdict(met: bool) -> str:
    return "met" if met else "MISSED"


def first_paint(rounds: int = 9) -> bool:
    """Seconds from the start of the process until its first screen, beside a bare Textual app; and until all is
    there."""
    times: dict[str, list[float]] = {"bare": [], "workbench": [], "whole": []}
    folder = Path(tempfile.mkdtemp())
    for number in range(rounds + 1):
        for name, words, sign in (
            ("bare", [sys.executable, "-c", _BARE], b"first paint"),
            ("workbench", WORKBENCH, b"torchdeck"),
            ("whole", WORKBENCH, b"idle"),
        ):
            with terminal(words, folder) as shown:
                seconds = shown.until(sign)
                if number:  # the first warms the disk's cache
                    times[name].append(seconds)
    shutil.rmtree(folder, ignore_errors=True)
    ratio = statistics.median(a / b for a, b in zip(times["workbench"], times["bare"], strict=True))
    print(
        f"first paint: {statistics.median(times['workbench']) * 1000:.0f} ms; a bare Textual app "
        f"{statistics.median(times['bare']) * 1000:.0f} ms; ratio {ratio:.2f} (limit 1.5: {_verdict(ratio <= 1.5)}); "
        f"the whole screen {statistics.median(times['whole']) * 1000:.0f} ms",
        flush=True,
    )
    return ratio <= 1.5


def training_speed(windows: int = 7, seconds: float = 8.0) -> bool:
    """One run, as ``--batch`` starts it, with a workbench watching it live and without, in turn: steps per second."""
    folder = Path(tempfile.mkdtemp())
    runs = folder / "runs"
    words = [*WORKBENCH, "--batch", "--quiet", *_RUN, "--set", "trainer.epochs=100000", "--runs", str(runs)]
    batch = subprocess.Popen(words, cwd=folder)
    ratios = []
    try:
        end = time.monotonic() + 120
        while not any(info.get("step", 0) > 500 for info in list_runs(runs)[0]) and time.monotonic() < end:
            time.sleep(0.2)
        [info] = list_runs(runs)[0]
        follower = Follower(info.path)
        for number in range(windows):
            speeds = {}
            for watched in (True, False) if number % 2 else (False, True):
                if watched:
                    with terminal([*WORKBENCH, "attach", str(info.path)], folder) as shown:
                        shown.until(b"samples/s")
                        shown.drain(
                            15
                        )  # its start, and the look at data and model (which imports torch), are no steady state
                        speeds[watched] = _steps_in(follower, seconds, shown.drain)
                else:
                    time.sleep(1)
                    speeds[watched] = _steps_in(follower, seconds, time.sleep)
            ratios.append(speeds[True] / speeds[False])
        RemoteControl(info.path).stop()
        batch.wait(30)
    finally:
        batch.kill()
        shutil.rmtree(folder, ignore_errors=True)
    ratio = statistics.median(ratios)
    print(
        f"training with the workbench open: {ratio:.3f} of --batch (limit 0.95: {_verdict(ratio >= 0.95)}; "
        f"windows {', '.join(f'{r:.2f}' for r in ratios)})",
        flush=True,
    )
    return ratio >= 0.95


def _steps_in(follower: Follower, seconds: float, wait) -> float:  # type: ignore[no-untyped-def]
    """Steps per second, by the run's own clock, over so many seconds."""
    first = _last(follower)
    wait(seconds)
    last = _last(follower)
    return (last.step - first.step) / (last.time - first.time)


def _last(follower: Follower) -> StepSummary:
    """The newest summary."""
    end = time.monotonic() + 10
    found: list[StepSummary] = []
    while not found and time.monotonic() < end:
        found = [e for part in follower.poll() for e in part if isinstance(e, StepSummary)]
        time.sleep(0.05)
    return found[-1]


def keys_and_traffic(presses: int = 200) -> bool:
    """Key to screen while training flat out on all cores; bytes sent in steady training, and when idle."""
    folder = Path(tempfile.mkdtemp())
    runs = folder / "runs"
    with terminal([*WORKBENCH, *_RUN, "--set", "trainer.epochs=100000", "--runs", str(runs)], folder) as shown:
        shown.until(b"idle")
        time.sleep(1)
        shown.drain(25)  # data and model are looked at; then the readings of the machine rest
        idle = shown.drain(10)
        shown.type(b"s")
        _until(lambda: any(info.get("step", 0) > 300 for info in list_runs(runs)[0]), shown)
        shown.drain(5)
        steady = shown.drain(20) / 20
        waits = []
        for number in range(presses):
            shown.drain(0.05)
            name = b" 3 Model " if number % 2 == 0 else b" 2 Charts "
            shown.type(name.strip()[:1])
            waits.append(shown.until(rb"\x1b\[[0-9;]*\b7[0-9;]*m" + name, 10))
        [info] = [i for i in list_runs(runs)[0] if i.status == "running"]
        RemoteControl(info.path).stop()
        _until(lambda: all(i.status != "running" for i in list_runs(runs)[0]), shown)
    shutil.rmtree(folder, ignore_errors=True)
    waits.sort()
    p50, p99 = waits[len(waits) // 2] * 1000, waits[int(len(waits) * 0.99) - 1] * 1000
    print(f"key to screen while training: median {p50:.0f} ms, p99 {p99:.0f} ms (limit 50: {_verdict(p99 < 50)})")
    print(
        f"sent at 120x35: {steady / 1000:.1f} KB/s in training (limit 10: {_verdict(steady < 10_000)}), "
        f"{idle} bytes in 10 s when idle (limit 0: {_verdict(idle == 0)})",
        flush=True,
    )
    return p99 < 50 and steady < 10_000 and idle == 0


def _until(what, shown: Terminal) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 120
    while not what():
        shown.drain(0.2)
        if time.monotonic() > end:
            raise TimeoutError


def long_run(hours: float = 8.0) -> bool:
    """A run's events of so many hours, replayed as fast as the workbench takes them: its memory stays flat."""
    folder = Path(tempfile.mkdtemp())
    run = folder / "runs" / "long"
    run.mkdir(parents=True)
    (run / "experiment.toml").write_text("")
    values = {"layout": 1, "name": "long", "status": "running", "process": identity(), "heartbeat": time.time()}
    (run / "run.json").write_text(json.dumps(values))
    per_second, losses = 14, 20  # 280 steps a second
    total = int(hours * 3600 * per_second)
    sizes = []
    with (run / "metrics.jsonl").open("w") as file:
        _write(
            file,
            {
                "event": "started",
                "epoch": 0,
                "step": 0,
                "epochs": 1000,
                "steps": total * losses,
                "epoch_length": 8000,
                "device": "cpu",
                "precision": "fp32",
                "parameters": 1,
                "train_samples": 1,
                "val_samples": 1,
                "test_samples": 1,
                "time": 0.0,
            },
        )
        file.flush()
        with terminal([*WORKBENCH, "attach", str(run)], folder) as shown:
            shown.until(b"running")
            process = psutil.Process(shown.process.pid)
            for tenth in range(10):
                for number in range(tenth * total // 10, (tenth + 1) * total // 10):
                    _write(file, _summary(number, losses, per_second))
                    if number % 400 == 399:
                        _write(file, _epoch(number, losses, per_second))
                file.flush()
                _settle(process, shown)
                sizes.append(process.memory_info().rss / 2**20)
    shutil.rmtree(folder, ignore_errors=True)
    growth = sizes[-1] / sizes[2]
    print(
        f"{hours:g} h of training ({total * losses:,} steps) replayed: {sizes[0]:.0f} MiB after a tenth, "
        f"{sizes[2]:.0f} after "
        f"three, {sizes[-1]:.0f} at the end; ratio {growth:.2f} (limit 1.1: {_verdict(growth <= 1.1)})",
        flush=True,
    )
    return growth <= 1.1


def _settle(process: psutil.Process, shown: Terminal) -> None:
    """Until the workbench has read all: its processor time stands still."""
    before = -1.0
    while True:
        shown.drain(1.5)
        spent = sum(process.cpu_times()[:2])
        if spent - before < 0.2:
            return
        before = spent


def _write(file, record: dict[str, object]) -> None:  # type: ignore[no-untyped-def]
    file.write(json.dumps(record) + "\n")


def _summary(number: int, losses: int, per_second: int) -> dict[str, object]:
    values = [0.5 + ((number * losses + i) * 7919 % 1000) / 5000 for i in range(losses)]
    return {
        "event": "step",
        "epoch": 1,
        "step": (number + 1) * losses,
        "train": {"loss": values[-1], "accuracy": 0.9},
        "losses": values,
        "learning_rate": 0.1,
        "gradient_norm": 1.0,
        "samples_per_second": 17000.0,
        "data_wait": 0.0,
        "memory": 1,
        "time": number / per_second,
    }


def _epoch(number: int, losses: int, per_second: int) -> dict[str, object]:
    return {
        "event": "epoch",
        "epoch": number // 400 + 1,
        "step": (number + 1) * losses,
        "train": {"loss": 0.5},
        "val": {"loss": 0.6, "accuracy": 0.88},
        "learning_rate": 0.1,
        "seconds": 1.0,
        "best": False,
        "time": number / per_second,
    }
