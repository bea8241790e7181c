"""Whether data are of the kind that a task needs, where the user names the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchdeck.core.data.infer import as_values, is_boxes
from torchdeck.core.errors import UserError


def refuse_unfit(task: str, x: Any, y: Any, where: str) -> None:
    """Look at the first sample (x, y) of the data called ``where``, for the task that the user named.

    Raises UserError where the task makes no sense with it.
    """
    reason = _REASONS[task](x, y) if task in _REASONS else None
    if reason is not None:
        raise UserError(f"task.name = {task!r} does not fit data.name = {where!r}: {reason}.", field="task.name")


def _no_tokens(x: Any, y: Any) -> str | None:
    values = None if isinstance(x, Mapping | str | bytes) else as_values(x)
    if values is None or not values.is_floating_point():
        return None
    return f"tokens are rows of whole numbers, and the first input is {_shown(values)}"


def _no_boxes(x: Any, y: Any) -> str | None:
    if y is None or is_boxes(y):
        return None
    return "the targets are no boxes (a dict with boxes [N, 4] and labels [N])"


def _no_map(dimensions: int, of: str, x: Any, y: Any) -> str | None:
    values = None if isinstance(y, Mapping | str | bytes | None) else as_values(y)
    if values is None or values.ndim >= dimensions:
        return None
    return f"a class is needed for each {of}, and the first target is {_shown(values)}"


def _shown(values: Any) -> str:
    kind = "floats" if values.is_floating_point() else "whole numbers"
    return f"of {kind} of the shape {list(values.shape)}" if values.ndim else "a single number"


_REASONS = {
    "language": _no_tokens,
    "detection": _no_boxes,
    "segmentation": lambda x, y: _no_map(2, "pixel", x, y),
    "token_classification": lambda x, y: _no_map(1, "token", x, y),
}
