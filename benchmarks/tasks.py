"""Training speed of tasks beyond classes: presets, everything observed, against a bare loop of the same model."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks import loops
from torchdeck.core.data.load import load_data
from torchdeck.core.events import StepSummary
from torchdeck.core.experiment import toml
from torchdeck.core.machine import devices
from torchdeck.core.models.build import build_model, wants_channels_last
from torchdeck.core.session.session import Session

#: Presets whose loss is the cross entropy of each token or pixel, what makes their epochs long, and steps.
PRESETS: dict[str, tuple[tuple[str, ...], int]] = {
    "char-lm": (("data.args.characters=0",), 120),
    "shapes-segmentation": (("data.args.samples=4000",), 60),
}
LIMIT = 0.95


def observed(preset: str, more: tuple[str, ...], steps: int) -> float:
    """Samples per second of a session, from its second summary to its last, within the first epoch."""
    experiment = toml.load(preset, [*more, f"trainer.steps={steps}"])
    with tempfile.TemporaryDirectory() as folder:
        session = Session(experiment, Path(folder))
        subscription = session.subscribe(10**6)
        session.start()
        summaries = [e for e in subscription if isinstance(e, StepSummary) and e.epoch == 1]
        session.join()
        if session.failure:
            raise RuntimeError(session.failure.message)
    first, last = summaries[1], summaries[-1]
    return (last.step - first.step) * experiment.trainer.batch_size / (last.time - first.time)


def bare(preset: str, more: tuple[str, ...], steps: int) -> float:
    """The physical limit: one batch again and again, nothing read, nothing told."""
    torch.set_flush_denormal(True)  # as torchdeck has it
    experiment = toml.load(preset, more)
    device = devices.choose_device(experiment.trainer.device)
    precision = devices.precision(experiment.trainer.precision, device).dtype
    data = load_data(experiment, device)
    batch = next(iter(data.train.epoch(1)))
    net = build_model(experiment.model, data.info).to(device)
    x, y = batch.x, batch.y
    if x.ndim == 4 and wants_channels_last(net):
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, fused=True)
    limit = experiment.trainer.clip_norm

    def step() -> None:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            logits = net(x)
            logits, target = (logits.flatten(0, 1), y.flatten()) if logits.ndim == 3 else (logits, y)
            loss = F.cross_entropy(logits, target)
        loss.backward()
        if limit is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), limit)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(10):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return steps * batch.size / (time.perf_counter() - began)


def presets(rounds: int = 5) -> bool:
    """Medians of ratios; the loops take turns, so that a slow minute hits both."""
    good = True
    for preset, (more, steps) in PRESETS.items():
        if preset not in toml.presets():
            continue
        pairs = []
        for number in range(rounds):
            found = {}
            for run in (observed, bare) if number % 2 else (bare, observed):
                found[run] = loops.apart(run, preset, more, steps)
            pairs.append((found[observed], found[bare]))
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        ours, theirs = (statistics.median(values) for values in zip(*pairs, strict=True))
        verdict = "met" if ratio >= LIMIT else "MISSED"
        print(
            f"{preset}: torchdeck {ours:,.0f} samples/s, bare {theirs:,.0f}; ratio {ratio:.2f} ({LIMIT:g}: {verdict})"
        )
        good &= ratio >= LIMIT
    return good
