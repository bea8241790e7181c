"""Objects that Python gave an experiment, under references such as ``object:Net``, which stand where names of code do.

They are known where they were given and in the sessions that are made there, and nowhere else: no file can bring them
back.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

from torchdeck.core.errors import UserError

_PREFIX = "object:"

_given: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar("torchdeck_objects", default=None)


def reference_to(name: str) -> str:
    """The reference to an object of that name."""
    return f"{_PREFIX}{name}"


def is_object(reference: str) -> bool:
    """Whether a reference is to an object."""
    return reference.startswith(_PREFIX)


def known_objects() -> Mapping[str, Any]:
    """The objects that are known here, by reference."""
    return _given.get() or {}


@contextlib.contextmanager
def giving(objects: Mapping[str, Any]) -> Iterator[None]:
    """As long as this lasts, these objects are known in this thread, beside those that were."""
    token = _given.set({**known_objects(), **objects})
    try:
        yield
    finally:
        _given.reset(token)


def find_object(reference: str, where: str) -> Any:
    """The object of a reference.

    Raises UserError where it is not known.
    """
    try:
        return known_objects()[reference]
    except KeyError:
        kind = where.partition(".")[0]
        raise UserError(
            f"{where} = {reference!r} was an object in the Python process that made this, and no file can bring "
            f"it back; give it again in Python, with {kind}=.",
            field=where,
        ) from None
