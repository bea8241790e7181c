"""A model of your own: any nn.Module. ``num_classes`` and ``input_shape`` are filled in when you require them.

torchdeck --batch --set model.name=examples/my_net.py:MyNet --set model.args.width=64
"""

import math

from torch import Tensor, nn


class MyNet(nn.Module):
    """One hidden layer."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), width), nn.GELU())
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...] to [N, num_classes]."""
        return self.head(self.body(x))


def tiny_net(num_classes: int) -> nn.Module:
    """A function that returns a model does as well."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
