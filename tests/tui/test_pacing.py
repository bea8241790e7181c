"""When a screen reads again: after a pause, or at once when somebody asks."""

from __future__ import annotations

import time

from textual.app import App

from torchdeck.tui.pacing import Settling, Wake


async def test_a_pause_ends_when_somebody_asks() -> None:
    wake = Wake()
    assert not await wake.pause(0.01)
    wake.now()  # while the loop is at work: what it is reading may be older than what is asked for
    began = time.monotonic()
    assert await wake.pause(60)
    assert time.monotonic() - began < 10
    assert not await wake.pause(0.01)


async def test_what_settles_is_done_once_and_for_the_last() -> None:
    done: list[int] = []
    app: App[None] = App()
    async with app.run_test() as pilot:
        settling = Settling(app, 0.05)
        for number in range(5):
            settling.begin(lambda number=number: done.append(number))  # type: ignore[misc]
        await pilot.pause(0.5)
        settling.begin(lambda: done.append(9))
        await pilot.pause(0.5)
    assert done == [4, 9]
