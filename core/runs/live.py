"""The runs that this user's processes train now on this machine, wherever their directories are.

Each is a symbolic link in the state folder, made when training begins and removed at its end; links that a kill left
behind are swept by whoever looks.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from torchdeck.core.errors import UserError
from torchdeck.core.home import private_folder, state_folder
from torchdeck.core.runs.directory import RunInfo, read_info


def _folder() -> Path:
    return state_folder() / "live" / socket.gethostname()  # a home folder may be shared by many machines


class Mark:
    """The link of a run that this process trains; failing to make one is no reason not to train."""

    def __init__(self, run: Path) -> None:
        self._link = _folder() / f"{os.getpid()}-{run.name}"
        with contextlib.suppress(OSError):
            private_folder(_folder())
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(run.absolute(), target_is_directory=True)

    def remove(self) -> None:
        """Training is over."""
        with contextlib.suppress(OSError):
            self._link.unlink(missing_ok=True)


def live_runs() -> list[RunInfo]:
    """The runs that are being trained now, the oldest first."""
    found: dict[Path, RunInfo] = {}
    with contextlib.suppress(OSError):
        for link in sorted(_folder().iterdir(), key=lambda link: link.lstat().st_mtime):
            info: RunInfo | None = None
            with contextlib.suppress(UserError, OSError):
                info = read_info(link.resolve())
            if info is not None and info.status == "running":
                found[info.path] = info
            else:
                with contextlib.suppress(OSError):
                    link.unlink()
    return list(found.values())
