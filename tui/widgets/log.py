"""What the run said."""

from __future__ import annotations

import time

from rich.text import Text
from textual.binding import Binding
from textual.events import Resize
from textual.widgets import RichLog

from torchdeck.core.runs.history import History
from torchdeck.core.text import printable_lines
from torchdeck.tui.drawing.colours import colour

#: Seconds between two times that lines are written while a run goes on: each scrolls the whole pane over the line.
_EVERY = 1.0

_STYLES = {"warning": "warning", "error": "error", "debug": "text-muted", "print": "accent"}


class Log(RichLog):
    """The last lines of the run; it follows them unless it was scrolled up."""

    BINDINGS = [
        Binding("j,down", "scroll_down", "Down", show=False, id="log.down", tooltip="One line down"),
        Binding("k,up", "scroll_up", "Up", show=False, id="log.up", tooltip="One line up"),
        Binding("g,home", "scroll_home", "First", show=False, id="log.first", tooltip="To the first line"),
        Binding("G,end", "scroll_end", "Last", id="log.last", tooltip="To the last line, and follow"),
        Binding("c", "copy", "Copy", id="log.copy", tooltip="Copy the log to the clipboard (OSC 52)"),
    ]

    DEFAULT_CSS = (
        "Log { height: 1fr; min-height: 1; background: $background; scrollbar-size-vertical: 1; "
        "overflow-x: hidden; overflow-y: auto; }"
    )

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, wrap=True, max_lines=2000, auto_scroll=False)
        self._history = History()
        self._told = 0
        self._wrote = 0.0

    def show(self, history: History) -> None:
        """Write the lines that are new."""
        if history is not self._history:
            self._history, self._told, self._wrote = history, 0, 0.0
            self.clear()
        new = history.lines - self._told
        now = time.monotonic()
        if not new or not self.size.width or (history.state == "running" and now - self._wrote < _EVERY):
            return
        self._wrote = now
        with history.lock:
            lines = list(history.log)[-new:]
            self._told = history.lines
        follow = self.max_scroll_y - self.scroll_y <= 1
        for line in lines:
            self.write(self._styled(line.time, line.level, line.text), scroll_end=False)
        if follow:
            self.scroll_end(animate=False)

    def _styled(self, at: float, level: str, words: str) -> Text:
        text = Text()
        text.append(time.strftime("%H:%M:%S ", time.localtime(at)), style="dim")
        text.append(printable_lines(words), style=colour(self.app.theme_variables, _STYLES.get(level, "")))
        return text

    def on_resize(self, event: Resize) -> None:
        """Lines are wrapped anew."""
        history, self._history = self._history, History()
        self._wrote = 0.0
        self.show(history)

    def action_copy(self) -> None:
        """Copy all lines."""
        with self._history.lock:
            lines = [line.text for line in self._history.log]
        self.app.copy_to_clipboard("\n".join(lines))
        self.notify(f"{len(lines)} lines copied")
