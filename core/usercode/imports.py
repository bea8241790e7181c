"""What a Python file imports of its own project, told from its text: nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

#: Names by which code imports modules that its text does not tell.
_DYNAMIC = {
    "__import__",
    "import_module",
    "exec",
    "eval",
    "locate",
    "run_module",
    "run_path",
    "spec_from_file_location",
}


def place_of(folder: Path, name: str) -> Path | None:
    """The file of a module or package below a folder; None where there is none."""
    path = folder.joinpath(*name.split("."))
    return next((p for p in (path / "__init__.py", path.parent / f"{path.name}.py") if p.is_file()), None)


def imports_of(name: str, root: Path) -> set[str] | None:
    """The dotted names of all that a module below ``root`` may import, also within functions and by way of others below
    ``root``; None where the text does not tell, as with ``importlib.import_module``."""
    found = {name, *_parents(name)}
    waiting = sorted(found)
    while waiting:
        module = waiting.pop()
        file = place_of(root, module)
        if file is None:
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue  # importing it tells what is wrong
        if any(_is_dynamic(node) for node in ast.walk(tree)):
            return None
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        new = {part for one in _named(tree, package) for part in (one, *_parents(one))} - found
        found |= new
        waiting += sorted(new)
    return found


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def _is_dynamic(node: ast.AST) -> bool:
    called = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return called in _DYNAMIC


def _named(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
