"""Editing one field of the experiment where it stands: what is wrong is told while typing."""

from __future__ import annotations

from collections.abc import Callable

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.widgets import Input

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.fields import Field, field_text
from torchdeck.tui.widgets.text_input import TextInput
from torchdeck.tui.widgets.words import Words


class FieldEditor(Vertical):
    """One line to type in, and below it what may be typed or what is wrong."""

    BINDINGS = [
        Binding("escape", "close", "Back", id="editor.close", tooltip="Leave the field as it was"),
    ]
    DEFAULT_CSS = """
    FieldEditor { layer: editor; height: auto; background: $boost; display: none;
        &.-open { display: block; }
        & Input { height: 1; border: none; padding: 0 1; background: $surface; }
        & Input:focus { border: none; background: $primary 20%; }
        & #field-words { height: auto; padding: 0 1; color: $text-muted; }
        &.-wrong #field-words { color: $text-error; text-style: bold; }
    }
    """

    class Accepted(Message):
        """The text was right and is to be taken."""

        def __init__(self, field: Field, text: str) -> None:
            super().__init__()
            self.field, self.text = field, text

    class Closed(Message):
        """Editing is over."""

    def __init__(self, check: Callable[[Field, str], None]) -> None:
        """``check`` raises UserError for a text that is wrong."""
        super().__init__(id="field-editor")
        self._check = check
        self.field: Field | None = None

    def compose(self) -> ComposeResult:
        """The line, and the words below it."""
        yield TextInput(id="field-input", select_on_focus=True)
        yield Words(id="field-words")

    def open(self, field: Field, text: str | None = None) -> None:
        """Edit a field, beginning with its value or another text."""
        self.field = field
        box = self.query_one(Input)
        box.suggester = SuggestFromList(field.choices, case_sensitive=False) if field.choices else None
        with self.prevent(Input.Changed):
            box.value = field_text(field.value) if text is None else text
        box.placeholder = field_text(field.default) or "not set"
        self.add_class("-open")
        self._judge(box.value)
        box.focus()

    def _judge(self, text: str) -> bool:
        assert self.field is not None
        words, wrong = f"{self.field.help} {self.field.limits[:1].upper()}{self.field.limits[1:]}.".strip(), False
        if self.field.choices and len(self.field.choices) <= 12:
            words += f" Choices: {', '.join(self.field.choices)}."
        words += f" Default: {field_text(self.field.default) or 'not set'}."
        try:
            self._check(self.field, text)
        except UserError as error:
            words, wrong = str(error), True
        self.set_class(wrong, "-wrong")
        self.query_one("#field-words", Words).update(words)
        return not wrong

    @property
    def words(self) -> str:
        """What stands below the line."""
        return str(self.query_one("#field-words", Words).content)

    @on(Input.Changed)
    def changed(self, event: Input.Changed) -> None:
        """Tell at once what is wrong."""
        event.stop()
        if self.field is not None:
            self._judge(event.value)

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        """Take what is right; what is wrong stays open."""
        event.stop()
        if self.field is None:
            return
        if self._judge(event.value):
            field = self.field
            self.action_close()
            self.post_message(self.Accepted(field, event.value))
        else:
            self.app.bell()

    def action_close(self) -> None:
        """Close without a change."""
        self.field = None
        self.remove_class("-open", "-wrong")
        self.post_message(self.Closed())
