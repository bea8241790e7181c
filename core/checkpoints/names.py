"""How checkpoints of a run are called, without importing torch."""

from __future__ import annotations

import re
from pathlib import Path

from torchdeck.core.errors import UserError

LAST, BEST = "last.pt", "best.pt"
_STEP = re.compile(r"step-(\d+)\.pt")


def generations(folder: Path) -> list[Path]:
    """The step-*.pt files, the newest step first."""
    return sorted((p for p in folder.glob("step-*.pt") if _STEP.fullmatch(p.name)), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step of a generation; -1 for another file."""
    found = _STEP.fullmatch(path.name)
    return int(found[1]) if found else -1


def choose_checkpoint(run: Path, which: str) -> Path:
    """The file of ``best`` or ``last`` (the last where there is no best), or the file that is named.

    Raises UserError when the run has none.
    """
    if which not in ("best", "last"):
        for path in (run / "checkpoints" / which, Path(which).expanduser()):
            if path.is_file():
                return path
        raise UserError(f"There is no checkpoint {which!r} in {str(run)!r}.")
    for name in (f"{which}.pt", LAST):
        if (run / "checkpoints" / name).exists():
            return run / "checkpoints" / name
    raise UserError(f"{str(run)!r} has no checkpoint.")
