"""Which runs and studies were made by this user: their code may run again without a question, that of others may not.

Each gets a random number when it is begun, which is kept in it and in the user's state folder. Nobody else
can guess it, so a run directory from elsewhere can't pass for one of the user's own.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from pathlib import Path
from typing import Any

from torchdeck.core.home import private_folder, state_folder

_FILE = "runs-made-here"


def new_id() -> str:
    """A number for a new run, remembered."""
    number = secrets.token_hex(16)
    with contextlib.suppress(OSError), (private_folder(state_folder()) / _FILE).open("a", encoding="ascii") as file:
        file.write(number + "\n")  # short lines are appended whole (POSIX)
    return number


def made_here(path: Path) -> bool:
    """Whether a run, or the run of a checkpoint, was made by this user."""
    for folder in (path, path.parent, path.parent.parent):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            return known(json.loads((folder / "run.json").read_bytes())["id"])
    return False


def known(number: Any) -> bool:
    """Whether this number was given by ``new_id`` to this user."""
    if not isinstance(number, str) or len(number) != 32:
        return False
    with contextlib.suppress(OSError, ValueError):
        return number in (state_folder() / _FILE).read_text(encoding="ascii").split("\n")
    return False
