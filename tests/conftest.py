"""Shared by all tests: runs made in this process, and the command as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

# Two tests train at once; OpenMP's threads that spin while they wait would take each other's core. This must be set
# before torch is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
# Workers of pytest-xdist share the cores: with more threads than one each, they wait for one another at every
# operation, and runs take three times as long.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import pytest

from torchdeck.core.control import Command, Control
from torchdeck.core.events import Event
from torchdeck.core.experiment import toml
from torchdeck.core.session.session import Session
from torchdeck.tui.__main__ import main

ROOT = Path(__file__).resolve().parent.parent

# ``python -m pytest`` puts the current folder on the path, where core/ and tui/ would hide those of a test's project.
sys.path[:] = [folder for folder in sys.path if folder not in ("", str(ROOT))]

#: A run of a second or two.
QUICK = ("trainer.epochs=2", "tracking.graph=false", "tracking.images=false")


@pytest.fixture(autouse=True)
def _state_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torchdeck remembers of a user is not touched by a test, nor read by it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def _projects_of_their_own(tmp_path: Path) -> Iterator[None]:
    """Each test's project is the first that this process meets: Python keeps one module of a name."""
    before = list(sys.path)
    yield
    projects = (tmp_path.parent, ROOT / "examples")
    files = {
        name: getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        for name, module in sys.modules.items()
    }
    for name, file in files.items():
        if any(Path(file).is_relative_to(project) for project in projects):
            del sys.modules[name]
    sys.path[:] = before


class StopAt(Control):
    """A Control that gives one command once the session has done that many steps."""

    def __init__(self, session: Session, step: int, name: str = "stop") -> None:
        super().__init__()
        self._session, self._at, self._name = session, step, name

    def take(self) -> Command | None:
        if self._at is not None and self._session.step >= self._at:
            self._at = None
            return Command(self._name)
        return super().take()


class Trained:
    """A session that is over, with its events."""

    def __init__(self, session: Session, events: list[Event]) -> None:
        self.session, self.events = session, events
        self.status, self.failure = session.status, session.failure

    @property
    def path(self) -> Path:
        assert self.session.run is not None
        return self.session.run.path

    def of(self, kind: type[Event]) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind)]


Train = Callable[..., Trained]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train in this process: ``train(*overrides, source="digits", stop_at=None, resume=None)``."""

    def run(
        *overrides: str,
        source: str | None = "digits",
        stop_at: int | None = None,
        resume: Path | None = None,
        command: str = "stop",
    ) -> Trained:
        if resume is not None:
            experiment = toml.build(toml.override(toml.read(resume / "experiment.toml"), overrides))
        else:
            experiment = toml.load(source, overrides)
        session = Session(experiment, tmp_path / "runs", resume)
        if stop_at is not None:
            session.control = StopAt(session, stop_at, command)
        subscription = session.subscribe(100_000)
        session.start()
        events = list(subscription)
        assert session.join(60)
        return Trained(session, events)

    return run


def kill_below(folder: Path) -> None:
    """Kill every process that was started with a path below ``folder`` in its command: what a test left running."""
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(str(folder) in word for word in process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                process.kill()


def command(*words: str, cwd: Path, timeout: float = 240, env: dict[str, str] | None = None) -> Any:
    """``torchdeck WORDS`` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "torchdeck", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **(env or {})},
        stdin=subprocess.DEVNULL,
    )


def verb(*words: str, cwd: Path, env: dict[str, str] | None = None) -> Any:
    """``torchdeck WORDS`` in this process, which has imported what a process of its own takes seconds for."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, env or {}),
    ):
        try:
            code = main(list(words))
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def start(*words: str, cwd: Path, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """``torchdeck WORDS`` started and left running."""
    return subprocess.Popen(
        [sys.executable, "-m", "torchdeck", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **(env or {})},
        stdin=subprocess.DEVNULL,
        **options,
    )


def json_lines(text: str) -> list[dict[str, Any]]:
    """Every line must be one JSON object."""
    return [json.loads(line) for line in text.splitlines()]


#: A search that takes a second or two a trial.
SPACE = (
    "--set",
    "search.space.optimizer.lr=1e-3 .. 0.1 log",
    "--set",
    "model.args.widths=[8]",
    "--set",
    "search.name=study",
    "--set",
    "pruner.name=none",
)


def wait_for(what: Callable[[], Any], timeout: float = 120) -> Any:
    """Until it is so, or gives something; what it raises meanwhile is told in the end."""
    end, last = time.monotonic() + timeout, None
    while time.monotonic() < end:
        try:
            if found := what():
                return found
        except Exception as error:  # it is not there yet
            last = error
        time.sleep(0.1)
    raise AssertionError("it did not come") from last


@pytest.fixture(autouse=True)
def _numbers_as_they_are() -> None:
    """A training in this process flushes denormal numbers in its thread; what comes after it draws them again."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_flush_denormal(False)
