"""What lies in a folder of the user's: everything but what is hidden or left by systems and tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

#: Folders and files that systems and tools leave everywhere.
_LEFT_BY_TOOLS = {
    "__macosx",
    "__pycache__",
    "thumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "@eadir",
}


def ignored(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or one that systems and tools leave everywhere."""
    return name.startswith(".") or name.lower() in _LEFT_BY_TOOLS


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder but for ignored ones; folders behind links are entered, as torchvision's ImageFolder
    enters them."""
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not ignored(name))
        yield from (Path(place) / name for name in names if not ignored(name))
