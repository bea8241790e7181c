"""Helpers for tests of the workbench under Textual's Pilot."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot

from torchdeck.tui.app import Workbench
from torchdeck.tui.screens.train import TrainScreen
from torchdeck.tui.widgets.words import Words

#: A run of a second or two, and one that does not end by itself.
QUICK: dict[str, Any] = {
    "data": {"name": "iris"},
    "trainer": {"epochs": 2},
    "tracking": {"graph": False, "images": False},
}
LONG: dict[str, Any] = {**QUICK, "trainer": {"epochs": 10_000_000}}

Open = Callable[..., contextlib.AbstractAsyncContextManager[Pilot[int]]]


async def until(pilot: Pilot[int], what: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait until something is so; the app goes on meanwhile."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s"
        await pilot.pause()
        await asyncio.sleep(0.02)


def train_of(pilot: Pilot[int]) -> TrainScreen:
    app = pilot.app
    assert isinstance(app, Workbench)
    return app.train


def notices(pilot: Pilot[int]) -> str:
    """What the app has said."""
    return "\n".join(f"{n.title} {n.message}" for n in pilot.app._notifications)


def asked(pilot: Pilot[int]) -> str:
    """The title of the dialog that is open."""
    return str(pilot.app.screen.query_one(".title", Words).render())
