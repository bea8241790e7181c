"""Where studies lie. Looking for them needs no Optuna."""

from __future__ import annotations

from pathlib import Path

#: What makes a folder that of a study.
FILE = "study.json"


def folders(root: Path) -> list[Path]:
    """The folders of studies straight below ``root``, by name."""
    try:
        return sorted(path.parent for path in root.glob(f"*/{FILE}") if not path.parent.name.startswith("."))
    except OSError:
        return []
