"""What a Python file holds that could be picked as a model, a data set or a loss, without running any of it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchdeck.core.errors import UserError

_MODELS = ("Module", "LightningModule", "Sequential", "PreTrainedModel")
_DATA = ("Dataset", "TensorDataset", "VisionDataset", "ImageFolder", "DatasetFolder", "Subset", "ConcatDataset")


@dataclass(frozen=True)
class Candidate:
    """A class, function or object at the top of a file; ``kind`` is model, data or function."""

    name: str
    kind: str
    summary: str = ""
    #: Parameters that can be set, with their defaults (None: it has none, or one that is no literal).
    parameters: dict[str, Any] = field(default_factory=dict)


def scan(path: Path) -> list[Candidate]:
    """The classes and functions at the top of a file that torchdeck could take.

    Raises UserError when it can't be read or is not Python.
    """
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise UserError(f"{str(path)!r} can't be read: {error.strerror}.") from None
    except (SyntaxError, ValueError) as error:
        where = f" (line {error.lineno})" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"{str(path)!r} is not Python that can be read{where}.") from None
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            kind = _kind(node, classes, set())
            init = _constructor(node, classes, set())
            found.append(Candidate(node.name, kind, _summary(node), _parameters(init) if init else {}))
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found.append(Candidate(node.name, "function", _summary(node), _parameters(node)))
    return found


def parameters_of(reference: str) -> dict[str, Any]:
    """The parameters of ``path/to/file.py:Name`` with their defaults; empty where they can't be told."""
    place, _, name = reference.rpartition(":")
    if not place.endswith(".py"):
        return {}
    try:
        found = scan(Path(place).expanduser())
    except UserError:
        return {}
    return next((item.parameters for item in found if item.name == name), {})


def _bases(node: ast.ClassDef) -> list[str]:
    names = []
    for base in node.bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        if isinstance(base, ast.Attribute):
            names.append(base.attr)
        elif isinstance(base, ast.Name):
            names.append(base.id)
    return names


def _kind(node: ast.ClassDef, classes: dict[str, ast.ClassDef], seen: set[str]) -> str:
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    for base in _bases(node):
        if base in _MODELS:
            return "model"
        if base in _DATA:
            return "data"
        if base in classes and base not in seen:
            kind = _kind(classes[base], classes, seen | {base})
            if kind != "function":
                return kind
    if "__getitem__" in methods:
        return "data"
    return "model" if "forward" in methods else "function"


def _constructor(node: ast.ClassDef, classes: dict[str, ast.ClassDef], seen: set[str]) -> ast.FunctionDef | None:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    for base in _bases(node):
        if base in classes and base not in seen:
            return _constructor(classes[base], classes, seen | {base})
    return None


def _parameters(function: ast.FunctionDef) -> dict[str, Any]:
    spec = function.args
    names = [a.arg for a in (*spec.posonlyargs, *spec.args)]
    defaults: list[ast.expr | None] = [None] * (len(names) - len(spec.defaults)) + list(spec.defaults)
    pairs = list(zip(names, defaults, strict=True)) + [
        (a.arg, d) for a, d in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    ]
    return {name: _literal(default) for name, default in pairs if name not in ("self", "cls")}


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    text = ast.get_docstring(node) or ""
    return text.splitlines()[0] if text else ""
