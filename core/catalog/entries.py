"""What a catalog entry is, and how values given for its parameters are checked."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchdeck.core.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Param:
    """One parameter of a catalog entry: its kind, default, limits and help."""

    name: str
    kind: str
    default: Any = None
    help: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False

    def check(self, value: Any, where: str) -> Any:
        """Return ``value`` as this parameter's kind.

        Raises UserError, naming ``where``, the value and what would be right.
        """
        if value is None and not self.required:
            return None
        try:
            typed = self._typed(value)
        except (TypeError, ValueError):
            raise UserError(f"{where} = {value!r} is not {self.describe()}.", field=where) from None
        numbers = typed if isinstance(typed, tuple) else (typed,)
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            if not math.isfinite(number):
                raise UserError(f"{where} = {value!r} is not a finite number.", field=where)
            if (self.low is not None and number < self.low) or (self.high is not None and number > self.high):
                raise UserError(f"{where} = {value!r} is out of range; it must be {self.limits()}.", field=where)
        if self.choices and typed not in self.choices:
            raise UserError(f"{where} = {value!r} is not known; {did_you_mean(str(value), self.choices)}", field=where)
        return typed

    def _typed(self, value: Any) -> Any:
        if self.kind == "any":
            return value
        if self.kind == "size" and isinstance(value, int) and not isinstance(value, bool):
            return value
        if self.kind in ("ints", "floats", "strs", "size"):
            if not isinstance(value, list | tuple):
                if self.kind == "size":
                    raise TypeError
                value = [value]
            return tuple(
                _one({"ints": "int", "floats": "float", "strs": "str", "size": "int"}[self.kind], v) for v in value
            )
        return _one(self.kind, value)

    def limits(self) -> str:
        """``at least 0``, ``between 0 and 1`` and the like."""
        if self.low is not None and self.high is not None:
            return f"between {self.low:g} and {self.high:g}"
        if self.low is not None:
            return f"at least {self.low:g}"
        return f"at most {self.high:g}" if self.high is not None else "any number"

    def describe(self) -> str:
        """What may be written for this parameter, in words."""
        return {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "str": "a text",
            "ints": "a list of whole numbers",
            "floats": "a list of numbers",
            "strs": "a list of texts",
            "size": "a whole number or a list of them",
            "any": "a value",
        }[self.kind]


def _one(kind: str, value: Any) -> Any:
    if kind == "bool":
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool):
        raise TypeError
    if kind == "int":
        if isinstance(value, float) and not value.is_integer():
            raise TypeError
        if not isinstance(value, int | float):
            raise TypeError
        return int(value)
    if kind == "float":
        if not isinstance(value, int | float):
            raise TypeError
        return float(value)
    if not isinstance(value, str):
        raise TypeError
    return value


@dataclass(frozen=True)
class Entry:
    """Something that can be picked: a data set, a model, an optimizer, a loss, a schedule or a transform."""

    kind: str
    name: str
    summary: str
    params: tuple[Param, ...] = ()
    #: Facts that the engine needs before torch is imported: the task, the library it comes from and so on.
    facts: Mapping[str, Any] | None = None
    #: The function or class that makes it, as ``module:name``: it is imported when it is needed.
    factory: str = ""

    def load_factory(self) -> Callable[..., Any]:
        """The function or class that makes it."""
        return pkgutil.resolve_name(self.factory)

    def fact(self, name: str, default: Any = None) -> Any:
        """One of the entry's facts."""
        return (self.facts or {}).get(name, default)

    def check(self, args: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Check the given arguments only; what isn't given is not filled in.

        Raises UserError on the first unknown, missing or wrong one.
        """
        params = {p.name: p for p in self.params}
        for key in args:
            if key not in params:
                raise UserError(
                    f"{where}.{key} is not a parameter of {self.kind} {self.name!r}; {did_you_mean(key, params)}",
                    field=f"{where}.{key}",
                )
        for p in self.params:
            if p.required and args.get(p.name) is None:
                raise UserError(
                    f"{where}.{p.name} is missing: {self.kind} {self.name!r} needs {p.describe()} there.",
                    field=f"{where}.{p.name}",
                )
        return {key: params[key].check(value, f"{where}.{key}") for key, value in args.items()}

    def resolve(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with every default filled in."""
        return {p.name: p.default for p in self.params} | dict(args)
