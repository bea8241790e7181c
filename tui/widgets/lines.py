"""A widget of lines that sends the terminal only what has changed in them.

Textual draws whole regions again; over a slow line a chart that moves by one column must cost a few bytes, not a
screen. So lines are compared with those that are shown, and only the spans that differ are refreshed.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.text import Text
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from torchdeck.core.text import printable


class Lines(Widget):
    """Shows lines; ``set_lines`` changes them."""

    DEFAULT_CSS = "Lines { height: auto; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._lines: list[Strip] = []

    def set_lines(self, lines: Sequence[Text | Strip]) -> None:
        """Show these lines; those that are as before cost nothing."""
        new = [line if isinstance(line, Strip) else self._strip(line) for line in lines]
        old, self._lines = self._lines, new
        if len(old) != len(new) and self.styles.height is not None and self.styles.height.is_auto:
            self.refresh(layout=True)
            return
        for y in range(max(len(old), len(new))):
            before = old[y] if y < len(old) else Strip([])
            after = new[y] if y < len(new) else Strip([])
            span = changed(before, after)
            if span is not None:
                self.refresh(Region(span[0], y, max(span[1] - span[0], 1), 1))

    def _strip(self, text: Text) -> Strip:
        # Text with an end would render a new line as a segment of its own.
        text.end = ""
        if not text.plain.isprintable():  # names from outside: one line stays one, and commands no terminal
            text.plain = printable(text.plain)
        return Strip(text.render(self.app.console))

    @property
    def plain(self) -> list[str]:
        """The lines without their styles."""
        return [line.text.rstrip() for line in self._lines]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many lines as there are."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """One line, as wide as the widget."""
        width = self.size.width
        if y >= len(self._lines):
            return Strip.blank(width, self.rich_style)
        return self._lines[y].adjust_cell_length(width, self.rich_style).apply_style(self.rich_style)


def changed(before: Strip, after: Strip) -> tuple[int, int] | None:
    """The span of cells in which two lines differ; None when they don't."""
    a, b = list(before), list(after)
    if a == b:
        return None
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    x = sum(s.cell_length for s in b[:start])
    if before.cell_length != after.cell_length:
        return x, max(before.cell_length, after.cell_length)
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    return x, after.cell_length - sum(s.cell_length for s in _tail(b, end))


def _tail(segments: list[Segment], count: int) -> list[Segment]:
    return segments[len(segments) - count :]
