"""The top line of every screen but Train: the screens with their keys, and what this one says of itself."""

from __future__ import annotations

from rich.text import Text

from torchdeck.tui.drawing.colours import colour
from torchdeck.tui.screen_list import SCREENS
from torchdeck.tui.widgets.lines import Lines


class Tabs(Lines):
    """One line."""

    DEFAULT_CSS = "Tabs { height: 1; background: $panel; }"

    def show(self, current: str, words: str = "") -> None:
        """Mark the current screen; ``words`` stand on the right."""
        theme = self.app.theme_variables
        text = Text(no_wrap=True)
        text.append(" torchdeck ", style=f"bold {colour(theme, 'primary')}")
        for name, entry in SCREENS.items():
            text.append(f" {entry.key} {entry.title} ", style="bold reverse" if name == current else "")
        room = self.size.width - text.cell_len - 1
        if words and room > 8:
            words = words if len(words) <= room else words[: room - 1] + "…"
            text.append(" " * (room - len(words)) + words, style=colour(theme, "text-muted"))
        self.set_lines([text])
