"""The workbench: a Textual app. It opens screens and knows nothing of training."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import pkgutil
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import events, work
from textual._compositor import ChopsUpdate
from textual.app import App, ComposeResult, SystemCommand
from textual.binding import Binding
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widgets import Static

from torchdeck.core.errors import UserError
from torchdeck.core.home import private_folder, state_folder
from torchdeck.core.text import printable, printable_lines
from torchdeck.tui.keyboard import drop_undecodable
from torchdeck.tui.memory import Memory
from torchdeck.tui.screen_list import SCREENS
from torchdeck.tui.span_updates import SpansUpdate

# What the Train screen needs (pydantic, numpy, a dozen widgets) is imported after the first paint.
if TYPE_CHECKING:
    from torchdeck.tui.run_monitor import RunMonitor
    from torchdeck.tui.screens.dialogs import Question
    from torchdeck.tui.screens.train import TrainScreen

#: Exit codes: ended by SIGHUP or SIGTERM, as a shell tells them; the workbench failed.
HUNG_UP, TERMINATED, FAILED = 129, 143, 1

#: Seconds between two collections of garbage, and after the start until what is there counts as lasting.
_TIDY_EVERY, _FROZEN_AFTER = 10.0, 5.0
#: Lines below which a screen is a small one.
_SMALL = 10


class Workbench(App[int]):
    """Opens the Train screen; owns the terminal: title, bell, signals, the way out."""

    TITLE = "torchdeck"
    ENABLE_COMMAND_PALETTE = True
    NOTIFICATION_TIMEOUT = 5
    CSS = """
    Screen { layers: base editor; }
    #opening-head { background: $panel; text-style: bold; color: $primary; }
    #opening-state { background: $surface; height: 2; }
    """
    BINDINGS = [
        Binding("question_mark", "help", "Keys", key_display="?", id="app.help", tooltip="The keys that work here"),
        Binding("ctrl+p", "command_palette", "Palette", show=False, id="app.palette", tooltip="Every action by name"),
        *(
            Binding(
                entry.key,
                f"screen('{name}')",
                entry.title,
                show=name != "train",
                id=f"app.{name}",
                tooltip=entry.tooltip,
            )
            for name, entry in SCREENS.items()
        ),
        Binding("q", "quit", "Quit", id="app.quit", tooltip="Quit; a run can continue without the workbench"),
        Binding(
            "ctrl+z",
            "suspend_process",
            "Suspend",
            show=False,
            id="app.suspend",
            tooltip="Suspend to the shell; fg returns. A run continues",
        ),
        Binding("ctrl+q,ctrl+c", "quit", "Quit", show=False, id="app.quit-always", tooltip="Quit the workbench"),
    ]

    def __init__(
        self, root: Path, raw: dict[str, Any] | None = None, attach: Path | None = None, others: Sequence[Path] = ()
    ) -> None:
        """``raw``: the experiment to open with; ``attach``: the run to look at; ``others``: further roots of runs."""
        super().__init__()
        self.memory = Memory.load()
        self.monitor: RunMonitor
        self._root = root
        self.roots = list(dict.fromkeys([root, *others]))
        self._raw = raw
        self._run_to_show = attach
        self._key_at = time.monotonic()
        self._title = ""
        self._quit_when_over = False
        self._asking: Question | None = None
        #: Why the workbench ended, where that is not the user's wish: a sentence.
        self.failure: str | None = None
        #: What to tell on the way out.
        self.farewell = ""

    @property
    def train(self) -> TrainScreen:
        """The Train screen."""
        screen: Any = self.get_screen("train")
        return screen

    def compose(self) -> ComposeResult:
        """What is painted at once, before anything else is imported."""
        yield Static(" torchdeck", id="opening-head")
        yield Static(" ○ opening", id="opening-state")

    def on_mount(self) -> None:
        """Paint first, then open."""
        if self.memory.theme in self.available_themes:
            self.theme = self.memory.theme
        self.call_after_refresh(self._open)

    def _open(self) -> None:
        """Open the Train screen."""
        from torchdeck.tui.run_monitor import RunMonitor
        from torchdeck.tui.screens.train import TrainScreen

        self.monitor = RunMonitor(self._root)
        raw = self._raw if self._raw is not None else self.memory.experiment
        if raw is None:
            from torchdeck.core.experiment import toml

            raw = toml.read(toml.presets()["digits"])
        screen = TrainScreen(self.monitor, self.memory, raw)
        self.install_screen(screen, "train")
        self.push_screen("train")
        self._write("\x1b[22;0t")  # keep the terminal's title, to give it back
        if not self.is_headless:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, self.leave, HUNG_UP)
            loop.add_signal_handler(signal.SIGTERM, self.leave, TERMINATED)
            self.set_interval(1.0, self._mind_terminal)
            self._tidy_at_quiet_moments()
        self.call_after_refresh(self._poll_runs)

    @work
    async def _poll_runs(self) -> None:
        """Say what goes on, and look at it."""
        if self._run_to_show is not None:
            self.train.attach(self._run_to_show)
            return
        snapshot = await asyncio.to_thread(self.monitor.poll)
        if snapshot.active and snapshot.run is not None:
            self.notify(f"{snapshot.run.name} is still training; you are back in it.", title="reattached", timeout=8)
            self.train.choose("charts")
            return
        others = await asyncio.to_thread(self.monitor.others)
        if others:
            run = others[-1]
            self.train.attach(run.path)
            more = f"; A lists {len(others) - 1} more" if len(others) > 1 else ""
            self.notify(f"{run.name} is still training; you are back in it{more}.", title="reattached", timeout=8)
        elif snapshot.waiting:
            self.notify(f"Waiting in the queue: {len(snapshot.waiting)}. W starts the queue.", timeout=8)

    def _tidy_at_quiet_moments(self) -> None:
        """Collect garbage when nobody types: a collection over all widgets takes 90 ms, and would come at any key."""
        gc.disable()
        self._tidied = time.monotonic()
        self.set_timer(
            _FROZEN_AFTER, gc.freeze
        )  # the widgets that are there by then stay: they are not looked through again
        self.set_interval(1.0, self._tidy)

    def _tidy(self) -> None:
        waited = time.monotonic() - self._tidied
        if waited > _TIDY_EVERY and (self.idle_for() > 1.0 or waited > 6 * _TIDY_EVERY):
            gc.collect()
            self._tidied = time.monotonic()

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Say something in a corner. Names of files and runs may hold brackets, so that nothing is taken for markup."""
        if self.size.height < _SMALL:  # a notice covers all there is to see
            timeout = min(timeout or self.NOTIFICATION_TIMEOUT, 2)
        super().notify(
            printable_lines(message), title=printable(title), severity=severity, timeout=timeout, markup=False
        )

    # --- screens -----------------------------------------------------------------------------------------------------

    def action_screen(self, name: str) -> None:
        """Go to a screen."""
        if len(self.screen_stack) <= 2:  # not from within a dialog
            self.open_screen(name)

    def open_screen(self, name: str, run: Path | None = None) -> None:
        """Go to a screen; ``run``: of the Checkpoints screen only this run's."""
        if not self.is_screen_installed("train"):
            return
        if not self.is_screen_installed(name):
            made: Screen = pkgutil.resolve_name(SCREENS[name].factory)(self.monitor, self.memory, self.roots)
            self.install_screen(made, name)
        if self.screen is not self.get_screen(name):
            self.switch_screen(name)
        if name == "checkpoints":
            screen: Any = self.get_screen(name)
            screen.only(run)

    # --- keys --------------------------------------------------------------------------------------------------------

    def idle_for(self) -> float:
        """Seconds since the last key."""
        return time.monotonic() - self._key_at

    async def on_event(self, event: events.Event) -> None:
        """Remember when the last key came."""
        if isinstance(event, events.Key):
            self._key_at = time.monotonic()
        await super().on_event(event)

    def action_help(self) -> None:
        """The keys of where you are."""
        from torchdeck.tui.screens.help import Help

        groups: list[tuple[str, list[Binding]]] = []
        for node, _ in self.screen._modal_binding_chain:
            listed: dict[str, Binding] = {}
            for binding in node.__class__._merge_bindings().key_to_bindings.values():
                for one in binding:
                    if one.id and not one.system and "." in one.id:
                        merged = listed.get(one.id)
                        keys = f"{merged.key},{one.key}" if merged else one.key
                        listed[one.id] = Binding(keys, one.action, one.description, id=one.id, tooltip=one.tooltip)
            if listed:
                groups.append((_title(node), list(listed.values())))
        self.push_screen(Help(groups))

    def get_system_commands(self, screen: Screen) -> Iterator[SystemCommand]:
        """Every action of every pane, by name; then themes and screenshots."""
        if self.is_screen_installed("train"):
            nodes: list[Any] = [screen, self, *(node for name in _ACTING for node in screen.query(f"#{name}"))]
            for node in nodes:
                seen = set()
                for bindings in node.__class__._merge_bindings().key_to_bindings.values():
                    for one in bindings:
                        if not one.id or one.id in seen or one.id == "app.palette" or not one.tooltip:
                            continue
                        seen.add(one.id)
                        yield SystemCommand(
                            f"{one.description} ({one.id})", one.tooltip, self._runner(node, one.action)
                        )
        for command in super().get_system_commands(screen):
            if command.title in ("Theme", "Screenshot"):
                yield command

    def _runner(self, node: Any, action: str) -> Any:
        async def run() -> None:
            await self.run_action(action, node)

        return run

    def watch_theme(self, theme: str) -> None:
        """Remember the theme; what is coloured by hand is coloured anew."""
        self.memory.theme = theme
        if self.is_screen_installed("train"):
            for name in SCREENS:
                if self.is_screen_installed(name):
                    screen: Any = self.get_screen(name)
                    self.call_after_refresh(screen.recolour)

    # --- the end of a run --------------------------------------------------------------------------------------------

    def on_train_screen_refresh_wanted(self, event: TrainScreen.RefreshWanted) -> None:
        """The terminal's title tells where the run is."""
        snapshot = event.snapshot
        title = "torchdeck"
        started = snapshot.history.started
        if snapshot.run is not None:
            share = f"{snapshot.history.step / max(started.steps, 1):.0%} " if started and snapshot.active else ""
            title = f"{share if snapshot.state == 'running' else snapshot.state + ' '}{snapshot.run.name}"
        self._set_title(title)

    def on_train_screen_ended(self, event: TrainScreen.Ended) -> None:
        """A run has ended: ring, and tell it."""
        self.bell()
        snapshot = event.snapshot
        if self._asking is not None and self.screen is self._asking:
            self._asking.dismiss("over")  # there is nothing left to ask
            return
        if self._quit_when_over:
            self._say_how_to_go_on()
            self.leave(0)
            return
        name = snapshot.run.name if snapshot.run else "the run"
        severe = snapshot.state in ("failed", "dead")
        words = snapshot.history.message if snapshot.state == "failed" else f"{name} is {snapshot.state}"
        self.notify(words, title=f"{name}: {snapshot.state}", severity="error" if severe else "information", timeout=10)

    def _set_title(self, title: str) -> None:
        title = "".join(c for c in title if c.isprintable())
        if title != self._title:
            self._title = title
            self._write(f"\x1b]0;{title}\x07")

    def _write(self, sequence: str) -> None:
        if self._driver is not None and not self.is_headless and not self.is_web:
            self._driver.write(sequence)

    def _display(self, screen: Screen, renderable: Any) -> None:
        """Send an update to the terminal."""
        super()._display(screen, SpansUpdate.of(renderable) if type(renderable) is ChopsUpdate else renderable)

    # --- the way out -------------------------------------------------------------------------------------------------

    @work
    async def action_quit(self) -> None:  # type: ignore[override]
        """Leave; when a run goes on, ask what becomes of it."""
        from torchdeck.tui.screens.dialogs import Answer, Question

        snapshot = self.train.snapshot if self.is_screen_installed("train") else None
        if snapshot is None or not snapshot.active:
            self.leave(0)
            return
        if self._asking is not None:
            return
        self._asking = Question(
            "A run is still training. Leave it running, stop it after a checkpoint, or stay?",
            [
                Answer("s", "stay", "Stay"),
                Answer("d", "detach", "Detach and leave it running; torchdeck attaches to it again"),
                Answer("x", "stop", "Stop it after a checkpoint, then quit"),
            ],
        )
        answer = await self.push_screen_wait(self._asking)
        self._asking = None
        if answer == "over":
            self.leave(0)
        elif answer == "detach":
            self.farewell = "the run is still training; to return to it: torchdeck"
            if snapshot.run is not None:
                self.farewell = (
                    f"{snapshot.run.name} is still training; to return to it: torchdeck attach {snapshot.run}"
                )
            self.leave(0)
        elif answer == "stop":
            if snapshot.state == "starting" and snapshot.run is None:
                self.monitor.cancel()
                self.leave(0)
                return
            try:
                self.monitor.control.stop()
            except UserError as error:
                self.notify(str(error), severity="error")
                return
            self._quit_when_over = True
            self.notify("stopping after a checkpoint, then quitting")

    def _say_how_to_go_on(self) -> None:
        if self.monitor.run is not None:
            self.farewell = f"stopped; resume it with: torchdeck --batch --resume {self.monitor.run}"

    def leave(self, code: int) -> None:
        """End the workbench; the run, if there is one, is another process and goes on."""
        self.memory.save()
        if code == HUNG_UP:
            os._exit(HUNG_UP)  # nobody is there to be told, and Textual's writer would wait for the dead terminal
        if code == TERMINATED:
            _exit_soon(code)
        self._write("\x1b[23;0t")
        self.exit(code)

    def _mind_terminal(self) -> None:
        """A terminal that has gone away without a signal must not leave the workbench spinning on it."""
        with contextlib.suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(sys.__stdin__.fileno(), select.POLLHUP)  # type: ignore[union-attr]
            if any(happened & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, happened in poll.poll(0)):
                self.leave(HUNG_UP)

    def _fatal_error(self) -> None:
        """The workbench itself failed: keep the traceback in a file, and end; the run goes on."""
        place = state_folder() / f"crash-{time.strftime('%Y%m%d-%H%M%S')}.log"
        with contextlib.suppress(OSError):
            private_folder(place.parent)
            place.write_text(traceback.format_exc(), encoding="utf-8")
        error = sys.exc_info()[1]
        self.failure = f"The workbench failed ({type(error).__name__}: {error}); the traceback is in {str(place)!r}."
        self._close_messages_no_wait()


#: Panes whose actions are in the palette.
_ACTING = (
    "form-fields",
    "charts",
    "model",
    "log",
    "queue",
    "runs-list",
    "runs-charts",
    "search-list",
    "search-picture",
    "weights-tensors",
)


def _title(node: Any) -> str:
    name = {
        "_Fields": "Experiment",
        "ModelTree": "Model",
        "QueueList": "Queue",
        "DataPreview": "Data",
        "TrainScreen": "Run and panes",
        "Table": "List",
        "RunsScreen": "Runs",
        "SearchScreen": "Search",
        "Picture": "Picture",
        "CheckpointsScreen": "Checkpoints",
        "Workbench": "Everywhere",
    }
    return name.get(type(node).__name__, type(node).__name__)


def run_app(roots: list[Path], raw: dict[str, Any] | None, attach: Path | None, mouse: bool) -> int:
    """Open the workbench on this terminal and return the exit code.

    Raises UserError where there is no terminal that could show it.
    """
    check_terminal()
    drop_undecodable()
    app = Workbench(roots[0], raw, attach, roots[1:])
    try:
        code = app.run(mouse=mouse)
    except OSError as error:  # the terminal went away in the middle of a write
        app.failure = app.failure or f"The terminal can't be written to: {error.strerror}."
        os._exit(HUNG_UP)
    if app.failure is not None:
        print(f"torchdeck: {app.failure}", file=sys.stderr)
        if hasattr(app, "monitor"):
            _keep(app.monitor)
        return FAILED
    if app.farewell:
        print(app.farewell)
    return code or 0


def _exit_soon(code: int) -> None:
    """Whoever sends SIGTERM does not wait for a terminal that takes nothing any more."""
    timer = threading.Timer(3.0, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _keep(monitor: RunMonitor) -> None:
    """After a failure of the workbench: have the run write a checkpoint, and say how to look at it again."""
    if monitor.run is None:
        return
    with contextlib.suppress(UserError):
        monitor.control.checkpoint()
        print(
            f"{monitor.run.name} continues, and writes a checkpoint; to return to it: torchdeck attach {monitor.run}",
            file=sys.stderr,
        )


def check_terminal() -> None:
    """Raise UserError where no workbench can be shown."""
    if os.environ.get("TEXTUAL_DRIVER"):
        return  # served to a browser
    instead = "train without the workbench: torchdeck --batch [EXPERIMENT]"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UserError(f"The workbench needs a terminal, and this is not one; {instead}.")
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        raise UserError(f"The terminal (TERM={os.environ.get('TERM', '')}) can't show the workbench; {instead}.")
