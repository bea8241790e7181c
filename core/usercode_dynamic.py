"""Modules of the user's that are imported by name, as with ``importlib.import_module("models.resnet")``.

Such an import passes by the ``__import__`` that the user's modules are given. What nobody else finds is looked for in
the user's projects, and is the module that an import statement of theirs gets, under a second name.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType


class _Alias(importlib.abc.Loader):
    """Gives the module of another name, as it is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._spec: importlib.machinery.ModuleSpec | None = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # importlib puts that of the second name in its place


class Finder(importlib.abc.MetaPathFinder):
    """Comes last for whole packages and first for what is in those that it found; ``place`` tells for a name from which
    of the users' packages it is, None when from none; the names of those begin with ``prefix``."""

    def __init__(self, prefix: str, place: Callable[[str], str | None]) -> None:
        self._prefix, self._place = prefix, place

    def find_spec(self, fullname, path=None, target=None):
        if fullname.startswith(self._prefix):
            return None
        top, _, rest = fullname.partition(".")
        if rest:
            package = getattr(sys.modules.get(top), "__name__", "")
            if not package.startswith(self._prefix):
                return None
            name = f"{package}.{rest}"
            if importlib.util.find_spec(name) is None:
                return None
        else:
            place = self._place(top)
            if place is None:
                return None
            name = f"{place}.{top}"
        return importlib.machinery.ModuleSpec(fullname, _Alias(name))
