"""Processes of our own: their command line, their environment, and how they end."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torchdeck
from torchdeck.core.errors import UserError
from torchdeck.core.text import printable_lines

#: What begins the sentence on an error.
_NAME = "torchdeck: "


def command(module: str, *words: str) -> list[str]:
    """The command line that runs a module of ours in a Python of its own."""
    # -P: modules in the current folder must not be taken for Python's own.
    return [sys.executable, "-P", "-m", module, *words]


def environment() -> dict[str, str]:
    """The environment for our own processes: our code is found first, also where it is not installed."""
    home = str(Path(torchdeck.__file__).resolve().parents[1])
    rest = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != home]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([home, *rest])}


def exit_code(work: Callable[[], int]) -> int:
    """Do the work of a process, tell what went wrong in one sentence on stderr, and return the exit code: that of the
    work, 2 for a UserError, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is replaced, and ends nothing
            stream.reconfigure(errors="replace")
    try:
        return work()
    except UserError as error:
        print(f"{_NAME}{printable_lines(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0  # the reader, such as head, had enough
    except KeyboardInterrupt:
        return 130


def last_said(output: str) -> str:
    """The last line of what a process of ours has said: what went wrong, as ``exit_code`` tells it, without our
    name."""
    lines = output.strip().splitlines()
    return lines[-1].removeprefix(_NAME) if lines else ""


def last_line(log: Path) -> str:
    """The same of a file that its output went to; "" when there is none."""
    try:
        return last_said(log.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""


def run_process(work: Callable[[], int]) -> NoReturn:
    """Do the work of an engine process, and end it."""
    code = exit_code(work)
    if code in (130, 143):  # ended by a signal, which the user's own processes may have had, too
        from torchdeck.core.machine.children import exit_within

        exit_within(5, code)
    sys.exit(code)
