"""``torchdeck dashboard``: optuna-dashboard on a study's storage."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from torchdeck.core.errors import UserError
from torchdeck.tui.commands.shared import add_runs, opened_study

#: optuna-dashboard takes its storage as an argument, which every user of the machine can see; a URL may hold a
#: password.
_STORAGE = "TORCHDECK_STORAGE"
_PROGRAM = (
    f"import os, sys; from optuna_dashboard._cli import main; sys.argv[1:1] = [os.environ.pop({_STORAGE!r})]; main()"
)


def dashboard_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck dashboard``."""
    parser.add_argument("study", metavar="STUDY", help="its name, its directory, or URL#NAME")
    add_runs(parser)
    parser.add_argument("--port", type=int, default=8080, help="where it listens, on this machine only (default: 8080)")


def dashboard(options: argparse.Namespace) -> int:
    """Start optuna-dashboard on the study's storage."""
    import getpass
    import signal
    import socket
    import subprocess
    from importlib import util

    from torchdeck.core.search.keep import store
    from torchdeck.core.search.storage import sqlite_file, with_driver

    opened = opened_study(options)
    if util.find_spec("optuna_dashboard") is None:
        raise UserError("torchdeck dashboard needs the package optuna-dashboard: pip install 'torchdeck[dashboard]'.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", options.port))
        except OSError as error:
            raise UserError(f"--port {options.port}: {error.strerror}; choose another one.") from None
    store(opened)  # makes the folder
    file = sqlite_file(opened.url)
    place = opened.url
    if file is None:
        place = with_driver(place)
    elif place.startswith("journal"):
        place = str(file)
    server = "gunicorn" if util.find_spec("gunicorn") is not None else "auto"
    program = [
        sys.executable,
        "-c",
        _PROGRAM,
        "--host",
        "127.0.0.1",
        "--port",
        str(options.port),
        "--artifact-dir",
        str(opened.folder / "artifacts"),
        "--server",
        server,
    ]
    print(f"optuna-dashboard on {opened.name}: http://127.0.0.1:{options.port}")
    print(
        f"from your own machine: ssh -L {options.port}:127.0.0.1:{options.port} "
        f"{getpass.getuser()}@{socket.gethostname()}",
        flush=True,
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # In a session of its own: a Ctrl-C that reaches gunicorn's worker from the terminal and from its master at once
    # makes it wait for its own lock.
    process = subprocess.Popen(program, start_new_session=True, env={**os.environ, _STORAGE: place})
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
