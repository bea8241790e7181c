"""Where torchdeck keeps what is not part of a run: a folder of the user's own, for nobody else."""

from __future__ import annotations

import os
from pathlib import Path


def state_folder() -> Path:
    """``$XDG_STATE_HOME/torchdeck``, else ``~/.local/state/torchdeck`` (XDG Base Directory Specification 0.8)."""
    base = os.environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return root / "torchdeck"


def private_folder(path: Path) -> Path:
    """Make that folder, readable by the user alone.

    Raises OSError as the file system does.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
