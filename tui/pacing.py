"""When a screen reads or draws again: after a pause, at once when somebody asks, or when what led to it has rested."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from textual.message_pump import MessagePump
from textual.timer import Timer


class Wake:
    """The pause of a loop that reads again and again; it ends early when somebody wants what is new at once."""

    def __init__(self) -> None:
        self._wanted = asyncio.Event()

    def now(self) -> None:
        """End the pause, or have the next one end at once."""
        self._wanted.set()

    async def pause(self, seconds: float) -> bool:
        """Wait that long; tells whether somebody did not want to wait."""
        try:
            await asyncio.wait_for(self._wanted.wait(), seconds)
        except TimeoutError:
            return False
        self._wanted.clear()
        return True


class Settling:
    """Does something once what leads to it (a cursor that moves, keys that are typed) has rested for a while."""

    def __init__(self, owner: MessagePump, seconds: float) -> None:
        self._owner, self._seconds = owner, seconds
        self._timer: Timer | None = None

    def begin(self, action: Callable[[], Any]) -> None:
        """Do it when nothing else is begun meanwhile."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self._owner.set_timer(self._seconds, action)
