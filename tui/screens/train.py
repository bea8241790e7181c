"""The Train screen: set up an experiment, look at its data and model, train it and watch."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.events import Resize
from textual.message import Message
from textual.widget import Widget

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.references import files_named
from torchdeck.core.machine.readings import Meter, Reading
from torchdeck.core.runs.history import History
from torchdeck.core.usercode.files import changed_at
from torchdeck.tui.drawing.chart import View
from torchdeck.tui.memory import Memory
from torchdeck.tui.pacing import Settling, Wake
from torchdeck.tui.preview import Preview
from torchdeck.tui.run_monitor import RunMonitor, Snapshot
from torchdeck.tui.screens.dialogs import Choice, Pick
from torchdeck.tui.screens.experiment_keys import ExperimentKeys
from torchdeck.tui.screens.panes import PANES, Panes
from torchdeck.tui.screens.run_keys import RunKeys
from torchdeck.tui.widgets.charts import Charts
from torchdeck.tui.widgets.data_preview import DataPreview
from torchdeck.tui.widgets.device import Device
from torchdeck.tui.widgets.form import Form
from torchdeck.tui.widgets.header import Header, ProgressLines
from torchdeck.tui.widgets.keybar import KeyBar
from torchdeck.tui.widgets.log import Log
from torchdeck.tui.widgets.model_tree import ModelTree
from torchdeck.tui.widgets.queue import QueueList

#: Seconds between two looks at the run; more when drawing takes long: it may take this share of a core.
_PACE, _IDLE_PACE, _SHARE = 0.5, 1.0, 0.02
#: Seconds between two readings of the machine, and after the last key until they rest when no run goes on.
_READ_EVERY, _REST_AFTER = 2.0, 10.0
#: Seconds after the last change of the form until data and model are looked at.
_SETTLE = 0.3
#: Seconds between two looks at whether the user's files have changed.
_FILES_EVERY = 1.0


class TrainScreen(ExperimentKeys, RunKeys):
    """The panes, and what keeps them up to date."""

    AUTO_FOCUS = ""
    BINDINGS = [
        *(
            Binding(str(number), f"pane('{name}')", title, show=False, id=f"pane.{name}", tooltip=f"Go to {title}")
            for number, (name, title) in enumerate(PANES.items(), 1)
        ),
        Binding("tab", "next_pane(1)", "Next pane", show=False, id="pane.next", tooltip="To the next pane"),
        Binding(
            "shift+tab", "next_pane(-1)", "Previous pane", show=False, id="pane.before", tooltip="To the previous pane"
        ),
        Binding("Z", "alone", "One pane", show=False, id="pane.alone", tooltip="This pane alone, or all again"),
        Binding("escape", "back", "Back", show=False, id="pane.back", tooltip="Back: all panes again, then the charts"),
    ]

    @dataclass
    class RefreshWanted(Message):
        """What is new was read."""

        snapshot: Snapshot

    @dataclass
    class Ended(Message):
        """The run that is followed has ended, in this state."""

        snapshot: Snapshot

    def __init__(self, monitor: RunMonitor, memory: Memory, raw: dict[str, Any]) -> None:
        super().__init__()
        self.monitor, self.memory = monitor, memory
        self._raw = raw
        self.preview = Preview(self._previewed)
        self._meter = Meter(monitor.root)
        self._settling = Settling(self, _SETTLE)
        #: What is looked at, or was when something was wrong: experiment, data or model.
        self._stage = "experiment"
        #: The field that the error of the preview is about, which comes next.
        self._field: str | None = None
        #: The user's files that the experiment names or that its code imports, and when they were changed.
        self._files: dict[Path, float] = {}
        self._wake = Wake()
        self._pace = _PACE
        self._drawn: tuple[History | None, int, str] = (None, -1, "")
        #: The run that is known to be over: its end is told once.
        self._rested: History | None = None

    def compose(self) -> ComposeResult:
        """Header, progress, panes, keys."""
        yield Header(PANES, id="header")
        yield ProgressLines(id="progress")
        contents: dict[str, Widget] = {
            "experiment": Form(id="experiment"),
            "charts": Charts(id="charts"),
            "model": ModelTree(id="model"),
            "data": DataPreview(id="data"),
            "device": Device(id="device"),
            "log": Log(id="log"),
            "queue": QueueList(id="queue"),
        }
        yield Panes(contents)
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        """Show the experiment, and begin to look."""
        self.query_one(Panes).fit(self.app.size)
        charts = self.query_one(Charts)
        charts.view = self.memory.chart_view(View())
        charts.say("s starts a run; its charts appear here")
        self.query_one(ModelTree).say("reading the model")
        self.query_one(DataPreview).say("reading the data")
        self.query_one(QueueList).show(())
        self.form.show(self._raw)
        self.choose("experiment")
        # What comes first is the first paint: processes are started after it.
        self.call_after_refresh(self._begin)

    async def on_unmount(self) -> None:
        """End the process that looked at the data."""
        await self.preview.close()

    def _begin(self) -> None:
        self._ask_preview()
        self._watch()
        self._read_machine()
        self.set_interval(_FILES_EVERY, self._check_files)

    def on_resize(self, event: Resize) -> None:
        """Arrange the panes anew."""
        self.query_one(Panes).fit(event.size)
        self.call_after_refresh(self._draw, True)

    # --- panes -------------------------------------------------------------------------------------------------------

    def choose(self, pane: str) -> None:
        """Show a pane, and focus it."""
        panes = self.query_one(Panes)
        appeared = panes.choose(pane)
        self.query_one(Header).show(pane)
        if pane == "experiment":
            self.form.focus_inside()
        else:
            self.query_one(f"#{pane}").focus()
        if appeared:
            self.call_after_refresh(self._draw, True)

    def action_pane(self, name: str) -> None:
        """Go to a pane."""
        self.choose(name)

    def action_next_pane(self, by: int) -> None:
        """Go to the next pane; in a narrow terminal all are reached in turn."""
        panes = self.query_one(Panes)
        names = list(PANES) if panes.mode == "narrow" or panes.alone else panes.shown()
        place = names.index(panes.current) if panes.current in names else 0
        self.choose(names[(place + by) % len(names)])

    def action_alone(self) -> None:
        """This pane alone, or all."""
        panes = self.query_one(Panes)
        panes.alone = not panes.alone
        self.choose(panes.current)

    def action_back(self) -> None:
        """One step back."""
        panes = self.query_one(Panes)
        if panes.alone:
            self.action_alone()
        elif panes.current != "charts":
            self.choose("charts")

    def on_descendant_focus(self) -> None:
        """The pane that has the focus is the current one, however it came."""
        panes = self.query_one(Panes)
        for name in PANES:
            if self.focused is not None and panes.pane(name) in self.focused.ancestors and panes.current != name:
                panes.current = name
                panes.mark()
                self.query_one(Header).show(name)

    def recolour(self) -> None:
        """The theme has changed."""
        panes = self.query_one(Panes)
        panes.mark()
        self.query_one(Header).show(panes.current)
        self.query_one(Device).draw()
        self._draw(True)

    # --- the run -----------------------------------------------------------------------------------------------------

    def refresh_now(self) -> None:
        """Read what is new without waiting."""
        self._wake.now()

    def attach(self, run: Path) -> None:
        """Follow another run."""
        self.monitor.attach(run)
        self.refresh_now()
        self.choose("charts")

    @work(exclusive=True, group="watch")
    async def _watch(self) -> None:
        while True:
            snapshot = await asyncio.to_thread(self.monitor.poll)
            self.post_message(self.RefreshWanted(snapshot))
            await self._wake.pause(self._pace if snapshot.active else _IDLE_PACE)

    def on_train_screen_refresh_wanted(self, event: RefreshWanted) -> None:
        """Draw what is new, and not more of the time than it may take."""
        before, self.snapshot = self.snapshot, event.snapshot
        began = time.thread_time()
        with self.app.batch_update():
            self._draw()
        self._pace = max(_PACE, (time.thread_time() - began) / _SHARE)
        if event.snapshot.refusal is not None:
            self.notify(event.snapshot.refusal, severity="error", timeout=15, title="not started")
        if event.snapshot.active or event.snapshot.run is None:
            return
        if before is not None and before.active and event.snapshot.history is not self._rested:
            self.post_message(self.Ended(event.snapshot))
        self._rested = event.snapshot.history

    def _draw(self, again: bool = False) -> None:
        snapshot = self.snapshot
        # On the way out nothing can be mounted, and the panes go before the screen does.
        if snapshot is None or not self.is_attached or not self.query(QueueList):
            return
        self.query_one(ProgressLines).show(snapshot)
        self.query_one(QueueList).show(snapshot.waiting)
        key = (snapshot.history, snapshot.version, snapshot.state)
        if key == self._drawn and not again:
            return
        self._drawn = key
        panes = self.query_one(Panes)
        self.query_one(Header).show(panes.current, snapshot.history)
        charts = self.query_one(Charts)
        charts.say(
            "starting: importing torch, reading the data"
            if snapshot.active
            else "s starts a run; its charts appear here"
        )
        if panes.pane("charts").display:
            charts.show(snapshot.history)
        if panes.pane("log").display:
            self.query_one(Log).show(snapshot.history)

    # --- the machine -------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="machine")
    async def _read_machine(self) -> None:
        while self.query(Device):  # on the way out the panes go before their screen
            active = self.snapshot is not None and self.snapshot.active
            if self.query_one(Panes).pane("device").display and (active or self.app.idle_for() < _REST_AFTER):  # type: ignore[attr-defined]
                pid = self.snapshot.pid if self.snapshot else None
                reading: Reading = await asyncio.to_thread(self._meter.read, pid)
                for device in self.query(Device):
                    device.show(reading)
            await asyncio.sleep(_READ_EVERY)

    # --- the experiment ----------------------------------------------------------------------------------------------

    def on_form_changed(self, event: Form.Changed) -> None:
        """Remember it, and look at its data and model once the typing rests."""
        self.memory.experiment = event.raw
        self._settling.begin(self._settled)

    def _settled(self) -> None:
        self.memory.save()
        self._ask_preview()

    def _ask_preview(self) -> None:
        self._stage, self._field = "experiment", None
        try:
            experiment = toml.build(self.form.raw)
        except UserError as error:
            self._tell_wrong(error)
            return
        self.form.mark(None)
        self._files = changed_at(files_named(experiment))
        self.preview.ask(toml.dumps(experiment))

    async def _check_files(self) -> None:
        """A file of the user's that has been mended is looked at again without a key."""
        if not (self.is_active and self._files):  # on the way out there is no screen any more
            return
        now = await asyncio.to_thread(changed_at, list(self._files))
        if self.is_active and now != {path: self._files.get(path) for path in now}:
            self._ask_preview()

    def _previewed(self, part: str, value: Any) -> None:
        if not self.query(ModelTree):  # on the way out the panes go before their screen
            return
        model, data = self.query_one(ModelTree), self.query_one(DataPreview)
        if part == "device":
            self.query_one(Device).show_chosen(value)
        elif part == "data":
            data.show(value)
        elif part == "model":
            model.show(value)
            self.query_one(Panes).pane("model").border_subtitle = model.memory_words()
        elif part == "files":
            # When they had been changed as they were read; they may have been edited since.
            self._files = {Path(path): at for path, at in value.items()} | self._files
        elif part == "stage":
            self._stage = value
        elif part == "field":
            self._field = value
        elif part == "error":
            self._tell_wrong(UserError(value or "unknown error", field=self._field))

    def _tell_wrong(self, error: UserError) -> None:
        """Tell what is wrong with the experiment in the pane that it is about, and mark its field in the form."""
        if not self.query(ModelTree):
            return
        model, data = self.query_one(ModelTree), self.query_one(DataPreview)
        about_data = self._stage == "experiment" and error.about("data")
        if self._stage == "data" or about_data:
            data.say(str(error))
            model.say("the model can't be built without the data")  # without its data nothing is known of it
        else:
            model.say(str(error))
        self.form.mark(error)
        self.query_one(Panes).pane("model").border_subtitle = ""
        self.notify(str(error).splitlines()[0], severity="warning", timeout=6)

    def load(self, raw: dict[str, Any], what: str) -> None:
        """Take an experiment into the form."""
        self.form.show(raw)
        self.form.post_message(Form.Changed(raw))
        self.notify(f"{what} is loaded", timeout=3)

    # --- charts ------------------------------------------------------------------------------------------------------

    def on_charts_view_changed(self, event: Charts.ViewChanged) -> None:
        """Remember how charts are looked at."""
        self.memory.remember_view(event.view)

    def on_charts_full_asked(self, event: Charts.FullAsked) -> None:
        """One chart on the whole screen, or all again."""
        panes, charts = self.query_one(Panes), self.query_one(Charts)
        charts.single = not (charts.single and panes.alone)
        panes.alone = charts.single
        self.choose("charts")
        self.call_after_refresh(charts.draw)

    @work
    async def on_charts_metrics_asked(self, event: Charts.MetricsAsked) -> None:
        """Choose which scalars are charted."""
        charts = self.query_one(Charts)
        shown = {s.name for s in charts.wanted()}
        choices = [Choice(s.name, s.title, ", ".join(s.series), s.name in shown) for s in charts.available()]
        picked = await self.app.push_screen_wait(Pick("Charts", choices, "space marks, enter accepts", many=True))
        if picked is not None:
            charts.picked = picked
            charts.chosen = 0
            charts.draw()
