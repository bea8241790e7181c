"""A million points: opened, and each key; timed within the app, from the key to the end of its drawing."""

from __future__ import annotations

import asyncio
import time

import numpy as np
from textual.app import App, ComposeResult

from torchdeck.core.events import Started, StepSummary
from torchdeck.core.runs.history import History
from torchdeck.tui.widgets.charts import Charts

_POINTS = 1_000_000


class _Stage(App[None]):
    def compose(self) -> ComposeResult:
        yield Charts(id="charts")


def _history() -> History:
    losses = (np.exp(-np.arange(_POINTS) / 3e5) + np.random.default_rng(0).random(_POINTS) / 10).tolist()
    made = History()
    made.take(
        [
            Started(
                epoch=0,
                step=0,
                epochs=10,
                steps=_POINTS,
                epoch_length=_POINTS // 10,
                device="cpu",
                precision="fp32",
                parameters=1,
                train_samples=1,
                val_samples=0,
                test_samples=0,
                time=0.0,
            )
        ]
    )
    made.take(
        StepSummary(
            epoch=1,
            step=at + 20,
            train={"loss": losses[at], "accuracy": 0.9},
            losses=tuple(losses[at : at + 20]),
            learning_rate=0.1,
            gradient_norm=1.0,
            samples_per_second=1.0,
            data_wait=0.0,
            memory=1,
            time=at / 100,
        )
        for at in range(0, _POINTS, 20)
    )
    return made


async def _time() -> tuple[float, dict[str, float]]:
    history = _history()
    keys: dict[str, float] = {}
    async with _Stage().run_test(size=(120, 35)) as pilot:
        charts = pilot.app.query_one(Charts)
        await pilot.pause()
        began = time.perf_counter()
        charts.show(history)
        while not (charts.charts and all(c.plain for c in charts.charts)):
            await asyncio.sleep(0)
        opened = time.perf_counter() - began
        charts.focus()
        await pilot.pause()
        for name in ("action_smooth", "action_log", "action_unit", "action_zoom", "action_move", "action_outliers"):
            argument = {"action_smooth": (1,), "action_zoom": (0.5,), "action_move": (-1,)}.get(name, ())
            began = time.perf_counter()
            getattr(charts, name)(*argument)
            keys[name.removeprefix("action_")] = time.perf_counter() - began
    return opened, keys


def million_points() -> bool:
    """Seconds to draw a million points the first time, and after each key."""
    opened, keys = asyncio.run(_time())
    worst = max(keys.values())
    good = opened < 0.5 and worst < 0.1
    listed = ", ".join(f"{name} {seconds * 1000:.0f}" for name, seconds in keys.items())
    print(
        f"{_POINTS:,} points: opened in {opened * 1000:.0f} ms (limit 500), keys in ms: {listed} (limit 100): "
        f"{'met' if good else 'MISSED'}",
        flush=True,
    )
    return good
