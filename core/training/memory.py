"""Out of memory, told so that something can be done about it."""

from __future__ import annotations

import gc
import re
from typing import TYPE_CHECKING

import torch

from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices

if TYPE_CHECKING:
    from torchdeck.core.training.build import Built


def explain(error: Exception, experiment: Experiment, built: Built | None) -> str:
    """One sentence: what was asked for, what is free, which batch size would fit.

    The graph that the failed step left is freed first; else nothing of what it holds counts as free.
    """
    wanted = _asked_for(error)
    error.__traceback__ = None
    device = built.device if built else torch.device("cpu")
    if built is not None:
        built.trainer.optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    free = devices.memory_free(device)
    if built is None:
        return (
            f"Out of memory before the training began, while data or model were read: {wanted} was asked for, "
            f"{free / 2**30:.2f} GiB is free now."
        )
    size = experiment.trainer.batch_size
    advice = f"; set trainer.batch_size to {fitting_batch_size(size, built, free)} or less" if size > 1 else ""
    keep = f" and trainer.accumulate to {experiment.trainer.accumulate * 2} for the same steps" if size > 1 else ""
    return f"Out of memory on {device}: {wanted} was asked for, {free / 2**30:.2f} GiB is free now{advice}{keep}."


def _asked_for(error: Exception) -> str:
    """How much memory was asked for: torch and NumPy tell it in their sentences only."""
    asked = re.search(
        r"[Tt]ried to allocate ([\d.]+ \w+)|you tried to allocate (\d+) bytes|Unable to allocate ([\d.]+ \w+)",
        str(error),
    )
    wanted = next((g for g in asked.groups() if g), "memory") if asked else "memory"
    return f"{int(wanted) / 2**30:.2f} GiB" if wanted.isdigit() else wanted


def fitting_batch_size(size: int, built: Built | None, free: int) -> int:
    """The largest power of two below ``size`` whose activations should fit in ``free`` bytes, with a quarter to
    spare."""
    candidate = 1 << max(0, (size - 1).bit_length() - 1)
    if built is None or built.activation_bytes == 0:
        return candidate
    while candidate > 1 and candidate * built.activation_bytes * 2 > free * 0.75:
        candidate //= 2
    return candidate
