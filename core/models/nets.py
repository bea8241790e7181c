"""The nets of the catalog. Each takes the shape of one input, the number of outputs and the catalog's parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "mish": nn.Mish,
}


def activation(name: str) -> nn.Module:
    """The non-linearity of that name."""
    return _ACTIVATIONS[name]()


def linear(shape: Sequence[int], outputs: int) -> nn.Sequential:
    """One linear layer: [N, *shape] to [N, outputs]."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))


def mlp(
    shape: Sequence[int], outputs: int, widths: Sequence[int], activation: str, dropout: float, batch_norm: bool
) -> nn.Sequential:
    """Fully connected layers: [N, *shape] to [N, outputs]."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(shape)
    for after in widths:
        layers.append(nn.Linear(width, after, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm1d(after))
        layers.append(_ACTIVATIONS[activation]())
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = after
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def _conv(
    before: int, after: int, act: str | None, norm: bool = True, stride: int = 1, kernel: int = 3
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(after))
    if act:
        layers.append(activation(act))
    return nn.Sequential(*layers)


class CNN(nn.Module):
    """Stages of 3x3 convolutions, each ending in 2x2 max pooling, then global average or a hidden layer."""

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        channels: Sequence[int],
        convs: int,
        activation: str,
        dropout: float,
        batch_norm: bool,
        hidden: int,
    ) -> None:
        super().__init__()
        before, *side = shape
        stages = []
        for after in channels:
            layers: list[nn.Module] = []
            for i in range(convs):
                layers.append(_conv(before if i == 0 else after, after, activation, batch_norm))
            if min(side) >= 2:
                layers.append(nn.MaxPool2d(2))
                side = [s // 2 for s in side]
            stages.append(nn.Sequential(*layers))
            before = after
        self.stages = nn.Sequential(*stages)
        head: list[nn.Module]
        if hidden:
            head = [nn.Flatten(), nn.Linear(before * math.prod(side), hidden), _ACTIVATIONS[activation]()]
            before = hidden
        else:
            head = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        if dropout:
            head.append(nn.Dropout(dropout))
        self.head = nn.Sequential(*head, nn.Linear(before, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, outputs]."""
        return self.head(self.stages(x))


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, arxiv.org/abs/1512.03385)."""

    def __init__(self, before: int, after: int, stride: int, act: str) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(before, after, act, stride=stride), _conv(after, after, None))
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else _conv(before, after, None, stride=stride, kernel=1)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, after, H / stride, W / stride]."""
        return self.act(self.shortcut(x) + self.body(x))


class ResNet(nn.Module):
    """Residual network for small images: a 3x3 stem, stages of basic blocks, each after the first halving the image."""

    def __init__(
        self, shape: Sequence[int], outputs: int, channels: Sequence[int], blocks: int, activation: str, dropout: float
    ) -> None:
        super().__init__()
        self.stem = _conv(shape[0], channels[0], activation)
        before = channels[0]
        stages = []
        for number, after in enumerate(channels):
            layers = []
            for i in range(blocks):
                layers.append(_BasicBlock(before, after, 2 if i == 0 and number else 1, activation))
                before = after
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(before, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, outputs]."""
        return self.head(self.stages(self.stem(x)))


class _Residual(nn.Module):
    def __init__(self, channels: int, convs: int, act: str) -> None:
        super().__init__()
        self.body = nn.Sequential(*[_conv(channels, channels, act) for _ in range(convs)])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class FastNet(nn.Module):
    """A residual network that pools right after its stem, so that nearly all its work is on small maps.

    After the ResNet-9 of David Page (myrtle.ai, "How to train your ResNet", 2018) with the scaled logits of it.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        logit_scale: float,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv(shape[0], channels[0], activation), nn.MaxPool2d(2)]
        depths = (*blocks, *([0] * len(channels)))
        for number, (before, after) in enumerate(itertools.pairwise(channels)):
            layers.append(_conv(before, after, activation))
            if depths[number]:
                layers.append(_Residual(after, depths[number], activation))
            if number < len(channels) - 3:
                layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels[-1], outputs, bias=False)
        )
        self.logit_scale = logit_scale

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, outputs]."""
        return self.head(self.body(x)) * self.logit_scale
