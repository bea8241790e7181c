"""Text written token by token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def generate(
    last_logits: Callable[[Tensor], Tensor],
    begin: Tensor,
    count: int,
    context: int,
    allowed: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """``begin`` [t] and ``count`` tokens after it, each drawn from what the model makes of the ``context`` before it.

    ``last_logits`` takes tokens [t] and gives the logits [V] of the one that follows; only the first ``allowed`` of
    them can be drawn. ``temperature``: the logits are divided by it; 0 takes the most likely one each time.
    ``generator`` draws on the CPU.
    """
    tokens = begin
    for _ in range(count):
        logits = last_logits(tokens[-context:])[:allowed].float().cpu()
        if temperature:
            following = torch.multinomial((logits / temperature).softmax(0), 1, generator=generator)
        else:
            following = logits.argmax(0, keepdim=True)
        tokens = torch.cat([tokens, following.to(tokens.device)])
    return tokens
