"""Which checkpoints of a run can go: all but the newest, the best one, and the best few by the watched metric."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchdeck.core.checkpoints.names import BEST, LAST, generations, step_of
from torchdeck.core.errors import UserError
from torchdeck.core.runs.directory import locked_run, read_info, read_metrics


@dataclass(frozen=True)
class Plan:
    """What would be deleted in one run, and the bytes that it would free."""

    run: Path
    kept: tuple[Path, ...]
    deleted: tuple[Path, ...]
    freed: int
    #: Why nothing is deleted, where that has a reason.
    reason: str = ""


def plan(run: Path, keep_best: int) -> Plan:
    """Keep the newest generation, what best.pt and last.pt are, and the ``keep_best`` best generations.

    A generation counts by the validation of the epoch that ended at its step; one without counts as the worst.

    Raises UserError when the run can't be read.
    """
    info = read_info(run)
    folder = run / "checkpoints"
    found = generations(folder)
    if info.status == "running":
        return Plan(run, tuple(found), (), 0, "it is still training")
    values = _values(run, str(info.get("best_metric", "")))
    sign = -1 if info.get("higher_is_better") else 1
    ranked = sorted(found, key=lambda p: (sign * values.get(step_of(p), math.inf * sign), -step_of(p)))
    named = {_inode(folder / name) for name in (BEST, LAST)}
    kept = {p for p in found if _inode(p) in named} | set(ranked[:keep_best]) | set(found[:1])
    deleted = [p for p in found if p not in kept]
    damaged = sorted(folder.glob("*.damaged"))
    deleted += damaged
    return Plan(run, tuple(p for p in found if p in kept), tuple(deleted), sum(_freed(p) for p in deleted))


def carry_out(plans: Iterable[Plan]) -> int:
    """Delete what was planned; gives the bytes that were freed. A run that has been started meanwhile is left alone.

    Raises UserError when a file can't be deleted.
    """
    freed = 0
    for one in plans:
        if not one.deleted:
            continue
        with locked_run(one.run) as mine:
            if not mine:
                continue
            for path in one.deleted:
                try:
                    size = _freed(path)
                    path.unlink(missing_ok=True)
                    freed += size
                except OSError as error:
                    raise UserError(f"{str(path)!r} can't be deleted: {error.strerror}.") from None
    return freed


def _values(run: Path, watched: str) -> dict[int, float]:
    found: dict[int, float] = {}
    for record in read_metrics(run):
        if record.get("event") == "epoch":
            value: Any = record.get("val", {}).get(watched)
            if isinstance(value, int | float) and math.isfinite(value):
                found[int(record.get("step", 0))] = float(value)
    return found


def _inode(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        stat = os.stat(path)  # noqa: PTH116
        return stat.st_dev, stat.st_ino
    return None


def _freed(path: Path) -> int:
    """Bytes that come free: none as long as the file has another name."""
    with contextlib.suppress(OSError):
        stat = path.lstat()
        return stat.st_size if stat.st_nlink == 1 else 0
    return 0
