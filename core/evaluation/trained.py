"""A trained model back from its checkpoint: the network, how its inputs were prepared, and what its outputs mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchdeck.core.checkpoints.read import load_checkpoint, strip_prefixes, weights_in
from torchdeck.core.data.infer import is_lightning
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.data_schema import Transform
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.models.build import build_model, channels_last_of
from torchdeck.core.runs.consent import refuse_code
from torchdeck.core.runs.folder import folder_of, located
from torchdeck.core.tasks.lightning import make_layers


@dataclass(frozen=True)
class Trained:
    """A model with its weights (averaged ones where the run has them), in evaluation mode on the CPU."""

    path: Path
    experiment: Experiment
    #: What the model was trained on.
    info: DataInfo
    net: nn.Module
    weights: dict[str, torch.Tensor]
    #: How inputs were prepared, with the values that were measured on the training set.
    transforms: tuple[Transform, ...]
    epoch: int
    step: int
    #: Weights of the classes in the loss, and the state of a loss with parameters; None where there are none.
    class_weights: tuple[float, ...] | None = None
    loss_state: dict[str, torch.Tensor] | None = None
    #: How the losses of batches make that of a set (losses.Kind); empty where the checkpoint does not tell.
    loss_kind: str = ""
    channels_last: bool = False
    #: The model's name as the experiment has it.
    model_name: str = ""
    #: Of a model of several parts: the shape of one sample of what the first part takes, where that is known.
    part_input: tuple[int, ...] | None = None


def load_trained(path: Path, trust_code: bool, note: Callable[[str], None] = lambda text: None) -> Trained:
    """The model of a checkpoint of ours. What its run named relative to the folder that it was started in is found
    there.

    ``trust_code``: whether the user said that the code which the checkpoint names may run; runs that were made here
    are the user's own.

    Raises UserError when it is no checkpoint of ours, or names code that nobody vouched for.
    """
    state = load_checkpoint(path, "the checkpoint")
    experiment = toml.loads(state["experiment"], f"the experiment in {str(path)!r}")
    if not trust_code:
        refuse_code(experiment, path)
    data = state["data"]
    transforms = tuple(Transform.model_validate(t) for t in data.get("transforms", ()))
    written = experiment
    experiment, transforms = _located(experiment, transforms, state.get("folder"), path, note)
    info = DataInfo(
        written.data.name,
        data["task"],
        tuple(data["input_shape"]),
        data["outputs"],
        tuple(data["class_names"]),
        tuple(data.get("target_mean", ())),
        tuple(data.get("target_std", ())),
        feature_names=tuple(data.get("feature_names", ())),
        target_names=tuple(data.get("target_names", ())),
        raw_shape=tuple(data.get("raw_shape", ())),
        integer=bool(data.get("integer", False)),
        fingerprint=str(data.get("fingerprint", "")),
        target_shape=tuple(data.get("target_shape", ())),
        plain=bool(data.get("plain", True)),
        vocabulary=tuple(data.get("vocabulary", ())),
        input_shapes=tuple(map(tuple, data.get("input_shapes", ()))),
    )
    # The weights come from the checkpoint; those that training began with need not be there any more.
    # A folder of transformers' tells the config, too.
    kept = experiment.model.weights
    kept = kept if kept is not None and Path(kept).is_dir() else None
    net = build_model(experiment.model.model_copy(update={"weights": kept, "freeze": ()}), info)
    weights = {n: t.contiguous() for n, t in strip_prefixes(weights_in(state, path, "the checkpoint")).items()}
    if is_lightning(experiment.model.name):
        make_layers(net, weights)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise UserError(f"{str(path)!r} does not fit the model that it names any more: {first}") from None
    class_weights = data.get("class_weights")
    channels_last = data.get("channels_last", channels_last_of(experiment.model, net, info))
    return Trained(
        path,
        experiment,
        info,
        net.eval(),
        weights,
        transforms,
        int(state["epoch"]),
        int(state["step"]),
        tuple(class_weights) if class_weights else None,
        state.get("loss"),
        str(data.get("loss_kind", "")),
        bool(channels_last),
        written.model.name,
        tuple(data["part_input"]) if data.get("part_input") is not None else None,
    )


def first_part(trained: Trained) -> tuple[nn.Module, torch.Tensor]:
    """Of a model of several parts the one that is exported, which is the first, and random inputs for it.

    Raises UserError where it is not called with one tensor.
    """
    name, part = next(trained.net.named_children())
    if trained.part_input is None:
        raise UserError(
            f"The first part of the model, {name!r}, is the one that is exported, and task.step does not call it with "
            "one tensor; export the weights (--format state_dict or safetensors)."
        )
    return part, torch.randn(64, *trained.part_input, generator=torch.Generator().manual_seed(0))


def _located(
    experiment: Experiment, transforms: tuple[Transform, ...], folder: object, path: Path, note: Callable[[str], None]
) -> tuple[Experiment, tuple[Transform, ...]]:
    """The experiment and the measured transforms, with code and data where the run was started."""
    place = Path(folder) if isinstance(folder, str) else folder_of(path)
    measured = experiment.model_copy(update={"data": experiment.data.model_copy(update={"transforms": transforms})})
    said: list[str] = []
    found = located(measured, place, said.append).data.transforms or ()
    experiment = located(experiment, place, said.append)
    for text in dict.fromkeys(said):
        note(text)
    return experiment, found


def describe(trained: Trained) -> dict[str, Any]:
    """Whose predictions these are, for JSON."""
    return {
        "checkpoint": str(trained.path),
        "model": trained.model_name,
        "data": trained.info.name,
        "epoch": trained.epoch,
        "step": trained.step,
    }
