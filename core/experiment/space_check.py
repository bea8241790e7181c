"""What a search space must be: keys that can be searched, conditions that can come true, ends that the experiment
takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.dimension import Dimension

if TYPE_CHECKING:
    from torchdeck.core.experiment.space import Space

#: Sections whose fields say nothing about the trained model.
FIXED = (*toml.SEARCHING, "tracking")


def check_space_key(key: str) -> None:
    """Raises UserError for a key that is none, or can't be searched."""
    path = toml.path_of(key)
    if path[0] in FIXED:
        raise UserError(
            f"search.space: {key!r} can't be searched; it says nothing about the model.", field=f"search.space.{key}"
        )
    try:
        toml.check_path(path)
    except UserError as error:
        raise UserError(f"search.space: {error}", field=f"search.space.{key}") from None
    if len(path) > (5 if path[1] == "parts" else 3):
        raise UserError(
            f"search.space: {key!r} goes too deep; search {'.'.join(path[:3])!r} by choices.",
            field=f"search.space.{key}",
        )


def in_order(given: Mapping[str, Dimension]) -> dict[str, Dimension]:
    """Those that others depend on come first.

    Raises UserError when they depend on each other.
    """
    found: dict[str, Dimension] = {}
    waiting = dict(given)
    while waiting:
        ready = [key for key, d in waiting.items() if not any(other in waiting for other in d.when)]
        if not ready:
            raise UserError(
                f"search.space: {', '.join(waiting)} depend on each other.",
                field=f"search.space.{next(iter(waiting))}",
                also=[f"search.space.{key}" for key in waiting],
            )
        found |= {key: waiting.pop(key) for key in ready}
    return found


def check_dimension(space: Space, key: str) -> None:
    """Raises UserError for conditions that can't come true, and for a range whose ends the experiment does not take."""
    dimension = space.dimensions[key]
    for other, allowed in dimension.when.items():
        if other not in space.dimensions:
            raise UserError(
                f"search.space.{key} depends on {other!r}, which is not searched; "
                f"{did_you_mean(other, [k for k in space.dimensions if k != key])}",
                field=f"search.space.{key}",
            )
        for value in allowed:
            if not space.takes(other, value):
                raise UserError(
                    f"search.space.{key} depends on {other} = {value!r}, which is never so: "
                    f"{space.dimensions[other].text}.",
                    field=f"search.space.{key}",
                )
    # Only the ends can be out of bounds; what does not fit together is told by the trial that meets it.
    for values in _ends(space, key):
        try:
            space.apply(values)
        except UserError as error:
            first = next((one for one in error.each if one.about(key)), error.each[0])
            where = "" if first.about(key) else f" = {values[key]!r}"
            raise UserError(f"search.space.{key}{where}: {first}", field=f"search.space.{key}") from None


def _ends(space: Space, key: str) -> Iterator[dict[str, Any]]:
    """The outermost values of a field, each with values under which it is searched."""
    dimension = space.dimensions[key]
    ends = list(dimension.choices) if dimension.choices is not None else [dimension.low, dimension.high]
    if key in space.number_types:
        ends = [space.number_types[key](end) for end in ends]
    if dimension.length is not None:
        ends = [[end] * length for end, length in zip((ends[0], ends[-1]), dimension.length, strict=True)]
    for end, given in product(ends, _met(space, dimension)):
        yield {**given, key: thaw(end)}


def _met(space: Space, dimension: Dimension) -> Iterator[dict[str, Any]]:
    """For each value of the first condition: values under which all conditions hold."""
    if not dimension.when:
        yield {}
        return
    for choice in product(*dimension.when.values()):
        values: dict[str, Any] = {}
        for key, value in zip(dimension.when, choice, strict=True):
            values |= next(iter(_met(space, space.dimensions[key]))) | {key: thaw(value)}
        yield values


def thaw(value: Any) -> Any:
    """A choice as TOML has it: a list of its own for a tuple."""
    return json.loads(json.dumps(value)) if isinstance(value, list | tuple | dict) else value
