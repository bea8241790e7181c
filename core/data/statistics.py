"""Mean and standard deviation for Normalize and of targets: in float64 and running, a few samples at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from torchdeck.core import usercode
from torchdeck.core.data import samples, transforms
from torchdeck.core.data.seeds import derive
from torchdeck.core.data.source import Arrays, Source
from torchdeck.core.errors import UserError, count
from torchdeck.core.experiment.data_schema import Transform

#: Samples that are read for the statistics of data that are read one by one.
_SOME = 1000
#: Numbers that are made float64 at once.
_NUMBERS = 1 << 21


class Moments:
    """Mean and variance of each channel, added up part by part (Chan, Golub and LeVeque 1979).

    All is counted from the first value, so that what a channel never loses, its offset, costs no figures.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first = self._mean = self._squares = torch.zeros(0, dtype=torch.float64)

    @property
    def mean(self) -> Tensor:
        """Mean of each channel."""
        return self._first + self._mean

    def add(self, values: Tensor) -> None:
        """More values [channels, N]."""
        x = values.to("cpu", torch.float64)
        n = x.shape[1]
        if not n:
            return
        if not self.count:
            self._first = x[:, 0].clone()
        x = x - self._first[:, None]
        mean = x.mean(1)
        squares = ((x - mean[:, None]) ** 2).sum(1)
        if not self.count:
            self.count, self._mean, self._squares = n, mean, squares
            return
        total = self.count + n
        away = mean - self._mean
        self._mean = self._mean + away * (n / total)
        self._squares = self._squares + squares + away**2 * (self.count * n / total)
        self.count = total

    @property
    def squares(self) -> Tensor:
        """Sum of the squared distances from the mean, of each channel."""
        return self._squares

    def std(self) -> Tensor:
        """Standard deviation (of a sample); 1 for a channel that never changes, which then is only shifted."""
        std = (self._squares / max(self.count - 1, 1)).sqrt()
        rounding = torch.finfo(torch.float64).eps * self.mean.abs()
        return torch.where(torch.isfinite(std) & (std > rounding), std, torch.ones_like(std))


def moments(values: Tensor, at: Tensor) -> Moments:
    """Those of each column of ``values`` [N, ...] (channels come second), over the samples ``at``."""
    found = Moments()
    each = max(1, _NUMBERS // max(1, values[0].numel()))
    for chunk in at.split(each):
        part = values[chunk]
        part = part.reshape(len(part), part.shape[1] if part.ndim > 1 else 1, -1)
        found.add(part.transpose(0, 1).reshape(part.shape[1], -1))
    return found


def measure(
    chosen: Sequence[Transform],
    source: Source,
    train_at: Tensor,
    seed: int,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Transform, ...]:
    """Fill in mean and std of each Normalize that has none, from the training set (a sample of it when streamed, which
    is told)."""
    measured: list[Transform] = []
    for transform in chosen:
        if transform.name == "Normalize" and not (transform.args().get("mean") and transform.args().get("std")):
            mean, std = _statistics(measured, source, train_at, seed, tell)
            transform = transforms.make("Normalize", mean=mean, std=std)
        measured.append(transform)
    return tuple(measured)


def _statistics(
    before: Sequence[Transform], source: Source, train_at: Tensor, seed: int, tell: Callable[[str], None]
) -> tuple[list[float], list[float]]:
    part = source.train
    pipeline = transforms.make_pipelines(before, training=False, streamed=not isinstance(part, Arrays))
    unit = any(t.name == "ToTensor" for t in before)
    if isinstance(part, Arrays) and not pipeline.needs_samples():
        if part.x.dtype == torch.uint8 and part.x.ndim == 4:
            return _byte_statistics(part.x, train_at, 255 if unit else 1)
        x = part.x.transpose(1, 2) if part.x.ndim == 3 else part.x  # of a series [time, features] each feature
        found = moments(x, train_at)
        return found.mean.tolist(), found.std().tolist()
    generator = torch.Generator().manual_seed(derive(seed, "statistics"))
    some = train_at[torch.randperm(len(train_at), generator=generator)[:_SOME]]
    if len(some) < len(train_at):
        tell(f"Normalize: mean and std are measured on {len(some):,} of {count(len(train_at), 'training sample')}.")
    apply = transforms.sample_transform(pipeline.sample)
    found = Moments()
    for index in some.tolist():
        with usercode.user_errors():
            x = transforms.as_tensor(apply(samples.sample_at(part, index, source.layout)[0]))
        x = transforms.to_unit(x) if unit else x
        try:
            found.add(_by_feature(x))
        except RuntimeError:
            raise UserError(
                f"Sample {index} of {source.place!r} has the shape {list(x.shape)}, which others have not; "
                "Normalize needs the same number of channels or features in all."
            ) from None
    return found.mean.tolist(), found.std().tolist()


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
        means.append(float(mean))
        stds.append(float((share * (values - mean) ** 2).sum().sqrt()) or 1.0)
    return means, stds


def tell_collapsed(source: Source, tell: Callable[[str], None]) -> None:
    """Tell which columns have values that differ and are the same as float32, which is what the model gets."""
    part = source.train
    if not isinstance(part, Arrays) or part.x.ndim != 2 or part.x.dtype not in (torch.float64, torch.int64):
        return
    lost = [i for i, column in enumerate(part.x.T) if len(column.float().unique()) < len(column.unique())]
    if lost:
        name = source.feature_names[lost[0]] if source.feature_names else str(lost[0])
        others = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        tell(
            f"Without Normalize the model gets column {name!r}{others} as float32, in which some of its values that "
            "differ are the same; put Normalize into data.transforms."
        )


def _by_feature(x: Tensor) -> Tensor:
    """A sample as [features, values]: of images the channels, of a row of numbers each, of a series [time, features]
    each feature."""
    if x.ndim >= 3:
        return x.flatten(1)
    return x.T if x.ndim == 2 else x.reshape(-1, 1)
