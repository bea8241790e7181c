"""A command of torchdeck's own, run below the screen: what it prints is shown as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Sequence

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.widgets import RichLog

from torchdeck.core.machine.launch import command, environment
from torchdeck.core.text import printable
from torchdeck.tui.screens.dialogs import Dialog
from torchdeck.tui.widgets.words import Words


class Console(Dialog):
    """Runs ``torchdeck WORDS`` in a process of its own; gives its exit code when it is closed, None when it was ended.

    Everything that a screen does with a model is a command that could be typed: it is shown, and can be copied.
    """

    BINDINGS = [
        Binding("j,down", "scroll(1)", "Down", show=False, id="console.down", tooltip="Scroll down"),
        Binding("k,up", "scroll(-1)", "Up", show=False, id="console.up", tooltip="Scroll up"),
        Binding("Y", "copy", "Copy", show=False, id="console.copy", tooltip="Copy the command (OSC 52)"),
        Binding("enter,q", "leave", "Back", show=False, id="console.leave", tooltip="Back; a running command is ended"),
    ]
    DEFAULT_CSS = """
    Console > .box { width: 96%; height: 80%; }
    Console RichLog { height: 1fr; background: $surface; border: none; }
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__()
        self.words = list(words)
        #: Exit code, once it is over.
        self.code: int | None = None
        self._process: asyncio.subprocess.Process | None = None

    def compose(self) -> ComposeResult:
        """The command, what it says, and how it ended."""
        with Vertical(classes="box"):
            yield Words(f"$ torchdeck {shlex.join(self.words)}", classes="title")
            yield RichLog(id="output", wrap=True, max_lines=5000)
            yield Words("running; esc ends it", classes="words")

    def on_mount(self) -> None:
        """Start it."""
        self.query_one(RichLog).can_focus = False
        self.call_after_refresh(self._run)  # the command is told its width, which is known once the box is laid out

    @work(exclusive=True)
    async def _run(self) -> None:
        log = self.query_one(RichLog)
        width = max(20, log.scrollable_content_region.width)
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *command("torchdeck", *self.words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=1 << 20,
                env={**environment(), "COLUMNS": str(width), "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            log.write(Text(f"The command can't be started: {error.strerror}."))
            return
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # a line of more than a megabyte
                continue
            if not line:
                break
            log.write(Text(printable(line.decode(errors="replace").rstrip("\n"))))
        self.code = await process.wait()
        words = self.query_one(".words", Words)
        words.update("done; esc closes" if self.code == 0 else f"ended with exit code {self.code}; esc closes")
        words.set_class(self.code != 0, "-wrong")

    def action_leave(self) -> None:
        """Close it; a command that goes on is ended."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        self.dismiss(self.code)

    def action_scroll(self, by: int) -> None:
        """Scroll what it said."""
        self.query_one(RichLog).scroll_relative(y=by, animate=False)

    def action_copy(self) -> None:
        """Copy the command."""
        self.app.copy_to_clipboard(f"torchdeck {shlex.join(self.words)}")
        self.notify("command copied", timeout=3)
