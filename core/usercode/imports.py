"""What a Python file imports of its own project, told from its text: nothing is run."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator
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


def module_file(folder: Path, name: str) -> Path | None:
    """The file of a module or package below a folder; None where there is none."""
    path = folder.joinpath(*name.split("."))
    return next((p for p in (path / "__init__.py", path.parent / f"{path.name}.py") if p.is_file()), None)


def module_of(path: Path) -> tuple[Path, str]:
    """The folder from which a file is imported, and its dotted name there: that of its package, where it lies in
    one."""
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if path.stem == "__init__":
        parts.pop()
    return root, ".".join(parts)


def clash(references: Iterable[str]) -> str | None:
    """A sentence on two pieces of code, ``path/to/file.py:Name`` or ``pkg.module:Name``, that one process can't load
    beside each other, since both may import a module of one name from folders of their own; None where there are
    none."""
    located = [(one, _project_module(one)) for one in references]
    found = [(one, module) for one, module in located if module is not None]
    for (one, (root, name)), (other, (other_root, other_name)) in itertools.combinations(found, 2):
        a, b = imports_of(name, root), imports_of(other_name, other_root)
        for module in sorted((a or b or set()) & (b or a or set())):
            place, other_place = module_file(root, module), module_file(other_root, module)
            if place is not None and other_place is not None and place != other_place:
                return (
                    f"{one!r} and {other!r} can't be used in one process: each has a module {module!r} of its own "
                    f"({str(place)!r}, {str(other_place)!r}); give one of them another name, or use them in studies of "
                    "their own."
                )
    return None


def _project_module(reference: str) -> tuple[Path, str] | None:
    place = reference.rpartition(":")[0]
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        return module_of(path) if path.is_file() else None
    return (Path.cwd(), place) if place and module_file(Path.cwd(), place) is not None else None


def imports_of(name: str, root: Path) -> set[str] | None:
    """The dotted names of all that a module below ``root`` may import, also within functions and by way of others below
    ``root``; None where the text does not tell, as with ``importlib.import_module``."""
    found = {name, *_parents(name)}
    waiting = sorted(found)
    while waiting:
        module = waiting.pop()
        file = module_file(root, module)
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
    if isinstance(node, ast.Name):
        return node.id in _DYNAMIC
    return isinstance(node, ast.Attribute) and node.attr in _DYNAMIC


def _named(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
