"""Experiments that wait."""

from __future__ import annotations

from textual.binding import Binding
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from torchdeck.core.session.queue import Item
from torchdeck.core.text import printable
from torchdeck.tui.widgets.vim import LIST_KEYS


class QueueList(OptionList):
    """The queue of this runs folder, in order."""

    BINDINGS = [
        *LIST_KEYS,
        Binding("d,delete", "take_out", "Remove", id="queue.remove", tooltip="Remove the experiment from the queue"),
        Binding("J", "later", "Later", show=False, id="queue.later", tooltip="Move it down"),
        Binding("K", "sooner", "Sooner", id="queue.sooner", tooltip="Move it up"),
        Binding("enter", "load", "Load", id="queue.load", tooltip="Load it into the form"),
    ]
    DEFAULT_CSS = "QueueList { height: 1fr; border: none; background: $background; scrollbar-size-vertical: 1; }"

    class Asked(Message):
        """Something is to be done with a waiting experiment: remove, load, or swap with ``other``."""

        def __init__(self, what: str, item: Item, other: Item | None = None) -> None:
            super().__init__()
            self.what, self.item, self.other = what, item, other

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, markup=False)
        self.items: tuple[Item, ...] = ()
        self._shown: tuple[Item, ...] | None = None

    def show(self, items: tuple[Item, ...]) -> None:
        """Show what waits."""
        self.items = items
        if items == self._shown:
            return
        self._shown = items
        place = self.highlighted
        self.clear_options()
        if not items:
            self.add_option(Option("the queue is empty; a adds the experiment", disabled=True))
            return
        self.add_options(
            [Option(f"{n}. {printable(i.title)}{' (resume)' if i.resume else ''}") for n, i in enumerate(items, 1)]
        )
        self.highlighted = min(place or 0, len(items) - 1)

    def _current(self) -> int | None:
        return self.highlighted if self.items and self.highlighted is not None else None

    def action_take_out(self) -> None:
        """Take it out."""
        if (place := self._current()) is not None:
            self.post_message(self.Asked("remove", self.items[place]))

    def action_load(self) -> None:
        """Load it into the form."""
        if (place := self._current()) is not None:
            self.post_message(self.Asked("load", self.items[place]))

    def action_later(self) -> None:
        """Later by one."""
        self._swap(1)

    def action_sooner(self) -> None:
        """Sooner by one."""
        self._swap(-1)

    def _swap(self, by: int) -> None:
        place = self._current()
        if place is not None and 0 <= place + by < len(self.items):
            self.post_message(self.Asked("swap", self.items[place], self.items[place + by]))
            self.highlighted = place + by
