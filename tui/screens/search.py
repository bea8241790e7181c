"""The Search screen: a study as it goes on: its trials, and pictures of what they tell."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widget import Widget

from torchdeck.core.errors import UserError
from torchdeck.core.machine.launch import command, environment, last_said
from torchdeck.core.text import duration, printable
from torchdeck.tui.memory import Memory
from torchdeck.tui.run_monitor import RunMonitor
from torchdeck.tui.screens.split_screen import pane_bindings
from torchdeck.tui.screens.trial_actions import TrialActions
from torchdeck.tui.widgets.facts import Facts
from torchdeck.tui.widgets.keybar import KeyBar
from torchdeck.tui.widgets.picture import Picture
from torchdeck.tui.widgets.table import Table, TableColumn
from torchdeck.tui.widgets.tabs import Tabs
from torchdeck.tui.widgets.words import Words

# Optuna and what draws its trials are imported when the first study is opened, in a thread.
if TYPE_CHECKING:
    from torchdeck.core.search.rows import TrialRow
    from torchdeck.core.search.snapshot import StudySnapshot

#: Seconds between two looks while trials run, and while none does; more where a look takes long.
_PACE, _IDLE_PACE = 1.0, 3.0
#: Seconds between two computations of importances, at least.
_IMPORTANCE_EVERY = 10.0

_PANES = {
    "list": "Trials",
    "history": "History",
    "intermediate": "Curves",
    "importance": "Importance",
    "slices": "Slices",
    "contour": "Contour",
    "parallel": "Parallel",
    "pareto": "Pareto",
    "edf": "Distribution",
    "details": "Details",
}
_TINTS = {"running": "success", "failed": "error", "pruned": "text-muted", "waiting": "warning"}
_EVALUATORS = {"fanova": "fANOVA", "ped-anova": "PED-ANOVA"}


class SearchScreen(TrialActions):
    """Trials above, one of nine views below."""

    PREFIX, PANES, WIDE = "search", _PANES, 126
    BINDINGS = [
        *pane_bindings("search", _PANES),
        Binding("O", "order", "Order", show=False, id="search.order", tooltip="Trials by number, or the best first"),
        Binding(
            "i",
            "evaluator",
            "Evaluator",
            show=False,
            id="search.evaluator",
            tooltip="Importance by fANOVA or by PED-ANOVA",
        ),
        Binding("escape", "back", "Back", show=False, id="search.back", tooltip="Back to the trials"),
    ]
    DEFAULT_CSS = """
    SearchScreen {
        & #search-head { height: 1; padding: 0 1; background: $surface; }
        & #search-words { height: 1; padding: 0 1; color: $text-muted; background: $surface; }
        & #search-words.-wrong { color: $text-error; }
        & #search-list { height: 2fr; min-height: 3; }
        & #search-below { height: 3fr; border-top: solid $foreground 30%; border-title-color: $text-muted; }
        & #search-below > * { display: none; }
        & #search-below > .-shown { display: block; }
    }
    """

    def __init__(self, monitor: RunMonitor, memory: Memory, roots: list[Path]) -> None:
        super().__init__(monitor, memory, roots)
        self._by_value = False
        self._evaluator = "fanova"
        self._importance: tuple[str, Mapping[str, float]] = ("", {})
        self._importance_of: tuple[Any, ...] = ()
        self._importance_at = 0.0
        self._first, self._second = 0, 1

    def compose(self) -> ComposeResult:
        """Tabs, where the study stands, trials, view, keys."""
        yield Tabs(id="search-tabs")
        yield Words("", id="search-head")
        yield Table(id="search-list", empty="looking for studies", snug=True)
        with Vertical(id="search-below"):
            yield Picture(id="search-picture")
            yield Facts(id="search-details")
        yield Words("", id="search-words")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        """Begin to look."""
        self.listed.tint = lambda row: (
            _TINTS.get(row.state, "") if row.number not in self._best_numbers() else "success"
        )
        self.show_pane("history")
        self.set_focus(self.listed)
        self._watch()

    @property
    def current(self) -> TrialRow | None:
        """The trial under the cursor."""
        row: TrialRow | None = self.listed.current
        return row

    def _best_numbers(self) -> tuple[int, ...]:
        return self.seen.best if self.seen is not None else ()

    def recolour(self) -> None:
        """Another theme, or size."""
        self._say()
        self.listed.draw()
        self.draw_below()

    # --- looking -----------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="look")
    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            if self.is_current or self.seen is None:
                try:
                    await self.open_latest()
                    if self.poller is not None:
                        poller = self.poller
                        seen = await asyncio.to_thread(poller.poll)
                        if poller is self.poller:  # another study may have been opened meanwhile
                            self.seen = seen
                    self.wrong = ""
                    self._mind_process()
                    self._list()
                    self.draw_below()
                except UserError as error:
                    self.wrong = str(error).splitlines()[0]
                    self._say()
            busy = self.seen is not None and self.seen.working
            pace = _PACE if busy or self.starting else _IDLE_PACE
            await self._wake.pause(max(pace, 10 * (time.monotonic() - began)))

    def _list(self) -> None:
        snapshot = self.seen
        if snapshot is None:
            self.listed.empty = self.nothing()
            self.listed.show((), (), lambda row: row.number)
            self._say()
            return
        rows = list(snapshot.rows)
        if self._by_value:
            turn = -1 if snapshot.objectives[0].higher else 1
            rows.sort(
                key=lambda r: (r.state != "complete", not r.values, turn * r.value if r.values else 0.0, r.number)
            )
        else:
            rows.reverse()  # the newest on top, where the eye is
        self.listed.empty = f"no trials yet; s starts {snapshot.limits.trials}"
        self.listed.show(_columns(snapshot), rows, lambda row: row.number)
        self._say()

    def _say(self) -> None:
        snapshot = self.seen
        self.query_one(Tabs).show("search", printable(snapshot.name) if snapshot is not None else "")
        self.query_one("#search-head", Words).update(self._head())
        line = self.query_one("#search-words", Words)
        line.set_class(bool(self.wrong), "-wrong")
        row = self.current
        said = ""
        if row is not None and snapshot is not None:
            from torchdeck.core.search.rows import settings

            said = f"trial {row.number}: {settings(row)}{'  ' + row.reason if row.reason else ''}"
        line.update(self.wrong or printable(said))

    def _state(self, snapshot: StudySnapshot, over: int) -> str:
        """How the study stands, of which so many trials are over."""
        if snapshot.working:
            return f"{snapshot.working} running"
        if self.starting:
            return "starting"
        if snapshot.stopped:
            return "stopped"
        return "over" if over >= snapshot.limits.trials else "idle"

    def _head(self) -> Text:
        snapshot = self.seen
        if snapshot is None:
            return Text("")
        from torchdeck.core.search.snapshot import finishing
        from torchdeck.core.text import number

        counts = snapshot.counts
        over = sum(n for state, n in counts.items() if state not in ("running", "waiting"))
        words = [self._state(snapshot, over), f"{over}/{snapshot.limits.trials} trials"]
        words += [f"{counts[name]} {name}" for name in ("pruned", "failed", "waiting") if counts.get(name)]
        best = snapshot.row(snapshot.best[0]) if snapshot.best else None
        if best is not None and len(snapshot.objectives) == 1:
            words.append(
                f"best {snapshot.objectives[0].name} {number(best.value, snapshot.objectives[0].name)} (trial "
                f"{best.number})"
            )
        elif best is not None:
            words.append(f"{len(snapshot.best)} on the Pareto front")
        left = finishing(snapshot) if snapshot.working else None
        if left is not None:
            words.append(f"ETA {duration(left)}")
        words.append(f"{snapshot.sampler}, pruner {snapshot.pruner}")
        return Text("  ".join(words), no_wrap=True, overflow="ellipsis")

    # --- what is below -----------------------------------------------------------------------------------------------

    def view_of(self, pane: str) -> Widget:
        """All pictures share a widget."""
        return self.query_one("#search-details" if pane == "details" else "#search-picture")

    def action_back(self) -> None:
        """One step back."""
        self.step_back()

    def action_order(self) -> None:
        """The newest first, or the best."""
        self._by_value = not self._by_value
        self._list()

    @on(Table.Moved, "#search-list")
    def _moved(self) -> None:
        self._say()
        self.draw_below()

    def on_picture_turned(self, event: Picture.Turned) -> None:
        """Other parameters."""
        self._first += event.first
        self._second += event.second
        self.draw_below()

    def draw_below(self) -> None:
        """Draw what is below anew."""
        snapshot = self.seen
        if not self.is_attached or not self.below.display:
            return
        if snapshot is None:
            self.query_one(Picture).show(lambda width, height, styles: [Text("")])
            return
        chosen = self.current.number if self.current is not None else None
        if self.pane == "details":
            self.query_one(Facts).show(self.facts(self.current))
        elif self.pane == "importance":
            self._draw_importance(snapshot)
        else:
            self.query_one(Picture).show(self._picture(snapshot, chosen))

    def _picture(self, snapshot: StudySnapshot, chosen: int | None) -> Any:
        from torchdeck.tui.drawing import study as pictures

        if self.pane == "slices":
            return partial(_drawn, pictures.slices, snapshot, chosen, first=self._first)
        if self.pane == "contour":
            names = pictures.parameters(snapshot)
            pair = None
            if len(names) > 1:
                first, second = self._first % len(names), self._second % len(names)
                second = second if second != first else (second + 1) % len(names)
                pair = (names[first], names[second])
            return partial(_drawn, pictures.contour, snapshot, chosen, pair=pair)
        return partial(_drawn, pictures.PICTURES[self.pane][0], snapshot, chosen)

    # --- importance --------------------------------------------------------------------------------------------------

    def action_evaluator(self) -> None:
        """The other evaluator."""
        names = list(_EVALUATORS)
        self._evaluator = names[(names.index(self._evaluator) + 1) % len(names)]
        self._importance_at = 0.0
        self.action_pane("importance")

    def _draw_importance(self, snapshot: StudySnapshot) -> None:
        state = (snapshot.name, snapshot.counts.get("complete", 0), self._evaluator)
        if state != self._importance_of and time.monotonic() - self._importance_at >= _IMPORTANCE_EVERY:
            self._importance_of, self._importance_at = state, time.monotonic()
            self._compute_importance(snapshot.folder)
        words, found = self._importance

        def draw(width: int, height: int, styles: Mapping[str, str]) -> list[Text]:
            from torchdeck.tui.drawing.study import importance

            if not found:
                return [Text(words or "computing", style=styles["axis"], no_wrap=True, overflow="ellipsis")]
            return importance(found, words, width, height, styles)

        self.query_one(Picture).show(draw)

    @work(exclusive=True, group="importance")
    async def _compute_importance(self, folder: Path) -> None:
        """In a process of its own: forests over hundreds of trials would hold up the keys."""
        evaluator = self._evaluator
        process = await asyncio.create_subprocess_exec(
            *command("torchdeck", "study", "importance", str(folder), "--by", evaluator, "--json"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        out, wrong = await process.communicate()
        if process.returncode == 0:
            name = self.seen.objectives[0].name if self.seen is not None else ""
            self._importance = (f"importance for {name} by {_EVALUATORS[evaluator]}", json.loads(out))
        else:
            self._importance = (printable(last_said(wrong.decode(errors="replace"))) or "it failed", {})
        if self.pane == "importance":
            self.draw_below()


def _drawn(
    function: Any,
    snapshot: StudySnapshot,
    chosen: int | None,
    width: int,
    height: int,
    styles: Mapping[str, str],
    **more: Any,
) -> list[Text]:
    lines: list[Text] = function(snapshot, chosen, width, height, styles, **more)
    return lines


def _columns(snapshot: StudySnapshot) -> list[TableColumn]:
    from torchdeck.core.search.rows import short, shown
    from torchdeck.core.text import number
    from torchdeck.tui.drawing.sparkline import scale_of, sparkline

    def mark(row: TrialRow) -> str:
        if row.number in snapshot.best:
            return f"{row.number}★"
        return f"{row.number}‹" if row.former else f"{row.number} "

    def took(row: TrialRow) -> str:
        seconds = row.seconds()
        return duration(seconds) if seconds is not None else ""

    scale = scale_of([v for _, v in row.curve] for row in snapshot.rows)
    columns = [TableColumn("trial", mark, right=True), TableColumn("state", lambda row: row.state)]
    for place, objective in enumerate(snapshot.objectives):
        columns.append(TableColumn(objective.name, partial(_value, place, objective.name, number), right=True))
    columns += [
        TableColumn("curve", lambda row: sparkline([v for _, v in row.curve], 10, scale), width=10),
        TableColumn("time", took, right=True),
    ]
    for key in snapshot.keys:
        columns.append(TableColumn(short(key), partial(_field, key, shown)))
    if any(row.reason for row in snapshot.rows):
        columns.append(TableColumn("reason", lambda row: row.reason, width=60))
    return columns


def _value(place: int, name: str, number: Any, row: TrialRow) -> str:
    if place < len(row.values):
        return str(number(row.values[place], name))
    return str(number(row.curve[-1][1], name)) if place == 0 and row.curve and row.state == "running" else ""


def _field(key: str, shown: Any, row: TrialRow) -> str:
    return str(shown(row.fields[key])) if key in row.fields else ""
