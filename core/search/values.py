"""What an objective function returns, as the values of a trial: by the rules of Optuna's ``Study.tell``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torchdeck.core.errors import UserError

_TEXTS = (str, bytes, bytearray)


def values_of(returned: Any, count: int, where: str) -> list[float]:
    """``count`` numbers: whatever ``float()`` takes counts as one (NumPy's, tensors of one element, fractions);
    infinities do, NaN does not. Texts don't, though ``float()`` takes some: Optuna fails on the text "5" and takes
    b"1" for 49.

    Raises UserError, naming ``where``, for anything else.
    """
    given = returned if isinstance(returned, Sequence) and not isinstance(returned, _TEXTS) else [returned]
    if any(isinstance(value, _TEXTS) for value in given):
        raise UserError(f"{where} returned {_short(returned)}, not {_numbers(count)}.")
    try:
        found = [float(value) for value in given]
    except Exception as error:  # of any class: __float__ may be the user's
        why = (
            f" ({type(error).__name__}: {_first_line(error)})" if not isinstance(error, ValueError | TypeError) else ""
        )
        raise UserError(f"{where} returned {_short(returned)}, not {_numbers(count)}{why}.") from None
    if len(found) != count:
        raise UserError(f"{where} returned {_short(returned)}, not {_numbers(count)}.")
    if any(math.isnan(value) for value in found):
        raise UserError(f"{where} returned {_short(returned)}: NaN is no value of an objective.")
    return found


def _numbers(count: int) -> str:
    return "a number" if count == 1 else f"{count} numbers"


def _short(value: Any) -> str:
    try:
        text = " ".join(repr(value).split())
    except Exception:
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
