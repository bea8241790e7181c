"""Memory: no growth over many steps."""

from __future__ import annotations

import tempfile
from pathlib import Path

from torchdeck.core.events import StepSummary
from torchdeck.core.experiment import toml
from torchdeck.core.session.session import Session


def growth(steps: int = 20_000) -> bool:
    """The process' memory after a tenth of the steps and at their end."""
    experiment = toml.load("digits", [f"trainer.steps={steps}", "trainer.epochs=1"])
    with tempfile.TemporaryDirectory() as folder:
        session = Session(experiment, Path(folder))
        subscription = session.subscribe(10**6)
        session.start()
        memory = [(e.step, e.memory) for e in subscription if isinstance(e, StepSummary)]
        session.join()
    early = next(m for s, m in memory if s >= steps // 10)
    late = memory[-1][1]
    print(f"{steps:,} steps: {early / 2**20:.1f} MiB after a tenth, {late / 2**20:.1f} MiB at the end")
    return late - early < 16 * 2**20
