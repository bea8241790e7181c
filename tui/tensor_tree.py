"""Tensors as a tree of modules: what many layers have in common is told once, so that a large model fits a screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torchdeck.core.checkpoints.tensors import StoredTensor


@dataclass
class Branch:
    """A module, or a tensor (``tensor`` is set) at the end of a branch."""

    name: str
    path: str
    tensor: StoredTensor | None = None
    children: dict[str, Branch] = field(default_factory=dict)
    count: int = 0
    numel: int = 0
    nbytes: int = 0

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Branch]]:
        """This and all below it, with their depth."""
        yield depth, self
        for child in self.children.values():
            yield from child.walk(depth + 1)

    @property
    def dtypes(self) -> list[str]:
        """The kinds of numbers below it."""
        return list(dict.fromkeys(b.tensor.dtype for _, b in self.walk() if b.tensor is not None))


def tensor_tree(tensors: Iterable[StoredTensor]) -> Branch:
    """Tensors under the modules that their names tell."""
    root = Branch("", "")
    for tensor in tensors:
        node = root
        nodes = [root]
        # A name may have hundreds of parts; a tree that deep helps nobody.
        parts = tensor.name.split(".") if tensor.name.count(".") < 32 else [tensor.name]
        for depth, part in enumerate(parts):
            last = depth == len(parts) - 1
            child = node.children.get(part)
            if child is None or (last and child.tensor is not None):
                path = ".".join(parts[: depth + 1])
                key = part if child is None else f"{part}#{len(node.children)}"
                child = node.children[key] = Branch(part, path)
            node = child
            nodes.append(node)
        node.tensor = tensor
        for one in nodes:
            one.count += 1
            one.numel += tensor.numel
            one.nbytes += tensor.nbytes
    return root


def shape_words(shape: Iterable[int] | None) -> str:
    """64x3x7x7; scalar for none."""
    if shape is None:
        return "-"
    return "x".join(map(str, shape)) or "scalar"


def folded(root: Branch, rows: int = 40) -> set[str]:
    """Paths of the modules to fold so that the tree has at most that many rows: the deepest first."""
    shown: set[str] = set()
    depth_of = {b.path: d for d, b in root.walk() if b.children}
    counts: dict[int, int] = {}
    for depth, _ in root.walk():
        counts[depth] = counts.get(depth, 0) + 1
    total = 0
    limit = 0
    for depth in sorted(counts):
        total += counts[depth]
        if total > rows and depth > 1:
            break
        limit = depth
    shown = {path for path, depth in depth_of.items() if depth >= limit}
    return shown


def contents_words(branch: Branch) -> str:
    """What is in a module, in a few words: ``3 tensors, 1.2M``; for one of plain layers, their shapes."""
    leaves = [c for c in branch.children.values() if c.tensor is not None]
    if len(leaves) == len(branch.children) and len(leaves) <= 2:
        return "  ".join(f"{c.name} {shape_words(c.tensor.shape)}" for c in leaves if c.tensor is not None)
    return f"{branch.count} tensors"
