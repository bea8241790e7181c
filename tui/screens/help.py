"""The keys of where you are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.widgets import Static

from torchdeck.tui.screens.dialogs import Dialog

_NAMES = {
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "plus": "+",
    "equals_sign": "=",
    "minus": "-",
    "slash": "/",
    "question_mark": "?",
    "full_stop": ".",
    "comma": ",",
    "escape": "esc",
    "space": "space",
    "left": "←",
    "right": "→",
    "up": "↑",
    "down": "↓",
    "exclamation_mark": "!",
}


def keys_of(binding: Binding) -> str:
    """The keys of a binding as they are written on the keyboard."""
    return " ".join(
        "+".join(_NAMES.get(part, part) for part in key.strip().split("+")) if key.strip() != "+" else "+"
        for key in binding.key.split(",")
    )


class Help(Dialog):
    """Groups of keys: of the focused pane, of the screen, of the whole workbench."""

    BINDINGS = [
        Binding("question_mark,q", "leave", "Back", show=False, id="help.leave", tooltip="Back"),
        Binding("j", "down", "Down", show=False, id="help.down", tooltip="Scroll down"),
        Binding("k", "up", "Up", show=False, id="help.up", tooltip="Scroll up"),
    ]
    DEFAULT_CSS = "Help > .box { height: auto; }"

    def __init__(self, groups: Sequence[tuple[str, Sequence[Binding]]]) -> None:
        super().__init__()
        self.groups = groups

    def compose(self) -> ComposeResult:
        """A table."""
        table = Table(box=None, padding=(0, 1), expand=True, show_header=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column()
        for title, bindings in self.groups:
            table.add_row("", "")
            table.add_row(title, "", style="bold underline")
            for binding in bindings:
                table.add_row(keys_of(binding), binding.tooltip or binding.description)
        with VerticalScroll(classes="box"):
            yield Static(table)

    def action_down(self) -> None:
        """Scroll down."""
        self.query_one(VerticalScroll).scroll_down()

    def action_up(self) -> None:
        """Scroll up."""
        self.query_one(VerticalScroll).scroll_up()
