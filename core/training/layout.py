"""Whether a model takes images whose channels come last in memory, which convolutions compute faster with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.data.items import tensors_in
from torchdeck.core.errors import UserError, first_line
from torchdeck.core.experiment.model_schema import Model
from torchdeck.core.models.calls import logits_of
from torchdeck.core.training.random import unchanged_random_states


def takes_channels_last(net: nn.Module, sample: Any, model: Model) -> bool:
    """Whether forward and backward work with the channels last, tried on a copy in training mode with two real
    samples: a ``view`` in a model's own code does not take it, and then the usual layout is kept.

    Raises UserError when model.channels_last = true was asked for and does not work.
    """
    if not isinstance(sample, Tensor):
        return False
    device = next((p.device for p in net.parameters()), sample.device)
    try:
        with unchanged_random_states(device):
            tried = copy.deepcopy(net).to(memory_format=torch.channels_last).train()
            x = sample[:2].to(device)
            x = (torch.cat([x, x]) if len(x) == 1 else x).contiguous(memory_format=torch.channels_last)
            for out in tensors_in(logits_of(tried(x))):
                if out.requires_grad:
                    out.float().sum().backward(retain_graph=True)
        return True
    except Exception as error:
        if model.channels_last:
            raise UserError(
                f"model.channels_last = true, but {model.name} does not take it: {first_line(error)}.",
                field="model.channels_last",
            ) from None
        return False
