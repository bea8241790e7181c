"""What is done with the experiment: open, save, own code, catalog, freeze, find."""

from __future__ import annotations

import os
from pathlib import Path

from textual import work
from textual.binding import Binding

from torchdeck.core import catalog, files
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import fields, toml
from torchdeck.core.usercode.scan import Candidate, scan
from torchdeck.tui.screens.base import Workplace
from torchdeck.tui.screens.dialogs import Choice, Pick, TextDialog
from torchdeck.tui.screens.files import FilePick
from torchdeck.tui.widgets.form import Form
from torchdeck.tui.widgets.model_tree import ModelTree

_OWN = "\N{HORIZONTAL ELLIPSIS}"

#: What a file must hold for each field.
_WANTED = {"model.name": ("model", "function"), "data.name": ("data", "function"), "loss.name": ("function", "model")}


class ExperimentKeys(Workplace):
    """Part of the Train screen."""

    BINDINGS = [
        Binding("o", "open", "Open", id="experiment.open", tooltip="Open a preset or a TOML file"),
        Binding(
            "ctrl+s", "save", "Save", show=False, id="experiment.save", tooltip="Save the experiment as a TOML file"
        ),
        Binding("N", "default", "New", show=False, id="experiment.new", tooltip="Start from the defaults"),
    ]

    @work
    async def action_open(self) -> None:
        """Open a preset or a file."""
        choices = []
        for name, path in toml.presets().items():
            first = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
            choices.append(Choice(name, name, first))
        choices.append(Choice(_OWN, "a TOML file" + _OWN, "from disk"))
        chosen = await self.app.push_screen_wait(Pick("Open an experiment", choices))
        if chosen == _OWN:
            chosen = await self.app.push_screen_wait(FilePick("Open a TOML file", (".toml",)))
        if chosen is None:
            return
        path = toml.presets().get(chosen, Path(chosen).expanduser())
        try:
            raw = toml.read(path)
            toml.build(raw, str(chosen))
        except UserError as error:
            self.notify(str(error), severity="error", timeout=10)
            return
        self.load(raw, chosen)
        for note in toml.notes(str(chosen), ()):
            self.notify(note)

    def action_default(self) -> None:
        """The defaults of everything."""
        self.load({}, "the default experiment")

    @work
    async def action_save(self) -> None:
        """Save as TOML: what is given, and nothing else."""
        name = await self.app.push_screen_wait(
            TextDialog("Save the experiment as", "A .toml file.", "experiment.toml", check_toml_name)
        )
        if name is None:
            return
        import tomli_w

        path = Path(os.path.expanduser(name.strip()))  # noqa: PTH111
        try:
            files.write_text(path, tomli_w.dumps(self.form.raw))
        except OSError as error:
            self.notify(f"{name!r} can't be written: {error.strerror}.", severity="error")
            return
        self.notify(f"saved as {name}; train it with: torchdeck --batch {name}")

    # --- what the form and the tree ask for --------------------------------------------------------------------------

    @work
    async def on_form_pick_asked(self, event: Form.PickAsked) -> None:
        """Pick from the catalog, or code of one's own."""
        item = event.field
        kind = item.path[0]
        choices = [Choice(entry.name, entry.name, entry.summary) for entry in catalog.entries(kind)]
        if item.key in _WANTED:
            choices.insert(0, Choice(_OWN, "your own" + _OWN, "a class or function in a Python file"))
        chosen = await self.app.push_screen_wait(Pick(f"{kind.capitalize()}", choices, value=item.value))
        if chosen == _OWN:
            self.form.post_message(Form.FileAsked(item))
        elif chosen is not None:
            self._set(item, chosen)

    @work
    async def on_form_file_asked(self, event: Form.FileAsked) -> None:
        """Pick a file, then the class in it."""
        item = event.field
        kind = item.path[0]
        path = await self.app.push_screen_wait(FilePick(f"Your own {kind}: which file?", (".py",)))
        if path is None:
            return
        try:
            found = [f for f in scan(Path(path).expanduser()) if f.kind in _WANTED[item.key]]
        except UserError as error:
            self.notify(str(error), severity="error")
            return
        if not found:
            self.notify(f"{path!r} holds nothing that could be a {kind}.", severity="error")
            return
        found.sort(key=lambda f: _WANTED[item.key].index(f.kind))
        choices = [Choice(f.name, f.name, _describe(f)) for f in found]
        name = await self.app.push_screen_wait(Pick(f"Which {kind} in {path}?", choices))
        if name is not None:
            self._set(item, f"{path}:{name}")

    def _set(self, item: fields.Field, text: str) -> None:
        try:
            self.form.set_value(item, text)
        except UserError:
            # An entry that needs arguments can't be right before they are given: take it, and point to them.
            raw = toml.put(self.form.raw, item.path, text)
            self.form.show(raw)
            self.form.post_message(Form.Changed(raw))
            self.notify(str(fields.problem(raw) or ""), severity="warning", timeout=8)

    @work
    async def on_form_find_asked(self, event: Form.FindAsked) -> None:
        """Find a field."""
        text = await self.app.push_screen_wait(
            TextDialog("Find a field", "Part of its name: lr, batch, seed ... n finds the next.")
        )
        if text and not self.form.find(text):
            self.notify(f"No field's name holds {text!r}.", severity="warning")

    @work
    async def on_model_tree_find_asked(self, event: ModelTree.FindAsked) -> None:
        """Find a module."""
        text = await self.app.push_screen_wait(
            TextDialog("Find a module", "Part of its name or type. n finds the next.")
        )
        if text and not self.query_one(ModelTree).find(text):
            self.notify(f"No module's name or type holds {text!r}.", severity="warning")

    def on_model_tree_freeze_changed(self, event: ModelTree.FreezeChanged) -> None:
        """Freeze or train a branch: that is a change of the experiment."""
        raw = toml.put(self.form.raw, ("model", "freeze"), event.patterns or None)
        self.form.show(raw)
        self.form.post_message(Form.Changed(raw))


def _describe(found: Candidate) -> str:
    parameters = ", ".join(found.parameters)
    return f"({parameters}) {found.summary}" if parameters else found.summary


def check_toml_name(text: str) -> None:
    """Raises UserError unless it names a .toml file in a folder that is there."""
    if not text.strip().endswith(".toml"):
        raise UserError("The name must end in .toml.")
    folder = Path(os.path.expanduser(text)).parent  # noqa: PTH111 - Path.expanduser raises for a user who is not there
    if not folder.is_dir():
        raise UserError(f"There is no folder {str(folder)!r}.")
