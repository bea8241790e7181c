"""A CNN that ends in an embedding instead of classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchdeck.core.models.nets import CNN


class ProjectedCNN(nn.Module):
    """The stages of the catalog's ``cnn`` and a projection of what they have found, which a contrastive loss compares
    (Chen et al. 2020, section 2.1). ``cnn`` with the same channels takes the stages' weights over."""

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        channels: Sequence[int],
        convs: int,
        activation: str,
        hidden: int,
        embedding: int,
    ) -> None:
        super().__init__()
        self.stages = CNN(shape, 1, channels, convs, activation, 0.0, True, 0).stages
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.projection = nn.Sequential(nn.Linear(channels[-1], hidden), nn.ReLU(), nn.Linear(hidden, embedding))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, embedding]."""
        return self.projection(self.pool(self.stages(x)))
