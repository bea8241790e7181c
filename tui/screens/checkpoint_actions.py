"""What is done with files of weights: compared, fitted, averaged, pruned, evaluated, exported ... by torchdeck's own
commands, which the user sees and could type."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from textual import work
from textual.binding import Binding
from textual.screen import Screen

from torchdeck.core.checkpoints.archive import SUFFIXES, inspect_file
from torchdeck.core.checkpoints.find import FoundCheckpoint
from torchdeck.core.checkpoints.stored import Stored
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.runs.consent import code_named
from torchdeck.tui.memory import Memory
from torchdeck.tui.run_monitor import RunMonitor
from torchdeck.tui.screens.consent import agreed
from torchdeck.tui.screens.console import Console
from torchdeck.tui.screens.dialogs import Answer, Choice, Pick, Question, TextDialog, whole_number
from torchdeck.tui.screens.files import FilePick
from torchdeck.tui.widgets.table import Table


class CheckpointActions(Screen):
    """Part of the Checkpoints screen."""

    BINDINGS = [
        Binding(
            "space", "mark", "Mark", id="weights.mark", tooltip="Mark the file, to compare or average it with others"
        ),
        Binding("o", "open", "Open", show=False, id="weights.open", tooltip="Open any file of weights"),
        Binding(
            "equals_sign",
            "diff",
            "Diff",
            key_display="=",
            id="weights.diff",
            tooltip="Compare the two marked files (or the marked one with the one under the cursor)",
        ),
        Binding(
            "f",
            "fits",
            "Fits",
            id="weights.fits",
            tooltip="Check whether it loads into the model of the form, of a preset or of another run",
        ),
        Binding("e", "evaluate", "Evaluate", id="weights.evaluate", tooltip="Evaluate on any data set"),
        Binding("p", "predict", "Predict", id="weights.predict", tooltip="Predict for an image, a folder, a table"),
        Binding(
            "x",
            "export",
            "Export",
            id="weights.export",
            tooltip="state_dict, safetensors, TorchScript, ONNX, torch.export, int8 ...",
        ),
        Binding(
            "F",
            "finetune",
            "Fine-tune",
            id="weights.finetune",
            tooltip="Fine-tune it on other data: makes an experiment for the Train screen",
        ),
        Binding(
            "r",
            "resume",
            "Resume",
            show=False,
            id="weights.resume",
            tooltip="Resume the file's run from its newest checkpoint",
        ),
        Binding(
            "a",
            "average",
            "Average",
            show=False,
            id="weights.average",
            tooltip="Average the weights of the marked files",
        ),
        Binding(
            "P",
            "prune",
            "Prune",
            show=False,
            id="weights.prune",
            tooltip="Show which checkpoints can be deleted and how much that frees, then delete them",
        ),
        Binding(
            "W",
            "whole",
            "Open whole",
            show=False,
            id="weights.whole",
            tooltip="Unpickle a whole model, which runs what is in the file",
        ),
        Binding("Y", "copy", "Copy", show=False, id="weights.copy", tooltip="Copy the file's path (OSC 52)"),
    ]

    stored: Stored | None

    def __init__(self, monitor: RunMonitor, memory: Memory, roots: list[Path]) -> None:
        super().__init__()
        self.monitor, self.memory, self.roots = monitor, memory, roots

    @property
    def files(self) -> Table:
        """The files."""
        raise NotImplementedError

    def open_file(self, path: Path) -> None:
        """Put a file on top of the list, and look into it."""
        raise NotImplementedError

    def refresh_now(self) -> None:
        """Look again at once."""
        raise NotImplementedError

    def _current(self) -> FoundCheckpoint | None:
        found: FoundCheckpoint | None = self.files.current
        if found is None:
            self.notify("There is no file.", severity="warning", timeout=3)
        return found

    async def _run(self, *words: str) -> int | None:
        code: int | None = await self.app.push_screen_wait(Console(words))
        self.refresh_now()
        return code

    def action_mark(self) -> None:
        """Mark the file, or not."""
        self.files.toggle()

    @work
    async def action_open(self) -> None:
        """Open any file."""
        path = await self.app.push_screen_wait(FilePick("Open a file of weights", SUFFIXES))
        if path is not None:
            self.open_file(Path(path).expanduser())

    @work
    async def action_diff(self) -> None:
        """Compare two files."""
        chosen: list[FoundCheckpoint] = list(self.files.marked)
        current = self._current()
        if len(chosen) == 1 and current is not None and current.path != chosen[0].path:
            chosen.append(current)
        if len(chosen) != 2:
            self.notify("Mark the two files to compare with space.", severity="warning", timeout=4)
            return
        await self._run("diff", str(chosen[0].path), str(chosen[1].path))

    @work
    async def action_fits(self) -> None:
        """A table of matches with a model."""
        current = self._current()
        if current is None:
            return
        workbench: Any = self.app
        choices = [
            Choice("form", "the form's experiment", "on the Train screen"),
            *(Choice(name, name, "preset") for name in toml.presets()),
        ]
        picked = await self.app.push_screen_wait(Pick("Does it fit the model of", choices))
        if picked is None:
            return
        if picked != "form":
            await self._run("inspect", str(current.path), "--fits", picked)
            return
        try:
            text = toml.dumps(toml.build(workbench.train.form.raw))
        except UserError as error:
            self.notify(str(error), severity="error")
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "form.toml"
            path.write_text(text, encoding="utf-8")
            await self._run("inspect", str(current.path), "--fits", str(path))

    # --- further -----------------------------------------------------------------------------------------------------

    async def _trained(self) -> tuple[Path, list[str]] | None:
        """A checkpoint of ours, and the words by which the user vouches for code that it names."""
        current = self._current()
        if current is None:
            return None
        try:
            stored = await asyncio.to_thread(inspect_file, current.path)
            if not stored.experiment:
                raise UserError(
                    f"{current.path.name} is not a checkpoint of torchdeck: it names neither a model nor data. F "
                    "makes an experiment from it."
                )
            return await self._vouched(stored)
        except UserError as error:
            self.notify(str(error), severity="error", timeout=8)
            return None

    async def _vouched(self, stored: Stored) -> tuple[Path, list[str]] | None:
        raw = toml.loads(stored.experiment, stored.path.name).model_dump(mode="json", exclude_none=True)
        if code_named(toml.build(raw), stored.path) is None:
            return stored.path, []
        return (stored.path, ["--trust-code"]) if await agreed(self.app, raw, stored.path) else None

    @work
    async def action_evaluate(self) -> None:
        """Evaluate on any data set."""
        trained = await self._trained()
        if trained is None:
            return
        text = await self.app.push_screen_wait(
            TextDialog("Evaluate on", "A data set, a folder of images by class, or a table; empty: its own test set.")
        )
        if text is not None:
            await self._run(
                "evaluate", str(trained[0]), *(["--data", text.strip()] if text.strip() else []), *trained[1]
            )

    @work
    async def action_predict(self) -> None:
        """Predict for files."""
        trained = await self._trained()
        if trained is None:
            return
        path = await self.app.push_screen_wait(
            FilePick(
                "Predict for an image, a table or an array",
                (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".csv", ".tsv", ".parquet", ".npy", ".npz"),
            )
        )
        if path is not None:
            await self._run("predict", str(trained[0]), path, *trained[1])

    @work
    async def action_export(self) -> None:
        """Write it in another format."""
        current = self._current()
        if current is None:
            return
        formats = {
            "state_dict": "weights alone, for torch.load",
            "safetensors": "weights alone, safe to load",
            "torch_export": "an exported program, .pt2",
            "onnx": "for other runtimes",
            "torchscript": "for C++ (deprecated by torch)",
            "int8": "linear layers in 8 bits, accuracy before and after",
            "model": "the whole module, pickled: loading it runs code",
        }
        picked = await self.app.push_screen_wait(
            Pick("Export as", [Choice(k, k, words) for k, words in formats.items()])
        )
        if picked is None:
            return
        words: list[str] = []
        if picked not in ("state_dict", "safetensors"):
            trained = await self._trained()
            if trained is None:
                return
            words = trained[1]
        suffix = {
            "state_dict": "pth",
            "safetensors": "safetensors",
            "model": "model.pth",
            "torchscript": "ts.pt",
            "onnx": "onnx",
            "torch_export": "pt2",
            "int8": "int8.pt2",
        }[picked]
        name = current.run.name if current.run else current.path.stem
        output = await self.app.push_screen_wait(TextDialog("Write to", "", str(Path.cwd() / f"{name}.{suffix}")))
        if output:
            await self._run("export", str(current.path), "--format", picked, "-o", output, *words)

    @work
    async def action_finetune(self) -> None:
        """Make an experiment that goes on from these weights with other data, and take it into the form."""
        current = self._current()
        if current is None:
            return
        try:
            stored = await asyncio.to_thread(inspect_file, current.path)
            vouched = await self._vouched(stored) if stored.experiment else (current.path, [])
        except UserError as error:
            self.notify(str(error), severity="error", timeout=8)
            return
        if vouched is None:
            return
        data = await self.app.push_screen_wait(
            TextDialog("Fine-tune on", "A data set, a folder of images by class, or a table; empty: its own data.")
        )
        if data is None:
            return
        freeze = await self.app.push_screen_wait(
            TextDialog("Freeze", "Patterns of the parameters to freeze, such as stages.0.*; empty: none.")
        )
        if freeze is None:
            return
        rate = await self.app.push_screen_wait(
            TextDialog(
                "Learning rate of the backbone", "As a factor of the last layer's.", "0.1", check_backbone_factor
            )
        )
        if rate is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "finetune.toml"
            words = [
                "finetune",
                str(current.path),
                "-o",
                str(path),
                "--backbone-lr-factor",
                rate,
                *(["--data", data.strip()] if data.strip() else []),
            ]
            words += vouched[1]
            words += [word for pattern in freeze.replace(",", " ").split() for word in ("--freeze", pattern)]
            if await self._run(*words) != 0:
                return
            raw = toml.read(path)
        workbench: Any = self.app
        workbench.open_screen("train")
        workbench.train.load(raw, f"fine-tuning of {current.path.name}")
        workbench.train.choose("experiment")

    @work
    async def action_resume(self) -> None:
        """Go on with the run that the file is of."""
        current = self._current()
        if current is None:
            return
        if current.run is None:
            self.notify(
                "The file belongs to no run; F makes an experiment that starts from its weights.",
                severity="warning",
                timeout=5,
            )
            return
        workbench: Any = self.app
        workbench.open_screen("runs")
        workbench.get_screen("runs").resume(current.run)

    # --- several -----------------------------------------------------------------------------------------------------

    @work
    async def action_average(self) -> None:
        """The mean of the marked files."""
        chosen: list[FoundCheckpoint] = list(self.files.marked)
        if len(chosen) < 2:
            self.notify("Mark the files to average with space.", severity="warning", timeout=4)
            return
        output = await self.app.push_screen_wait(
            TextDialog("Write the average to", "A .pth or .safetensors file", str(Path.cwd() / "average.safetensors"))
        )
        if output:
            await self._run("average", *(str(f.path) for f in chosen), "-o", output)

    @work
    async def action_prune(self) -> None:
        """Show what could go, then ask."""
        keep = await self.app.push_screen_wait(
            TextDialog(
                "How many checkpoints of each run to keep", "Besides the newest and best.pt.", "3", check_generations
            )
        )
        if keep is None:
            return
        roots = [word for root in self.roots for word in ("--runs", str(root))]
        if await self._run("prune", "--keep-best", keep, *roots) != 0:
            return
        answer = await self.app.push_screen_wait(
            Question(
                "Delete them permanently?",
                [
                    Answer("n", "no", "No"),
                    Answer("y", "yes", "Yes, delete what was listed"),
                ],
            )
        )
        if answer == "yes":
            await self._run("prune", "--keep-best", keep, "--yes", *roots)

    @work
    async def action_whole(self) -> None:
        """Open a whole pickled model, once the user has read what that means."""
        current = self._current()
        if current is None:
            return
        calls = ", ".join(self.stored.calls[:4]) if self.stored and self.stored.path == current.path else ""
        answer = await self.app.push_screen_wait(
            Question(
                f"Opening {current.path.name} RUNS what its author put into it{': ' + calls if calls else ''}. "
                "It can do anything that you can. Open it?",
                [
                    Answer("n", "no", "No, leave it closed"),
                    Answer("y", "yes", "Yes, run it: I know where it comes from"),
                ],
            )
        )
        if answer == "yes":
            await self._run("inspect", str(current.path), "--run-code", "--yes")

    def action_copy(self) -> None:
        """Copy the path."""
        current = self._current()
        if current is not None:
            self.app.copy_to_clipboard(str(current.path.absolute()))
            self.notify(f"{current.path.name}: path copied", timeout=3)


def check_backbone_factor(text: str) -> None:
    """Raises UserError unless it is a number from 0 to 1000."""
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"{text!r} is not a number.") from None
    if not 0 <= value <= 1000:
        raise UserError("A number from 0 to 1000.")


def check_generations(text: str) -> None:
    """Raises UserError unless it is a whole number, 0 or more."""
    if whole_number(text) is None:
        raise UserError("A whole number, 0 or more.")
