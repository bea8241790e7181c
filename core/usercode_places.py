"""Where a module that the user's code imports lies: in their project, or among what is installed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_OURS = [Path(__file__).resolve().parent, Path(__file__).resolve().parent.parent / "tui"]


def root_of(top: str, root: Path) -> Path | None:
    """The folder in which the user's module or package ``top`` lies; None when it is none of theirs.

    As where Python runs a script of the project: beside the importing file (below ``root``), in the folders above it up
    to the current one, then among what is installed; a folder without ``__init__.py`` is a package where nothing else
    has the name.
    """
    if is_module(root, top):
        return root
    if top in sys.stdlib_module_names:
        return None
    current = Path.cwd()
    above = [folder for folder in root.parents if folder.is_relative_to(current)]
    for folder in above:
        if is_module(folder, top):
            return folder
    if _is_installed(top):
        return None
    if is_module(current, top):
        return current
    return next((folder for folder in (root, *above, current) if (folder / top).is_dir()), None)


def is_module(folder: Path, top: str) -> bool:
    """Whether a module or a package with ``__init__.py`` of that name lies in the folder."""
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()


def _is_installed(top: str) -> bool:
    """Whether Python itself finds a module or a whole package of that name; our own ``core`` and ``tui`` don't count."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return top in sys.modules
    if spec is None or spec.origin is None or spec.name != top:  # another name: the user's, met by an import by name
        return False
    return Path(spec.origin).resolve().parent not in _OURS
