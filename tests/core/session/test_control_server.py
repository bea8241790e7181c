"""Control from another process: the socket in the run directory."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import QUICK, Train
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchdeck.core.control import Command, Control
from torchdeck.core.errors import UserError
from torchdeck.core.session.control_server import SOCKET, ControlServer, RemoteControl


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[Path, Control]]:
    control = Control()
    door = ControlServer(tmp_path, control)
    yield tmp_path, control
    door.close()
    assert not (tmp_path / SOCKET).exists()


def test_only_the_user_may_open_it(door: tuple[Path, Control]) -> None:
    mode = (door[0] / SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_every_command_arrives(door: tuple[Path, Control]) -> None:
    run, control = door
    remote = RemoteControl(run)
    assert remote.answers()
    for name in ("pause", "resume", "checkpoint", "evaluate", "stop", "abort"):
        getattr(remote, name)()
        assert control.take() == Command(name)  # type: ignore[arg-type]
    remote.set_learning_rate(0.25)
    assert control.take() == Command("set_learning_rate", 0.25)
    assert control.take() is None


def ask(run: Path, line: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(run / SOCKET))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        answer: dict[str, object] = json.loads(connection.makefile().readline())
        return answer


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[]\n",
        b"{}\n",
        b'{"command": "take"}\n',
        b'{"command": "__init__"}\n',
        b'{"command": 3}\n',
        b'{"command": "set_learning_rate", "value": "x"}\n',
        b'{"command": "set_learning_rate", "value": NaN}\n',
        b'{"command": "set_learning_rate", "value": -1}\n',
        b'{"command": "set_learning_rate"}\n',
        b"\xff\xfe\n",
    ],
)
def test_what_is_wrong_is_answered_in_a_sentence(door: tuple[Path, Control], line: bytes) -> None:
    run, control = door
    assert str(ask(run, line)["error"]).endswith(".")
    assert control.take() is None
    assert RemoteControl(run).answers()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.binary(min_size=1, max_size=200).filter(lambda b: b"\n" not in b))
def test_it_lives_through_whatever_is_sent(door: tuple[Path, Control], line: bytes) -> None:
    assert "error" in ask(door[0], line + b"\n")


def test_a_wrong_learning_rate_is_refused_before_it_is_sent(door: tuple[Path, Control]) -> None:
    with pytest.raises(UserError, match="positive"):
        RemoteControl(door[0]).set_learning_rate(float("nan"))


def test_a_path_that_is_too_long_for_a_socket_works(tmp_path: Path) -> None:
    run = tmp_path / ("a" * 80) / ("b" * 80)
    run.mkdir(parents=True)
    control = Control()
    door = ControlServer(run, control)
    try:
        RemoteControl(run).pause()
        assert control.take() == Command("pause")
    finally:
        door.close()


def test_a_socket_that_a_kill_left_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET))
    remote = RemoteControl(tmp_path)
    assert not remote.answers()
    with pytest.raises(UserError, match="does not answer"):
        remote.stop()
    door = ControlServer(tmp_path, Control())
    assert remote.answers()
    door.close()


def test_a_run_is_stopped_through_its_door(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    import time

    def stop_it() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for sock in (tmp_path / "runs").glob(f"*/{SOCKET}"):
                if RemoteControl(sock.parent).answers():
                    RemoteControl(sock.parent).stop()
                    return
            time.sleep(0.02)

    helper = threading.Thread(target=stop_it)
    helper.start()
    trained = train(*QUICK, "trainer.epochs=100000")
    helper.join()
    assert trained.status == "stopped"
    assert not (trained.path / SOCKET).exists()
    assert list((trained.path / "checkpoints").iterdir())
