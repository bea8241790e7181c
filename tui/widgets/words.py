"""Words on the screen that may hold text from outside."""

from __future__ import annotations

from textual.visual import VisualType
from textual.widgets import Static

from torchdeck.core.text import printable_lines


class Words(Static):
    """Shows a text as it is: brackets in it are no markup, and what a terminal would obey is replaced."""

    def __init__(self, content: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(printable_lines(content), id=id, classes=classes, markup=False)

    def update(self, content: VisualType = "", *, layout: bool = True) -> None:
        """Show another text."""
        super().update(printable_lines(content) if isinstance(content, str) else content, layout=layout)
