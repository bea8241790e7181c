"""One chart of the screen: the curves of one scalar, of one run or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style
from textual.events import Click
from textual.message import Message

from torchdeck.tui.drawing.canvas import PlotWindow
from torchdeck.tui.drawing.chart import STYLES, ChartSource, Painter, Scalar, View, curves_of
from torchdeck.tui.drawing.series_colours import series_colours
from torchdeck.tui.widgets.lines import Lines


class Chart(Lines, can_focus=False):
    """A chart; ``draw`` brings it up to date."""

    COMPONENT_CLASSES = {f"chart--{name}" for name in STYLES if not name.startswith("curve-")}
    DEFAULT_CSS = """
    Chart { height: 1fr; width: 1fr; padding: 0 1 0 0;
        & .chart--raw { color: $primary-muted; }
        & .chart--axis { color: $foreground-muted; }
        & .chart--title { text-style: bold; }
        & .chart--cursor { color: $accent; text-style: bold; }
        & .chart--odd { color: $error; text-style: bold; }
    }
    """

    @dataclass
    class Pointed(Message):
        """The mouse pointed to an x."""

        chart: Chart
        x: float

    def __init__(self, scalar: Scalar) -> None:
        super().__init__()
        self._painter = Painter(scalar, self._style, patterned=self.app.no_color)
        self._styles_now: dict[str, Style] = {}

    @property
    def scalar(self) -> Scalar:
        """What it shows."""
        return self._painter.scalar

    @scalar.setter
    def scalar(self, scalar: Scalar) -> None:
        self._painter.scalar = scalar

    @property
    def marked(self) -> bool:
        """Whether it is the chosen one of several."""
        return self._painter.marked

    @marked.setter
    def marked(self, marked: bool) -> None:
        self._painter.marked = marked

    @property
    def window(self) -> PlotWindow | None:
        """What part of the plane is shown; None before the first drawing."""
        return self._painter.window

    def draw(self, sources: Sequence[ChartSource], view: View) -> None:
        """Show what the runs have, as the view wants it."""
        width, height = self.size.width, self.size.height
        if width < 12 or height < 3:
            self.set_lines([])
            return
        curves, end = curves_of(sources, self.scalar, view)
        self.set_lines(self._painter.picture(curves, view, end, width, height))

    def _style(self, name: str) -> Style:
        if name not in self._styles_now:
            kind, _, number = name.partition("-")
            if kind == "curve":
                colours = series_colours(self.app.current_theme, self.app.console.color_system)
                self._styles_now[name] = Style(color=colours[int(number) - 1])
            else:
                self._styles_now[name] = self.get_component_rich_style(f"chart--{name}", partial=True)
        return self._styles_now[name]

    def notify_style_update(self) -> None:
        """Another theme: other colours."""
        super().notify_style_update()
        self._styles_now = {}

    def on_click(self, event: Click) -> None:
        """Point with the mouse."""
        if self.window is not None:
            column = event.x - self._painter.left - 1
            if 0 <= column < self.window.columns:
                self.post_message(self.Pointed(self, self.window.at(column)))
