"""Small screens over the others: a question, a line to type, a list to choose from. Escape always backs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from torchdeck.core.errors import UserError
from torchdeck.core.text import printable
from torchdeck.tui.widgets.text_input import TextInput
from torchdeck.tui.widgets.vim import LIST_KEYS
from torchdeck.tui.widgets.words import Words


class Dialog(ModalScreen):
    """A box in the middle."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back", id="dialog.leave", tooltip="Back, changing nothing"),
    ]
    DEFAULT_CSS = """
    Dialog { align: center middle; background: $background 60%;
        & > .box { width: 72; max-width: 96%; height: auto; max-height: 90%; background: $surface;
            border: round $primary; padding: 0 1; }
        & .title { text-style: bold; width: 100%; height: auto; }
        & .words { color: $text-muted; width: 100%; height: auto; }
        & .words.-wrong { color: $text-error; text-style: bold; }
        & Input { height: 1; border: none; padding: 0 1; background: $boost; margin: 1 0 0 0; }
        & Input:focus { border: none; background: $primary 20%; }
        & OptionList { height: auto; max-height: 18; border: none; background: $surface; padding: 0;
            scrollbar-size-vertical: 1; }
        & OptionList:focus { border: none; }
    }
    """

    def action_leave(self) -> None:
        """Change nothing."""
        self.dismiss(None)


@dataclass(frozen=True)
class Answer:
    """One answer to a question: the key that gives it, and what it means."""

    key: str
    value: str
    words: str


class Question(Dialog):
    """A question with a few answers, each a key; the arrows and enter work as well."""

    def __init__(self, title: str, answers: Sequence[Answer]) -> None:
        super().__init__()
        self._title, self.answers = title, answers

    def compose(self) -> ComposeResult:
        """The question and its answers."""
        with Vertical(classes="box"):
            yield Words(self._title, classes="title")
            yield Choices(*(Option(Text(f" {a.key}  {a.words}"), id=a.value) for a in self.answers))

    def on_mount(self) -> None:
        """The first answer is the harmless one."""
        self.query_one(OptionList).focus()

    def on_key(self, event: events.Key) -> None:
        """A key that is an answer."""
        for answer in self.answers:
            if event.character == answer.key:
                event.stop()
                self.dismiss(answer.value)

    @on(OptionList.OptionSelected)
    def chosen(self, event: OptionList.OptionSelected) -> None:
        """Enter on an answer."""
        event.stop()
        self.dismiss(event.option.id)


class Choices(OptionList):
    """A list with vim's keys."""

    BINDINGS: ClassVar[list[BindingType]] = [*LIST_KEYS]


class TextDialog(Dialog):
    """One line to type; ``check`` raises UserError for what is wrong, and that is told while typing."""

    def __init__(self, title: str, words: str = "", value: str = "", check: Callable[[str], Any] | None = None) -> None:
        super().__init__()
        self._title, self._words, self._value, self._check = title, words, value, check

    def compose(self) -> ComposeResult:
        """The line and the words around it."""
        with Vertical(classes="box"):
            yield Words(self._title, classes="title")
            yield TextInput(self._value, id="line")
            yield Words(self._words, classes="words")

    def _wrong(self, text: str) -> bool:
        words = self.query_one(".words", Words)
        try:
            if self._check is not None:
                self._check(text)
        except UserError as error:
            words.update(str(error))
            words.add_class("-wrong")
            return True
        words.update(self._words)
        words.remove_class("-wrong")
        return False

    @on(Input.Changed)
    def changed(self, event: Input.Changed) -> None:
        """Tell at once what is wrong."""
        if event.value != self._value:
            self._wrong(event.value)

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        """Take what is right."""
        if self._wrong(event.value):
            self.app.bell()
        else:
            self.dismiss(event.value)


@dataclass(frozen=True)
class Choice:
    """One line of a list: what it gives, its name, and what is said of it."""

    value: Any
    name: str
    words: str = ""
    marked: bool = False


class Pick(Dialog):
    """A list to choose from; typing filters it. With ``many``, space marks and enter gives all that are marked."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "cursor(1)", "Down", show=False, id="pick.down", tooltip="One line down"),
        Binding("up", "cursor(-1)", "Up", show=False, id="pick.up", tooltip="One line up"),
        Binding("pagedown", "cursor(10)", "Page down", show=False, id="pick.page-down", tooltip="Ten lines down"),
        Binding("pageup", "cursor(-10)", "Page up", show=False, id="pick.page-up", tooltip="Ten lines up"),
    ]

    def __init__(
        self, title: str, choices: Sequence[Choice], words: str = "", many: bool = False, value: Any = None
    ) -> None:
        super().__init__()
        self._title, self._choices, self._words, self._many = title, list(choices), words, many
        self._value = value
        self._shown: list[Choice] = []
        self._marked = [c.value for c in choices if c.marked]

    def compose(self) -> ComposeResult:
        """Filter and list."""
        with Vertical(classes="box"):
            yield Words(self._title, classes="title")
            yield TextInput(placeholder="type to filter", id="filter")
            yield OptionList(id="choices", markup=False)
            yield Words(self._words, classes="words")

    def on_mount(self) -> None:
        """All, with the present one chosen."""
        self.query_one(OptionList).can_focus = False
        self._fill("")
        values = [c.value for c in self._shown]
        if self._value in values:
            self.query_one(OptionList).highlighted = values.index(self._value)
        self.query_one(Input).focus()

    def _fill(self, text: str) -> None:
        words = text.lower().split()
        self._shown = [c for c in self._choices if all(w in f"{c.name} {c.words}".lower() for w in words)]
        listed = self.query_one(OptionList)
        place = listed.highlighted or 0
        listed.clear_options()
        width = max([len(c.name) for c in self._choices] + [8])
        for choice in self._shown:
            line = Text(no_wrap=True, overflow="ellipsis")
            if self._many:
                line.append("[x] " if choice.value in self._marked else "[ ] ")
            line.append(f"{printable(choice.name):<{min(width, 30)}}", style="bold")
            line.append(f"  {printable(choice.words)}", style="dim")
            listed.add_option(Option(line))
        if self._shown:
            listed.highlighted = min(place, len(self._shown) - 1)

    @on(Input.Changed)
    def filtered(self, event: Input.Changed) -> None:
        """Show what holds the words that were typed."""
        if self._many and event.value.endswith(" "):  # space marks
            with self.prevent(Input.Changed):
                event.input.value = event.value.rstrip(" ")
            self._mark()
            self._fill(event.input.value)
            return
        self.query_one(OptionList).highlighted = 0 if self._shown else None
        self._fill(event.value)

    def _current(self) -> Choice | None:
        place = self.query_one(OptionList).highlighted
        return self._shown[place] if place is not None and place < len(self._shown) else None

    def _mark(self) -> None:
        choice = self._current()
        if choice is not None:
            if choice.value in self._marked:
                self._marked.remove(choice.value)
            else:
                self._marked.append(choice.value)

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        """Enter gives what is chosen."""
        if self._many:
            self.dismiss(self._marked)
        elif (choice := self._current()) is not None:
            self.dismiss(choice.value)
        else:
            self.app.bell()

    @on(OptionList.OptionSelected)
    def clicked(self, event: OptionList.OptionSelected) -> None:
        """A click chooses."""
        event.stop()
        choice = self._shown[event.option_index]
        if self._many:
            self._mark()
            self._fill(self.query_one(Input).value)
        else:
            self.dismiss(choice.value)

    def action_cursor(self, by: int) -> None:
        """Move in the list."""
        listed = self.query_one(OptionList)
        if self._shown:
            listed.highlighted = max(0, min(len(self._shown) - 1, (listed.highlighted or 0) + by))


def more_than(epochs: int) -> Callable[[str], None]:
    """A check for a number of epochs beyond those done."""

    def check(text: str) -> None:
        if whole_number(text) is None or int(text) <= epochs:
            raise UserError(f"A whole number, more than {epochs}.")

    return check


def whole_number(text: str) -> int | None:
    """A whole number of ordinary digits and length; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
