"""The first samples of a data set in words and numbers: texts, courses of values, rows of a table, and their shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.source import DataInfo
from torchdeck.core.data.vocabulary import decoded
from torchdeck.core.tasks.tokens import tokens_in

#: Samples that are told, and numbers of a row or of a course at most.
_SAMPLES = 8
_NUMBERS = 8
_COURSE = 400
_TIMES = "\N{MULTIPLICATION SIGN}"


def told(sample: Batch, info: DataInfo) -> dict[str, Any]:
    """What is known of the first samples that are no pictures, each None where it is not: ``texts``, ``courses``
    (``values``, and ``target`` where that is one, too), ``rows``; and the ``shape`` of one input in words."""
    return {
        "shape": shape_in_words(sample),
        "texts": _texts(sample, info),
        "courses": _courses(sample),
        "rows": _rows(sample.x),
    }


def shape_in_words(sample: Batch) -> str:
    """``1x8x8`` of one input, ``1x8x8 and 10`` of several, by name where they have names; empty where inputs are of
    another kind."""
    x, size = sample.x, sample.size
    if isinstance(x, Mapping):
        named = {str(name): _shape(part, size) for name, part in x.items()}
        return " and ".join(f"{name} {shape}".rstrip() for name, shape in named.items())
    if not isinstance(x, tuple | list):
        return _shape(x, size)
    if not all(isinstance(part, Tensor) for part in x):
        return ""
    if sample.listed:
        sizes = {_TIMES.join(map(str, image.shape)) for image in x}
        return sizes.pop() if len(sizes) == 1 else "of several sizes"
    return " and ".join(_shape(part, size) for part in x)


def _shape(x: Any, size: int) -> str:
    if not isinstance(x, Tensor):
        return ""
    return _TIMES.join(map(str, x.shape[1:] if x.ndim and len(x) == size else x.shape)) or "one number"


def _texts(sample: Batch, info: DataInfo) -> list[str] | None:
    tokens = tokens_in(sample.x)
    if tokens is None or tokens.ndim != 2 or len(tokens) != sample.size or not (info.vocabulary or info.codec):
        return None
    some = tokens[:_SAMPLES]
    if info.vocabulary and int(some.max()) >= len(info.vocabulary):
        return None  # the task says so in a sentence
    return [decoded(row.tolist(), info.vocabulary, info.codec) for row in some]


def _courses(sample: Batch) -> list[dict[str, list[float]]] | None:
    """The first channel of sequences [B, T, C] or [B, C, T]; time is the longer of the two."""
    x, y = sample.x, sample.y
    if not isinstance(x, Tensor) or x.ndim != 3 or not x.is_floating_point():
        return None
    followed = isinstance(y, Tensor) and y.is_floating_point() and y.ndim in (2, 3) and y[0].numel() > 1
    return [
        {"values": _course(x[at]), "target": _course(y[at]) if followed else []}
        for at in range(min(_SAMPLES, sample.size))
    ]


def _course(values: Tensor) -> list[float]:
    if values.ndim == 2:
        values = values[:, 0] if values.shape[0] >= values.shape[1] else values[0]
    return [round(float(value), 4) for value in values[:_COURSE]]


def _rows(x: Any) -> list[list[float]] | None:
    """The first samples of a table, standardised as the model gets them."""
    if not isinstance(x, Tensor) or x.ndim != 2:
        return None
    return [[round(float(v), 4) for v in row[:_NUMBERS]] for row in x[:_SAMPLES]]
