"""The runs below a root."""

from __future__ import annotations

import os
from pathlib import Path

from core.errors import UserError
from core.runs.directory import RunInfo, read_info


def list_runs(root: Path) -> tuple[list[RunInfo], list[str]]:
    """The runs straight below ``root``, the newest last, and a sentence for each that can't be read.

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
