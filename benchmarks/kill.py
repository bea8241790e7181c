"""A run killed with SIGKILL again and again at random moments ends with the weights of a run never killed."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.runs.directory import read_metrics

OPTIONS = (
    "--set",
    "trainer.epochs=4000",
    "--set",
    "trainer.checkpoint_steps=100",
    "--set",
    "model.args.dropout=0.2",
    "--set",
    "tracking.graph=false",
    "--set",
    "tracking.images=false",
    "--set",
    "trainer.ema=0.99",
)


def loop(kills: int = 50) -> bool:
    """Kill, check every file, go on; then compare."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def start(*words: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-m", "torchdeck", "--batch", "--quiet", "--runs", str(root / "killed"), *words]
            )

        process, run, done, corrupt = start("digits", *OPTIONS), None, 0, 0
        while done < kills:
            # Most kills fall while it trains, some while it starts or finds its place.
            begun = time.monotonic()
            goal = _progress(run) + draw.randint(1, 800)
            early = draw.random() < 0.1
            while time.monotonic() - begun < (draw.uniform(0.1, 5) if early else 60) and process.poll() is None:
                run = run or next((p.parent for p in root.glob("killed/*/checkpoints/last.pt")), None)
                run = run.parent if run is not None and run.name == "checkpoints" else run
                if not early and run is not None and _progress(run) >= goal:
                    break
                time.sleep(0.02)
            if process.poll() is not None or run is None:
                break
            process.kill()
            process.wait()
            done += 1
            for path in (run / "checkpoints").glob("*.pt"):
                try:
                    load_checkpoint(path, "kill")
                except Exception as error:
                    corrupt += 1
                    print(error)
            process = start("--resume", str(run))
        code = process.wait()
        whole = [
            sys.executable,
            "-m",
            "torchdeck",
            "--batch",
            "--quiet",
            "--runs",
            str(root / "whole"),
            "digits",
            *OPTIONS,
        ]
        subprocess.run(whole, check=True)
        assert run is not None
        a, b = (load_checkpoint(p / "checkpoints" / "last.pt", "kill") for p in (run, next((root / "whole").iterdir())))
        same = a["step"] == b["step"] and all(torch.equal(t, b["model"][n]) for n, t in a["model"].items())
        same = same and all(torch.equal(t, b["ema"]["model"][n]) for n, t in a["ema"]["model"].items())
        steps = [r["step"] for r in read_metrics(run) if r.get("event") == "step"]
        ordered = steps == sorted(set(steps))
    print(
        f"{done} kills over {a['step']:,} steps: {corrupt} damaged files, exit code {code}, final weights "
        f"{'identical' if same else 'DIFFERENT'}, points {'in order, none twice' if ordered else 'OUT OF ORDER'}"
    )
    return corrupt == 0 and code == 0 and same and ordered and done == kills


def _progress(run: Path | None) -> int:
    """The last step in metrics.jsonl, read from its end."""
    if run is None:
        return 0
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 4000))
            tail = file.read().splitlines()
    except OSError:
        return 0
    import json

    for line in reversed(tail):
        try:
            return int(json.loads(line).get("step", 0))
        except ValueError:
            continue
    return 0
