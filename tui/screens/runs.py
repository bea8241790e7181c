"""The Runs screen: every run below the roots, found, compared, labelled, taken further."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import Input

from torchdeck.core.errors import UserError, count
from torchdeck.core.runs.compare import Difference, run_differences
from torchdeck.core.runs.directory import without_time
from torchdeck.core.runs.filter import Filter, sort
from torchdeck.core.runs.history import History
from torchdeck.core.runs.listing import RunList
from torchdeck.core.runs.opened import Opened
from torchdeck.core.runs.rows import Row
from torchdeck.core.text import printable
from torchdeck.tui.columns import DEFAULT, ago, chosen, filled, on_one_scale, result_text, size, value_text
from torchdeck.tui.drawing.chart import ChartSource, mark_of
from torchdeck.tui.drawing.series_colours import series_colours
from torchdeck.tui.memory import Memory
from torchdeck.tui.pacing import Settling
from torchdeck.tui.run_monitor import RunMonitor
from torchdeck.tui.screens.run_actions import RunActions
from torchdeck.tui.screens.split_screen import pane_bindings
from torchdeck.tui.widgets.charts import Charts
from torchdeck.tui.widgets.facts import Facts
from torchdeck.tui.widgets.keybar import KeyBar
from torchdeck.tui.widgets.parallel import Parallel
from torchdeck.tui.widgets.table import Table, TableColumn
from torchdeck.tui.widgets.tabs import Tabs
from torchdeck.tui.widgets.text_input import TextInput
from torchdeck.tui.widgets.words import Words

#: Seconds between two looks at the runs, at least; more where a look takes long.
_PACE = 2.0
#: Runs whose curves are drawn over each other, at most, and that stay read.
_OVERLAID, _KEPT = 8, 24
#: The time that names of runs begin with; it is left out below so many characters.
_WIDE = 110
#: Characters of a run's name in the charts' legends.
_LABEL = 20
#: Seconds that the cursor rests on a run until its curves are read.
_SETTLE = 0.15

_TINTS = {"running": "success", "pruned": "warning", "failed": "error", "dead": "error", "stopped": "warning"}

_PANES = {
    "list": "List",
    "charts": "Charts",
    "differences": "Differences",
    "parallel": "Parallel",
    "details": "Details",
}


class RunsScreen(RunActions):
    """List above, one of four views of what is chosen below."""

    PREFIX, PANES = "runs", _PANES
    BINDINGS = [
        *pane_bindings("runs", _PANES),
        Binding(
            "slash",
            "filter",
            "Filter",
            id="runs.filter",
            tooltip="Filter: val_acc > 0.9 model:cnn tag:paper -status:failed",
        ),
        Binding("space", "mark", "Mark", id="runs.mark", tooltip="Mark the run, to compare it with others"),
        Binding("u", "unmark", "Unmark", show=False, id="runs.unmark", tooltip="Unmark all"),
        Binding("o", "sort", "Sort", id="runs.sort", tooltip="Sort by a field, metric or hyperparameter"),
        Binding("O", "reverse", "Reverse", show=False, id="runs.reverse", tooltip="Reverse the order"),
        Binding("v", "columns", "Columns", show=False, id="runs.columns", tooltip="Choose columns"),
        Binding(
            "escape", "back", "Back", show=False, id="runs.back", tooltip="Back: to the list, then clear the filter"
        ),
    ]
    DEFAULT_CSS = """
    RunsScreen {
        & #runs-filter { height: 1; border: none; padding: 0 1; background: $boost; }
        & #runs-filter:focus { border: none; background: $primary 20%; }
        & #runs-words { height: 1; padding: 0 1; color: $text-muted; background: $surface; }
        & #runs-words.-wrong { color: $text-error; }
        & #runs-list { height: 2fr; min-height: 3; }
        & #runs-below { height: 3fr; border-top: solid $foreground 30%; border-title-color: $text-muted; }
        & #runs-below > * { display: none; }
        & #runs-below > .-shown { display: block; }
    }
    """

    def __init__(self, monitor: RunMonitor, memory: Memory, roots: list[Path]) -> None:
        super().__init__(monitor, memory)
        self.roots = roots
        self.rows: list[Row] = []
        self._runs = RunList(roots)
        self._filter = Filter("")
        self._sort = str(memory.runs.get("sort") or "-created")
        names = memory.runs.get("columns")
        self._names = [str(n) for n in names] if isinstance(names, list) and names else list(DEFAULT)
        self._opened: dict[Path, Opened] = {}
        self._settling = Settling(self, _SETTLE)
        self._leaving = False
        self._scanned = False
        #: What is wrong with the filter, or why nothing can be read.
        self._wrong = ""
        self._unreadable = False

    def compose(self) -> ComposeResult:
        """Tabs, filter, list, view, keys."""
        yield Tabs(id="runs-tabs")
        yield TextInput(placeholder="/ filters: val_acc > 0.9 model:cnn tag:paper", id="runs-filter")
        yield Table(id="runs-list", empty="looking for runs", snug=True)
        with Vertical(id="runs-below"):
            yield Charts(id="runs-charts")
            yield Table(id="runs-differences", empty="mark runs with space to see what differs between them")
            yield Parallel(id="runs-parallel")
            yield Facts(id="runs-details")
        yield Words("", id="runs-words")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        """Begin to look."""
        self.listed.tint = lambda row: _TINTS.get(row.status, "")
        self.listed.mark = self._mark
        self.query_one("#runs-charts", Charts).say("reading the run")
        self.show_pane("charts")
        self.set_focus(self.listed)
        self._watch()

    def _mark(self, number: int) -> tuple[str, str]:
        colours = series_colours(self.app.current_theme, self.app.console.color_system)
        return mark_of(number), f"bold {colours[number % len(colours)]}"

    def on_unmount(self) -> None:
        """Let go of files."""
        self._leaving = True
        for one in self._opened.values():
            one.close()

    def recolour(self) -> None:
        """Another theme, or size."""
        self._say()
        for table in self.query(Table):
            table.draw()
        self.draw_below()

    def resume(self, run: Path) -> None:
        """Go on with this run, as r does."""
        if self.listed.go(run):
            self.action_resume()
        else:
            self.notify(f"{run.name} is not in the list; a filter may hide it.", severity="warning")

    # --- looking -----------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="scan")
    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            if self.is_current or not self._scanned:
                try:
                    self.rows = await asyncio.to_thread(self._runs.scan, lambda: self._leaving)
                    self._scanned = True
                    self._wrong = "" if self._unreadable else self._wrong
                    self._unreadable = False
                    self._list(self._filter)  # what is below is drawn once its curves are read
                except UserError as error:
                    self._unreadable = True
                    self._complain(str(error))
                await self._read_curves()
            await self._wake.pause(max(_PACE, 10 * (time.monotonic() - began)))

    def _arrange(self) -> None:
        """Show the runs that the filter lets through, sorted, and what is below."""
        if self._list(self._filter):
            self.draw_below()

    def _list(self, wanted: Filter) -> bool:
        """Show the runs that a filter lets through, sorted; what is wrong is told, and the list stays as it was."""
        try:
            rows = sort(wanted.apply(self.rows), self._sort)
            columns = on_one_scale(filled(chosen(self._names, self.rows), rows), rows)
            if self.size.width < _WIDE:  # the day is in the age, and the results are more than the name
                columns = [replace(c, text=_short_name) if c.name == "name" else c for c in columns]
        except UserError as error:
            self._complain(str(error))
            return False
        self.listed.empty = self._nothing()
        self.listed.show(columns, rows, lambda row: row.path, self.rows)
        self._say()
        return True

    def _nothing(self) -> str:
        where = ", ".join(str(root) for root in self.roots)
        return "no run fits the filter; esc shows all" if self.rows else f"no runs in {where} yet; T s starts one"

    def _say(self) -> None:
        shown, marked = len(self.listed.items), len(self.listed.marks)
        words = f"{shown} of {count(len(self.rows), 'run')}" if shown != len(self.rows) else count(shown, "run")
        if marked:
            keys = {row.path for row in self.listed.items}
            hidden = sum(mark not in keys for mark in self.listed.marks)
            words += f", {marked} marked" + (f" ({hidden} hidden)" if hidden else "")
        total = sum(row.size for row in self.listed.items)
        self.query_one(Tabs).show(
            "runs", f"{words}, {size(total)}, by {self._sort.lstrip('-')} {'↓' if self._sort[0] == '-' else '↑'}"
        )
        broken = self._runs.broken
        wrong = self._wrong or (f"{count(len(broken), 'run')} can't be read: {broken[0]}" if broken else "")
        line = self.query_one("#runs-words", Words)
        line.set_class(bool(wrong), "-wrong")
        line.update(wrong or self._said_of_current())

    def _said_of_current(self) -> str:
        row = self.listed.current
        if row is None:
            return ""
        name = value_text("name", row.name)
        if row.note:
            return f"{name}  {value_text('note', row.note)}"
        return f"{name}  {value_text('message', row.message)}" if row.message else name

    def _complain(self, sentence: str) -> None:
        """Say what is wrong, until it is put right."""
        self._wrong = sentence
        self._say()

    # --- what is below -----------------------------------------------------------------------------------------------

    def action_back(self) -> None:
        """One step back."""
        if not self.step_back() and self._filter:
            self.query_one("#runs-filter", Input).value = ""
            self._take_filter("")

    @on(Table.Moved, "#runs-list")
    def _moved(self, event: Table.Moved) -> None:
        self._say()
        self._settling.begin(self._settled)

    def _settled(self) -> None:
        if self.is_attached:
            self._inspect_current()

    @work(exclusive=True, group="curves")
    async def _inspect_current(self) -> None:
        await self._read_curves()

    def _chosen(self) -> list[Row]:
        return self.listed.wanted[:_OVERLAID]

    async def _read_curves(self) -> None:
        """Read what is new of the chosen runs, and draw it."""
        if self.pane == "charts" and self.below.display:
            for row in self._chosen():
                one = self._opened.setdefault(row.path, Opened(row.path))
                try:
                    await asyncio.to_thread(one.poll)
                except UserError as error:  # it was deleted, for instance: the next look at the list takes it out
                    self.query_one("#runs-words", Words).update(str(error))
            wanted = {row.path for row in self._chosen()}
            for path in [p for p in self._opened if p not in wanted][: max(0, len(self._opened) - _KEPT)]:
                self._opened.pop(path).close()
        self.draw_below()

    def draw_below(self) -> None:
        """Draw what is below anew."""
        if not self.is_attached or not self.below.display:
            return
        rows = self._chosen()
        if self.pane == "charts":
            self._draw_charts(rows)
        elif self.pane == "differences":
            self._draw_differences(rows)
        elif self.pane == "parallel":
            self.query_one(Parallel).show(self.listed.items, self.listed.current)
        else:
            self.query_one(Facts).show(facts(rows[0]) if rows else [])

    def _draw_charts(self, rows: list[Row]) -> None:
        charts = self.query_one("#runs-charts", Charts)
        rows = [row for row in rows if row.path in self._opened]
        sources = labelled(rows, [self._opened[row.path].history for row in rows])
        charts.view = self.memory.chart_view(charts.view)
        if len(sources) > 1:
            looked_at = self.listed.current
            back = looked_at in rows
            charts.overlay([replace(s, dimmed=back and row != looked_at) for s, row in zip(sources, rows, strict=True)])
        elif sources:
            charts.show(sources[0].history)
        if sources and not charts.available():
            charts.say("this run has logged nothing yet")

    def _draw_differences(self, rows: list[Row]) -> None:
        table = self.query_one("#runs-differences", Table)
        if len(rows) < 2:
            table.show((), (), lambda d: d.key)
            return
        found = [
            *run_differences(rows),
            Difference("best", tuple(f"{r.watched_text} {result_text(r)}" for r in rows)),
            Difference("status", tuple(r.status for r in rows)),
        ]
        columns = [TableColumn("", lambda d: d.key, width=28)]
        columns += [
            TableColumn(row.title or row.name, partial(_difference, number), width=26)
            for number, row in enumerate(rows)
        ]
        table.show(columns, found, lambda d: d.key)

    def on_charts_view_changed(self, event: Charts.ViewChanged) -> None:
        """Remember how charts are looked at."""
        self.memory.remember_view(event.view)

    # --- filter, sort, columns, marks --------------------------------------------------------------------------------

    def action_filter(self) -> None:
        """Type a filter."""
        self.set_focus(self.query_one("#runs-filter", Input))

    @on(Input.Changed, "#runs-filter")
    def _typed(self, event: Input.Changed) -> None:
        self._take_filter(event.value)

    def _take_filter(self, text: str) -> None:
        try:
            wanted = Filter(text)
        except UserError as error:
            self._complain(str(error))
            return
        if self._list(wanted):
            self._filter, self._wrong = wanted, ""
            self._say()
            self.draw_below()

    @on(Input.Submitted, "#runs-filter")
    def _filtered(self) -> None:
        self.set_focus(self.listed)

    def action_mark(self) -> None:
        """Mark the run, or not."""
        self.listed.toggle()
        self._say()
        self._settled()

    def action_unmark(self) -> None:
        """Unmark all."""
        self.listed.marks = []
        self.listed.draw()
        self._say()
        self._settled()

    @work
    async def action_sort(self) -> None:
        """Choose what to sort by."""
        from torchdeck.tui.screens.dialogs import Choice, Pick

        names = dict.fromkeys((*DEFAULT, "created", *sorted({n for row in self.rows for n in row.names()})))
        choices = [Choice(name, name) for name in names if name != "curve"]
        picked = await self.app.push_screen_wait(
            Pick("Sort by", choices, "O reverses the order", value=self._sort.lstrip("-"))
        )
        if picked is not None:
            self._sort = f"-{picked}" if self._sort.startswith("-") else picked
            self._remember()
            self._arrange()

    def action_reverse(self) -> None:
        """Sort the other way round."""
        self._sort = self._sort[1:] if self._sort.startswith("-") else f"-{self._sort}"
        self._remember()
        self._arrange()

    @work
    async def action_columns(self) -> None:
        """Choose columns."""
        from torchdeck.tui.screens.dialogs import Choice, Pick

        known = dict.fromkeys((*self._names, *DEFAULT, *sorted({n for row in self.rows for n in row.names()})))
        choices = [Choice(name, name, marked=name in self._names) for name in known]
        picked = await self.app.push_screen_wait(
            Pick("Columns", choices, "space marks, enter accepts; none: the default columns", many=True)
        )
        if picked is not None:
            self._names = picked or list(DEFAULT)
            self._remember()
            self._arrange()

    def _remember(self) -> None:
        self.memory.runs = {"sort": self._sort, "columns": self._names}


def _short_name(row: Row) -> str:
    return printable(row.title or without_time(row.name))


def _difference(number: int, difference: Difference) -> str:
    return value_text(difference.key, difference.values[number]) or "-"


def labelled(rows: Sequence[Row], histories: Sequence[History]) -> list[ChartSource]:
    """Runs with labels that tell them apart: their titles, what differs between them (``cnn 0.003``), or their
    names."""
    names = [row.title or without_time(row.name) for row in rows]
    if len(set(names)) < len(names):
        names = [row.title or words for row, words in zip(rows, _differing(rows), strict=True)]
    if len(set(names)) < len(names):
        names = [row.name for row in rows]
    names = [printable(name) for name in names]
    return [
        ChartSource(name if len(name) <= _LABEL else name[: _LABEL - 1] + "…", history)
        for name, history in zip(names, histories, strict=True)
    ]


def _differing(rows: Sequence[Row]) -> list[str]:
    """The values of the first few hyperparameters that together tell the runs apart."""
    told: list[tuple[str, ...]] = [() for _ in rows]
    for difference in run_differences(rows):
        texts = [value_text(difference.key, value) for value in difference.values]
        longer = [(*words, text) for words, text in zip(told, texts, strict=True)]
        if max(map(len, texts)) <= 12 and len(set(longer)) > len(set(told)):
            told = longer
    return [" ".join(words) for words in told]


def facts(row: Row) -> list[tuple[str, str]]:
    """What is known of a run, line by line."""
    found = [
        ("directory", str(row.path.absolute())),
        ("status", row.status),
        ("message", row.message),
        ("note", row.note),
        ("tags", " ".join(row.tags)),
        (
            "begun",
            f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(row.created))} ({ago(row.created)} ago)"
            if row.created
            else "",
        ),
        ("best", f"{row.watched_text} {result_text(row)}"),
        ("size", size(row.size)),
        ("device", row.device),
    ]
    for part, metrics in (("best", row.best), ("last", row.last), ("test", row.test), ("train", row.train)):
        if metrics:
            found.append(
                (
                    f"{part} epoch" if part in ("best", "last") else part,
                    "  ".join(f"{k} {value_text(k, v)}" for k, v in metrics.items()),
                )
            )
    found += [(key, value_text(key, value)) for key, value in row.hyperparameters.items()]
    return [(key, text) for key, text in found if text.strip()]
