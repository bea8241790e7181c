"""Real terminals for tests: tmux and ptys."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

from conftest import ROOT

#: torchdeck as a user would call it, from wherever.
COMMAND = [sys.executable, "-P", "-m", "torchdeck"]


def environment(**more: str) -> dict[str, str]:
    """What a login over SSH has: no COLORTERM (it isn't sent)."""
    kept = {k: v for k, v in os.environ.items() if k not in ("COLORTERM", "NO_COLOR", "TMUX", "TERM", "TERM_PROGRAM")}
    return {**kept, "PYTHONPATH": str(ROOT / "src"), "TERM": "xterm-256color", **more}


def until(what: Callable[[], object], seconds: float = 60.0, told: Callable[[], str] = lambda: "") -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"not within {seconds} s\n{told()}"
        time.sleep(0.05)


class Tmux:
    """A tmux server of its own with one window."""

    def __init__(self, folder: Path, words: list[str], width: int, height: int, env: dict[str, str]) -> None:
        self._socket = folder / "tmux"
        self._env = env
        # tmux sets TERM itself; what the test wants is set again inside.
        inner = " ".join(f"'{w}'" for w in ["env", f"TERM={env['TERM']}", *words])
        self._tmux(
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            str(width),
            "-y",
            str(height),
            "-c",
            str(folder),
            f"{inner}; echo exit code $?; sleep 1000",
        )

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-S", str(self._socket), *words], capture_output=True, text=True, env=self._env)
        return done.stdout

    def screen(self) -> str:
        """What is on it."""
        return self._tmux("capture-pane", "-p")

    def coloured(self) -> str:
        """What is on it, with colours."""
        return self._tmux("capture-pane", "-p", "-e")

    def keys(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self._tmux("send-keys", key)
            time.sleep(
                0.4 if key == "Escape" else 0.1
            )  # what follows an escape at once would be taken for alt and a key

    def type(self, text: str) -> None:
        """Type text."""
        self._tmux("send-keys", "-l", text)
        time.sleep(0.1)

    def until(self, *words: str, seconds: float = 60.0) -> str:
        """Wait until all of these are on the screen."""
        until(lambda: all(w in self.screen() for w in words), seconds, self.screen)
        return self.screen()

    def gone(self, word: str, seconds: float = 30.0) -> None:
        """Wait until this is no more on the screen."""
        until(lambda: word not in self.screen(), seconds, self.screen)

    def resize(self, width: int, height: int) -> None:
        """Resize the window."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def pane_pid(self) -> int:
        """The shell's process."""
        return int(self._tmux("display-message", "-p", "#{pane_pid}"))

    def kill(self) -> None:
        """Close the terminal: what runs in it gets SIGHUP."""
        self._tmux("kill-server")


class Pty:
    """A process on a pty, with what it sends counted."""

    def __init__(self, words: list[str], folder: Path, width: int, height: int, env: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

        def own_session() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, cwd=folder, env=env, preexec_fn=own_session
        )
        os.close(slave)
        self.sent = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                self.sent += data

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.master, keys)

    def until(self, words: bytes, seconds: float = 60.0, after: int = 0) -> None:
        """Wait until the process has sent this."""
        until(lambda: words in bytes(self.sent[after:]), seconds, lambda: repr(bytes(self.sent[-2000:])))

    def hang_up(self) -> None:
        """Close the terminal's other end, as a lost connection does."""
        os.close(self.master)

    def kill(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.master)
