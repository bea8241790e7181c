"""Mean and standard deviation for Normalize, measured on the training set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from core import usercode
from core.data import samples, transforms
from core.data.seeds import derive
from core.data.source import Arrays, Part, Source
from core.experiment import Transform


def measure(chosen: Sequence[Transform], source: Source, train_at: Tensor, seed: int) -> tuple[Transform, ...]:
    """Fill in mean and std of each Normalize that has none, from the training set (a sample of it when streamed)."""
    measured: list[Transform] = []
    for transform in chosen:
        if transform.name == "Normalize" and not (transform.args().get("mean") and transform.args().get("std")):
            mean, std = _statistics(measured, source, train_at, seed)
            transform = transforms.make("Normalize", mean=mean, std=std)
        measured.append(transform)
    return tuple(measured)


def _statistics(
    before: Sequence[Transform], source: Source, train_at: Tensor, seed: int
) -> tuple[list[float], list[float]]:
    part = source.train
    pipeline = transforms.split(before, training=False, streamed=not isinstance(part, Arrays))
    unit = any(t.name == "ToTensor" for t in before)
    scale = transforms.to_unit if unit else Tensor.float
    if isinstance(part, Arrays) and not pipeline.needs_samples():
        if part.x.dtype == torch.uint8 and part.x.ndim == 4:
            return _byte_statistics(part.x, train_at, 255 if unit else 1)
        x = part.x[train_at].float()
    else:
        generator = torch.Generator().manual_seed(derive(seed, "statistics"))
        some = train_at[torch.randperm(len(train_at), generator=generator)[:1000]]
        apply = transforms.sample_transform(pipeline.sample)
        with usercode.user_errors():
            read = [scale(transforms.as_tensor(apply(_sample(part, int(i))))) for i in some]
        if read[0].ndim >= 3:  # images may differ in size
            flat = torch.cat([image.flatten(1) for image in read], 1).double()
            return _rounded(flat.mean(1), flat.std(1))
        x = torch.stack(read)
    over = (0, 2, 3) if x.ndim == 4 else (0,)
    return _rounded(x.double().mean(over), x.double().std(over))


def _sample(part: Part, index: int) -> Any:
    return part.x[index] if isinstance(part, Arrays) else samples.pair(part.dataset[index], "data")[0]


def _byte_statistics(x: Tensor, train_at: Tensor, scale: int) -> tuple[list[float], list[float]]:
    """Exact mean and std of bytes / scale per channel, from a histogram: no float copy of the data set."""
    values = torch.arange(256, dtype=torch.float64) / scale
    means, stds = [], []
    for channel in range(x.shape[1]):
        histogram = torch.zeros(256, dtype=torch.float64)
        for chunk in train_at.split(8192):
            histogram += torch.bincount(x[chunk, channel].flatten().int(), minlength=256)
        share = histogram / histogram.sum()
        mean = (share * values).sum()
        means.append(mean)
        stds.append((share * (values - mean) ** 2).sum().sqrt())
    return _rounded(torch.stack(means), torch.stack(stds))


def _rounded(mean: Tensor, std: Tensor) -> tuple[list[float], list[float]]:
    # A channel or feature that never changes has a std of 0; it is only shifted.
    std = torch.where(torch.isfinite(std) & (std > 1e-12), std, torch.ones_like(std))
    return [float(f"{v:.7g}") for v in mean], [float(f"{v:.7g}") for v in std]
