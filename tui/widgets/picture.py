"""A picture of a study that is drawn anew for each look and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.text import Text
from textual.binding import Binding
from textual.events import Resize
from textual.message import Message

from torchdeck.tui.drawing.colours import colour
from torchdeck.tui.drawing.study import STYLES
from torchdeck.tui.widgets.lines import Lines

#: Draws lines for a width, a height and styles.
Draw = Callable[[int, int, Mapping[str, str]], list[Text]]

_THEME = {
    "point": "primary",
    "best": "success",
    "line": "success",
    "chosen": "accent",
    "bad": "error",
    "middle": "warning",
    "good": "success",
}
_BOLD = ("best", "chosen", "title")


def _style(theme: dict[str, str], name: str) -> str:
    """The rich style of a part of a picture, in the theme's colours."""
    plain = "text-muted" if name in ("axis", "pruned") else ""
    tone = colour(theme, _THEME.get(name, plain))
    return f"bold {tone}".strip() if name in _BOLD else tone


class Picture(Lines, can_focus=True):
    """Lines that a function draws; the arrows ask for other parameters."""

    BINDINGS = [
        Binding("left,h", "turn(-1, 0)", "Before", show=False, id="picture.left", tooltip="The previous parameter"),
        Binding("right,l", "turn(1, 0)", "Next", show=False, id="picture.right", tooltip="The next parameter"),
        Binding(
            "up,k",
            "turn(0, -1)",
            "Up",
            show=False,
            id="picture.up",
            tooltip="In a contour: the previous parameter of the vertical axis",
        ),
        Binding(
            "down,j",
            "turn(0, 1)",
            "Down",
            show=False,
            id="picture.down",
            tooltip="In a contour: the next parameter of the vertical axis",
        ),
    ]
    DEFAULT_CSS = "Picture { height: 1fr; }"

    class Turned(Message):
        """Other parameters are wanted: so many further."""

        def __init__(self, first: int, second: int) -> None:
            super().__init__()
            self.first, self.second = first, second

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._draw: Draw | None = None

    def show(self, draw: Draw) -> None:
        """Draw this from now on."""
        self._draw = draw
        self.redraw()

    def on_resize(self, event: Resize) -> None:
        """Draw anew."""
        self.redraw()

    def redraw(self) -> None:
        """Bring it up to date."""
        width, height = self.size.width, self.size.height
        if self._draw is None or width < 8 or height < 3:
            return
        theme = self.app.theme_variables
        styles = {name: _style(theme, name) for name in STYLES}
        lines = self._draw(width, height, styles)
        self.set_lines(lines[:height] + [Text("")] * (height - len(lines)))

    def action_turn(self, first: int, second: int) -> None:
        """Ask for other parameters."""
        self.post_message(self.Turned(first, second))
