"""Where the panes are at each size of the terminal.

narrow: one pane at a time, and the log's end below the charts; normal: one pane at the side of charts and log; wide:
all at once.
"""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.geometry import Size
from textual.widget import Widget

#: Panes in the order of their numbers, with their titles.
PANES = {
    "experiment": "Experiment",
    "charts": "Charts",
    "model": "Model",
    "data": "Data",
    "device": "Device",
    "log": "Log",
    "queue": "Queue",
}


#: A border that is there but does not call, as alpha in hexadecimal.
_FAINT = "4c"


class Pane(Vertical):
    """A box with a number and a title around a widget."""

    DEFAULT_CSS = """
    Pane { border: round $foreground 30%; border-title-color: $text-muted; height: 1fr; width: 1fr; }
    """

    def __init__(self, name: str, content: Widget) -> None:
        super().__init__(id=f"pane-{name}")
        number = list(PANES).index(name) + 1
        self.border_title = f"{number} {PANES[name]}"
        self.key = name
        self._content = content
        self._look: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """What is in it."""
        yield self._content

    def mark(self, current: bool) -> None:
        """Show that the focus is in it.

        This is done by hand: a rule with :focus-within has every widget of the pane matched against all rules again at
        each move of the focus, which takes longer than drawing.
        """
        theme = self.app.theme_variables
        front = theme["foreground"]
        faint = front[:7] + _FAINT if front.startswith("#") else front
        bare, colour = self.has_class("-bare"), theme["primary"] if current else faint
        key = (bare, colour, theme["background"])
        if key != self._look:
            self._look = key
            self.styles.border = ("none", colour) if bare else ("round", colour)
            self.styles.border_title_color = theme["primary"] if current else front


class Panes(Horizontal):
    """All panes, in three columns: set up, look, watch."""

    DEFAULT_CSS = """
    Panes { height: 1fr;
        & > Vertical { height: 1fr; }
        & > #setup, & > #look { width: 46; }
        & > #watch { width: 1fr; }
        & #pane-log { height: 8; }
        & #pane-queue { height: 7; }
        &.-wide > #look { width: 62; }
        &.-wide > #setup { width: 50; }
        &.-wide #pane-device { height: 14; }
        &.-wide #pane-log { height: 12; }
        &.-narrow > #setup, &.-narrow > #look { width: 1fr; }
        &.-narrow #pane-log, &.-narrow #pane-queue, &.-normal #pane-queue { height: 1fr; }
        &.-narrow #pane-log.-tail { height: 3; }
        &.-narrow #pane-log.-tail Log { scrollbar-size-vertical: 0; }
        &.-tiny #pane-log.-tail { display: none; }
        &.-alone > #setup, &.-alone > #look { width: 1fr; }
        &.-alone #pane-queue, &.-alone #pane-device, &.-alone #pane-log { height: 1fr; }
    }
    """

    def __init__(self, contents: dict[str, Widget]) -> None:
        super().__init__()
        self._contents = contents
        self.current = "experiment"
        self._side = "experiment"
        self.alone = False
        self.mode = ""

    def compose(self) -> ComposeResult:
        """Three columns."""
        with Vertical(id="setup"):
            yield self._pane("experiment")
            yield self._pane("queue")
        with Vertical(id="look"):
            yield self._pane("model")
            yield self._pane("data")
            yield self._pane("device")
        with Vertical(id="watch"):
            yield self._pane("charts")
            yield self._pane("log")

    def _pane(self, name: str) -> Pane:
        return Pane(name, self._contents[name])

    def pane(self, name: str) -> Pane:
        """The pane of that name."""
        return self.query_one(f"#pane-{name}", Pane)

    def shown(self) -> list[str]:
        """Names of the panes that are shown, in the order of their numbers."""
        return [name for name in PANES if self.pane(name).display]

    def choose(self, name: str) -> bool:
        """Make a pane the current one, and show it; tells whether anything came into sight."""
        self.current = name
        if name not in ("charts", "log"):
            self._side = name
        return self.place()

    def fit(self, size: Size) -> None:
        """Arrange for a terminal of this size."""
        mode = "wide" if size.width >= 160 and size.height >= 40 else "normal"
        if size.width < 100 or size.height < 26:
            mode = "narrow"
        self.mode = mode
        for name in ("narrow", "normal", "wide"):
            self.set_class(mode == name, f"-{name}")
        self.set_class(size.height < 14, "-tiny")
        self.place()

    def place(self) -> bool:
        """Show what is to be seen, hide the rest; tells whether anything came into sight."""
        single = self.mode == "narrow" or self.alone
        self.set_class(self.alone, "-alone")
        shown = {self.current} if single else set(PANES)
        if single and self.current == "charts" and not self.alone:
            shown.add("log")
        elif not single and self.mode == "normal":
            shown = {"charts", "log", self._side}
        before = self.shown()
        for name in PANES:
            pane = self.pane(name)
            if pane.display != (name in shown):
                pane.display = name in shown
            pane.set_class(self.mode == "narrow", "-bare")
            pane.set_class(single and name == "log" and self.current == "charts", "-tail")
        for column in self.query("Panes > Vertical").results(Vertical):
            some = any(pane.display for pane in column.query(Pane))
            if column.display != some:
                column.display = some
        self.mark()
        return bool(set(self.shown()) - set(before))

    def mark(self) -> None:
        """Show which pane is the current one."""
        for name in PANES:
            self.pane(name).mark(name == self.current)
