"""What a study keeps on the disk: the checkpoints of its best trials, a link to the best one, Optuna's artifacts."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import FrozenTrial, TrialState

from torchdeck.core import files
from torchdeck.core.checkpoints.names import BEST
from torchdeck.core.errors import UserError
from torchdeck.core.runs.directory import locked_run

if TYPE_CHECKING:
    from torchdeck.core.search.study import Study

ARTIFACTS = "artifacts"


class _Linked(FileSystemArtifactStore):
    """Artifacts as second names of the files: a checkpoint is on the disk once."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        files.link(Path(content_body.name), self._get_filepath(artifact_id))


def store(study: Study) -> FileSystemArtifactStore:
    """Where the study's artifacts are."""
    folder = study.folder / ARTIFACTS
    folder.mkdir(exist_ok=True)
    return _Linked(folder)


def resumable(run: Path) -> Path | None:
    """The run directory of a trial to go on with; None when it begins anew.

    One that was left before its first checkpoint is swept: the trial begins again, with the same values.

    Raises UserError when another process trains it.
    """
    if not run.exists():
        return None
    if any((run / "checkpoints").glob("*.pt")) and (run / "run.json").exists():
        return run
    with locked_run(run) as mine:
        if not mine:
            raise UserError(f"The run {str(run)!r} is being trained by another process.")
        shutil.rmtree(run)
    return None


def publish(study: Study, trial: optuna.Trial, values: Sequence[float] | None) -> None:
    """Before a trial is over: its checkpoint becomes an artifact, and a picture of its curves where it is the best.

    What can't be written is no reason to end the study: the trial itself is safe.
    """
    run = study.run_of(trial.number)
    with contextlib.suppress(OSError):
        if not (run / "checkpoints" / BEST).exists():
            return
        _upload(study, trial, run / "checkpoints" / BEST)
        best = study.best()
        if values and len(values) == 1 and (not best or study.rank(values[0]) < study.rank(best[0].values[0])):
            from torchdeck.core.search.figures import curves

            if curves(run, run / "curves.png"):
                _upload(study, trial, run / "curves.png")


def _upload(study: Study, trial: optuna.Trial, file: Path) -> None:
    """Once, also where telling is tried again after a database did not answer."""
    there = get_all_artifact_meta(trial, storage=study.storage)
    if not any(one.filename == file.name for one in there):
        upload_artifact(artifact_store=store(study), file_path=str(file), study_or_trial=trial)


def tidy(study: Study) -> None:
    """After a trial: the best one gets its link, and the checkpoints of those beyond the best few go."""
    best = study.best()
    with contextlib.suppress(OSError):
        if len(study.objectives) == 1 and best:
            _link(study, best[0])
        _drop(study, best)


def _link(study: Study, trial: FrozenTrial) -> None:
    target = study.run_of(trial.number) / "checkpoints" / BEST
    link = study.folder / BEST
    if not target.exists() or (link.is_symlink() and link.resolve() == target.resolve()):
        return
    temporary = study.folder / f"{files.TEMPORARY}{BEST}-{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.relative_to(study.folder))
    temporary.replace(link)
    files.sync_folder(study.folder)


def _drop(study: Study, best: Sequence[FrozenTrial]) -> None:
    """Remove the checkpoints of all but the best trials."""
    keep = study.experiment.search.keep
    if not keep:
        return
    over = [t for t in study.trials() if t.state.is_finished()]
    front = {t.number for t in best}
    over.sort(key=lambda t: (t.number not in front, t.state != TrialState.COMPLETE, _rank(study, t), t.number))
    for trial in over[max(keep, len(front)) :]:
        run = study.run_of(trial.number)
        names = list((run / "checkpoints").glob("*.pt"))
        if not names:
            continue
        with locked_run(run) as mine:
            if not mine:
                continue
            inodes = {(s.st_dev, s.st_ino) for s in (p.stat() for p in names)}
            for path in names:
                path.unlink(missing_ok=True)
            for path in (study.folder / ARTIFACTS).glob("*"):
                stat = path.stat()
                if (stat.st_dev, stat.st_ino) in inodes:
                    path.unlink(missing_ok=True)


def _rank(study: Study, trial: FrozenTrial) -> float:
    return study.rank(trial.values[0]) if trial.values else math.inf
