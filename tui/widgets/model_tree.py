"""The model's modules as a tree: output shape, parameters, share, multiply-adds; frozen and trained branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.message import Message
from textual.widgets.tree import TreeNode

from torchdeck.core.text import printable
from torchdeck.tui.drawing.axes import amount
from torchdeck.tui.widgets.vim import VimTree, walk_nodes

_UNITS = ("", "k", "M", "G", "T")


class ModelTree(VimTree):
    """Nodes hold the dicts of torchdeck.core.models.summary.Node."""

    BINDINGS = [
        Binding("z", "freeze", "Freeze", id="model.freeze", tooltip="Freeze this branch, or train it again"),
        Binding("b", "largest", "Largest", id="model.largest", tooltip="Jump to the module with the most parameters"),
        Binding("slash", "find", "Find", key_display="/", id="model.find", tooltip="Find a module by name or type"),
        Binding("n", "find_next", "Find next", show=False, id="model.find-next", tooltip="The next match"),
        Binding("O", "fold_all", "Fold all", show=False, id="model.fold-all", tooltip="Fold or unfold everything"),
        Binding("c", "copy", "Copy", show=False, id="model.copy", tooltip="Copy the module's name (OSC 52)"),
    ]
    DEFAULT_CSS = """
    ModelTree { height: 1fr; background: $background; scrollbar-size-vertical: 1; padding: 0; }
    """

    class FreezeChanged(Message):
        """Other parameters are to be frozen: name patterns for model.freeze."""

        def __init__(self, patterns: list[str]) -> None:
            super().__init__()
            self.patterns = patterns

    class FindAsked(Message):
        """The user wants to find a module."""

    def __init__(self, *, id: str) -> None:
        super().__init__("model", id=id)
        self.guide_depth = 2
        self.summary: dict[str, Any] | None = None
        self._found = ""
        self._largest: list[str] = []

    def say(self, text: str) -> None:
        """Words instead of a tree."""
        self.summary = None
        self.clear()
        self.root.set_label(text)
        self.root.data = None

    def show(self, summary: dict[str, Any]) -> None:
        """Show a model (torchdeck.core.models.summary.Summary as a dict)."""
        if summary == self.summary:
            return
        folded = {n.data["path"] for n in walk_nodes(self.root) if n.data and not n.is_expanded and n.children}
        known = {n.data["path"] for n in walk_nodes(self.root) if n.data}
        here = self.cursor_node.data["path"] if self.cursor_node is not None and self.cursor_node.data else None
        self.summary = summary
        self.clear()
        self.root.data = summary["root"]
        self.root.set_label(summary["root"]["type"])
        self._fill(self.root, summary["root"], folded, known, 0)
        self.root.expand()
        if here is not None:
            self._go(here)

    def _fill(self, node: TreeNode, module: dict[str, Any], folded: set[str], known: set[str], depth: int) -> None:
        for child in module["children"]:
            if not child["children"]:
                node.add_leaf(child["name"], data=child)
                continue
            # Deep models begin folded: their first levels fit a screen.
            unfolded = child["path"] not in folded if child["path"] in known else depth < 1
            inner = node.add(child["name"], data=child, expand=unfolded)
            self._fill(inner, child, folded, known, depth + 1)

    def render_label(self, node: TreeNode, base_style: Style, style: Style) -> Text:
        """Name and type on the left, figures on the right."""
        module = node.data
        if not module:
            return Text(str(node.label), style=style, no_wrap=True)
        depth, parent = 0, node.parent
        while parent is not None:
            depth, parent = depth + 1, parent.parent
        width = max(self.size.width - self.guide_depth * depth - 3, 20)
        name = printable(module["type"] if node is self.root else f"{module['name']} {module['type']}")
        shape = "×".join(map(str, module["output_shape"]))
        frozen = module["parameters"] > 0 and module["trainable"] == 0
        partly = 0 < module["trainable"] < module["parameters"]
        count = amount(module["parameters"], 1000, _UNITS) if module["parameters"] else "-"
        share = f"{module['share']:.0%}" if module["parameters"] else ""
        adds = amount(module["multiply_adds"], 1000, _UNITS) if module["multiply_adds"] else ""
        kind = "" if module["dtype"] in ("float32", "") else f" {module['dtype']}"
        sign = "❄" if frozen else " "
        if partly:
            sign = "◐"
        right = f" {shape:>11}{sign}{count:>6}{share:>5}"
        if width > 58:
            right += f"{adds:>7}{kind}"
        room = max(width - len(right), 6)
        text = Text(name, style=style, no_wrap=True)
        text.truncate(room, overflow="ellipsis", pad=True)
        text.append(right, style=Style(dim=frozen))
        return text

    def memory_words(self) -> str:
        """What training it takes, in one line."""
        if self.summary is None:
            return ""
        root = self.summary["root"]
        parts = [f"{root['parameters']:,} parameters"]
        if root["trainable"] != root["parameters"]:
            parts.append(f"{root['trainable']:,} trained")
        total = sum(self.summary[k] for k in ("weights", "gradients", "optimizer", "activations"))
        if root["multiply_adds"]:  # what could not be called by itself has none
            parts.append(f"{amount(root['multiply_adds'], 1000, _UNITS)} multiply-adds")
        parts.append(f"about {amount(total, 1024, ('', 'K', 'M', 'G'))}B to train")
        return ", ".join(parts)

    # --- keys --------------------------------------------------------------------------------------------------------

    def _go(self, path: str) -> bool:
        for node in walk_nodes(self.root):
            if node.data and node.data["path"] == path:
                parent = node.parent
                while parent is not None:
                    parent.expand()
                    parent = parent.parent
                self._tree_lines  # noqa: B018  line numbers are known only once the tree has been laid out anew
                self.move_cursor(node)
                return True
        return False

    def action_freeze(self) -> None:
        """Freeze the branch under the cursor, or train it again when all of it is frozen."""
        node = self.cursor_node
        if node is None or not node.data or self.summary is None or not node.data["parameters"]:
            return
        branch = set(_parameters(node.data))
        frozen = {name for name, trained in _all(self.summary["root"]) if not trained}
        frozen = frozen - branch if node.data["trainable"] == 0 else frozen | branch
        self.post_message(self.FreezeChanged(patterns(self.summary["root"], frozen)))

    def action_largest(self) -> None:
        """To the module that has most parameters of its own; again: to the next."""
        modules = [n.data for n in walk_nodes(self.root) if n.data and not n.data["children"] and n.data["parameters"]]
        order = [m["path"] for m in sorted(modules, key=lambda m: -m["parameters"])]
        if not order:
            return
        here = self.cursor_node.data["path"] if self.cursor_node is not None and self.cursor_node.data else None
        place = order.index(here) + 1 if here in order else 0
        self._go(order[place % len(order)])

    def action_find(self) -> None:
        """Find a module."""
        self.post_message(self.FindAsked())

    def find(self, text: str) -> bool:
        """Go to the next module whose name or type holds this text; tells whether there is one."""
        self._found = text
        modules = [n.data for n in walk_nodes(self.root) if n.data]
        here = self.cursor_node.data if self.cursor_node is not None else None
        start = next((i + 1 for i, m in enumerate(modules) if m is here), 0)
        for module in modules[start:] + modules[:start]:
            if text.lower() in f"{module['path']} {module['type']}".lower():
                return self._go(module["path"])
        return False

    def action_find_next(self) -> None:
        """The next module found."""
        if self._found:
            self.find(self._found)

    def action_fold_all(self) -> None:
        """Fold everything, or unfold it."""
        if any(n.is_expanded and n.children for n in walk_nodes(self.root) if n is not self.root):
            for child in self.root.children:
                child.collapse_all()
        else:
            self.root.expand_all()

    def action_copy(self) -> None:
        """Copy the module's name."""
        if self.cursor_node is not None and self.cursor_node.data:
            self.app.copy_to_clipboard(self.cursor_node.data["path"])
            self.notify(f"{self.cursor_node.data['path'] or 'the model'} copied")


def _all(module: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """Full name of each parameter in a module and below, and whether it is trained."""
    prefix = f"{module['path']}." if module["path"] else ""
    for name, trained in module["own"]:
        yield prefix + name, trained
    for child in module["children"]:
        yield from _all(child)


def _parameters(module: dict[str, Any]) -> list[str]:
    return [name for name, _ in _all(module)]


def patterns(module: dict[str, Any], frozen: set[str]) -> list[str]:
    """The fewest name patterns that mean exactly these parameters: a branch that is all frozen is one pattern."""
    inside = _parameters(module)
    if not inside or not frozen.intersection(inside):
        return []
    if frozen.issuperset(inside) and module["path"]:
        return [f"{_escaped(module['path'])}.*"]
    prefix = f"{module['path']}." if module["path"] else ""
    own = [prefix + name for name, _ in module["own"] if prefix + name in frozen]
    return own + [p for child in module["children"] for p in patterns(child, frozen)]


def _escaped(text: str) -> str:
    """A text in which no character has a meaning for fnmatch."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)
