"""Searches: against random search written by hand, what a trial costs beside its training, and workers killed at
random."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.loops import apart, torchvision_folder

#: The space of both searches: low, high (logarithmic) or choices.
SPACE: dict[str, Any] = {
    "optimizer.lr": (3e-4, 1e-1),
    "optimizer.weight_decay": (1e-5, 1e-1),
    "trainer.batch_size": [64, 128, 256, 512],
    "model.args.dropout": [0.0, 0.1, 0.2, 0.3, 0.5],
    "model.args.channels": [[8, 16], [16, 32], [24, 48]],
}
EPOCHS = 4


def against_random(minutes: float = 8.0, seeds: int = 3) -> bool:
    """Best validation accuracy over time: torchdeck with pruning, and random search on the tutorial's loop, in turn."""
    found: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
    root = torchvision_folder()
    for seed in range(seeds):
        arms = [("torchdeck", ours), ("by hand", by_hand)]
        for name, search in arms if seed % 2 == 0 else arms[::-1]:
            found[name, seed] = apart(search, minutes, seed, root)
            last = found[name, seed][-1]
            print(
                f"seed {seed} {name:<10} {last[2]:>3} trials, best {max(v for _, v, _ in found[name, seed]):.2%}",
                flush=True,
            )
    times = [minutes * share for share in (0.125, 0.25, 0.5, 0.75, 1.0)]
    print(f"\nbest validation accuracy after{'':<14}" + "".join(f"{t:>9.1f} min" for t in times) + "   trials")
    medians = {}
    for (name, seed), points in sorted(found.items()):
        best = [max((v for at, v, _ in points if at <= t * 60), default=float("nan")) for t in times]
        print(f"{name:<10} seed {seed}{'':<26}" + "".join(f"{v:>13.2%}" for v in best) + f"{points[-1][2]:>9}")
        medians.setdefault(name, []).append(best)
    for name, rows in medians.items():
        print(f"{name:<10} median{'':<26}" + "".join(f"{median(column):>13.2%}" for column in zip(*rows, strict=True)))
    return median(r[-1] for r in medians["torchdeck"]) >= median(r[-1] for r in medians["by hand"])


def ours(minutes: float, seed: int, root: Path) -> list[tuple[float, float, int]]:
    """Seconds, accuracy and trials so far at the end of each epoch of a study."""
    began = time.time()
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "-m",
            "torchdeck",
            "--batch",
            "--quiet",
            "fashion-cnn",
            "--runs",
            folder,
            "--trials",
            "1000",
        ]
        options = {
            "search.minutes": minutes,
            "search.seed": seed,
            "search.name": "study",
            "trainer.epochs": EPOCHS,
            "sampler.args.n_startup_trials": 5,
            "pruner.name": "halving",
            "pruner.args": "{ min_resource = 1, reduction_factor = 2 }",
            "trainer.seed": seed,
        }
        for key, values in SPACE.items():
            if isinstance(values, tuple):
                options[f"search.space.{key}"] = f"{values[0]} .. {values[1]} log"
            else:
                options[f"search.space.{key}"] = json.dumps(values)
        for key, value in options.items():
            words += ["--set", f"{key}={value}"]
        subprocess.run(words, check=True)
        points: list[tuple[float, float, int]] = []
        for number, run in enumerate(sorted(Path(folder, "study").glob("study-*")), 1):
            for line in (run / "metrics.jsonl").read_text().splitlines():
                event = json.loads(line)
                if event["event"] == "epoch":
                    points.append((event["time"] - began, event["val"]["accuracy"], number))
    return points


def by_hand(minutes: float, seed: int, root: Path) -> list[tuple[float, float, int]]:
    """Random search as one writes it: draw, train with the tutorial's loop (pytorch.org/tutorials/beginner/basics),
    look at the validation set after each epoch."""
    began = time.time()
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, random_split
    from torchvision import datasets
    from torchvision.transforms import ToTensor

    from torchdeck.core.data.source import DataInfo
    from torchdeck.core.experiment import toml
    from torchdeck.core.models.build import build_model

    draw = random.Random(seed)
    torch.manual_seed(seed)
    data = datasets.FashionMNIST(root=str(root), train=True, transform=ToTensor())
    train, val = random_split(data, [54_000, 6_000])
    info = DataInfo("FashionMNIST", "classification", (1, 28, 28), 10, tuple("0123456789"))
    points: list[tuple[float, float, int]] = []
    for trial in range(1, 1000):
        lr, decay = (
            low * (high / low) ** draw.random()
            for low, high in (SPACE["optimizer.lr"], SPACE["optimizer.weight_decay"])
        )
        batch_size, dropout, channels = (
            draw.choice(SPACE[k]) for k in ("trainer.batch_size", "model.args.dropout", "model.args.channels")
        )
        net = build_model(
            toml.load("fashion-cnn", [f"model.args.dropout={dropout}", f"model.args.channels={channels}"]).model, info
        )
        optimizer, loss_function = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=decay), nn.CrossEntropyLoss()
        for _ in range(EPOCHS):
            net.train()
            for x, y in DataLoader(train, batch_size=batch_size, shuffle=True):
                loss_function(net(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
                if time.time() - began > minutes * 60:
                    return points
            net.eval()
            right = 0
            with torch.no_grad():
                for x, y in DataLoader(val, batch_size=batch_size):
                    right += int((net(x).argmax(1) == y).sum())
            points.append((time.time() - began, right / len(val), trial))
    return points


def overhead(trials: int = 8, seconds: float = 10.0) -> bool:
    """What a trial costs beside its training, as a share of a trial of ten seconds on Fashion-MNIST."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "-m",
            "torchdeck",
            "--batch",
            "--json",
            "fashion-mlp",
            "--runs",
            folder,
            "--trials",
            str(trials),
            "--set",
            "search.name=study",
            "--set",
            "search.space.optimizer.lr=1e-3 .. 1e-2 log",
            "--set",
            "pruner.name=none",
            "--set",
            "trainer.epochs=4",
        ]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        spent = []
        for one, before in zip(told[1:], told, strict=False):
            run = Path(one["run"])
            trained = json.loads((run / "run.json").read_text())["seconds"]
            spent.append((one["ended"] - before["ended"] - trained, trained))
    cost, trained = (median(column) for column in zip(*spent, strict=True))
    print(
        f"a trial trains {trained:.1f} s and costs {cost:.2f} s more: its data and model built, its directory "
        f"and events, asked for and told: {cost / seconds:.1%} of a trial of {seconds:.0f} s"
    )
    return cost / seconds <= 0.05


def digits(trials: int = 30) -> bool:
    """Thirty trials on digits, from the command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        words = [
            sys.executable,
            "-m",
            "torchdeck",
            "--batch",
            "--json",
            "digits",
            "--runs",
            folder,
            "--trials",
            str(trials),
            "--set",
            "search.space.optimizer.lr=1e-4 .. 0.1 log",
            "--set",
            "search.space.model.args.widths=16 .. 256 log length 1 .. 3",
        ]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        took = time.monotonic() - began
    states = Counter(json.loads(line)["state"] for line in done.stdout.splitlines())
    print(f"{sum(states.values())} trials ({', '.join(f'{n} {s}' for s, n in states.items())}) in {took:.1f} s")
    return sum(states.values()) == trials and took < 60


def killed(trials: int = 60, kills: int = 25, seed: int = 0) -> bool:
    """Workers killed at random: every trial once, none lost, none begun anew that had a checkpoint."""
    draw = random.Random(seed)
    dead = 0
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            "-m",
            "torchdeck",
            "--batch",
            "--quiet",
            "digits",
            "--runs",
            folder,
            "--trials",
            str(trials),
            "--workers",
            "2",
            "--set",
            "search.name=study",
            "--set",
            "trainer.epochs=40",
            "--set",
            "search.space.optimizer.lr=1e-4 .. 0.1 log",
        ]
        for _ in range(20):
            process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
            while process.poll() is None:
                time.sleep(draw.uniform(2, 9))
                workers = [c for c in _children(process.pid) if "--study" in c.cmdline()]
                if not workers or dead >= kills:
                    continue
                everyone = draw.random() < 0.1
                for worker in workers if everyone else [draw.choice(workers)]:
                    worker.kill()
                    dead += 1
                if everyone:
                    process.kill()
            if process.wait() == 0:
                break
        from torchdeck.core.search.opening import open_study

        study = open_study("study", Path(folder))
        found = study.trials()
        states = Counter(t.state.name for t in found)
        wrong = 0
        for trial in found:
            lines = (study.run_of(trial.number) / "metrics.jsonl").read_text().splitlines()
            epochs = [json.loads(line)["epoch"] for line in lines if '"event": "epoch"' in line]
            wrong += not (epochs == list(range(1, len(epochs) + 1)) == sorted(trial.intermediate_values))
        survived = sum("torchdeck:deaths" in t.system_attrs for t in found)
    numbers = [t.number for t in found]
    distinct = len({json.dumps(t.params, sort_keys=True) for t in found})
    print(
        f"{dead} workers killed: {len(numbers)} trials "
        f"({', '.join(f'{n} {s.lower()}' for s, n in states.items())}), {distinct} distinct, "
        f"{survived} outlived their process, {wrong} with an epoch twice or missing"
    )
    return (
        numbers == list(range(trials)) and distinct == trials and wrong == 0 and states.keys() <= {"COMPLETE", "PRUNED"}
    )


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.Error:
        return []
