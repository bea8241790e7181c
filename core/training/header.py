"""What a checkpoint tells besides the state of the training: what it needs to be used without the data."""

from __future__ import annotations

from typing import Any

from torchdeck.core.checkpoints.read import VERSION
from torchdeck.core.data.load import LoadedData
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.tasks.base import Task
from torchdeck.core.tasks.own import StepsTask


def checkpoint_header(
    experiment: Experiment, folder: str, data: LoadedData, task: Task, channels_last: bool
) -> dict[str, Any]:
    """The experiment as the user wrote it, the folder that its paths are relative to, and the facts on the data and on
    the form of inputs and outputs, as plain containers."""
    info, loss = data.info, task.loss
    weights = loss.weights if loss is not None else None
    return {
        "torchdeck": VERSION,
        "experiment": toml.dumps(experiment),
        "folder": folder,
        "data": {
            "task": info.task,
            "input_shape": list(info.input_shape),
            "outputs": info.outputs,
            "class_names": list(info.class_names),
            "feature_names": list(info.feature_names),
            "target_mean": list(info.target_mean),
            "target_std": list(info.target_std),
            "target_names": list(info.target_names),
            "integer": info.integer,
            "loss_kind": loss.kind if loss is not None else "",
            "class_weights": None if weights is None else weights.tolist(),
            "target_shape": list(info.target_shape),
            "plain": info.plain,
            "vocabulary": list(info.vocabulary),
            "input_shapes": [list(shape) for shape in info.input_shapes],
            "channels_last": channels_last,
            "part_input": _part_input(task),
            "raw_shape": list(info.raw_shape),
            "fingerprint": info.fingerprint,
            "transforms": [_plain(t.record()) for t in data.transforms],
        },
    }


def _part_input(task: Task) -> list[int] | None:
    """What the part that is exported takes, of a step that makes its own optimizer steps."""
    shape = task.part_input if isinstance(task, StepsTask) else None
    return None if shape is None else list(shape)


def _plain(args: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in args.items()}
