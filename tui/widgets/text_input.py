"""A line of text to type into."""

from __future__ import annotations

from rich.text import Text
from textual.binding import Binding
from textual.events import Key
from textual.widgets import Input

from torchdeck.core.text import printable

#: What each editing key does.
_ACTIONS = {binding.key: binding.action for binding in Binding.make_bindings(Input.BINDINGS)}


class TextInput(Input):
    """Textual's line, in which keys act in the order in which they were pressed.

    There, a letter is inserted at once, and backspace acts after it has gone up to the app: of "backspace 8" in one
    packet, as a slow SSH line or a macro sends it, the 8 was deleted.
    """

    async def on_key(self, event: Key) -> None:
        """Edit at once."""
        action = _ACTIONS.get(event.key)
        if action is not None:
            event.stop()
            event.prevent_default()
            await self.run_action(action)

    @property
    def _value(self) -> Text:
        """The text as it is drawn: what a terminal would obey is replaced; ``value`` keeps it."""
        text = super()._value
        text.plain = printable(text.plain)
        return text

    def on_mount(self) -> None:
        """A cursor that blinks would be sent over the line all the time."""
        self.cursor_blink = False
