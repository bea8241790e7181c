"""Two inputs that are joined: an image and a row of a table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from torchdeck.core.errors import UserError
from torchdeck.core.models.nets import CNN


class ImageAndTable(nn.Module):
    """A CNN over the image and a layer over the table's row, and layers over both together."""

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        input_shapes: Sequence[Sequence[int]],
        channels: Sequence[int],
        width: int,
        dropout: float,
    ) -> None:
        """Raises UserError for other inputs."""
        super().__init__()
        if [len(s) for s in input_shapes] != [3, 1]:
            raise UserError(
                "model.name = 'image_and_table' takes an image [C, H, W] and a row of numbers, not inputs of the "
                f"shapes {[list(s) for s in input_shapes] or list(shape)}.",
                field="model.name",
            )
        image, table = input_shapes
        self.image = CNN(image, width, channels, 1, "relu", 0.0, True, width)
        self.table = nn.Sequential(nn.Linear(table[0], width), nn.ReLU())
        self.head = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, outputs)
        )

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        """([N, C, H, W], [N, F]) to [N, outputs]."""
        return self.head(torch.cat([self.image(image), self.table(table)], 1))
