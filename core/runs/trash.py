"""Deleting in two steps: runs go to ``.trash`` below their root first, and can be taken back until it is emptied."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchdeck.core.errors import UserError
from torchdeck.core.runs.directory import locked_run, read_info
from torchdeck.core.runs.rows import size_of

FOLDER = ".trash"


@dataclass(frozen=True)
class Trashed:
    """A run in the trash."""

    path: Path
    #: Where it was.
    origin: Path
    #: Seconds since 1970.
    deleted: float

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return size_of(self.path)


def move_to_trash(run: Path, root: Path) -> Trashed:
    """Move a run to the trash of its root, at once.

    Raises UserError when it goes on, or can't be moved.
    """
    _refuse_running(run)
    if run.is_symlink():
        raise UserError(f"{str(run)!r} is a link to {str(run.readlink())!r}; delete the run where it is.")
    now = time.time()
    relative = run.relative_to(root) if run.is_relative_to(root) and run != root else Path(run.name)
    base = root if run.is_relative_to(root) and run != root else run.parent
    # The place it had is in its name: what was deleted goes back to where it was.
    target = base / FOLDER / f"{time.time_ns()}" / relative
    try:
        target.parent.mkdir(parents=True)
        run.rename(target)
    except FileNotFoundError:
        raise UserError(f"The run {str(run)!r} is gone already.") from None
    except OSError as error:
        raise UserError(f"The run {str(run)!r} can't be deleted: {error.strerror}.") from None
    return Trashed(target, run, now)


def root_of(run: Path, roots: Sequence[Path]) -> Path:
    """The root that a run is below, whose trash takes it; the folder that it lies in where it is below none."""
    return next((root for root in roots if run.is_relative_to(root) and run != root), run.parent)


def _refuse_running(run: Path) -> None:
    """A run that is trained holds its lock; on another machine its heartbeat tells."""
    with locked_run(run) as mine:
        if not mine or ((run / "run.json").exists() and _status(run) == "running"):
            raise UserError(f"The run {str(run)!r} is still training; stop it before it is deleted.")


def _status(run: Path) -> str:
    try:
        return read_info(run).status
    except UserError:
        return "unreadable"


def take_from_trash(trashed: Trashed) -> None:
    """Put a run back where it was.

    Raises UserError when its place is taken, or it can't be moved.
    """
    if trashed.origin.exists():
        raise UserError(f"{str(trashed.origin)!r} exists; the deleted run of that name can't be put there.")
    try:
        trashed.origin.parent.mkdir(parents=True, exist_ok=True)
        trashed.path.rename(trashed.origin)
    except OSError as error:
        raise UserError(f"The run {trashed.origin.name!r} can't be put back: {error.strerror}.") from None
    _remove_empty(trashed)


def contents(root: Path) -> list[Trashed]:
    """What is in the trash of a root, the newest last.

    Raises UserError when it can't be read.
    """
    try:
        return _contents(root)
    except OSError as error:
        raise UserError(f"The trash of {str(root)!r} can't be read: {error.strerror}.") from None


def _contents(root: Path) -> list[Trashed]:
    found = []
    folder = root / FOLDER
    for stamp in sorted(folder.iterdir(), key=lambda p: p.name) if folder.is_dir() else ():
        if not stamp.name.isdigit() or stamp.is_symlink():
            continue
        inner = stamp
        while not inner.is_symlink():  # the run is the first folder that holds more than one folder
            entries = list(inner.iterdir())
            if len(entries) != 1 or not entries[0].is_dir() or entries[0].is_symlink():
                break
            inner = entries[0]
        if inner != stamp:
            found.append(Trashed(inner, root / inner.relative_to(stamp), int(stamp.name) / 1e9))
    return found


def empty(root: Path) -> int:
    """Delete what is in the trash for good; gives the bytes that were freed.

    Raises UserError when something can't be deleted.
    """
    freed = sum(trashed.size for trashed in contents(root))
    folder = root / FOLDER
    try:
        if folder.is_symlink():
            raise OSError(0, "it is a link")
        if folder.exists():
            shutil.rmtree(folder)  # does not follow links
    except OSError as error:
        raise UserError(f"The trash {str(folder)!r} can't be emptied: {error.strerror}.") from None
    return freed


def _remove_empty(trashed: Trashed) -> None:
    folder = trashed.path.parent
    while folder.name != FOLDER and folder.parent != folder:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
