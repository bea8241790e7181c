"""The experiment as a form: every field of the TOML, common ones first, the rest folded."""

from __future__ import annotations

from typing import Any

from rich.style import Style
from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import fields, toml
from torchdeck.core.experiment.fields import Field
from torchdeck.core.text import printable
from torchdeck.tui.drawing.colours import colour
from torchdeck.tui.widgets.field_editor import FieldEditor
from torchdeck.tui.widgets.vim import VimTree, walk_nodes
from torchdeck.tui.widgets.words import Words


class _Fields(VimTree):
    """The lines of the form."""

    BINDINGS = [
        Binding("enter", "edit", "Edit", id="form.edit", tooltip="Edit the field, or fold and unfold"),
        Binding("space", "cycle(1)", "Next choice", show=False, id="form.next", tooltip="The next choice of the field"),
        Binding("backspace,delete", "clear_field", "Default", id="form.default", tooltip="Back to the default"),
        Binding("m", "search", "Search", id="form.search", tooltip="Search this field: give a range, or choices"),
        Binding("f", "file", "Own code", id="form.file", tooltip="Pick your own model, data set or loss from a file"),
        Binding("slash", "find", "Find", key_display="/", id="form.find", tooltip="Find a field by name"),
        Binding("n", "find_next", "Find next", show=False, id="form.find-next", tooltip="The next match"),
    ]

    @property
    def _form(self) -> Form:
        """The lines have the focus, so the keys are theirs; what they do is the form's."""
        form = self.parent
        assert isinstance(form, Form)
        return form

    def action_edit(self) -> None:
        """Edit, or fold."""
        self._form.enter()

    def action_cycle(self, by: int) -> None:
        """The next choice."""
        self._form.cycle(by)

    def action_clear_field(self) -> None:
        """Back to the default."""
        self._form.clear_field()

    def action_search(self) -> None:
        """Search the field."""
        self._form.search()

    def action_file(self) -> None:
        """Code of one's own."""
        self._form.file()

    def action_find(self) -> None:
        """Find a field."""
        self._form.post_message(Form.FindAsked())

    def action_find_next(self) -> None:
        """Find the next."""
        self._form.find_next()

    def render_label(self, node: TreeNode, base_style: Style, style: Style) -> Text:
        """Name and value; defaults are dim."""
        if not isinstance(node.data, Field):
            return Text(str(node.label), style=style + Style(bold=True), no_wrap=True)
        item = node.data
        depth = 0
        parent = node.parent
        while parent is not None and parent is not self.root:
            depth, parent = depth + 1, parent.parent
        width = max(self.size.width - 2 * depth - 3, 16)
        name = item.path[-1]
        value = printable(fields.field_text(item.value)) or ("required" if item.required else "-")
        searched = self._form.searched.get(item.key)
        if searched is not None:
            value = f"⌕ {searched}"
        wrong = self._form.is_wrong(item)
        if wrong:
            value = f"✗ {value}"
        room = max(width - 19, 6)
        if len(value) > room:
            value = value[: room - 1] + "…"
        text = Text(f"{name:<18.18} ", style=style, no_wrap=True)
        if wrong:
            text.append(value, style=Style(bold=True, color=colour(self.app.theme_variables, "error") or None))
        elif item.given is None and searched is None:
            text.append(value, style=Style(dim=True))
        else:
            text.append(value, style=Style(bold=True))
        return text


class Form(Vertical):
    """Edits raw tables, as a TOML file has them; ``raw`` holds what is given, defaults are not written."""

    DEFAULT_CSS = """
    Form { layers: base editor; height: 1fr;
        & _Fields { height: 1fr; background: $background; scrollbar-size-vertical: 1; padding: 0; }
        & #form-help { dock: bottom; height: 2; color: $text-muted; padding: 0 1; }
    }
    """

    class Changed(Message):
        """The experiment was changed."""

        def __init__(self, raw: dict[str, Any]) -> None:
            super().__init__()
            self.raw = raw

    class FileAsked(Message):
        """The user wants to pick code of their own for this field."""

        def __init__(self, field: Field) -> None:
            super().__init__()
            self.field = field

    class FindAsked(Message):
        """The user wants to find a field."""

    class PickAsked(Message):
        """The user wants to pick from the catalog for this field."""

        def __init__(self, field: Field) -> None:
            super().__init__()
            self.field = field

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.raw: dict[str, Any] = {}
        #: The ranges of the fields that are searched, by key.
        self.searched: dict[str, str] = {}
        self._found = ""
        self._wrong: UserError | None = None

    def compose(self) -> ComposeResult:
        """The lines, the help of the chosen one, and the editor over them."""
        tree = _Fields("experiment", id="form-fields")
        tree.show_root = False
        tree.guide_depth = 2
        yield tree
        yield Words(id="form-help")
        yield FieldEditor(self._check)

    @property
    def lines(self) -> _Fields:
        """The lines."""
        return self.query_one(_Fields)

    @property
    def editor(self) -> FieldEditor:
        """The editor of a field."""
        return self.query_one(FieldEditor)

    def focus_inside(self) -> None:
        """Focus the lines."""
        self.lines.focus()

    def show(self, raw: dict[str, Any]) -> None:
        """Edit these tables; what is unfolded and where the cursor is stay as they are."""
        self.raw = raw
        tree = self.lines
        unfolded = {
            str(node.data) for node in walk_nodes(tree.root) if not isinstance(node.data, Field) and node.is_expanded
        }
        first = not tree.root.children
        here = self.current.key if self.current else None
        tree.clear()
        sections: dict[str, TreeNode] = {}
        folded: dict[str, TreeNode] = {}
        rest: dict[str, list[Field]] = {}
        items_of = list(fields.fields(raw))
        self.searched = {item.path[-1]: str(item.given) for item in items_of if item.kind == "dimension"}
        for item in items_of:
            section = item.path[0]
            if section not in sections:
                sections[section] = tree.root.add(
                    section, data=section, expand=(first and section not in toml.SEARCHING) or section in unfolded
                )
            if item.common or item.given is not None:
                sections[section].add_leaf(item.path[-1], data=item)
            else:
                rest.setdefault(section, []).append(item)
        for section, items in rest.items():
            key = f"{section} more"
            folded[section] = sections[section].add(f"{len(items)} more", data=key, expand=key in unfolded)
            for item in items:
                folded[section].add_leaf(item.path[-1], data=item)
        if here is not None:
            self.go_to(here)
        elif sections:
            tree.cursor_line = 1

    def mark(self, error: UserError | None) -> None:
        """Mark the fields that an error is about, and no others."""
        lines = [(n, n.data, self.is_wrong(n.data)) for n in walk_nodes(self.lines.root) if isinstance(n.data, Field)]
        self._wrong = error
        for node, item, was_wrong in lines:
            if was_wrong != self.is_wrong(item):
                node.refresh()

    def is_wrong(self, item: Field) -> bool:
        """Whether the error that is marked is about that field."""
        return self._wrong is not None and self._wrong.about(item.key)

    @property
    def current(self) -> Field | None:
        """The field under the cursor."""
        node = self.lines.cursor_node
        return node.data if node is not None and isinstance(node.data, Field) else None

    def go_to(self, key: str) -> bool:
        """Put the cursor on the field of that key; tells whether it is shown."""
        for node in walk_nodes(self.lines.root):
            if isinstance(node.data, Field) and node.data.key == key:
                if node.parent is not None and not node.parent.is_expanded:
                    node.parent.expand()
                # Line numbers are known only once the tree has been laid out anew.
                self.lines._tree_lines  # noqa: B018
                self.lines.move_cursor(node)
                return True
        return False

    def find(self, text: str) -> bool:
        """Go to the field of that name, else to one whose name begins with it or holds it; tells whether there is
        one."""
        self._found = text
        found = self._matches()
        return bool(found) and self.go_to(found[0])

    def _matches(self) -> list[str]:
        """Keys that hold what is looked for: those that are it, then those that begin so, then the others."""
        wanted = self._found.strip().lower()
        keys = [node.data.key for node in walk_nodes(self.lines.root) if isinstance(node.data, Field)]
        names = {key: (key.lower(), key.rpartition(".")[2].lower()) for key in keys}

        def far(key: str) -> int:
            if wanted in names[key]:
                return 0
            return 1 if any(name.startswith(wanted) for name in names[key]) else 2

        return sorted((key for key in keys if wanted in key.lower()), key=far)

    def set_value(self, item: Field, text: str) -> None:
        """Take a text for a field.

        Raises UserError when it is wrong.
        """
        self.raw = fields.change(self.raw, item, text)
        self.show(self.raw)
        self.post_message(self.Changed(self.raw))

    def _check(self, item: Field, text: str) -> None:
        fields.change(self.raw, item, text)

    def search(self) -> None:
        """Give the field under the cursor a range to be searched, or change the one that it has."""
        item = self.current
        if item is None:
            return
        if item.path[0] in (*toml.SEARCHING, "tracking") and item.kind != "dimension":
            self.notify(
                f"{item.key} does not affect the model, so it can't be searched.", severity="warning", timeout=4
            )
            return
        given = item.given if item.kind == "dimension" else self.searched.get(item.key)
        key = item.path[-1] if item.kind == "dimension" else item.key
        self.edit(fields.searched(key, given or None), fields.suggestion(item) if given is None else None)

    # --- keys --------------------------------------------------------------------------------------------------------

    def edit(self, item: Field, text: str | None = None) -> None:
        """Open the editor over the field; ``text``: with that instead of its value."""
        line = self.lines.cursor_line - self.lines.scroll_offset.y
        self.editor.styles.offset = (0, max(0, min(line, self.size.height - 4)))
        self.editor.open(item, text)

    @on(Tree.NodeHighlighted)
    def _highlighted(self, event: Tree.NodeHighlighted) -> None:
        event.stop()
        item = event.node.data
        words = f"{item.key}: {item.help} {item.limits}" if isinstance(item, Field) else ""
        self.query_one("#form-help", Words).update(words)

    def on_field_editor_accepted(self, event: FieldEditor.Accepted) -> None:
        """The editor's text is right."""
        event.stop()
        try:
            self.set_value(event.field, event.text)
        except UserError as error:
            self.notify(str(error), severity="error")

    def on_field_editor_closed(self, event: FieldEditor.Closed) -> None:
        """Back to the lines."""
        event.stop()
        self.lines.focus()

    def enter(self) -> None:
        """Enter on a line."""
        item = self.current
        if item is None:
            node = self.lines.cursor_node
            if node is not None:
                node.toggle()
        elif item.kind == "bool":
            self.cycle(1)
        elif item.kind == "pick":
            self.post_message(self.PickAsked(item))
        else:
            self.edit(item)

    def cycle(self, by: int) -> None:
        """The next choice of the field."""
        item = self.current
        if item is None or not item.choices:
            return
        value = fields.field_text(item.value)
        place = item.choices.index(value) + by if value in item.choices else 0
        try:
            self.set_value(item, item.choices[place % len(item.choices)])
        except UserError as error:
            self.notify(str(error), severity="error")

    def clear_field(self) -> None:
        """Back to the default."""
        item = self.current
        if item is not None and item.given is not None:
            self.raw = toml.put(self.raw, item.path, None)
            self.show(self.raw)
            self.post_message(self.Changed(self.raw))

    def file(self) -> None:
        """Pick code of one's own for the field, or for the model when the field takes none."""
        item = self.current
        names = ("data.name", "model.name", "loss.name")
        if item is None or item.key not in names:
            section = item.path[0] if item else "model"
            key = f"{section}.name" if f"{section}.name" in names else "model.name"
            item = next(f for f in fields.fields(self.raw) if f.key == key)
        self.post_message(self.FileAsked(item))

    def find_next(self) -> None:
        """The next field found."""
        found = self._matches() if self._found else []
        if found:
            here = self.current.key if self.current else None
            self.go_to(found[(found.index(here) + 1) % len(found)] if here in found else found[0])
