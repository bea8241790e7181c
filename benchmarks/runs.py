"""Last week's work: event files read, runs listed, checkpoints opened; beside TensorBoard and torch.load in one run."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from textual.app import App, ComposeResult

from torchdeck.core.runs.listing import INDEX, RunList
from torchdeck.core.runs.opened import Opened
from torchdeck.core.tracking.records import checksums, masked
from torchdeck.tui.widgets.charts import Charts

_POINTS = 1_000_000
_RUNS = 10_000


class _Stage(App[None]):
    def compose(self) -> ComposeResult:
        yield Charts(id="charts")


def _write_events(folder: Path, points: int) -> int:
    """Event files as SummaryWriter writes them: four scalars at each step; gives their bytes."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    folder.mkdir(parents=True)
    records = [Event(wall_time=1e9, file_version="brain.Event:2").SerializeToString()]
    values = np.exp(-np.arange(points // 4) / 1e5) + np.random.default_rng(0).random(points // 4) / 10
    for step in range(points // 4):
        for tag in ("loss/train", "loss/val", "accuracy/train", "learning_rate"):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=float(values[step]))])
            records.append(Event(wall_time=1e9 + step / 100, step=step, summary=summary).SerializeToString())
    with (folder / "events.out.tfevents.1000000000.host.1.0").open("wb") as file:
        by_length: dict[int, list[int]] = {}
        for number, record in enumerate(records):
            by_length.setdefault(len(record), []).append(number)
        sums = np.empty(len(records), dtype=np.uint32)
        for length, numbers in by_length.items():
            rows = np.frombuffer(b"".join(records[n] for n in numbers), np.uint8).reshape(-1, length)
            sums[numbers] = masked(checksums(rows))
        heads = {length: struct.pack("<Q", length) for length in by_length}
        heads = {n: h + masked(checksums(np.frombuffer(h, np.uint8)[None]))[0].tobytes() for n, h in heads.items()}
        file.writelines(
            part
            for record, crc in zip(records, sums, strict=True)
            for part in (heads[len(record)], record, crc.tobytes())
        )
        return file.tell()


async def _read_and_draw(folder: Path) -> tuple[float, float]:
    async with _Stage().run_test(size=(120, 35)) as pilot:
        charts = pilot.app.query_one(Charts)
        await pilot.pause()
        began = time.perf_counter()
        opened = Opened(folder)
        opened.poll()
        read = time.perf_counter() - began
        charts.show(opened.history)
        while not (charts.charts and all(c.plain for c in charts.charts)):
            await asyncio.sleep(0)
        return read, time.perf_counter() - began


def reader() -> bool:
    """Seconds to read a million points, and to have them drawn; TensorBoard's EventAccumulator on the same file."""
    folder = Path(tempfile.mkdtemp())
    size = _write_events(folder / "run", _POINTS)
    tries = [asyncio.run(_read_and_draw(folder / "run")) for _ in range(3)]
    read, drawn = min(tries, key=lambda t: t[1])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    began = time.perf_counter()
    EventAccumulator(str(folder / "run"), size_guidance={"scalars": 0}).Reload()
    theirs = time.perf_counter() - began
    opened = Opened(folder / "run")
    opened.poll()
    began = time.perf_counter()
    opened.poll()
    again = time.perf_counter() - began
    shutil.rmtree(folder)
    good = drawn < 0.5 and theirs >= 10 * read
    print(
        f"{_POINTS:,} points ({size / 1e6:.0f} MB): read in {read * 1000:.0f} ms, drawn after {drawn * 1000:.0f} "
        f"ms (limit 500); "
        f"EventAccumulator {theirs:.1f} s, {theirs / read:.0f}x (limit 10x); a further look {again * 1e6:.0f} "
        f"us: {'met' if good else 'MISSED'}"
    )
    return good


def listing() -> bool:
    """Seconds to list ten thousand runs without an index, and with."""
    folder = Path(tempfile.mkdtemp())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torchdeck",
            "--batch",
            "digits",
            "--quiet",
            "--runs",
            str(folder / "one"),
            "--set",
            "trainer.epochs=3",
        ],
        check=True,
    )
    assert done.returncode == 0
    model = next((folder / "one").iterdir())
    told, experiment = (model / "run.json").read_text(), (model / "experiment.toml").read_text()
    root = folder / "runs"
    for number in range(_RUNS):
        run = root / f"2026-{number:05d}"
        (run / "checkpoints").mkdir(parents=True)
        for name, text in (
            ("run.json", told),
            ("experiment.toml", experiment),
            ("metrics.jsonl", "{}\n"),
            ("checkpoints/last.pt", "x"),
        ):
            (run / name).write_text(text)
    seconds = {}
    for name in ("cold", "warm", "warm again", "warm once more"):
        if name == "cold":
            (root / INDEX).unlink(missing_ok=True)
        began = time.perf_counter()
        listed = RunList([root])
        assert len(listed.scan()) == _RUNS
        seconds[name] = time.perf_counter() - began
    began = time.perf_counter()
    listed.scan()
    again = time.perf_counter() - began
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "torchdeck", "runs", "val_acc>2", "--runs", str(root)], check=True, capture_output=True
    )
    command = time.perf_counter() - began
    shutil.rmtree(folder)
    warm = min(seconds[n] for n in seconds if n != "cold")
    good = seconds["cold"] < 5 and warm < 1
    print(
        f"{_RUNS:,} runs: {seconds['cold']:.2f} s without index (limit 5), {warm:.2f} s with (limit 1), "
        f"{again:.2f} s at a further look; "
        f"torchdeck runs FILTER as a command {command:.2f} s: {'met' if good else 'MISSED'}"
    )
    return good


_OURS = (
    "from torchdeck.core.checkpoints.archive import inspect_file; from pathlib import Path; count = "
    "len(inspect_file(Path(path)).tensors)"
)
_THEIRS = "import torch; began = time.perf_counter(); count = len(torch.load(path, weights_only=True))"
_MAPPED = "import torch; began = time.perf_counter(); count = len(torch.load(path, weights_only=True, mmap=True))"
# getrusage's peak is that of the parent before exec, too: the kernel's own figure of this program is taken.
_MEASURE = """
import json, sys, time
path = sys.argv[1]
began = time.perf_counter()
{0}
seconds = time.perf_counter() - began
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([seconds, peak / 1024, count]))
"""


def _open(code: str, path: Path) -> tuple[float, float]:
    """Seconds (ours with its imports, torch's without importing torch) and the process' peak of memory in MiB."""
    found = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE.format(code), str(path)], check=True, capture_output=True, text=True
        )
        seconds, peak, count = json.loads(done.stdout)
        assert count > 0
        found.append((seconds, peak))
    return min(found)


def inspection() -> bool:
    """Seconds and memory to see what is in a file of 5 GB, and in a ResNet-18; torch.load on the same files."""
    import torch
    import torchvision

    folder = Path(tempfile.mkdtemp())
    big, small = folder / "big.pt", folder / "resnet18.pt"
    torch.save({f"layers.{i}.weight": torch.empty(64, 1 << 20) for i in range(20)}, big)
    torch.save(torchvision.models.resnet18().state_dict(), small)
    good = True
    for path in (big, small):
        ours, theirs, mapped = (_open(code, path) for code in (_OURS, _THEIRS, _MAPPED))
        good &= ours[0] < 1 and ours[1] < 200
        print(
            f"{path.name} ({path.stat().st_size / 1e9:.2f} GB): looked into in {ours[0] * 1000:.0f} ms with "
            f"{ours[1]:.0f} MiB (limits 1 s, 200 MiB); "
            f"torch.load {theirs[0]:.2f} s, {theirs[1]:.0f} MiB; with mmap {mapped[0]:.2f} s, {mapped[1]:.0f} "
            f"MiB, after importing torch"
        )
    shutil.rmtree(folder)
    print("met" if good else "MISSED")
    return good
