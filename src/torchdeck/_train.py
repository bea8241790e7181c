"""Training from Python: ``train`` and ``start``."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from torchdeck._experiment import Described, Options, describe, describe_resumed
from torchdeck._run import Run
from torchdeck._session import Session
from torchdeck.core import usercode
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.machine.distributed import world
from torchdeck.core.runs.directory import find_run
from torchdeck.core.runs.listing import requeued
from torchdeck.core.session.reporters import Reporter, choose_reporter
from torchdeck.core.session.session import Session as Engine

if TYPE_CHECKING:
    from torchdeck._experiment import AnyExperiment
    from torchdeck._objects import Data, Loss, Model


def train(
    experiment: AnyExperiment = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    model: Model | None = None,
    data: Data | None = None,
    loss: Loss | None = None,
    runs: str | os.PathLike[str] = "runs",
    resume: Run | str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    **options: Unpack[Options],
) -> Run:
    """Train to the end, and give the run.

    >>> run = torchdeck.train("fashion-cnn", {"trainer.epochs": 3})
    >>> run = torchdeck.train(model=net, data=(train_set, val_set), epochs=3, lr=1e-3)

    Args:
        experiment: A preset's name, a TOML file, a dict of tables, or an ``Experiment``; default: the defaults.
    overrides: Values on top, by key: ``{"optimizer.lr": 0.1, "model.args.widths": [64, 32]}``. None takes the default.
    model: An ``nn.Module``, its class, a function that makes one, or a name of the catalog. A module is trained
    itself:
            its weights change, and at the end they are those of the best epoch (of the last one without validation;
    averaged ones, with ``trainer.ema``, are in ``run.best``). It is left on the device that it was trained on. A
            class or function gets what it asks for among ``num_classes``, ``in_channels``, ``in_features``,
            ``input_shape`` and the like.
    data: A ``Dataset`` of (input, target), its class, a pair (X, y) of arrays or tensors [N, ...] and [N] or [N, T];
            (train, val) or (train, val, test) of those; or a name of the catalog. Validation and test sets are cut from
            the training set where they are not given (``trainer.validation_share``, ``data.test_share``). X of floats
            and all y are taken as they are, without scaling or normalising, unless ``data.transforms`` or
            ``data.scale_target`` say otherwise; nothing is copied.
        loss: A loss module or function of (outputs, targets) that gives a mean or a sum, or a name of the catalog.
        runs: The folder in which the run gets its directory.
    resume: A run to go on with, exactly where it was; ``overrides`` and options may prolong it. Objects must be given
            again.
        progress: Whether progress is told on stdout; default: on a terminal. Warnings go to stderr in any case.
    **options: ``epochs``, ``steps``, ``batch_size``, ``lr``, ``weight_decay``, ``optimizer``, ``schedule``,
    ``device``,
            ``precision``, ``seed`` and ``name`` (of the run), for the keys of everyday.

    The global generators of Python, NumPy and torch are seeded with ``seed`` (default 0). Ctrl-C stops after a
    checkpoint, a second one at once.

    Raises:
        UserError: What was given is wrong; the message says where, and what would be right.
        UserCodeError: The model, the data or the loss raised; ``__cause__`` is what they raised.
        TrainingError: The training failed: a loss that diverged, memory or the disk that ran out. All three are
            ``torchdeck.Error``, and ``error.run`` is the run's directory, where it had begun.
        KeyboardInterrupt: Ctrl-C; ``error.run`` is the run's directory.
    """
    session = _begin(experiment, overrides, model, data, loss, runs, resume, options)
    return session.follow(reporter_of(progress))


def start(
    experiment: AnyExperiment = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    model: Model | None = None,
    data: Data | None = None,
    loss: Loss | None = None,
    runs: str | os.PathLike[str] = "runs",
    resume: Run | str | os.PathLike[str] | None = None,
    **options: Unpack[Options],
) -> Session:
    """Train in the background: the same as ``train``, but it returns at once. Wait for its end, by ``with`` or
    ``session.wait()``: it does not outlive the script.

    >>> with torchdeck.start("digits", epochs=5) as session:
    ...     for event in session:
    ...         if isinstance(event, torchdeck.EpochEnded) and event.val["accuracy"] > 0.95:
    ...             session.stop()

    Raises:
        UserError: The experiment is wrong. What goes wrong in the training is raised by ``session.wait()``, and at the
            end of the ``with`` block.
    """
    return _begin(experiment, overrides, model, data, loss, runs, resume, options)


def reporter_of(progress: bool | None) -> Reporter:
    """Who tells of the progress: the command's display or lines, or one that tells of warnings alone."""
    wanted = sys.stdout.isatty() if progress is None else progress
    return choose_reporter(json_lines=False, quiet=not wanted, plain=False)


def refuse_nested() -> None:
    """Raises UserError in a process that multiprocessing starts, and that runs the user's script once more for it, and
    under torchrun."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(
            "A worker process has run this script from its top; put the call of torchdeck below if __name__ == "
            "'__main__':."
        )
    if world().size > 1:
        raise UserError(
            "Under torchrun train with the command: torchrun --nproc-per-node N --no-python torchdeck --batch "
            "EXPERIMENT."
        )


def _begin(
    experiment: AnyExperiment,
    overrides: Mapping[str, Any] | None,
    model: Model | None,
    data: Data | None,
    loss: Loss | None,
    runs: str | os.PathLike[str],
    resume: Run | str | os.PathLike[str] | None,
    options: Options,
) -> Session:
    refuse_nested()
    root = Path(runs).expanduser()
    objects = {"model": model, "data": data, "loss": loss}
    path: Path | None = None
    if resume is None:
        described = describe(experiment, overrides, objects, options)
        path = requeued(root, toml.dumps(described.experiment.to_share()))
    else:
        if experiment is not None:
            raise UserError(
                "resume= takes the experiment from the run; change it with overrides, without naming another."
            )
        path = resume.path if isinstance(resume, Run) else find_run(os.fspath(resume), root)
        described = describe_resumed(path, overrides, objects, options)
    return _started(described, root, path)


def _started(described: Described, root: Path, resume: Path | None) -> Session:
    with usercode.giving(described.objects):
        engine = Engine(described.experiment, root, resume, base=described.base)
    session = Session(engine)
    engine.start()
    return session
