"""What losses of torch, and those that are made from them, say of the targets that they take."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import nn

from torchdeck.core import catalog, usercode

#: ``labels``: 0 or 1, as floats; ``classes``: class numbers, or the probabilities of each class; ``numbers``: numbers
#: like the outputs; ``triplets``: none, for the outputs are an anchor, a positive and a negative.
Takes = Literal["labels", "classes", "numbers", "triplets"]

_MODULES: dict[Takes, tuple[type[nn.Module], ...]] = {
    "labels": (nn.BCEWithLogitsLoss, nn.BCELoss, nn.MultiLabelSoftMarginLoss, nn.MultiLabelMarginLoss),
    "classes": (nn.CrossEntropyLoss,),
    "numbers": (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss),
    "triplets": (nn.TripletMarginLoss, nn.TripletMarginWithDistanceLoss),
}
_FUNCTIONS: dict[Takes, tuple[Any, ...]] = {
    "labels": (F.binary_cross_entropy, F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss),
    "classes": (F.cross_entropy,),
    "numbers": (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss),
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
