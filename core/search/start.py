"""Starting a search that outlives whoever started it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from torchdeck.core.errors import UserError
from torchdeck.core.machine.launch import command, environment, last_line

#: What its workers and their keeper say.
OUTPUT = "output.log"


def start(folder: Path, workers: int, trust: bool = False) -> subprocess.Popen[bytes]:
    """Go on with the study in a process of its own, in a session of its own; ``trust``: the user vouches for its code.

    Raises UserError when it can't be started.
    """
    words = command("torchdeck.core.search.serve", str(folder.absolute()), "--workers", str(workers))
    words += ["--trust-code"] if trust else []
    try:
        with (folder / OUTPUT).open("wb") as output:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment()
            )
    except OSError as error:
        raise UserError(f"The search can't be started: {error.strerror}.") from None


def last_output(folder: Path) -> str:
    """The last line that the search of the study in ``folder`` printed."""
    return last_line(folder / OUTPUT)
