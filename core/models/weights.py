"""Weights that a model begins with: a file's, or those that torchvision offers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.checkpoints.archive import inspect_file
from torchdeck.core.checkpoints.compare import Matches, match
from torchdeck.core.checkpoints.read import load_weights
from torchdeck.core.errors import UserError, did_you_mean


def pretrained(model: str, weights: str | None) -> Any | None:
    """The member of torchvision's weights enum that ``weights`` names: DEFAULT, IMAGENET1K_V2 or
    ResNet50_Weights.IMAGENET1K_V2; None for a file, or for no weights.

    Raises UserError when the model has no such weights.
    """
    if not weights or Path(weights).suffix.lower() in _FILES or "/" in weights or Path(weights).exists():
        return None
    import torchvision

    offered = torchvision.models.get_model_weights(model)
    kind, _, name = weights.rpartition(".")
    if kind in ("", offered.__name__) and name in offered.__members__:
        return offered[name]
    names = ["DEFAULT", *offered.__members__]
    raise UserError(
        f"model.weights = {weights!r} is no file and none of the weights of {model}; {did_you_mean(weights, names)}",
        field="model.weights",
    )


_FILES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz", ".th", ".tar", ".json")


def places(state: Mapping[str, Tensor]) -> dict[str, Hashable]:
    """Where in memory each tensor lies: tied tensors lie in one place."""
    return {
        name: (t.untyped_storage().data_ptr(), t.storage_offset(), tuple(t.shape), t.stride())
        for name, t in state.items()
        if t.numel() and t.device.type != "meta"
    }


def load_into(net: nn.Module, weights: str, partial: bool, tell: Callable[[str], None]) -> None:
    """Load a weights file; a head (the last layer) of another size is left as it was drawn. What does not load as it
    stands is told.

    Raises UserError when the file can't be used or does not fit.
    """
    path = Path(weights).expanduser()
    given = load_weights(path, "model.weights")
    own = net.state_dict()
    where = places(own)
    matches = match({n: tuple(t.shape) for n, t in own.items()}, {n: tuple(t.shape) for n, t in given.items()}, where)
    if not matches.of("loads"):
        raise UserError(
            f"model.weights = {weights!r} fits none of the model's {len(own)} tensors; it is another model's.",
            field="model.weights",
        )
    if not matches.fits and not partial:
        raise UserError(
            f"model.weights = {weights!r} does not fit the model: {_misfit(matches)}. What fits is loaded with "
            "model.partial = true.",
            field="model.weights",
        )
    loaded = {m.name: given[m.stored] for m in matches.of("loads")}
    _refuse_untied(loaded, where, weights)
    net.load_state_dict(loaded, strict=False)
    taken_off = inspect_file(path).wrapped
    words = [f"the prefix {taken_off!r} is removed from every name"] if taken_off else []
    if len(matches.of("loads")) < len(matches.all) or matches.removed or matches.added:
        words.append(matches.sentence())
    if words:
        tell(f"model.weights = {weights!r}: {', '.join(words)}.")


def _refuse_untied(loaded: Mapping[str, Tensor], where: Mapping[str, Hashable], weights: str) -> None:
    """Tensors that the model ties must be equal in the file, or one would silently take the other's place."""
    first: dict[Hashable, str] = {}
    for name, tensor in loaded.items():
        other = first.setdefault(where.get(name, name), name)
        if not torch.equal(loaded[other], tensor):
            raise UserError(
                f"model.weights = {weights!r}: the model ties {name!r} to {other!r}, but the file holds "
                "different numbers for them.",
                field="model.weights",
            )


def _misfit(matches: Matches) -> str:
    for one in matches.of("reshaped"):
        return (
            f"{one.name!r} has the shape {list(one.stored_shape or ())} in the file and {list(one.shape or ())} "
            "in the model"
        )
    for one in matches.of("missing"):
        return f"{one.name!r} is missing from the file"
    return f"{matches.of('unused')[0].stored!r} is not in the model"
