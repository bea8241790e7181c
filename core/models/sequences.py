"""From a series to what comes next, or what it is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from torchdeck.core.errors import UserError


class GRU(nn.Module):
    """A recurrent network over time (Cho et al. 2014), whose last state becomes all outputs at once."""

    def __init__(self, shape: Sequence[int], outputs: int, width: int, layers: int, dropout: float) -> None:
        """Raises UserError for inputs that are no series."""
        super().__init__()
        if len(shape) != 2:
            raise UserError(
                f"model.name = 'gru' takes series [time, features], not inputs of the shape {list(shape)}.",
                field="model.name",
            )
        self.body = nn.GRU(shape[1], width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, time, features] to [N, outputs]."""
        states, _ = self.body(x)
        return self.head(states[:, -1])
