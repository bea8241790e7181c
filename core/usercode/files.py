"""The files of the user's code, without running any of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def changed_at(files: Iterable[Path]) -> dict[Path, float]:
    """When each was last changed; 0 for one that is not there."""
    found = {}
    for path in files:
        try:
            found[path] = path.stat().st_mtime
        except OSError:
            found[path] = 0.0
    return found
