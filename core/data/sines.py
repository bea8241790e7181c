"""Series that are made: sums of sines with noise, to be continued."""

from __future__ import annotations

import math

import torch

from torchdeck.core.data.source import Arrays, Source


def load_sines(samples: int, past: int, future: int, noise: float, seed: int) -> Source:
    """Series of two sines each, of random periods (8 to 32 steps), phases and amplitudes: what was seen, with noise
    [N, past, 1], and what comes then, without [N, future]. An error of 0 can be come near, never met: the noise hides
    the series."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(samples, 2, 1, generator=generator)

    period, phase, amplitude = drawn(8, 32), drawn(0, 2 * math.pi), drawn(0.2, 1)
    steps = torch.arange(past + future)
    series = (amplitude * torch.sin(2 * math.pi * steps / period + phase)).sum(1)
    seen = series[:, :past] + noise * torch.randn(samples, past, generator=generator)
    return Source(
        Arrays(seen.unsqueeze(-1), series[:, past:].contiguous()),
        None,
        "regression",
        False,
        feature_names=("value",),
        place="made on the spot",
        target_names=tuple(f"step{i}" for i in range(1, future + 1)),
    )
