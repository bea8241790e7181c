"""The terminal workbench for people who train PyTorch models, and its engine in Python.

    run = torchdeck.train(model=net, data=(train_set, val_set), epochs=3, lr=1e-3)
    run.test["accuracy"], run.metrics()["val/loss"], run.best.load(net)

``train`` and ``start`` train one experiment, ``search`` many, ``runs`` and ``Run`` look at what was trained. What goes
wrong is an ``Error``. Everything is loaded when it is used: importing torchdeck imports nothing else.
"""

__version__ = "0.1.0"

# What typing.TYPE_CHECKING is for type checkers, without importing typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from torchdeck._run import Checkpoint, Figures, Metrics, Run, runs
    from torchdeck._session import Session
    from torchdeck._study import Study, Trial, search
    from torchdeck._train import start, train
    from torchdeck.core.errors import Error, TrainingError, UserCodeError, UserError
    from torchdeck.core.events import (
        CheckpointWritten,
        EpochEnded,
        Evaluated,
        Event,
        Failed,
        Finished,
        LogLine,
        Started,
        StateChanged,
        StepSummary,
    )
    from torchdeck.core.experiment.schema import Experiment

__all__ = [
    "Checkpoint",
    "CheckpointWritten",
    "EpochEnded",
    "Error",
    "Evaluated",
    "Event",
    "Experiment",
    "Failed",
    "Figures",
    "Finished",
    "LogLine",
    "Metrics",
    "Run",
    "Session",
    "Started",
    "StateChanged",
    "StepSummary",
    "Study",
    "TrainingError",
    "Trial",
    "UserCodeError",
    "UserError",
    "__version__",
    "runs",
    "search",
    "start",
    "train",
]

#: Where each name is, by module.
_NAMES = {
    "_run": ("Checkpoint", "Figures", "Metrics", "Run", "runs"),
    "_session": ("Session",),
    "_study": ("Study", "Trial", "search"),
    "_train": ("start", "train"),
    "core.errors": ("Error", "TrainingError", "UserCodeError", "UserError"),
    "core.events": (
        "CheckpointWritten",
        "EpochEnded",
        "Evaluated",
        "Event",
        "Failed",
        "Finished",
        "LogLine",
        "Started",
        "StateChanged",
        "StepSummary",
    ),
    "core.experiment.schema": ("Experiment",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


if not TYPE_CHECKING:  # to which a name that there is not would be one like others

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module 'torchdeck' has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"torchdeck.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
