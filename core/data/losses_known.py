"""What losses say of the targets that they take: those of torch by what they are, others by their parameters."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from torchdeck.core import catalog, usercode

#: What a loss calls its targets, and the inputs where it compares the outputs with these.
TARGET_PARAMETERS = ("target", "targets", "label", "labels", "y", "y_true", "gt", "ground_truth")
INPUT_PARAMETERS = ("x", "input", "inputs", "data", "image", "images", "img", "imgs", "original", "x_true")

#: ``labels``: 0 or 1, as floats; ``classes``: class numbers, or the probabilities of each class; ``numbers``: numbers
#: like the outputs; ``signs``: 1 or -1; ``triplets``: none, for the outputs are an anchor, a positive and a negative.
Takes = Literal["labels", "classes", "numbers", "signs", "triplets"]

_MODULES: dict[Takes, tuple[type[nn.Module], ...]] = {
    "labels": (nn.BCEWithLogitsLoss, nn.BCELoss, nn.MultiLabelSoftMarginLoss, nn.MultiLabelMarginLoss),
    "classes": (nn.CrossEntropyLoss, nn.KLDivLoss),
    "numbers": (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss),
    "signs": (nn.SoftMarginLoss, nn.HingeEmbeddingLoss, nn.CosineEmbeddingLoss),
    "triplets": (nn.TripletMarginLoss, nn.TripletMarginWithDistanceLoss),
}
_FUNCTIONS: dict[Takes, tuple[Any, ...]] = {
    "labels": (F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss),
    "classes": (F.cross_entropy, F.kl_div),
    "numbers": (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss),
    "signs": (F.soft_margin_loss, F.hinge_embedding_loss, F.cosine_embedding_loss),
    "triplets": (F.triplet_margin_loss, F.triplet_margin_with_distance_loss),
}
#: Those of the catalog that say it; its losses of numbers compare the outputs with one-hot classes, too.
_CATALOG: dict[str, Takes] = {"bce_with_logits": "labels", "cross_entropy": "classes"}


def taken_by(loss: str | None) -> Takes | None:
    """What a loss takes, by its name in the catalog, or what is found under the user's: a loss of torch, a class that
    is made from one, or an object of one; None where nothing is known of it."""
    if loss is None or not catalog.is_user_code(loss):
        return _CATALOG.get(str(loss))
    return kind_of_loss(usercode.load(loss, "loss.name"))


def kind_of_loss(target: Any) -> Takes | None:
    """The same, of a loss itself."""
    module = target if isinstance(target, type) else type(target)
    for kind, known in _MODULES.items():
        if issubclass(module, known):
            return kind
    return next((kind for kind, known in _FUNCTIONS.items() if any(target is one for one in known)), None)


def takes_inputs(loss: str | None) -> bool:
    """Whether a loss of the user's compares the outputs with the inputs, by what it calls its parameters:
    ``loss(reconstruction, x, mu, logvar)``."""
    return input_parameter(_parameters_of(loss)) is not None


def takes_anchor(loss: str | None) -> bool:
    """Whether a loss of the user's takes triplets, by what it calls its first parameter."""
    return _parameters_of(loss)[:1] == ["anchor"]


def _parameters_of(loss: str | None) -> list[str]:
    """The parameters that a loss of the user's requires; none of another, or where they can't be looked at."""
    if not catalog.is_user_code(loss or ""):
        return []
    try:
        return required_parameters(usercode.load(str(loss), "loss.name"))
    except (TypeError, ValueError):
        return []


def required_parameters(loss: Any) -> list[str]:
    """The parameters of a loss that must be given, by position: of a function, a module or a class of modules.

    Raises TypeError or ValueError where its signature can't be looked at.
    """
    function = loss.forward if isinstance(loss, torch.nn.Module) else loss
    if isinstance(loss, type):
        function = getattr(loss, "forward", loss.__call__)
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind in _POSITIONAL]
    return names[1:] if isinstance(loss, type) else names


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def input_parameter(names: list[str]) -> int | None:
    """Which parameter of a loss, behind the first, is the inputs; None where it takes a target, or neither."""
    if any(name.lower() in TARGET_PARAMETERS for name in names):
        return None
    return next((at for at, name in enumerate(names) if at and name.lower() in INPUT_PARAMETERS), None)
