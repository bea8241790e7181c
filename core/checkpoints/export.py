"""Exports of a run: its state_dict, safetensors, or the whole model as torch.save writes it."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from core import files, toml
from core.checkpoints.read import load_checkpoint, strip_prefixes, weights_in
from core.checkpoints.write import save
from core.data.source import DataInfo
from core.errors import UserError
from core.models.build import build


def export(run: Path, which: str, format: str, output: Path) -> None:
    """Write the weights (averaged ones where the run has them) of a run's checkpoint to ``output``, whole or not at all.

    ``format``: state_dict, safetensors, or model (a pickle: whoever loads it runs what is in it).

    Raises UserError when the run has no such checkpoint or ``output`` can't be written.
    """
    path = _checkpoint(run, which)
    state = load_checkpoint(path, "export")
    weights = {name: tensor.contiguous() for name, tensor in strip_prefixes(weights_in(state, path, "export")).items()}
    try:
        with files.replacing(output) as file:
            if format == "safetensors":
                from safetensors.torch import save as to_safetensors

                # Names that share their memory (tied weights) are told apart only as copies.
                file.write(to_safetensors({name: tensor.clone() for name, tensor in weights.items()}, {"format": "pt"}))
            elif format == "state_dict":
                save(weights, file)
            else:
                save(_model(run, state, weights), file)
    except OSError as error:
        raise UserError(f"{str(output)!r} can't be written: {error.strerror or error}.") from None
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(f"The model can't be pickled ({error}); export its state_dict.") from None


def _checkpoint(run: Path, which: str) -> Path:
    if which not in ("best", "last"):
        return Path(which).expanduser()
    for name in (f"{which}.pt", "last.pt"):
        if (run / "checkpoints" / name).exists():
            return run / "checkpoints" / name
    raise UserError(f"{str(run)!r} has no checkpoint to export.")


def _model(run: Path, state: dict, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    experiment = toml.loads(state["experiment"], str(run / "experiment.toml"))
    data = state["data"]
    info = DataInfo(experiment.data.name, data["task"], tuple(data["input_shape"]), data["outputs"],
                    tuple(data["class_names"]))  # fmt: skip
    # The weights come from the checkpoint; those that training began with need not be there any more.
    net = build(experiment.model.model_copy(update={"weights": None, "freeze": ()}), info, experiment.loss.name)
    net.load_state_dict(weights)
    return net.eval()
