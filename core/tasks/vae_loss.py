"""The loss of a variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from torchdeck.core.data.items import shapes
from torchdeck.core.errors import UserError

_MEAN = ("mu", "mean", "z_mean")
_LOGVAR = ("logvar", "log_var", "z_log_var", "z_logvar")

_ERRORS: dict[str, Callable[..., Tensor]] = {
    "bce": F.binary_cross_entropy,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
}


class Elbo:
    """The negative evidence lower bound (Kingma and Welling 2014, "Auto-Encoding Variational Bayes", appendix B) of
    (reconstruction [B, ...], mean [B, Z], log variance [B, Z]), or a dict of them, and the inputs [B, ...]: the error
    of the reconstruction and the Kullback-Leibler divergence from a standard normal, each summed over a sample and the
    mean of samples."""

    def __init__(self, reconstruction: str, beta: float) -> None:
        """``reconstruction``: the error, by name; ``beta``: what the divergence is multiplied by."""
        self._error, self._beta = _ERRORS[reconstruction], beta

    def __call__(self, outputs: Any, x: Tensor) -> dict[str, Tensor]:
        """The loss and its two parts."""
        found, mean, logvar = _three(outputs)
        count = len(x)
        error = self._error(found.reshape(x.shape), x.to(found.dtype), reduction="sum") / count
        divergence = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum() / count
        return {"loss": error + self._beta * divergence, "reconstruction": error, "kl": divergence}


def _three(outputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    from torchdeck.core.tasks.reconstruction import reconstruction_of

    if isinstance(outputs, Mapping):
        mean = next((outputs[key] for key in _MEAN if key in outputs), None)
        logvar = next((outputs[key] for key in _LOGVAR if key in outputs), None)
        if mean is not None and logvar is not None:
            return reconstruction_of(outputs), mean, logvar
    elif isinstance(outputs, tuple | list) and len(outputs) >= 3 and all(isinstance(o, Tensor) for o in outputs[:3]):
        return outputs[0], outputs[1], outputs[2]
    raise UserError(
        f"loss.name = 'elbo' needs a model that gives (reconstruction, mean, log variance), or a dict with 'mu' and "
        f"'logvar'; it gave {shapes(outputs)}.",
        field="loss.name",
    )
