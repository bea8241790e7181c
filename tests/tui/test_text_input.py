"""Lines to type into."""

from __future__ import annotations

import asyncio

import pytest
from textual.app import App
from textual.events import Key

from torchdeck.tui.screens.dialogs import TextDialog
from torchdeck.tui.widgets.text_input import TextInput


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ("end backspace 8", "14 8"),
        ("home delete 2", "24 1"),
        ("end 0 left left 7 backspace 3", "14 310"),
        ("home ctrl+k 5", "5"),
    ],
)
async def test_keys_in_one_packet_act_in_their_order(keys: str, left: str) -> None:
    """As a slow SSH line or a macro sends them."""
    app: App[None] = App()
    async with app.run_test() as pilot:
        given: list[str | None] = []
        await app.push_screen(TextDialog("Total trials, and workers", value="14 1"), given.append)
        await pilot.pause()
        assert app.screen.query_one(TextInput).cursor_blink is False
        for key in [*keys.split(), "enter"]:
            app.post_message(Key(key, key if len(key) == 1 else None))
        async with asyncio.timeout(10):
            while not given:
                await pilot.pause()
        assert given == [left]
