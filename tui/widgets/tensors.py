"""The tree of the tensors in a file, and what is known of one."""

from __future__ import annotations

import math
from typing import Any

from textual.binding import Binding

from torchdeck.core.checkpoints.tensors import Figures
from torchdeck.core.text import printable
from torchdeck.tui.columns import size
from torchdeck.tui.drawing.bars import bar
from torchdeck.tui.tensor_tree import Branch, contents_words, shape_words
from torchdeck.tui.widgets.table import Table, TableColumn


class Tensors(Table):
    """The tree of the tensors; modules fold."""

    BINDINGS = [
        Binding(
            "h,left", "fold", "Fold", show=False, id="tensors.fold", tooltip="Fold the module, or go to its parent"
        ),
        Binding("l,right", "unfold", "Unfold", show=False, id="tensors.unfold", tooltip="Unfold the module"),
        Binding(
            "enter",
            "fold_or_unfold",
            "Fold or unfold",
            show=False,
            id="tensors.toggle",
            tooltip="Fold or unfold the module",
        ),
    ]

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, empty="nothing to show")
        self._root = Branch("", "")
        self._folded: set[str] = set()
        self._figures: dict[str, Figures | str] = {}

    def fill(self, root: Branch, folded: set[str], figures: dict[str, Figures | str]) -> None:
        """Show this tree; the set of what is folded is changed by keys."""
        self._root, self._folded, self._figures = root, folded, figures
        self._list()

    def _list(self) -> None:
        items: list[tuple[int, Branch]] = []
        waiting = [(0, child) for child in reversed(self._root.children.values())]
        while waiting:
            depth, branch = waiting.pop()
            items.append((depth, branch))
            if branch.children and branch.path not in self._folded:
                waiting += [(depth + 1, child) for child in reversed(branch.children.values())]
        self.show(self._columns(), items, lambda item: (item[1].path, item[1].tensor is None))

    def _columns(self) -> list[TableColumn]:
        def figure(name: str) -> Any:
            def text(item: tuple[int, Branch]) -> str:
                found = self._figures.get(item[1].path)
                value = getattr(found, name) if isinstance(found, Figures) else None
                if value is None or item[1].tensor is None:
                    return ""
                return f"{value:.1%}" if name == "zero_share" else f"{value:.4g}"

            return text

        columns = [
            TableColumn("tensor", self._label, width=44),
            TableColumn("shape", self._shape, right=True, width=26),
            TableColumn("dtype", lambda item: "/".join(item[1].dtypes)[:16], width=16),
            TableColumn("size", lambda item: size(item[1].nbytes), right=True, width=10),
        ]
        for name, title in (
            ("minimum", "min"),
            ("maximum", "max"),
            ("mean", "mean"),
            ("std", "std"),
            ("zero_share", "zeros"),
            ("nans", "NaN"),
            ("infinities", "inf"),
        ):
            columns.append(TableColumn(title, figure(name), right=True, width=10))
        return columns

    def _label(self, item: tuple[int, Branch]) -> str:
        depth, branch = item
        sign = "  "
        if branch.children:
            sign = "▸ " if branch.path in self._folded else "▾ "
        return f"{'  ' * depth}{sign}{printable(branch.name)}"

    def _shape(self, item: tuple[int, Branch]) -> str:
        branch = item[1]
        if branch.tensor is not None and not branch.children:
            return shape_words(branch.tensor.shape)
        return contents_words(branch) if branch.path in self._folded else ""

    def action_fold(self) -> None:
        """Fold the module under the cursor, or go to the one above."""
        if self.current is None:
            return
        depth, branch = self.current
        if branch.children and branch.path not in self._folded:
            self._folded.add(branch.path)
            self._list()
        elif depth:
            place = next(i for i in range(self.cursor, -1, -1) if self.items[i][0] < depth)
            self._move(place)

    def action_unfold(self) -> None:
        """Unfold the module under the cursor."""
        if self.current is not None and self.current[1].path in self._folded:
            self._folded.discard(self.current[1].path)
            self._list()

    def action_fold_or_unfold(self) -> None:
        """Fold or unfold."""
        if self.current is not None and self.current[1].path in self._folded:
            self.action_unfold()
        else:
            self.action_fold()


def tensor_facts(branch: Branch, found: Figures | str) -> list[tuple[str, str]]:
    """What is known of a tensor, with its histogram."""
    tensor = branch.tensor
    assert tensor is not None
    lines = [("tensor", branch.path), ("shape", f"{shape_words(tensor.shape)}  {tensor.dtype}  {tensor.kind}")]
    if isinstance(found, str):
        return [*lines, ("", found)]
    values = {"min": found.minimum, "max": found.maximum, "mean": found.mean, "std": found.std}
    lines.append(
        ("figures", "  ".join(f"{k} {v:.6g}" for k, v in values.items() if not math.isnan(v)) or "no finite number")
    )
    lines.append(("of them", f"zeros {found.zero_share:.2%}  NaN {found.nans:,}  inf {found.infinities:,}"))
    most = max(found.histogram, default=0)
    step = 2
    for number in range(0, len(found.histogram), step):
        amount = sum(found.histogram[number : number + step])
        edge = found.minimum + (found.maximum - found.minimum) * number / len(found.histogram)
        lines.append((f"{edge:.4g}", f"{bar(amount / (most * step) if most else 0, 30)} {amount:,}"))
    return lines
