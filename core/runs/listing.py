"""The runs below one or more roots, ours and other tools'.

A look at ten thousand runs must not open ten thousand files: an index beside the runs (``.index.json``) keeps each
run's row with the sizes and times of the files that it was made of, and only what has changed is read again. The index
may be deleted at any time; where it can't be written, runs are read anew.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from torchdeck.core import files
from torchdeck.core.errors import UserError
from torchdeck.core.runs import labels, rows
from torchdeck.core.runs.directory import RunInfo, read_info
from torchdeck.core.runs.process import alive
from torchdeck.core.runs.rows import Row
from torchdeck.core.tracking.files import PARTS, event_files, parts_of

INDEX = ".index.json"
_VERSION = 2

#: Folders below a root that are looked into, at most: a link to / must not have the whole disk read.
_DEPTH = 8

#: Rows that must have changed before the index is written again; fewer are read anew the next time.
_WORTH_WRITING = 16


@dataclass(frozen=True)
class _Known:
    signature: tuple[Any, ...]
    row: Row
    #: Whose process it is, while the run goes on.
    process: dict[str, Any] | None = None
    heartbeat: float = 0.0


class RunList:
    """The runs below ``roots``; each ``scan`` looks what has changed."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = list(roots)
        #: A sentence for each run that can't be read, as of the last scan.
        self.broken: list[str] = []
        self._known: dict[str, _Known] = {}
        self._indexed: set[Path] = set()

    def scan(self, stop: Callable[[], bool] = lambda: False) -> list[Row]:
        """All runs, the newest last. ``stop`` is asked now and then; when it says so, the scan ends with what it has.

        Raises UserError when a root can't be read; one that does not exist holds no runs.
        """
        found: dict[str, _Known] = {}
        broken: list[str] = []
        visited: set[tuple[int, int]] = set()
        for root in self.roots:
            if root not in self._indexed:
                self._read_index(root)
                self._indexed.add(root)
            changed = 0
            for path in _run_folders(root, visited, broken):
                if path in found:
                    continue
                if stop():
                    return sorted((k.row for k in found.values()), key=lambda row: (row.created, row.name))
                known = self._known.get(path)
                try:
                    signature = _signature(path)
                    if known is None or known.signature != signature:
                        known = _read(Path(path), signature)
                        changed += known.row.status != "running"
                except UserError as error:
                    broken.append(str(error))
                    continue
                except OSError as error:
                    if not isinstance(error, FileNotFoundError):  # else it was deleted between two looks
                        broken.append(f"{path!r} can't be read: {error.strerror}.")
                    continue
                found[path] = known = _aged(known)
            if changed >= _WORTH_WRITING:
                self._write_index(root, found)
        self._known, self.broken = found, broken
        return sorted((k.row for k in found.values()), key=lambda row: (row.created, row.name))

    def _read_index(self, root: Path) -> None:
        try:
            values = from_json((root / INDEX).read_bytes())
            entries = values["runs"].items() if values["version"] == _VERSION else ()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        for name, entry in entries:
            with contextlib.suppress(TypeError, KeyError, ValueError, AttributeError):
                path = f"{root}/{name}"
                self._known[path] = _Known(_tuples(entry["signature"]), rows.from_json(entry["row"], Path(path)))

    def _write_index(self, root: Path, found: dict[str, _Known]) -> None:
        start = len(f"{root}/")
        kept = {
            path[start:]: {"signature": known.signature, "row": rows.row_json(known.row)}
            for path, known in found.items()
            if path.startswith(f"{root}/") and known.process is None
        }
        # Read-only disks, other people's runs: they are read anew the next time.
        with contextlib.suppress(OSError), files.replacing(root / INDEX) as file:
            file.write(to_json({"version": _VERSION, "runs": kept}))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _run_folders(root: Path, visited: set[tuple[int, int]], broken: list[str]) -> Iterator[str]:
    """Every folder that holds a run; folders within runs are not looked into, hidden ones neither, none twice."""
    waiting = [(str(root), 0)]
    while waiting:
        folder, depth = waiting.pop()
        try:
            stat = os.stat(folder)  # noqa: PTH116 - ten thousand times; a Path each doubles the time
            if (stat.st_dev, stat.st_ino) in visited:
                continue
            visited.add((stat.st_dev, stat.st_ino))
            inner, run, events = _inside(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            if depth == 0:
                raise UserError(f"The runs in {folder!r} can't be read: {error.strerror}.") from None
            broken.append(f"{folder!r} can't be read: {error.strerror}.")
            continue
        if run or events:
            yield folder
        if run:
            continue
        parts = [name for name in inner if name in PARTS]
        if parts and not events and any(_has_events(f"{folder}/{name}") for name in parts):
            yield folder
            inner = [name for name in inner if name not in parts]
        if depth < _DEPTH:
            waiting += [(f"{folder}/{name}", depth + 1) for name in sorted(inner, reverse=True)]


def _inside(folder: str) -> tuple[list[str], bool, bool]:
    """The folders in it that are not hidden, whether it is a run of ours (whose folders don't matter then), and whether
    event files lie in it."""
    inner, events = [], False
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name == "run.json":
                return [], True, events
            if ".tfevents." in name:
                events = True
            elif name[0] != "." and entry.is_dir():
                inner.append(name)
    return inner, False, events


def _has_events(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(".tfevents." in entry.name for entry in entries)
    except OSError:
        return False


def _signature(path: str) -> tuple[Any, ...]:
    """What changes when a run's row does."""
    label = _stamp(f"{path}/{labels.FILE}")
    try:
        stat = os.stat(f"{path}/run.json")  # noqa: PTH116
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino, *label)
    except FileNotFoundError:
        pass
    parts = parts_of(Path(path))
    names = [f"{name}/{file}".lstrip("/") for name in parts for file in event_files(Path(path) / name)]
    return (*((name, *_stamp(f"{path}/{name}")) for name in names), *label)


def _stamp(path: str) -> tuple[int, ...]:
    try:
        stat = os.stat(path)  # noqa: PTH116
    except OSError:
        return (0, 0)
    return (stat.st_mtime_ns, stat.st_size)


def _read(path: Path, signature: tuple[Any, ...]) -> _Known:
    if isinstance(signature[0], tuple) or not (path / "run.json").exists():
        return _Known(signature, _foreign_row(path))
    info = read_info(path)
    who = info.get("process")
    beat = info.get("heartbeat")
    running = info.status == "running"
    return _Known(
        signature,
        rows.run_row(info, time.time()),
        who if running and isinstance(who, dict) else None,
        float(beat) if isinstance(beat, int | float) else 0.0,
    )


def _aged(known: _Known) -> _Known:
    """A run that went on may have died since."""
    if known.process is None or alive(known.process, known.heartbeat):
        return known
    return replace(known, row=replace(known.row, status="dead"), process=None)


def row_at(path: Path) -> Row:
    """The row of one run, ours or another tool's.

    Raises UserError when the directory holds none.
    """
    try:
        if (path / "run.json").exists() or not (path.is_dir() and parts_of(path)):
            return rows.run_row(read_info(path), time.time())
        return _foreign_row(path)
    except OSError as error:
        raise UserError(f"{str(path)!r} can't be read: {error.strerror}.") from None


def _foreign_row(path: Path) -> Row:
    """The row of another tool's run."""
    from torchdeck.core.runs import foreign  # NumPy is imported for those alone

    return foreign.foreign_row(path)


def list_runs(root: Path) -> tuple[list[RunInfo], list[str]]:
    """Our runs straight below ``root``, the newest last, and a sentence for each that can't be read.

    Raises UserError when ``root`` itself can't be read.
    """
    found: list[RunInfo] = []
    broken: list[str] = []
    try:
        with os.scandir(root) as entries:
            folders = [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise UserError(f"The runs in {str(root)!r} can't be read: {error.strerror}.") from None
    for name in folders:
        path = root / name
        if not (path / "run.json").exists():
            continue
        try:
            found.append(read_info(path))
        except UserError as error:
            broken.append(str(error))
    return sorted(found, key=lambda run: (_created(run), run.name)), broken


def requeued(root: Path, experiment_toml: str) -> Path | None:
    """The run to go on with when SLURM has started the same job again after a preemption; None in all other cases.

    It is the run of this job with the very same experiment (sbatch --requeue sets SLURM_RESTART_COUNT).
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return None
    for run in reversed(list_runs(root)[0]):
        if run.get("slurm_job") != job or run.status in ("running", "done"):
            continue
        has_checkpoint = any((run.path / "checkpoints").glob("*.pt"))
        if has_checkpoint and (run.path / "experiment.toml").read_text(encoding="utf-8") == experiment_toml:
            return run.path
    return None


def _created(run: RunInfo) -> float:
    value = run.get("created")
    return float(value) if isinstance(value, int | float) else 0.0
