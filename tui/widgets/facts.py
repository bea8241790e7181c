"""Keys and what they say, one to a line; it scrolls."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.binding import Binding
from textual.events import Resize

from torchdeck.core.text import printable
from torchdeck.tui.drawing.colours import colour
from torchdeck.tui.widgets.lines import Lines


class Facts(Lines, can_focus=True):
    """Lines of key and value; or lines as they are (key empty)."""

    BINDINGS = [
        Binding("j,down", "scroll_by(1)", "Down", show=False, id="facts.down", tooltip="One line down"),
        Binding("k,up", "scroll_by(-1)", "Up", show=False, id="facts.up", tooltip="One line up"),
        Binding(
            "ctrl+d,pagedown", "scroll_by(10)", "Page down", show=False, id="facts.page-down", tooltip="Ten lines down"
        ),
        Binding("ctrl+u,pageup", "scroll_by(-10)", "Page up", show=False, id="facts.page-up", tooltip="Ten lines up"),
    ]
    DEFAULT_CSS = "Facts { height: 1fr; padding: 0 1; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._facts: Sequence[tuple[str, str]] = ()
        self._top = 0

    def show(self, facts: Sequence[tuple[str, str]]) -> None:
        """Show these; others than before begin at the top."""
        if facts != self._facts:
            self._top = 0 if [k for k, _ in facts] != [k for k, _ in self._facts] else self._top
            self._facts = list(facts)
        self.draw()

    def on_resize(self, event: Resize) -> None:
        """More lines, or fewer."""
        self.draw()

    def draw(self) -> None:
        """Bring it up to date."""
        theme = self.app.theme_variables
        width = min(24, max([len(key) for key, _ in self._facts] + [0]))
        rows = self.size.height
        self._top = max(0, min(self._top, len(self._facts) - rows))
        lines = []
        for key, words in self._facts[self._top : self._top + rows]:
            text = Text(no_wrap=True)
            if key:
                text.append(f"{printable(key)[:24]:<{width}}  ", style=colour(theme, "text-muted"))
            text.append(printable(words))
            text.truncate(max(self.size.width, 1), overflow="ellipsis")
            lines.append(text)
        self.set_lines(lines + [Text("")] * (rows - len(lines)))

    def action_scroll_by(self, by: int) -> None:
        """Scroll."""
        self._top += by
        self.draw()
