"""Strict JSON (RFC 8259) of values that may hold NaN and infinity, which it has no numbers for."""

from __future__ import annotations

import json
import math
from typing import Any


def strict(value: Any) -> Any:
    """The value with NaN as null and infinities as the texts "inf" and "-inf", as optuna-dashboard writes them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return value


def dumps(value: Any, indent: int | None = None) -> str:
    """The value as strict JSON; what JSON does not know becomes its text."""
    return json.dumps(strict(value), indent=indent, default=str, allow_nan=False)
