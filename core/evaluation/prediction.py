"""What a model says of one input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """What the model says of one input."""

    #: File, or file and row.
    input: str
    #: The class; the numbers in the targets' own unit, or the embedding; the labels; the share of the pixels of each
    #: class, or how far a reconstruction is from its input (mae, rmse); the boxes, each with label and score; the text
    #: that follows.
    predicted: str | list[float] | list[str] | dict[str, float] | list[dict[str, Any]]
    #: Of the predicted class; None in regression.
    probability: float | None = None
    #: The most likely classes with their probabilities.
    top: tuple[tuple[str, float], ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain JSON values."""
        values: dict[str, Any] = {"input": self.input, "predicted": self.predicted}
        if self.probability is not None:
            values |= {"probability": self.probability}
        if self.top:
            values |= {"top": dict(self.top)}
        return values
