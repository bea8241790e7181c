"""Vim's keys for trees and lists."""

from __future__ import annotations

from collections.abc import Iterator

from rich.text import Text, TextType
from textual.binding import Binding
from textual.widgets import Tree
from textual.widgets.tree import TreeNode

from torchdeck.core.text import printable

LIST_KEYS = [
    Binding("j", "cursor_down", "Down", show=False, id="list.down", tooltip="One line down"),
    Binding("k", "cursor_up", "Up", show=False, id="list.up", tooltip="One line up"),
    Binding("g", "first", "First", show=False, id="list.first", tooltip="To the first line"),
    Binding("G", "last", "Last", show=False, id="list.last", tooltip="To the last line"),
    Binding("ctrl+d", "page_down", "Page down", show=False, id="list.page-down", tooltip="A page down"),
    Binding("ctrl+u", "page_up", "Page up", show=False, id="list.page-up", tooltip="A page up"),
]


class VimTree(Tree):
    """A tree with vim's keys: h and l fold and unfold."""

    BINDINGS = [
        *LIST_KEYS,
        Binding("h,left", "fold", "Fold", show=False, id="tree.fold", tooltip="Fold, or go to the parent"),
        Binding("l,right", "unfold", "Unfold", show=False, id="tree.unfold", tooltip="Unfold"),
    ]

    def action_first(self) -> None:
        """To the first line."""
        self.cursor_line = 0

    def action_last(self) -> None:
        """To the last line."""
        self.cursor_line = self.last_line

    def action_fold(self) -> None:
        """Fold the node, or go to its parent."""
        node = self.cursor_node
        if node is None:
            return
        if node.is_expanded and node.allow_expand and node.children:
            node.collapse()
        elif node.parent is not None and node.parent is not self.root:
            self.move_cursor(node.parent)

    def action_unfold(self) -> None:
        """Unfold the node."""
        if self.cursor_node is not None and self.cursor_node.allow_expand:
            self.cursor_node.expand()

    def process_label(self, label: TextType) -> Text:
        """The label as it is: names in it may hold brackets, which are no markup."""
        return Text(printable(label.plain if isinstance(label, Text) else label.partition("\n")[0]), no_wrap=True)


def walk_nodes(node: TreeNode) -> Iterator[TreeNode]:
    """A node and all below it, in order."""
    yield node
    for child in node.children:
        yield from walk_nodes(child)
