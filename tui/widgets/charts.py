"""The pane of charts: which are shown, and the keys to look at them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Grid
from textual.events import Resize
from textual.message import Message
from textual.widgets import Static

from torchdeck.core.runs.history import History
from torchdeck.core.series import Series
from torchdeck.tui.drawing.chart import ChartSource, Scalar, View, overlaid, scalars, zoomed
from torchdeck.tui.widgets.chart import Chart

#: Characters that a chart wants, at least.
_WIDE, _HIGH = 38, 8
_SMOOTHING = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
#: Not shown before the user picks them.
_HIDDEN = {"memory", "data_wait", "top5", "f1"}
_X = ("step", "epoch", "time")


class Charts(Grid, can_focus=True):
    """Charts of one run, side by side as there is room."""

    BINDINGS = [
        Binding("left,h", "move(-1)", "Cursor", show=False, id="charts.left", tooltip="Move the cursor to the left"),
        Binding(
            "right,l", "move(1)", "Cursor", key_display="←→", id="charts.right", tooltip="Move the cursor to the right"
        ),
        Binding(
            "shift+left,H",
            "move(-10)",
            "Cursor fast",
            show=False,
            id="charts.left-fast",
            tooltip="Move the cursor ten columns to the left",
        ),
        Binding(
            "shift+right,L",
            "move(10)",
            "Cursor fast",
            show=False,
            id="charts.right-fast",
            tooltip="Move the cursor ten columns to the right",
        ),
        Binding(
            "plus,equals_sign",
            "zoom(0.5)",
            "Zoom in",
            show=False,
            id="charts.zoom-in",
            tooltip="Zoom in around the cursor",
        ),
        Binding("minus", "zoom(2.0)", "Zoom out", show=False, id="charts.zoom-out", tooltip="Zoom out"),
        Binding("comma", "pan(-0.25)", "Pan", show=False, id="charts.pan-left", tooltip="Pan to the left"),
        Binding("full_stop", "pan(0.25)", "Pan", show=False, id="charts.pan-right", tooltip="Pan to the right"),
        Binding("0,home", "reset", "All", show=False, id="charts.reset", tooltip="Reset zoom and cursor"),
        Binding(
            "left_square_bracket", "smooth(-1)", "Smooth", show=False, id="charts.smooth-less", tooltip="Smooth less"
        ),
        Binding(
            "right_square_bracket",
            "smooth(1)",
            "Smooth",
            key_display="[ ]",
            id="charts.smooth-more",
            tooltip="Smooth more (exponential average; ≈ where points were joined)",
        ),
        Binding("y", "log", "Log y", show=False, id="charts.log", tooltip="Logarithmic y axis"),
        Binding("u", "unit", "x unit", show=False, id="charts.unit", tooltip="x axis: step, epoch or time"),
        Binding(
            "i", "outliers", "Outliers", show=False, id="charts.outliers", tooltip="Exclude outliers from the range"
        ),
        Binding("down,j", "choose(1)", "Next chart", show=False, id="charts.next", tooltip="Choose the next chart"),
        Binding(
            "up,k", "choose(-1)", "Previous chart", show=False, id="charts.before", tooltip="Choose the previous chart"
        ),
        Binding(
            "enter",
            "single",
            "One chart",
            show=False,
            id="charts.single",
            tooltip="Show the chosen chart alone, or all",
        ),
        Binding(
            "f",
            "full",
            "Full screen",
            show=False,
            id="charts.full",
            tooltip="The chosen chart on the whole screen, or all again",
        ),
        Binding("m", "metrics", "Metrics", show=False, id="charts.metrics", tooltip="Choose which scalars are charted"),
        Binding(
            "escape",
            "back",
            "Back",
            show=False,
            id="charts.back",
            tooltip="Back: one chart to all, zoom and cursor off",
        ),
    ]

    DEFAULT_CSS = """
    Charts { height: 1fr; grid-gutter: 0 1; min-height: 5;
        & > #charts-empty { width: 100%; height: 100%; content-align: center middle; color: $text-muted;
            display: none; }
        &.-empty > #charts-empty { display: block; }
    }
    """

    class ViewChanged(Message):
        """The view was changed by a key: it is remembered for the next time."""

        def __init__(self, view: View) -> None:
            super().__init__()
            self.view = view

    class FullAsked(Message):
        """The chosen chart is to have the whole screen, or all theirs again."""

    class MetricsAsked(Message):
        """The user wants to choose which scalars are charted."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.view = View()
        self.chosen = 0
        self.single = False
        #: Scalars that the user picked; empty: as many as there is room for, loss and accuracy first.
        self.picked: list[str] = []
        self._sources = [ChartSource("", History())]
        self._names: list[str] = []
        self._layout = (0, 0)

    def compose(self) -> ComposeResult:
        """The text that stands here as long as there is nothing to draw."""
        yield Static(id="charts-empty")

    def on_resize(self, event: Resize) -> None:
        """As many charts as there is room for."""
        self.call_after_refresh(self.draw)

    def show(self, history: History) -> None:
        """Draw this history; another one than before begins without zoom and cursor."""
        self.overlay([ChartSource("", history)])

    def overlay(self, sources: Sequence[ChartSource]) -> None:
        """Draw these runs over each other; others than before begin without zoom and cursor."""
        if [id(s.history) for s in sources] != [id(s.history) for s in self._sources]:
            self.view = replace(self.view, zoom=None, cursor=None)
        self._sources = list(sources)
        self.draw()

    def say(self, text: str) -> None:
        """What to show as long as there is nothing to draw."""
        empty = self.query_one("#charts-empty", Static)
        if str(empty.content) != text:
            empty.update(text)

    @property
    def charts(self) -> list[Chart]:
        """The charts that are there."""
        return list(self.query(Chart))

    def available(self) -> list[Scalar]:
        """All that could be charted."""
        with ExitStack() as locks:
            for source in self._sources:
                locks.enter_context(source.history.lock)
            return scalars(self._sources[0].history) if len(self._sources) == 1 else overlaid(self._sources)

    def wanted(self) -> list[Scalar]:
        """What the user picked, else what most people look at, in order."""
        found = self.available()
        if self.picked:
            return [s for s in found if s.name in self.picked]
        return [s for s in found if s.name.rpartition("/")[2] not in _HIDDEN]

    def draw(self) -> None:
        """Bring the charts up to date."""
        self._arrange()
        self._mark(False)
        for chart in self.charts:
            if chart.is_attached and chart.size.width:
                chart.draw(self._sources, self.view)

    def _mark(self, draw: bool = True) -> None:
        """Mark the chosen chart's title while the focus is here."""
        charts = self.charts
        for number, chart in enumerate(charts):
            marked = number == self.chosen % len(charts) and len(charts) > 1 and self.has_focus
            if marked != chart.marked:
                chart.marked = marked
                if draw and chart.size.width:
                    chart.draw(self._sources, self.view)

    def on_focus(self) -> None:
        """Show which chart is chosen."""
        self._mark()

    def on_blur(self) -> None:
        """No chart is chosen without focus."""
        self._mark()

    def _arrange(self) -> None:
        """Make the charts that there is room for."""
        wanted = self.wanted()
        wide = _WIDE if len(self._sources) == 1 else _WIDE * 3 // 2  # names of runs want room
        columns, rows = max(1, self.size.width // wide), max(1, self.size.height // _HIGH)
        self.chosen = min(self.chosen, max(len(wanted) - 1, 0))
        if self.single and wanted:
            wanted = [wanted[self.chosen]]
        else:
            room = columns * rows
            first = self.chosen // room * room if room else 0
            wanted = wanted[first : first + room]
        columns = min(columns, max(len(wanted), 1))
        if rows >= 2 and len(wanted) == 2:
            columns = 1  # two charts are read more easily one above the other
        names = [s.name for s in wanted]
        self.set_class(not names, "-empty")
        rows = max(1, -(-len(names) // columns))
        if (columns, rows) != self._layout:
            self._layout = (columns, rows)
            self.styles.grid_size_columns, self.styles.grid_size_rows = columns, rows
        if names != self._names:
            self._names = names
            with self.app.batch_update():
                self.query(Chart).remove()
                self.mount(*(Chart(s) for s in wanted))
            self.call_after_refresh(self.draw)
            return
        for chart, scalar in zip(self.charts, wanted, strict=False):
            chart.scalar = scalar

    # --- keys --------------------------------------------------------------------------------------------------------

    def _focused(self) -> Chart | None:
        charts = self.charts
        return charts[self.chosen % len(charts)] if charts else None

    def _look(self, view: View) -> None:
        self.view = view
        self.post_message(self.ViewChanged(view))
        self.draw()

    def action_move(self, columns: int) -> None:
        """Move the cursor."""
        chart = self._focused()
        if chart is None or chart.window is None:
            return
        window = chart.window
        if self.view.cursor is None:
            last = max((float(s.steps[-1]) for s in self._series() if len(s)), default=window.x1)
            start = window.column(last if self.view.x == "step" else window.x1)
        else:
            start = window.column(self.view.cursor)
        column = max(0, min(window.columns - 1, start + columns))
        x = window.at(column)
        self._look(replace(self.view, cursor=round(x) if self.view.x == "step" else x))

    def _series(self) -> list[Series]:
        chart = self._focused()
        assert chart is not None
        found = []
        for history in (source.history for source in self._sources):
            with history.lock:
                found += [s for n in chart.scalar.series if (s := history.series(n)) is not None]
        return found

    def action_zoom(self, factor: float) -> None:
        """Zoom in or out."""
        chart = self._focused()
        if chart is None or chart.window is None:
            return
        window = chart.window
        view = zoomed(self.view, window.x0, window.x1, factor)
        if factor > 1 and self.view.zoom is not None and view.zoom is not None and view.zoom[0] <= 0:
            view = replace(view, zoom=None)
        self._look(view if factor < 1 or self.view.zoom is not None else self.view)

    def action_pan(self, share: float) -> None:
        """Move what is zoomed to."""
        if self.view.zoom is not None:
            low, high = self.view.zoom
            move = (high - low) * share
            self._look(replace(self.view, zoom=(low + move, high + move)))

    def action_reset(self) -> None:
        """Everything again."""
        self._look(replace(self.view, zoom=None, cursor=None))

    def action_smooth(self, by: int) -> None:
        """Smooth more or less."""
        nearest = min(range(len(_SMOOTHING)), key=lambda i: abs(_SMOOTHING[i] - self.view.smoothing))
        weight = _SMOOTHING[max(0, min(len(_SMOOTHING) - 1, nearest + by))]
        self._look(replace(self.view, smoothing=weight))
        self.notify(f"smoothing {weight:g}", timeout=2)

    def action_log(self) -> None:
        """Logarithmic y axis, on or off."""
        self._look(replace(self.view, log=not self.view.log))

    def action_unit(self) -> None:
        """The next unit of the x axis."""
        unit = _X[(_X.index(self.view.x) + 1) % len(_X)]
        self._look(replace(self.view, x=unit, zoom=None, cursor=None))

    def action_outliers(self) -> None:
        """Ignore outliers, or not."""
        self._look(replace(self.view, ignore_outliers=not self.view.ignore_outliers))
        self.notify("outliers are " + ("excluded from the range" if self.view.ignore_outliers else "shown"), timeout=2)

    def action_choose(self, by: int) -> None:
        """Choose another chart."""
        count = len(self.wanted())
        if count:
            self.chosen = (self.chosen + by) % count
            self.draw()

    def action_single(self) -> None:
        """One chart, or all."""
        self.single = not self.single
        self.draw()

    def action_full(self) -> None:
        """One chart on the whole screen, or all again."""
        self.post_message(self.FullAsked())

    def action_metrics(self) -> None:
        """Ask which scalars to chart."""
        self.post_message(self.MetricsAsked())

    def action_back(self) -> None:
        """One step back: from a single chart to all, then zoom and cursor off."""
        if self.single:
            self.action_single()
        elif self.view.zoom is not None or self.view.cursor is not None:
            self.action_reset()

    def on_chart_pointed(self, event: Chart.Pointed) -> None:
        """The mouse sets the cursor."""
        event.stop()
        self.focus()
        self.chosen = self.charts.index(event.chart)
        self._look(replace(self.view, cursor=event.x))
