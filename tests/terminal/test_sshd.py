"""A real sshd on this machine, and a client that is killed in mid-run."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT
from terminals import Pty, environment, until

from torchdeck.core.runs.directory import read_info, read_metrics
from torchdeck.core.runs.listing import list_runs

#: Long enough to be cut in the middle, short enough to be done twice.
RUN = (
    "--set",
    "trainer.epochs=250",
    "--set",
    "model.args.dropout=0.2",
    "--set",
    "tracking.graph=false",
    "--set",
    "tracking.images=false",
    "--set",
    "trainer.checkpoint_minutes=0.05",
)


@dataclass
class Server:
    """An sshd of its own, and how to reach it."""

    folder: Path
    port: int

    def client(self, command: str, *words: str) -> list[str]:
        return [
            "ssh",
            "-F",
            "none",
            "-i",
            str(self.folder / "key"),
            "-p",
            str(self.port),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "LogLevel=ERROR",
            *words,
            f"{getpass.getuser()}@127.0.0.1",
            command,
        ]


@pytest.fixture
def sshd(tmp_path: Path, runs_end: None) -> Iterator[Server]:
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists() or shutil.which("ssh") is None:
        pytest.skip("sshd is not installed")
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized").write_text((folder / "key.pub").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin "
        f"yes\nLogLevel ERROR\n"
    )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=subprocess.PIPE)
    made = Server(folder, port)
    end = time.monotonic() + 10
    while subprocess.run(made.client("true"), capture_output=True, timeout=20).returncode:
        if time.monotonic() > end or server.poll() is not None:
            server.kill()
            pytest.skip(f"sshd does not let this user in: {(server.stderr.read() if server.stderr else b'')[-300:]!r}")
        time.sleep(0.2)
    yield made
    server.kill()
    server.wait()


def remote(tmp_path: Path, *words: str) -> str:
    """torchdeck on the other side, in the test's folder."""
    quoted = " ".join(f"'{w}'" for w in words)
    threads = " ".join(f"{k}='{v}'" for k, v in os.environ.items() if "OMP_" in k)
    return (
        f"cd '{tmp_path}' && XDG_STATE_HOME='{tmp_path}/state' PYTHONPATH='{ROOT}/src' {threads} exec "
        f"'{sys.executable}' -P -m torchdeck "
        f"{quoted} --runs '{tmp_path}/runs'"
    )


def test_a_client_that_is_killed_in_mid_run_loses_nothing(sshd: Server, tmp_path: Path) -> None:
    first = Pty(sshd.client(remote(tmp_path, "digits", *RUN), "-tt"), tmp_path, 120, 35, environment())
    try:
        first.until(b"idle")
        first.type(b"s")
        until(lambda: any(info.get("step", 0) > 200 for info in list_runs(tmp_path / "runs")[0]))
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    finally:
        first.kill()
    [info] = list_runs(tmp_path / "runs")[0]
    assert info.status == "running"
    step = read_info(info.path).get("step")
    until(lambda: read_info(info.path).get("step") > step)

    again = Pty(sshd.client(remote(tmp_path), "-tt"), tmp_path, 120, 35, environment())
    try:
        again.until(b"reattached")
        again.until("●".encode())
        again.type(b"p")  # control works again
        again.until(b"paused")
        assert read_info(info.path).status == "running"
        again.type(b"p")
        until(lambda: read_info(info.path).status == "done", 120)
        again.until(b"test accuracy")
        again.type(b"q")
        assert again.process.wait(20) == 0
    finally:
        again.kill()

    undisturbed = tmp_path / "undisturbed"
    subprocess.run(
        [sys.executable, "-P", "-m", "torchdeck", "--batch", "digits", *RUN, "--quiet", "--runs", str(undisturbed)],
        check=True,
        env=environment(),
        cwd=tmp_path,
    )
    [other] = list_runs(undisturbed)[0]
    assert read_info(info.path).get("test") == other.get("test")
    assert steps(info.path) == steps(other.path)


def steps(run: Path) -> dict[int, float]:
    """The loss of every step."""
    found: dict[int, float] = {}
    for record in read_metrics(run):
        if record["event"] == "step":
            losses = record["losses"]
            found |= {record["step"] - len(losses) + 1 + i: loss for i, loss in enumerate(losses)}
    return found
