"""One run, one directory: readable while it is written, whole after a kill.

experiment.toml   the experiment
run.json          status, versions, device, git commit, seed, whose process it is, last metrics
metrics.jsonl     every event, one JSON object per line
events.out.*      TensorBoard
checkpoints/      last.pt, best.pt, step-*.pt
train.log         what was said
lock              held (flock) by the process that trains
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchdeck.core import files
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.machine.launch import last_line
from torchdeck.core.machine.versions import versions
from torchdeck.core.runs import process
from torchdeck.core.runs.trust import new_id

#: Version of the layout of run.json; a reader refuses a later one.
LAYOUT = 1

#: Points of the watched metric that run.json keeps.
_CURVE = 64


@dataclass(frozen=True)
class RunInfo:
    """What run.json tells of a run; ``status``: running, done, pruned, stopped, failed, or dead."""

    path: Path
    status: str
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    def get(self, key: str, default: Any = None) -> Any:
        """One value of run.json."""
        return self.values.get(key, default)


def read_info(path: Path) -> RunInfo:
    """What is known of the run in ``path``.

    Raises UserError when it holds no run, or run.json can't be understood.
    """
    file = path / "run.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{str(path)!r} is not a run: it has no run.json.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{str(file)!r} can't be read: {error}.") from None
    if not isinstance(values, dict) or not isinstance(values.get("status"), str):
        raise UserError(f"{str(file)!r} does not tell of a run.")
    if not isinstance(values.get("layout"), int) or values["layout"] > LAYOUT:
        raise UserError(f"{str(file)!r} was written by a later torchdeck (layout {values.get('layout')}).")
    status = values["status"]
    who = values.get("process")
    if status == "running" and not process.alive(
        who if isinstance(who, dict) else {}, _seconds(values.get("heartbeat"))
    ):
        status = "dead"
    return RunInfo(path, status, values)


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def find_run(name: str, root: Path) -> Path:
    """The run directory that a user means: a path, or a name (or its unique beginning) under ``root``.

    Raises UserError when there is none, or several.
    """
    for path in (Path(name).expanduser(), root / name):
        if (path / "run.json").is_file():
            return path
    names = run_names(root)
    matching = [n for n in names if n.startswith(name)]
    if len(matching) == 1:
        return root / matching[0]
    if matching:
        raise UserError(f"{name!r} is the beginning of {len(matching)} runs: {', '.join(sorted(matching)[:5])}.")
    if not names:
        raise UserError(f"There is no run {name!r}: {str(root)!r} holds no runs.")
    raise UserError(f"There is no run {name!r} in {str(root)!r}; {did_you_mean(name, sorted(names, reverse=True), 3)}")


def run_names(root: Path) -> list[str]:
    """The names of the runs straight below ``root``, in no order."""
    return [p.name for p in root.iterdir() if (p / "run.json").is_file()] if root.is_dir() else []


def check_root(root: Path) -> None:
    """Make sure that runs can be written below ``root``.

    Raises UserError when they can't.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        # A name of its own each time: two sessions of one process may begin at once.
        Path(tempfile.mkdtemp(prefix=files.TEMPORARY, dir=root)).rmdir()
    except OSError as error:
        raise UserError(
            f"Runs can't be written to {str(root)!r}: {error.strerror}. Choose another folder with --runs."
        ) from None


class RunDirectory:
    """A run that this process writes. It holds the lock until ``close``."""

    def __init__(self, path: Path, lock: int, values: dict[str, Any]) -> None:
        self.path = path
        self._lock: int | None = lock
        self._values = values
        self._updating = threading.Lock()  # the training thread and the recorder both do

    @classmethod
    def create(
        cls, root: Path, name: str, experiment_toml: str, facts: dict[str, Any], exact: bool = False
    ) -> RunDirectory:
        """A new directory below ``root``, named after the time and ``name``; ``exact``: after ``name`` alone.

        Raises UserError when it can't be written.
        """
        check_root(root)
        stem = folder_name(name) if exact else f"{time.strftime('%Y%m%d-%H%M%S')}-{folder_name(name)}"
        try:
            for number in range(1, 1000):
                path = root / (stem if number == 1 else f"{stem}-{number}")
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    break
            else:
                raise UserError(f"There are 999 runs named {stem!r} in {str(root)!r}.")
            (path / "checkpoints").mkdir()
            run = cls(path, _take_lock(path), {})
            files.write_text(path / "experiment.toml", experiment_toml)
            run.update(
                layout=LAYOUT,
                id=new_id(),
                name=path.name,
                created=time.time(),
                versions=versions(),
                **_begin(),
                **facts,
            )
            return run
        except OSError as error:
            raise UserError(f"The run directory in {str(root)!r} can't be written: {error.strerror}.") from None

    @classmethod
    def reopen(cls, path: Path) -> RunDirectory:
        """A run to go on with; leftovers of a kill are swept. Its status stays as it is until ``begin``.

        Raises UserError when another process trains it or it can't be written.
        """
        info = read_info(path)
        try:
            lock = _take_lock(path)
            for folder in (path, path / "checkpoints"):
                files.sweep(folder)
        except OSError as error:
            raise UserError(f"The run {str(path)!r} can't be written: {error.strerror}.") from None
        return cls(path, lock, dict(info.values))

    def begin(self, experiment_toml: str, step: int, **facts: Any) -> None:
        """Training goes on from that step: the experiment may have been changed (prolonged)."""
        files.write_text(self.path / "experiment.toml", experiment_toml)
        anew = ("epoch", "step", "train", "val", "best", "best_epoch") if step == 0 else ()
        for key in ("message", "ended", "test", *anew):
            self._values.pop(key, None)
        self._values["curve"] = [point for point in self._values.get("curve", ()) if point[0] <= step]
        self.update(versions=versions(), resumed=time.time(), **_begin(), **facts)

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def get(self, key: str, default: Any = None) -> Any:
        """One value of run.json."""
        return self._values.get(key, default)

    def update(self, **values: Any) -> None:
        """Change values of run.json, atomically."""
        with self._updating:
            self._values = self._values | values
            text = json.dumps(self._values, indent=1, allow_nan=False, default=str)
            files.write_text(self.path / "run.json", text + "\n")

    def epoch_ended(self, epoch: int, step: int, train: dict[str, Any], val: dict[str, Any], best: bool) -> None:
        """Where the run stands; the best epoch's metrics, and the course of the watched one, thinned."""
        values: dict[str, Any] = {"epoch": epoch, "step": step, "train": train, "val": val}
        if best:
            values |= {"best": val, "best_epoch": epoch}
        watched = val.get(str(self._values.get("best_metric")))
        if watched is not None:
            curve = [*self._values.get("curve", ()), [step, watched]]
            values["curve"] = curve[::2] if len(curve) > _CURVE else curve
        self.update(**values)

    def heartbeat(self) -> None:
        """Tell other machines that this one still trains."""
        self.update(heartbeat=time.time())

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def without_time(name: str) -> str:
    """The name of a run's directory without the time of its beginning in front."""
    return re.sub(r"^\d{8}-\d{6}-", "", name)


def folder_name(name: str) -> str:
    """A name as a folder may have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"


def _begin() -> dict[str, Any]:
    return {"status": "running", "process": process.identity(), "heartbeat": time.time()}


def _take_lock(path: Path) -> int:
    """The run's lock, which the system lets go of when the process ends, however it ends."""
    try:
        descriptor = files.take_lock(path / "lock")
    except BlockingIOError:
        holder = last_line(path / "lock")
        raise UserError(
            f"The run {str(path)!r} is being trained by another process (pid {holder or 'unknown'})."
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


@contextlib.contextmanager
def locked_run(path: Path) -> Iterator[bool]:
    """Hold the run's lock, so that nobody trains it meanwhile; gives False when somebody does."""
    file = path / "lock"
    if not os.access(file, os.R_OK | os.W_OK):
        yield True  # it was never trained here: nobody holds what does not exist
        return
    with contextlib.ExitStack() as stack:
        try:
            mine = stack.enter_context(files.holding(file, create=False))
        except OSError:
            mine = False  # it can't be known
        yield mine


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the user's project, and whether files were changed since; empty where there is no git."""
    git = shutil.which("git")
    if git is None:
        return {}

    def ask(*words: str) -> str | None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run([git, *words], cwd=folder, capture_output=True, text=True, timeout=5, check=True)
            return done.stdout.strip()
        return None

    commit = ask("rev-parse", "HEAD")
    return {"git": {"commit": commit, "changed": bool(ask("status", "--porcelain", "-uno"))}} if commit else {}


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The events in metrics.jsonl, oldest first; a last line that was cut off is left out."""
    with contextlib.suppress(FileNotFoundError), (path / "metrics.jsonl").open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                record = json.loads(line)
                if isinstance(record, dict):
                    yield record
