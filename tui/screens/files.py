"""Picking a file: type a path, with what is there listed below."""

from __future__ import annotations

import os
from pathlib import Path

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from torchdeck.core.text import printable
from torchdeck.tui.screens.dialogs import Dialog
from torchdeck.tui.widgets.text_input import TextInput
from torchdeck.tui.widgets.words import Words

_MOST = 200


class FilePick(Dialog):
    """Gives the path of a file with one of the ``suffixes``; a folder is entered."""

    BINDINGS = [
        Binding("down", "cursor(1)", "Down", show=False, id="files.down", tooltip="One line down"),
        Binding("up", "cursor(-1)", "Up", show=False, id="files.up", tooltip="One line up"),
        Binding("tab", "complete", "Complete", id="files.complete", tooltip="Take the chosen name into the path"),
        Binding("ctrl+w", "parent", "Parent folder", id="files.parent", tooltip="To the parent folder"),
    ]

    def __init__(self, title: str, suffixes: tuple[str, ...], start: Path | None = None) -> None:
        super().__init__()
        self._title, self._suffixes = title, suffixes
        self._start = str(start) if start else ""
        self._names: list[str] = []

    def compose(self) -> ComposeResult:
        """The path and what is there."""
        with Vertical(classes="box"):
            yield Words(self._title, classes="title")
            yield TextInput(self._start, id="path", select_on_focus=False)
            yield OptionList(id="names", markup=False)
            yield Words("", classes="words")

    def on_mount(self) -> None:
        """Begin in the current folder."""
        self.query_one(OptionList).can_focus = False
        self.query_one(Input).focus()
        self._list(self._start)

    def _list(self, text: str) -> None:
        folder, _, beginning = text.rpartition("/")
        where = Path(os.path.expanduser(folder + "/" if folder or text.startswith("/") else "."))  # noqa: PTH111
        words = ""
        names: list[str] = []
        try:
            with os.scandir(where) as entries:
                for entry in entries:
                    if entry.name.startswith(".") and not beginning.startswith("."):
                        continue
                    if not entry.name.lower().startswith(beginning.lower()):
                        continue
                    if entry.is_dir():
                        names.append(entry.name + "/")
                    elif entry.name.endswith(self._suffixes):
                        names.append(entry.name)
        except OSError as error:
            words = f"{str(where)!r} can't be read: {error.strerror}."
        except ValueError:  # a NUL, or half a character: no file is called so
            words = f"{str(where)!r} is not a path."
        self._names = sorted(names, key=lambda n: (n.endswith("/"), n.lower()))[:_MOST]
        listed = self.query_one(OptionList)
        listed.clear_options()
        listed.add_options([Option(Text(printable(name))) for name in self._names])
        if self._names:
            listed.highlighted = 0
        elif not words:
            words = f"No {' or '.join(self._suffixes)} file here begins like this."
        self.query_one(".words", Words).update(words)

    @on(Input.Changed)
    def changed(self, event: Input.Changed) -> None:
        """List what fits the path so far."""
        self._list(event.value)

    def _chosen(self) -> str | None:
        place = self.query_one(OptionList).highlighted
        if place is None or place >= len(self._names):
            return None
        folder, slash, _ = self.query_one(Input).value.rpartition("/")
        return f"{folder}{slash}{self._names[place]}"

    def _take(self, text: str) -> None:
        box = self.query_one(Input)
        box.value = text
        box.cursor_position = len(text)

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        """Enter a folder, or give a file."""
        typed = event.value
        path = typed if Path(os.path.expanduser(typed)).is_file() else self._chosen()  # noqa: PTH111
        if path is None:
            self.app.bell()
        elif path.endswith("/"):
            self._take(path)
        else:
            self.dismiss(path)

    @on(OptionList.OptionSelected)
    def clicked(self, event: OptionList.OptionSelected) -> None:
        """A click does what enter does."""
        event.stop()
        path = self._chosen()
        if path and path.endswith("/"):
            self._take(path)
        elif path:
            self.dismiss(path)

    def action_cursor(self, by: int) -> None:
        """Move in the list."""
        listed = self.query_one(OptionList)
        if self._names:
            listed.highlighted = max(0, min(len(self._names) - 1, (listed.highlighted or 0) + by))

    def action_complete(self) -> None:
        """Take the chosen name into the path."""
        if (path := self._chosen()) is not None:
            self._take(path)

    def action_parent(self) -> None:
        """To the folder above."""
        text = self.query_one(Input).value.rstrip("/")
        self._take(text.rpartition("/")[0] + "/" if "/" in text else "../")
