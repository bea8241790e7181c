"""The keys of where you are, in one line at the bottom.

Textual's own footer mounts a widget for each key whenever the focus moves, which takes longer than all the rest of a
pane's change; this is one line of text.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual.events import Click
from textual.screen import Screen

from torchdeck.tui.drawing.colours import colour
from torchdeck.tui.widgets.lines import Lines


class KeyBar(Lines):
    """Help first, then the keys of the focused pane, then those of the screen, as many as fit."""

    DEFAULT_CSS = "KeyBar { height: 1; dock: bottom; background: $panel; padding: 0 1; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._places: list[tuple[int, int, str, Any]] = []

    def on_mount(self) -> None:
        """Follow the focus."""
        self.screen.bindings_updated_signal.subscribe(self, self._changed)

    def on_resize(self) -> None:
        """More keys fit, or fewer."""
        self._changed(self.screen)

    def _changed(self, screen: Screen) -> None:
        if not self.is_attached or not self.size.width:
            return
        theme = self.app.theme_variables
        active = [b for b in screen.active_bindings.values() if b.enabled and b.binding.show]
        active.sort(key=lambda b: b.binding.id != "app.help")  # sorting is stable: all else stays in its order
        text = Text(no_wrap=True)
        self._places = []
        seen: set[str] = set()
        for node, binding, _, _ in active:
            key = self.app.get_key_display(binding)
            width = len(key) + len(binding.description) + 3
            if binding.action in seen or text.cell_len + width > self.size.width:
                continue
            seen.add(binding.action)
            start = text.cell_len
            text.append(key, style=f"bold {colour(theme, 'footer-key-foreground') or colour(theme, 'accent')}")
            text.append(f" {binding.description}  ")
            self._places.append((start, text.cell_len - 1, binding.action, node))
        self.set_lines([text])

    async def on_click(self, event: Click) -> None:
        """A click on a key does what the key does."""
        offset = event.get_content_offset(self)
        for start, end, action, node in self._places:
            if offset is not None and start <= offset.x < end:
                await self.app.run_action(action, node)
                return
