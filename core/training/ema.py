"""An exponential moving average of the weights and buffers (torch.optim.swa_utils.AveragedModel).

The decay warms up, min(decay, (1 + t) / (10 + t)), so that the average forgets the random start (as timm and
TensorFlow have it).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def build_ema(net: nn.Module, decay: float) -> AveragedModel | None:
    """The average of ``net``'s weights; None when decay is 0."""
    if not decay:
        return None

    @torch.no_grad()
    def update(averaged: Any, current: Any, number: Any) -> None:
        done = int(number)
        share = 1 - min(decay, (1 + done) / (10 + done))
        if averaged[0].is_floating_point() or averaged[0].is_complex():
            torch._foreach_lerp_(averaged, current, share)
        else:  # counters, such as batch norm's
            for to, value in zip(averaged, current, strict=True):
                to.copy_(value)

    return AveragedModel(net, multi_avg_fn=update, use_buffers=True)
