"""The way into a run from another process: a Unix socket in its directory takes the commands of Control.

One request is one line of JSON, ``{"command": "pause"}`` or ``{"command": "set_learning_rate", "value": 0.01}``; the
answer is ``{"ok": true}`` or ``{"error": "a sentence"}``. The socket has mode 0600: only the user's own processes (and
root) reach it. What the run does is not told here but in metrics.jsonl (see follow.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from torchdeck.core.control import Command, Control, Name
from torchdeck.core.errors import UserError

#: Name of the socket in the run directory.
SOCKET = "control.sock"

#: Bytes that an address of a Unix socket may have, everywhere (Linux: 108, macOS: 104, with the final zero).
_LONGEST = 100
_SECONDS = 5.0


@contextlib.contextmanager
def _address(run: Path) -> Iterator[str]:
    """An address of the run's socket that is short enough, however long the path is: through a symbolic link."""
    path = str((run / SOCKET).absolute())
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        return
    folder = tempfile.mkdtemp(prefix="td-")
    try:
        link = Path(folder) / "run"
        link.symlink_to(run.absolute(), target_is_directory=True)
        yield str(link / SOCKET)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    control: Control

    def server_bind(self) -> None:
        """Nobody can connect before listen, and then the mode is right."""
        super().server_bind()
        os.chmod(self.server_address, 0o600)  # type: ignore[arg-type]  # noqa: PTH101


class _Request(socketserver.StreamRequestHandler):
    timeout = _SECONDS
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # whoever asked has gone
            line = self.rfile.readline(4096)
            if line:
                self.wfile.write(json.dumps(_obey(self.server.control, line)).encode() + b"\n")


def _obey(control: Control, line: bytes) -> dict[str, object]:
    try:
        request = json.loads(line)
        name, value = request["command"], request.get("value")
    except (ValueError, TypeError, KeyError, AttributeError):
        return {"error": "A command is one line of JSON such as {'command': 'pause'}."}
    if name == "ping":
        return {"ok": True}
    if name not in get_args(Name):
        return {"error": f"There is no command {name!r}; there are {', '.join(get_args(Name))}."}
    try:
        if name == "set_learning_rate":
            control.set_learning_rate(float(value))
        else:
            getattr(control, name)()
    except (TypeError, ValueError, UserError) as error:
        return {"error": str(error) if isinstance(error, UserError) else f"{value!r} is not a learning rate."}
    return {"ok": True}


class ControlServer:
    """The socket of a run that this process trains; open until ``close``."""

    def __init__(self, run: Path, control: Control) -> None:
        """Open it; the caller holds the run's lock, so that a socket which is there is a dead process'.

        Raises OSError where the file system has no sockets.
        """
        self._path = run / SOCKET
        self._path.unlink(missing_ok=True)
        with _address(run) as address:
            self._server = _Server(address, _Request)
        self._server.control = control
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="torchdeck-door", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Close and remove it."""
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)


class RemoteControl(Control):
    """Control over a run in another process of this machine.

    Each method raises UserError when the run does not answer, or what is asked is wrong.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._run = run

    def answers(self) -> bool:
        """Whether the run's process listens."""
        try:
            self._ask({"command": "ping"})
        except UserError:
            return False
        return True

    def _give(self, command: Command) -> None:
        self._ask({"command": command.name, "value": command.value})

    def _ask(self, request: dict[str, object]) -> None:
        try:
            with _address(self._run) as address, socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_SECONDS)
                connection.connect(address)
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = json.loads(connection.makefile("rb").readline(4096) or b"{}")
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or "no answer"
            raise UserError(
                f"The run {self._run.name!r} does not answer ({why}): its process may have ended."
            ) from None
        if "error" in answer:
            raise UserError(str(answer["error"]))
