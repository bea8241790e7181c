"""What is done with the runs of a list: open, label, delete, resume, train again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from textual import work
from textual.binding import Binding

from torchdeck.core.errors import UserError, count
from torchdeck.core.experiment import toml
from torchdeck.core.runs import labels, trash
from torchdeck.core.runs.rows import Row
from torchdeck.tui.columns import size
from torchdeck.tui.memory import Memory
from torchdeck.tui.run_monitor import RunMonitor
from torchdeck.tui.screens.consent import agreed
from torchdeck.tui.screens.dialogs import Answer, Question, TextDialog
from torchdeck.tui.screens.resume import resume_run
from torchdeck.tui.screens.split_screen import SplitScreen
from torchdeck.tui.widgets.table import Table


class RunActions(SplitScreen):
    """Part of the Runs screen."""

    BINDINGS = [
        Binding(
            "r",
            "resume",
            "Resume",
            id="runs.resume",
            tooltip="Resume the run from its last checkpoint, or extend it",
        ),
        Binding(
            "s", "rerun", "Rerun", show=False, id="runs.rerun", tooltip="Train the run's experiment again, as a new run"
        ),
        Binding(
            "E",
            "change",
            "Edit and rerun",
            id="runs.change",
            tooltip="Load the run's experiment into the form, to change it and train again",
        ),
        Binding("n", "note", "Note", show=False, id="runs.note", tooltip="Write a note"),
        Binding("N", "title", "Title", show=False, id="runs.title", tooltip="Give the run a title"),
        Binding("t", "tags", "Tags", id="runs.tags", tooltip="Tags of the run, or of all that are marked"),
        Binding(
            "z",
            "archive",
            "Archive",
            show=False,
            id="runs.archive",
            tooltip="Archive, or unarchive (archived:yes shows them)",
        ),
        Binding("d,delete", "delete", "Delete", id="runs.delete", tooltip="Move to the trash"),
        Binding("U", "restore", "Undelete", show=False, id="runs.restore", tooltip="Restore what was deleted last"),
        Binding("c", "checkpoints", "Weights", show=False, id="runs.checkpoints", tooltip="The run's checkpoints"),
        Binding("Y", "copy", "Copy", show=False, id="runs.copy", tooltip="Copy the run's directory (OSC 52)"),
    ]

    def __init__(self, monitor: RunMonitor, memory: Memory) -> None:
        super().__init__()
        self.monitor, self.memory = monitor, memory
        self.roots: list[Path] = []

    def _fail(self, error: UserError) -> None:
        self.notify(str(error), severity="error", timeout=8)

    def _wanted(self) -> list[Row]:
        rows: list[Row] = self.listed.wanted
        if not rows:
            self.notify("There are no runs.", severity="warning", timeout=3)
        return rows

    def on_table_chosen(self, event: Table.Chosen) -> None:
        """Look at the run on the Train screen; one of another tool is shown here."""
        if event.table is not self.listed:
            return
        row: Row = event.item
        if row.foreign:
            self.notify("A run of another tool is shown here; the Train screen shows torchdeck's.", timeout=4)
            return
        workbench: Any = self.app
        workbench.open_screen("train")
        workbench.train.attach(row.path)

    # --- train again -------------------------------------------------------------------------------------------------

    def _experiment(self, row: Row) -> dict[str, Any]:
        if row.foreign:
            raise UserError(f"{row.name} was made by another tool; it has no experiment.")
        return toml.read(row.path / "experiment.toml")

    @work
    async def action_rerun(self) -> None:
        """Train the experiments of the chosen runs again."""
        try:
            added = 0
            for row in self._wanted():
                if await agreed(self.app, self._experiment(row), row.path):
                    self.monitor.add(toml.dumps(toml.build(self._experiment(row))), f"{row.title or row.name} again")
                    added += 1
        except UserError as error:
            self._fail(error)
            return
        if added:
            self.notify(f"{count(added, 'run')} started, or queued behind the current run", timeout=4)

    @work
    async def action_change(self) -> None:
        """Take the experiment into the form of the Train screen."""
        row: Row | None = self.listed.current
        if row is None:
            return
        workbench: Any = self.app
        try:
            raw = self._experiment(row)
            if not await agreed(self.app, raw, row.path):
                return
        except UserError as error:
            self._fail(error)
            return
        workbench.open_screen("train")
        workbench.train.load(raw, f"the experiment of {row.name}")
        workbench.train.choose("experiment")

    @work
    async def action_resume(self) -> None:
        """Go on with the run under the cursor, or prolong it."""
        row: Row | None = self.listed.current
        if row is None:
            return
        try:
            raw = self._experiment(row)
            if row.status == "running":
                raise UserError(f"{row.name} is already training.")
            done = row.epoch if row.status == "done" else None
            going_on = await resume_run(self.app, self.monitor, row.path, raw, done)
        except UserError as error:
            self._fail(error)
            return
        if going_on:
            self.refresh_now()

    # --- labels ------------------------------------------------------------------------------------------------------

    def _label(self, rows: list[Row], **values: Any) -> None:
        try:
            for row in rows:
                labels.write(row.path, replace(labels.read_labels(row.path), **values))
        except UserError as error:
            self._fail(error)
        self.refresh_now()

    @work
    async def action_note(self) -> None:
        """Write a note."""
        rows = self._wanted()
        if (
            rows
            and (text := await self.app.push_screen_wait(TextDialog("Note", rows[0].name, rows[0].note))) is not None
        ):
            self._label(rows, note=text.strip())

    @work
    async def action_title(self) -> None:
        """Give the run under the cursor a title."""
        row: Row | None = self.listed.current
        if (
            row is not None
            and (text := await self.app.push_screen_wait(TextDialog("Title", row.name, row.title))) is not None
        ):
            self._label([row], title=text.strip() or None)

    @work
    async def action_tags(self) -> None:
        """Change tags."""
        rows = self._wanted()
        if not rows:
            return
        text = await self.app.push_screen_wait(
            TextDialog("Tags, separated by spaces", ", ".join(r.name for r in rows[:3]), " ".join(rows[0].tags))
        )
        if text is not None:
            self._label(rows, tags=tuple(dict.fromkeys(text.replace(",", " ").split())))

    def action_archive(self) -> None:
        """Put runs away, or bring them back."""
        rows = self._wanted()
        if rows:
            away = not rows[0].archived
            self._label(rows, archived=away)
            self.notify(
                f"{count(len(rows), 'run')} {'archived; archived:yes shows them' if away else 'brought back'}",
                timeout=4,
            )

    # --- delete ------------------------------------------------------------------------------------------------------

    @work
    async def action_delete(self) -> None:
        """Move runs to the trash."""
        rows = self._wanted()
        if not rows:
            return
        what = rows[0].name if len(rows) == 1 else count(len(rows), "run")
        answer = await self.app.push_screen_wait(
            Question(
                f"Move {what} ({size(sum(r.size for r in rows))}) to the trash?",
                [
                    Answer("n", "no", "No"),
                    Answer("y", "yes", "Yes; U restores it, torchdeck trash --empty frees the disk space"),
                ],
            )
        )
        if answer != "yes":
            return
        try:
            for row in rows:
                trash.move_to_trash(row.path, trash.root_of(row.path, self.roots))
            self.notify(f"{what} was moved to the trash; U restores it", timeout=5)
        except UserError as error:
            self._fail(error)
        self.refresh_now()

    def action_restore(self) -> None:
        """Take back what was deleted last."""
        try:
            found = sorted((one for root in self.roots for one in trash.contents(root)), key=lambda one: one.deleted)
            if not found:
                self.notify("The trash is empty.", timeout=3)
                return
            trash.take_from_trash(found[-1])
            self.notify(f"{found[-1].origin.name} was restored", timeout=4)
        except UserError as error:
            self._fail(error)
        self.refresh_now()

    def action_checkpoints(self) -> None:
        """The run's checkpoints."""
        row: Row | None = self.listed.current
        if row is not None:
            workbench: Any = self.app
            workbench.open_screen("checkpoints", row.path)

    def action_copy(self) -> None:
        """Copy the directory of the run under the cursor."""
        row: Row | None = self.listed.current
        if row is not None:
            self.app.copy_to_clipboard(str(row.path.absolute()))
            self.notify(f"{row.path} copied", timeout=3)
