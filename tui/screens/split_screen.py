"""A screen in two halves: a list above, and one of several views of what is chosen below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from textual.binding import Binding
from textual.containers import Vertical
from textual.events import Resize
from textual.screen import Screen
from textual.widget import Widget

from torchdeck.tui.pacing import Wake
from torchdeck.tui.widgets.table import Table


def pane_bindings(prefix: str, panes: Mapping[str, str]) -> list[Binding]:
    """A number key for each pane (the tenth is 0), tab between the halves, and one half alone."""
    return [
        *(
            Binding(
                str(number % 10),
                f"pane('{name}')",
                title,
                show=False,
                id=f"{prefix}.pane-{name}",
                tooltip=f"Go to {title}",
            )
            for number, (name, title) in enumerate(panes.items(), 1)
        ),
        Binding(
            "tab",
            "next_pane",
            "Next pane",
            show=False,
            id=f"{prefix}.next",
            tooltip="From the list to what is below it, and back",
        ),
        Binding("Z", "alone", "One pane", show=False, id=f"{prefix}.alone", tooltip="This pane alone, or both again"),
    ]


class SplitScreen(Screen):
    """The list is ``#PREFIX-list``, the lower half ``#PREFIX-below``; its children are shown one at a time."""

    PREFIX: ClassVar[str]
    #: Titles of the panes by name; the first is the list.
    PANES: ClassVar[Mapping[str, str]]
    #: Columns that the titles of all panes need beside their numbers.
    WIDE: ClassVar[int] = 0

    #: The pane that is shown below.
    pane = ""
    _alone = ""

    def __init__(self) -> None:
        super().__init__()
        #: Set to look again at once.
        self._wake = Wake()

    def on_screen_resume(self) -> None:
        """Look at once."""
        self._wake.now()

    def on_resize(self, event: Resize) -> None:
        """Draw anew."""
        self.call_after_refresh(self.recolour)

    def refresh_now(self) -> None:
        """Look again at once."""
        self._wake.now()

    @property
    def listed(self) -> Table:
        """The list."""
        return self.query_one(f"#{self.PREFIX}-list", Table)

    @property
    def below(self) -> Vertical:
        """The lower half."""
        return self.query_one(f"#{self.PREFIX}-below", Vertical)

    def view_of(self, pane: str) -> Widget:
        """The widget that shows a pane."""
        return self.query_one(f"#{self.PREFIX}-{pane}")

    def recolour(self) -> None:
        """Draw everything anew."""
        raise NotImplementedError

    def draw_below(self) -> None:
        """Draw what is below anew."""
        raise NotImplementedError

    def show_pane(self, name: str) -> None:
        """Show a pane below."""
        self.pane = name
        view = self.view_of(name)
        for one in self.below.children:
            one.set_class(one is view, "-shown")
        titles = []
        for number, (pane, title) in enumerate(self.PANES.items(), 1):
            if pane == name:
                titles.append(f"{number % 10} [b]{title}[/b]")
            else:
                titles.append(f"{number % 10} {title}" if self.size.width >= self.WIDE else f"{number % 10}")
        self.below.border_title = "  ".join(titles[1:])  # the first is the list
        self.call_after_refresh(self.draw_below)

    def action_pane(self, name: str) -> None:
        """Go to the list, or to a view."""
        if name == next(iter(self.PANES)):
            self.set_focus(self.listed)
        else:
            self.show_pane(name)
            self.set_focus(self.view_of(name))
        if self._alone:
            self._set_alone("list" if self.listed.has_focus else "below")

    def action_next_pane(self) -> None:
        """From the list to the view, and back."""
        self.action_pane(self.pane if self.listed.has_focus else next(iter(self.PANES)))

    def action_alone(self) -> None:
        """The pane with the focus alone, or both."""
        if self._alone:
            self._set_alone("")
        else:
            self._set_alone("list" if self.listed.has_focus else "below")

    def _set_alone(self, which: str) -> None:
        self._alone = which
        self.listed.snug = which != "list"
        self.listed.display = which != "below"
        self.below.display = which != "list"
        self.call_after_refresh(self.recolour)

    def step_back(self) -> bool:
        """Both halves again, then to the list; tells whether there was anything to step back from."""
        if self._alone:
            self._set_alone("")
        elif not self.listed.has_focus:
            self.set_focus(self.listed)
        else:
            return False
        return True
