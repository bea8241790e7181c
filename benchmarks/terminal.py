"""A program on a pty, timed from outside as a user would see it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORKBENCH = [sys.executable, "-P", "-m", "torchdeck"]


class Terminal:
    """Reads all that the program sends; nothing is drawn."""

    def __init__(self, words: list[str], folder: Path, width: int = 120, height: int = 35) -> None:
        self.began = time.perf_counter()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

        def own_session() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        env = {k: v for k, v in os.environ.items() if k != "COLORTERM"}
        env |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT / "src"), "XDG_STATE_HOME": str(folder / "state")}
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=env, preexec_fn=own_session
        )
        os.close(slave)
        self.bytes = 0

    def read(self, seconds: float) -> bytes:
        """What comes within so many seconds, at most one piece."""
        if not select.select([self._master], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:
            return b""
        self.bytes += len(data)
        return data

    def until(self, pattern: bytes, seconds: float = 60.0) -> float:
        """Seconds until this was sent."""
        began, seen = time.perf_counter(), b""
        while time.perf_counter() - began < seconds:
            seen += self.read(0.5)
            if re.search(pattern, seen):
                return time.perf_counter() - began
        raise TimeoutError(f"{pattern!r} was not sent within {seconds} s; last came {seen[-500:]!r}")

    def drain(self, seconds: float) -> int:
        """Bytes that come within so many seconds."""
        before, end = self.bytes, time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.read(left)
        return self.bytes - before

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def close(self) -> None:
        """End the program."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._master)


@contextlib.contextmanager
def terminal(words: list[str], folder: Path, width: int = 120, height: int = 35) -> Iterator[Terminal]:
    """A program on a pty for the time of a block."""
    made = Terminal(words, folder, width, height)
    try:
        yield made
    finally:
        made.close()
