"""Nets for pixels and boxes: a small U-Net, and a small detector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchdeck.core.errors import UserError
from torchdeck.core.models.nets import _conv as conv


def _twice(before: int, after: int, act: str) -> nn.Sequential:
    return nn.Sequential(conv(before, after, act), conv(after, after, act))


class UNet(nn.Module):
    """Stages that halve the image and stages that double it again, each with what the one of its size saw on the way
    down (Ronneberger et al. 2015), with padding and batch norm."""

    def __init__(self, shape: Sequence[int], outputs: int, channels: Sequence[int], activation: str) -> None:
        super().__init__()
        halvings = len(channels) - 1
        if any(side % 2**halvings for side in shape[1:]):
            raise UserError(
                f"model.args.channels has {len(channels)} stages, which halve images {halvings} times; height and "
                f"width, {shape[1]} and {shape[2]}, must be multiples of {2**halvings}.",
                field="model.args.channels",
            )
        pairs = list(itertools.pairwise(channels))
        self.first = _twice(shape[0], channels[0], activation)
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), _twice(a, b, activation)) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(pairs))
        self.join = nn.ModuleList(_twice(2 * a, a, activation) for a, _ in reversed(pairs))
        self.head = nn.Conv2d(channels[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, outputs, H, W]."""
        seen = [self.first(x)]
        for stage in self.down:
            seen.append(stage(seen[-1]))
        x = seen.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([seen.pop(), up(x)], 1))
        return self.head(x)


def small_fcos(shape: Sequence[int], outputs: int, channels: Sequence[int], size: int) -> nn.Module:
    """torchvision's FCOS (Tian et al. 2019) over a few convolutions, each halving the image, whose shorter side is
    made ``size`` pixels.

    Raises UserError for a last stage that FCOS can't normalise in groups.
    """
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    if channels[-1] % 32:
        raise UserError(
            f"model.args.channels ends with {channels[-1]}; the last must be a multiple of 32, for FCOS normalises in "
            "32 groups.",
            field="model.args.channels",
        )
    stages: list[nn.Module] = []
    for before, after in zip((3, *channels), channels, strict=False):
        stages.append(nn.Sequential(conv(before, after, "relu", stride=2), conv(after, after, "relu")))
    backbone = nn.Sequential(*stages)
    backbone.out_channels = channels[-1]  # type: ignore[assignment]
    anchors = AnchorGenerator(((2 ** (len(channels) + 1),),), ((1.0,),))
    return FCOS(backbone, outputs, min_size=size, max_size=4 * size, anchor_generator=anchors, detections_per_img=20)
