"""The Checkpoints screen: files of weights, looked into without running or loading them, compared, taken further."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.events import Resize

from torchdeck.core.checkpoints.archive import inspect_file
from torchdeck.core.checkpoints.find import FoundCheckpoint, caches, find_checkpoints
from torchdeck.core.checkpoints.stored import Stored
from torchdeck.core.checkpoints.tensors import Figures, tensor_figures
from torchdeck.core.errors import UserError, count
from torchdeck.core.runs.listing import RunList
from torchdeck.core.text import printable
from torchdeck.tui.columns import ago, size
from torchdeck.tui.memory import Memory
from torchdeck.tui.pacing import Settling, Wake
from torchdeck.tui.run_monitor import RunMonitor
from torchdeck.tui.screens.checkpoint_actions import CheckpointActions
from torchdeck.tui.tensor_tree import Branch, folded, tensor_tree
from torchdeck.tui.widgets.facts import Facts
from torchdeck.tui.widgets.keybar import KeyBar
from torchdeck.tui.widgets.table import Table, TableColumn
from torchdeck.tui.widgets.tabs import Tabs
from torchdeck.tui.widgets.tensors import Tensors, tensor_facts
from torchdeck.tui.widgets.words import Words

#: Seconds that the cursor rests until a file is opened, or a tensor's numbers are read.
_SETTLE = 0.12
#: Elements up to which a tensor's numbers are read without being asked for.
_AT_ONCE = 20_000_000
#: Characters from which files and tensors stand side by side.
_WIDE = 110

_FILES = (
    TableColumn("file", lambda f: printable(f.title), width=36),
    TableColumn("size", lambda f: size(f.size), right=True, width=9),
    TableColumn("age", lambda f: ago(f.modified), right=True, width=5),
    TableColumn("run or folder", lambda f: printable(f.run.name if f.run else str(f.path.parent)), width=60),
)


class CheckpointsScreen(CheckpointActions):
    """Files, the tree of the tensors in one, and what is known of the file or of one tensor."""

    BINDINGS = [
        Binding("1", "pane('files')", "Files", show=False, id="weights.files", tooltip="Go to the files"),
        Binding("2", "pane('tensors')", "Tensors", show=False, id="weights.tensors", tooltip="Go to the tensors"),
        Binding(
            "3",
            "pane('facts')",
            "Facts",
            show=False,
            id="weights.facts",
            tooltip="Go to the details of the file or tensor",
        ),
        Binding("tab", "next_pane(1)", "Next pane", show=False, id="weights.next", tooltip="To the next pane"),
        Binding(
            "shift+tab",
            "next_pane(-1)",
            "Previous pane",
            show=False,
            id="weights.before",
            tooltip="To the previous pane",
        ),
        Binding("z", "fold_all", "Fold", show=False, id="weights.fold-all", tooltip="Fold all, or unfold all"),
        Binding(
            "escape", "back", "Back", show=False, id="weights.back", tooltip="Back: to the files, then to all files"
        ),
        Binding(
            "i",
            "statistics",
            "Figures",
            id="weights.statistics",
            tooltip="Read the numbers of every tensor: min, max, mean, std, zeros, NaN, inf",
        ),
    ]
    DEFAULT_CSS = """
    CheckpointsScreen {
        & #weights-words { height: 1; padding: 0 1; background: $surface; color: $text-muted; }
        & #weights-words.-wrong { color: $text-error; text-style: bold; }
        & #weights-panes { height: 1fr; }
        & #weights-files { height: 1fr; width: 1fr; }
        & #weights-right { width: 1fr; height: 1fr; border-left: solid $foreground 30%; }
        & #weights-tensors { height: 2fr; }
        & #weights-facts { height: 1fr; min-height: 5; border-top: solid $foreground 30%; }
        &.-narrow #weights-panes { layout: vertical; }
        &.-narrow #weights-right { border-left: none; border-top: solid $foreground 30%; height: 2fr; }
    }
    """

    def __init__(self, monitor: RunMonitor, memory: Memory, roots: list[Path]) -> None:
        super().__init__(monitor, memory, roots)
        self.stored: Stored | None = None
        self._only: Path | None = None
        self._extra: list[Path] = []
        self._root = Branch("", "")
        self._folded: set[str] = set()
        self.figures: dict[str, Figures | str] = {}
        self._leaving = False
        self._wake = Wake()
        self._file_settling, self._tensor_settling = Settling(self, _SETTLE), Settling(self, _SETTLE)
        self._runs = RunList(roots)
        self._wrong: dict[Path, str] = {}

    def compose(self) -> ComposeResult:
        """Tabs, files, tensors, facts, keys."""
        yield Tabs(id="weights-tabs")
        with Horizontal(id="weights-panes"):
            yield Table(id="weights-files", empty="looking for files of weights")
            with Vertical(id="weights-right"):
                yield Tensors(id="weights-tensors")
                yield Facts(id="weights-facts")
        yield Words("", id="weights-words")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        """Begin to look."""
        self.files.tint = lambda found: "error" if found.path in self._wrong else ""
        self.set_focus(self.files)
        self.set_class(self.app.size.width < _WIDE, "-narrow")
        self._watch()

    def on_screen_resume(self) -> None:
        """Look again."""
        self._wake.now()

    def on_resize(self, event: Resize) -> None:
        """Side by side, or one above the other."""
        self.set_class(event.size.width < _WIDE, "-narrow")
        self.call_after_refresh(self.recolour)

    def on_unmount(self) -> None:
        """End what goes on."""
        self._leaving = True

    @property
    def files(self) -> Table:
        """The files."""
        return self.query_one("#weights-files", Table)

    @property
    def tensors(self) -> Tensors:
        """The tree of the tensors."""
        return self.query_one(Tensors)

    def recolour(self) -> None:
        """Another theme, or size."""
        self._say()
        self.files.draw()
        self.tensors.draw()
        self.query_one(Facts).draw()

    def only(self, run: Path | None) -> None:
        """Show the checkpoints of this run, or all files."""
        self._only = run
        self._wake.now()

    # --- files -------------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="files")
    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            try:
                found = await asyncio.to_thread(self._find)
                self.files.empty = "no files of weights here; o opens one"
                self.files.show(_FILES, found, lambda f: f.path)
                self._say()
            except UserError as error:
                self._complain(str(error))
            pace = max(5.0, 20 * (time.monotonic() - began))
            while not await self._wake.pause(pace) and not self.is_current:
                pass  # nobody sees the list

    def _find(self) -> list[FoundCheckpoint]:
        if self._only is not None:
            return find_checkpoints([self._only], [], lambda: self._leaving)
        rows = self._runs.scan(lambda: self._leaving)
        folders = [
            Path.cwd(),
            *(root for root in self.roots if not root.absolute().is_relative_to(Path.cwd())),
            *caches(),
        ]
        found = find_checkpoints([row.path for row in reversed(rows)], folders, lambda: self._leaving)
        return [*(_found(path) for path in self._extra if path.exists()), *found]

    def refresh_now(self) -> None:
        """Look again at once."""
        self._wake.now()

    def open_file(self, path: Path) -> None:
        """Put a file on top of the list, and look into it."""
        path = path.absolute()
        if path not in self._extra:
            self._extra.insert(0, path)
        self._only = None
        self.files.show(_FILES, [_found(path), *(f for f in self.files.items if f.path != path)], lambda f: f.path)
        self.files.go(path)
        self.refresh_now()

    def _say(self) -> None:
        listed = self.files.items
        marked = f", {len(self.files.marks)} marked" if self.files.marks else ""
        of = f" of {self._only.name}" if self._only else ""
        self.query_one(Tabs).show(
            "checkpoints", f"{count(len(listed), 'file')}{of}{marked}, {size(sum(f.size for f in listed))}"
        )

    def _complain(self, sentence: str) -> None:
        words = self.query_one("#weights-words", Words)
        words.set_class(True, "-wrong")
        words.update(sentence)

    @on(Table.Moved, "#weights-files")
    def _moved(self, event: Table.Moved) -> None:
        self._file_settling.begin(self._settled)

    def _settled(self) -> None:
        current = self.files.current
        if self.is_attached and current is not None and (self.stored is None or self.stored.path != current.path):
            self._open(current.path)

    @work(exclusive=True, group="open")
    async def _open(self, path: Path) -> None:
        try:
            stored = await asyncio.to_thread(inspect_file, path)
        except UserError as error:
            self._wrong[path] = str(error)
            self.stored, self._root, self.figures = None, Branch("", ""), {}
            self._complain(str(error))
            self.tensors.fill(self._root, set(), {})
            self.query_one(Facts).show([("", str(error))])
            self.files.draw()
            return
        self._wrong.pop(path, None)
        self.stored, self.figures = stored, {}
        self._root = tensor_tree(stored.tensors)
        self._folded = folded(self._root, max(10, self.tensors.size.height - 2))
        self.tensors.fill(self._root, self._folded, self.figures)
        self._show_file()

    def _show_file(self) -> None:
        stored = self.stored
        if stored is None:
            return
        words = self.query_one("#weights-words", Words)
        numbers = sum(t.numel for t in stored.tensors)
        words.set_class(not stored.safe, "-wrong")
        text = (
            f"{printable(stored.path.name)}: {stored.format}, {size(stored.size)}, "
            f"{count(len(stored.tensors), 'tensor')}, {numbers:,} numbers"
        )
        if stored.dangerous:
            text = f"DANGER, would run {stored.calls[0]} when loaded; nothing was run. {text}"
        elif not stored.safe:
            text = (
                f"would call {stored.calls[0]}{' and more' if len(stored.calls) > 1 else ''} when loaded; "
                f"nothing was run. {text}"
            )
        words.update(text)
        lines = [
            ("path", str(stored.path)),
            ("format", stored.format),
            ("size", size(stored.size)),
            ("numbers", f"{numbers:,}"),
        ]
        lines += [
            ("would run" if any(d in call for d in stored.dangerous) else "would call", call)
            for call in stored.calls[:50]
        ]
        lines += list(stored.contents)
        lines += [("", line) for line in stored.experiment.splitlines() if line.strip()]
        self.query_one(Facts).show(lines)

    # --- tensors -----------------------------------------------------------------------------------------------------

    @on(Table.Moved, "#weights-tensors")
    def _tensor_moved(self, event: Table.Moved) -> None:
        if self.tensors.has_focus:
            self._tensor_settling.begin(partial(self._tensor_settled, event.item))

    def _tensor_settled(self, item: tuple[int, Branch] | None) -> None:
        if not self.is_attached or item is None or self.tensors.current != item:
            return
        branch = item[1]
        if branch.tensor is None:
            self.query_one(Facts).show(
                [
                    ("module", branch.path),
                    ("tensors", f"{branch.count:,}"),
                    ("numbers", f"{branch.numel:,}"),
                    ("size", size(branch.nbytes)),
                    ("dtype", ", ".join(branch.dtypes)),
                ]
            )
        elif branch.tensor.numel <= _AT_ONCE:
            self._measure([branch])
        else:
            self.query_one(Facts).show(
                [("tensor", branch.path), ("numbers", f"{branch.numel:,}"), ("", "i reads them")]
            )

    @work(exclusive=True, group="figures")
    async def _measure(self, branches: list[Branch]) -> None:
        for branch in branches:
            assert branch.tensor is not None
            if branch.path not in self.figures:
                try:
                    self.figures[branch.path] = await asyncio.to_thread(tensor_figures, branch.tensor)
                except (UserError, OSError) as error:
                    self.figures[branch.path] = str(error)
            if len(branches) > 1:
                self.tensors.draw()
        self.tensors.draw()
        current = self.tensors.current
        if current is not None and current[1].path in self.figures and current[1].tensor is not None:
            self.query_one(Facts).show(tensor_facts(current[1], self.figures[current[1].path]))

    def action_statistics(self) -> None:
        """Read the numbers of every tensor."""
        branches = [b for _, b in self._root.walk() if b.tensor is not None]
        if branches:
            self.notify(f"reading {count(len(branches), 'tensor')}", timeout=3)
            self._measure(branches)

    def action_fold_all(self) -> None:
        """Fold all, or unfold all."""
        every = {b.path for d, b in self._root.walk() if b.children and d > 0}
        self._folded = set() if self._folded else every
        self.tensors.fill(self._root, self._folded, self.figures)

    # --- panes -------------------------------------------------------------------------------------------------------

    def action_pane(self, name: str) -> None:
        """Go to a pane."""
        self.set_focus(self.query_one(f"#weights-{name}"))
        if name == "files":
            self._show_file()

    def action_next_pane(self, by: int) -> None:
        """Go to the next pane, or the one before."""
        names = ["files", "tensors", "facts"]
        place = next((i for i, n in enumerate(names) if self.query_one(f"#weights-{n}").has_focus), 0)
        self.action_pane(names[(place + by) % len(names)])

    def action_back(self) -> None:
        """One step back."""
        if not self.files.has_focus:
            self.action_pane("files")
        elif self._only is not None:
            self.only(None)


def _found(path: Path) -> FoundCheckpoint:
    stat = path.stat()
    return FoundCheckpoint(path, (path.name,), None, stat.st_size, stat.st_mtime)
