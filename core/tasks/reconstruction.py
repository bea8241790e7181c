"""The input is the target: autoencoders, and models whose loss is of several outputs (VAEs)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.items import shapes
from torchdeck.core.errors import UserError
from torchdeck.core.models.calls import logits_of
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.metrics import Metric

#: Keys under which a model that returns a dict gives its reconstruction.
_KEYS = ("reconstruction", "recon", "recons", "x_recon", "recon_x", "x_hat", "decoded")


def reconstruction_of(outputs: Any) -> Any:
    """The reconstruction in what a model returns: the tensor itself, the first of a tuple, or that of a dict."""
    if isinstance(outputs, Mapping):
        return next((outputs[key] for key in _KEYS if key in outputs), logits_of(outputs))
    return logits_of(outputs)


class Reconstruction(Metric):
    """mae and rmse over all numbers of a set, and PSNR: 10 log10(range^2 / their mean squared error), in decibels. The
    range is 1 for pictures of 0 to 1; else the greatest input of the set less its smallest."""

    def __init__(self, pictures: bool, as_logits: bool) -> None:
        """``pictures``: whether inputs within 0 and 1 have that range; ``as_logits``: whether outputs are logits, whose
        sigmoid is the reconstruction."""
        self._pictures, self._as_logits = pictures, as_logits
        self._sums: Tensor | None = None
        self._ends: Tensor | None = None

    def update(self, out: Any, y: Any) -> None:
        """Take what a model gave and the inputs [B, ...]."""
        out = reconstruction_of(out)
        out = out.sigmoid() if self._as_logits else out
        exact = torch.float32 if y.device.type == "mps" else torch.float64
        error = out.reshape(y.shape).to(exact) - y.to(exact)
        sums = torch.stack([error.abs().sum(), (error**2).sum(), torch.full_like(error.sum(), error.numel())])
        ends = torch.stack([-y.min(), y.max()])
        self._sums = sums if self._sums is None else self._sums + sums
        self._ends = ends if self._ends is None else torch.maximum(self._ends, ends)

    def compute(self) -> dict[str, float]:
        """The figures; PSNR is infinite without any error, and NaN for inputs that are all the same."""
        if self._sums is None or self._ends is None:
            return {}
        absolute, squared, count = self._sums.tolist()
        low, high = -float(self._ends[0]), float(self._ends[1])
        span = 1.0 if self._pictures and low >= 0 and high <= 1 else high - low
        error = squared / count
        psnr = math.inf if span and not error else math.nan
        if span and error:
            psnr = 10 * math.log10(span**2 / error)
        return {"mae": absolute / count, "rmse": math.sqrt(error), "psnr": psnr}


class ReconstructionTask(Task):
    """Outputs of as many numbers as the inputs [B, ...], or a tuple or dict of outputs, the reconstruction first."""

    resizes = False

    def targets(self, batch: Batch) -> Any:
        """The inputs."""
        return batch.x

    def outputs(self, raw: Any) -> Any:
        """What the loss takes: all outputs, or the reconstruction alone."""
        if self.loss is None or self.loss.takes_all:
            return raw
        if isinstance(raw, tuple | list | Mapping) and len(raw) > 1 and not self._told:
            self._told = True
            self._warn(
                f"model.name = {self._experiment.model.name!r} gives {len(raw)} outputs, of which the loss takes the "
                "reconstruction alone (loss.name = 'elbo', or a loss of your own, takes all)."
            )
        return reconstruction_of(raw)

    _told = False

    def of_task(self, step: Step) -> list[Metric]:
        """mae, rmse and PSNR."""
        return [Reconstruction(bool(self._info.raw_shape), self._as_logits)]

    @property
    def _as_logits(self) -> bool:
        """Whether outputs are logits: said, or as far as the loss tells."""
        loss, said = self.loss, self._args["logits"]
        if said is not None:
            return said
        name, args = self._experiment.loss.name, self._experiment.loss.resolved()
        if name == "elbo":
            return args["reconstruction"] == "bce_with_logits"
        return name == "bce_with_logits" or (loss is not None and isinstance(loss.module, nn.BCEWithLogitsLoss))

    def fits(self, step: Step) -> bool:
        """Whether the (first) output has as many numbers as the input."""
        out, y = reconstruction_of(step.outputs), step.targets
        return isinstance(out, Tensor) and isinstance(y, Tensor) and len(out) == len(y) and out.numel() == y.numel()

    def describe(self, outputs: Any, inputs: Any = None) -> list[dict[str, Any]] | None:
        """How far the reconstruction of each of the ``inputs`` [B, ...] is from it: the figures of a set of one."""
        if not self.fits(Step(outputs, inputs, len(inputs))):
            return None
        found = []
        for out, x in zip(reconstruction_of(outputs), inputs, strict=True):
            metric = Reconstruction(bool(self._info.raw_shape), self._as_logits)
            metric.update(out[None], x[None])
            found.append({name: value for name, value in metric.compute().items() if name != "psnr"})
        return found

    def check(self, step: Step) -> None:
        """The output must be as large as the input, unless the loss is the user's own; logits are of inputs from 0 to
        1.

        Raises UserError where it is not so.
        """
        own = self.loss is None or self.loss.own
        if not own and not self.fits(step):
            raise UserError(
                f"model.name = {self._experiment.model.name!r} returned {shapes(reconstruction_of(step.outputs))} for "
                f"inputs of the shape {shapes(step.targets)}; a reconstruction has the shape of the input (give a loss "
                "of your own for other outputs).",
                field="model.name",
            )
        y = step.targets
        if self._experiment.loss.name == "bce_with_logits" and (float(y.min()) < 0 or float(y.max()) > 1):
            raise UserError(
                f"loss.name = 'bce_with_logits' needs inputs from 0 to 1; those of {self._info.name!r} go from "
                f"{float(y.min()):.4g} to {float(y.max()):.4g}. Leave Normalize out, or choose mse.",
                field="loss.name",
            )
        self._tell_range(step)
        super().check(step)

    def _tell_range(self, step: Step) -> None:
        """That outputs beyond the range of the inputs may be logits is told: a loss of the user's does not say."""
        unknown = self._args["logits"] is None and not self._as_logits and (self.loss is None or self.loss.own)
        if not unknown or not self.fits(step):
            return
        out, y = reconstruction_of(step.outputs), step.targets
        within = float(y.min()) >= 0 and float(y.max()) <= 1
        if within and (float(out.min()) < 0 or float(out.max()) > 1):
            self._warn(
                "The inputs are from 0 to 1 and the reconstruction is not: mae, rmse and psnr compare it as it is; "
                "task.args.logits = true takes the sigmoid of it (false: as it is, without this word)."
            )
