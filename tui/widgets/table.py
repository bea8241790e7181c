"""A table of any length that draws only what is seen, and sends only what has changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from textual.binding import Binding
from textual.events import Click, MouseScrollDown, MouseScrollUp, Resize
from textual.message import Message

from torchdeck.core.text import printable
from torchdeck.tui.drawing.colours import colour, on
from torchdeck.tui.widgets.lines import Lines
from torchdeck.tui.widgets.vim import LIST_KEYS


@dataclass(frozen=True)
class TableColumn:
    """A column: its title, and the text of each item."""

    title: str
    text: Callable[[Any], str]
    right: bool = False
    #: Characters, at most.
    width: int = 24


class Table(Lines, can_focus=True):
    """Rows under a cursor; some may be marked. Items are told apart by a key, so that the cursor stays on its item
    when the list changes."""

    BINDINGS = [
        *LIST_KEYS,
        Binding("down", "cursor_down", "Down", show=False, id="list.down", tooltip="One line down"),
        Binding("up", "cursor_up", "Up", show=False, id="list.up", tooltip="One line up"),
        Binding("pagedown", "page_down", "Page down", show=False, id="list.page-down", tooltip="A page down"),
        Binding("pageup", "page_up", "Page up", show=False, id="list.page-up", tooltip="A page up"),
        Binding("home", "first", "First", show=False, id="list.first", tooltip="To the first line"),
        Binding("end", "last", "Last", show=False, id="list.last", tooltip="To the last line"),
        Binding(
            "left,h", "scroll_columns(-1)", "Columns left", show=False, id="table.left", tooltip="Columns to the left"
        ),
        Binding(
            "right,l",
            "scroll_columns(1)",
            "Columns right",
            show=False,
            id="table.right",
            tooltip="Columns to the right",
        ),
        Binding("enter", "choose", "Open", show=False, id="table.choose", tooltip="Open it"),
    ]
    DEFAULT_CSS = "Table { height: 1fr; }"

    class Moved(Message):
        """The cursor is on another item; None when there is none."""

        def __init__(self, table: Table, item: Any) -> None:
            super().__init__()
            self.table, self.item = table, item

        @property
        def control(self) -> Table:
            """The table, for selectors."""
            return self.table

    class Chosen(Moved):
        """Enter, or a double click."""

    def __init__(self, *, id: str, empty: str = "", snug: bool = False) -> None:
        super().__init__(id=id)
        #: Whether it is no higher than its rows; what is below then has the room.
        self._snug = snug
        self.columns: Sequence[TableColumn] = ()
        self.items: list[Any] = []
        self._all: Sequence[Any] = ()
        self.cursor = 0
        #: Keys of the items that are marked.
        self.marks: list[Hashable] = []
        #: What is said when there is nothing.
        self.empty = empty
        #: A theme colour for an item's line; empty: as it is.
        self.tint: Callable[[Any], str] = lambda item: ""
        #: Sign and style of the mark of the first, second ... marked item.
        self.mark: Callable[[int], tuple[str, str]] = lambda number: ("◉", "")
        self._key: Callable[[Any], Hashable] = lambda item: item
        self._top = 0
        self._first = 0
        self._told: Hashable | None = None

    @property
    def snug(self) -> bool:
        """Whether it is no higher than its rows."""
        return self._snug

    @snug.setter
    def snug(self, snug: bool) -> None:
        self._snug = snug
        self._fit()

    def _fit(self) -> None:
        self.styles.max_height = max(len(self.items) + 1, 3) if self._snug else None

    def show(
        self,
        columns: Sequence[Any],
        items: Sequence[Any],
        key: Callable[[Any], Hashable],
        among: Sequence[Any] | None = None,
    ) -> None:
        """Show these; the cursor stays on the item it was on, or at its place where that has gone.

        ``among``: all that there are, of which a filter shows ``items``; what it hides stays marked.
        """
        before = self._key(self.items[self.cursor]) if self.items else None
        self.columns, self.items, self._key = columns, list(items), key
        place = (
            next((i for i, item in enumerate(self.items) if key(item) == before), None) if before is not None else None
        )
        self.cursor = place if place is not None else max(0, min(self.cursor, len(self.items) - 1))
        self._all = self.items if among is None else among
        self._fit()
        if self.marks:
            there = {key(item) for item in self._all}
            self.marks = [mark for mark in self.marks if mark in there]
        self._first = min(self._first, max(0, len(columns) - 2))
        self.draw()

    @property
    def current(self) -> Any:
        """The item under the cursor; None when there is none."""
        return self.items[self.cursor] if 0 <= self.cursor < len(self.items) else None

    @property
    def marked(self) -> list[Any]:
        """The marked items, in the order in which they were marked."""
        by_key = {self._key(item): item for item in self._all} if self.marks else {}
        return [by_key[mark] for mark in self.marks]

    @property
    def wanted(self) -> list[Any]:
        """The marked items, or the one under the cursor."""
        return self.marked or ([self.current] if self.current is not None else [])

    def toggle(self) -> None:
        """Mark the item under the cursor, or not, and go to the next."""
        if self.current is None:
            return
        key = self._key(self.current)
        if key in self.marks:
            self.marks.remove(key)
        else:
            self.marks.append(key)
        self.action_cursor_down()
        self.draw()

    def go(self, key: Hashable) -> bool:
        """Put the cursor on an item; tells whether it is there."""
        place = next((i for i, item in enumerate(self.items) if self._key(item) == key), None)
        if place is not None:
            self._move(place)
        return place is not None

    # --- drawing -----------------------------------------------------------------------------------------------------

    def on_resize(self, event: Resize) -> None:
        """More lines, or fewer."""
        self.draw()

    def on_focus(self) -> None:
        """The cursor is bright."""
        self.draw()

    def on_blur(self) -> None:
        """The cursor is faint."""
        self.draw()

    def draw(self) -> None:
        """Bring it up to date."""
        width, rows = self.size.width, self.size.height - 1
        if self._told != (told := self._key(self.current) if self.current is not None else None):
            self._told = told
            self.post_message(self.Moved(self, self.current))
        if width < 4 or rows < 1:
            return
        self._top = max(0, min(self._top, self.cursor, len(self.items) - rows), self.cursor - rows + 1)
        shown = self.items[self._top : self._top + rows]
        cells = [[column.text(item) for column in self.columns] for item in shown]
        widths = [
            min(c.width, max([len(c.title), *(len(row[i]) for row in cells)])) for i, c in enumerate(self.columns)
        ]
        theme = self.app.theme_variables
        lines = [self._line([c.title for c in self.columns], widths, f"bold {colour(theme, 'text-muted')}", "  ")]
        for number, (item, row) in enumerate(zip(shown, cells, strict=True)):
            place = self._top + number
            key = self._key(item)
            mark = self.mark(self.marks.index(key)) if key in self.marks else (" ", "")
            tint = self.tint(item)
            style = colour(theme, tint) if tint else ""
            line = self._line(row, widths, style, f"{mark[0]} ")
            line.stylize(mark[1], 0, 1)
            if place == self.cursor:
                line.pad_right(max(0, width - line.cell_len))
                line.stylize("reverse bold" if self.has_focus else f"bold{on(theme, 'surface-lighten-2')}")
            lines.append(line)
        if not self.items and self.empty:
            lines.append(Text(f"  {self.empty}", style=colour(theme, "text-muted"), no_wrap=True))
        self.set_lines(lines + [Text("")] * (rows + 1 - len(lines)))

    def _line(self, cells: Sequence[str], widths: Sequence[int], style: str, start: str) -> Text:
        text = Text(start, style=style, no_wrap=True)
        for number, (cell, width, column) in enumerate(zip(cells, widths, self.columns, strict=True)):
            if 0 < number <= self._first:  # the first column stays, as the names do in a sheet
                continue
            if text.cell_len + min(width, 8) > self.size.width:
                break
            part = Text(printable(cell), no_wrap=True)
            part.truncate(width, overflow="ellipsis")
            gap = " " * max(0, width - part.cell_len)
            text.append(gap + part.plain if column.right else part.plain + gap)
            text.append("  ")
        text.truncate(self.size.width)
        return text

    # --- moving ------------------------------------------------------------------------------------------------------

    def _move(self, place: int) -> None:
        self.cursor = max(0, min(place, len(self.items) - 1))
        self.draw()

    def action_cursor_down(self) -> None:
        """One line down."""
        self._move(self.cursor + 1)

    def action_cursor_up(self) -> None:
        """One line up."""
        self._move(self.cursor - 1)

    def action_page_down(self) -> None:
        """A page down."""
        self._move(self.cursor + max(1, self.size.height - 2))

    def action_page_up(self) -> None:
        """A page up."""
        self._move(self.cursor - max(1, self.size.height - 2))

    def action_first(self) -> None:
        """To the first line."""
        self._move(0)

    def action_last(self) -> None:
        """To the last line."""
        self._move(len(self.items) - 1)

    def action_scroll_columns(self, by: int) -> None:
        """Show further columns."""
        self._first = max(0, min(self._first + by, len(self.columns) - 2))
        self.draw()

    def action_choose(self) -> None:
        """Open the item under the cursor."""
        if self.current is not None:
            self.post_message(self.Chosen(self, self.current))

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        """Three lines down."""
        self._move(self.cursor + 3)

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        """Three lines up."""
        self._move(self.cursor - 3)

    def on_click(self, event: Click) -> None:
        """Put the cursor there; a double click opens."""
        self.focus()
        place = self._top + event.y - 1
        if event.y >= 1 and place < len(self.items):
            self._move(place)
            if event.chain == 2:
                self.action_choose()
