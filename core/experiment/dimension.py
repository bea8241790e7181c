"""One searched field: how it is written, in TOML and on one line, and what is wrong with it. It imports no Optuna.

In TOML a table, ``{ low = 1e-4, high = 0.1, log = true }``, a list of choices, or the one-line form:

    1e-4 .. 0.1 log
    32 .. 512 step 32
    SGD | AdamW
    0 .. 0.99 when optimizer.name = SGD
    16 .. 256 log length 1 .. 4          a list of one to four such numbers

Choices that are no plain TOML value (a list, a table) are written as JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer

from torchdeck.core.errors import UserError, did_you_mean

Number = int | float

_KEYS = ("low", "high", "log", "step", "choices", "when", "length")
_RANGE = re.compile(r"^\s*(\S+?)\s*\.\.\s*(\S+)\s*(.*)$")


class Dimension(BaseModel):
    """A range, or choices; ``when`` holds the values of other searched fields under which this one is searched."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    choices: tuple[Any, ...] | None = None
    when: dict[str, tuple[Any, ...]] = {}
    #: Of a list: its least and greatest number of items, each of which is searched.
    length: tuple[int, int] | None = None

    @model_serializer
    def _as_text(self) -> str:
        return self.text

    @property
    def text(self) -> str:
        """The dimension on one line, as ``parse`` takes it."""
        if self.choices is not None:
            words = " | ".join(_word(choice) for choice in self.choices)
            if len(self.choices) == 1:
                words += " |"
        else:
            words = f"{_number(self.low)} .. {_number(self.high)}"
            words += " log" if self.log else ""
            words += f" step {_number(self.step)}" if self.step is not None else ""
        if self.length is not None:
            words += f" length {self.length[0]} .. {self.length[1]}"
        for key, values in self.when.items():
            words += f" when {key} = " + " | ".join(_word(value) for value in values)
        return words


def read_dimension(key: str, raw: Any) -> Dimension:
    """The dimension of a field from what TOML or a form holds: a table, a list of choices, or a text.

    Raises UserError, naming the key.
    """
    where = f"search.space.{key}"
    if isinstance(raw, Dimension):
        return raw
    if isinstance(raw, str):
        raw = parse_dimension(key, raw)
    if isinstance(raw, list | tuple):
        raw = {"choices": list(raw)}
    if not isinstance(raw, Mapping):
        raise UserError(
            f"{where} = {raw!r} is not a range, such as {{ low = 0.1, high = 1 }}, and not a list of choices.",
            field=where,
        )
    for name in raw:
        if name not in _KEYS:
            raise UserError(f"{where}.{name} is not known; {did_you_mean(name, _KEYS)}", field=where)
    values = dict(raw)
    when = values.get("when", {})
    if not isinstance(when, Mapping):
        raise UserError(f"{where}.when = {when!r} is not a table, such as {{ 'optimizer.name' = 'SGD' }}.", field=where)
    values["when"] = {k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in leaves(when)}
    values["length"] = _length(where, values.get("length"))
    if values.get("choices") is not None:
        values["choices"] = _choices(where, values)
    else:
        _check_range(where, values)
    return Dimension(**values)


def _choices(where: str, values: dict[str, Any]) -> tuple[Any, ...]:
    choices = values["choices"]
    if not isinstance(choices, list | tuple):
        raise UserError(f"{where}.choices = {choices!r} is not a list.", field=where)
    if not choices:
        raise UserError(f"{where}.choices is empty; name at least one value.", field=where)
    frozen = tuple(_frozen(choice) for choice in choices)
    labels = [choice_label(choice) for choice in frozen]
    twice = next((one for one in labels if labels.count(one) > 1), None)
    if twice is not None:
        raise UserError(f"{where}.choices holds {twice!r} twice.", field=where)
    given = [name for name in ("low", "high", "step") if values.get(name) is not None]
    if given or values.get("log"):
        raise UserError(f"{where} has both choices and {(given or ['log'])[0]}; give a range or choices.", field=where)
    return frozen


def _check_range(where: str, values: dict[str, Any]) -> None:
    for name in ("low", "high"):
        value = values.get(name)
        if value is None:
            raise UserError(f"{where} has no {name}; give low and high, or choices.", field=where)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise UserError(
                f"{where}.{name} = {value!r} is not a finite number; choices may be of any kind.", field=where
            )
    low, high, step = values["low"], values["high"], values.get("step")
    if not isinstance(values.get("log", False), bool):
        raise UserError(f"{where}.log = {values['log']!r} is not true or false.", field=where)
    if low > high:
        raise UserError(f"{where}: low = {low:g} is more than high = {high:g}.", field=where)
    if values.get("log") and low <= 0:
        raise UserError(
            f"{where}: low = {low:g} has no logarithm; with log = true it must be more than 0.", field=where
        )
    if step is not None:
        if isinstance(step, bool) or not isinstance(step, int | float) or not _finite(step) or step <= 0:
            raise UserError(f"{where}.step = {step!r} is not a number above 0.", field=where)
        if values.get("log"):
            raise UserError(f"{where} has both log and step; Optuna knows only one of them at a time.", field=where)


def _finite(value: Number) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def _length(where: str, raw: Any) -> tuple[int, int] | None:
    if raw is None:
        return None
    if isinstance(raw, Mapping) and set(raw) == {"low", "high"}:
        raw = (raw["low"], raw["high"])
    good = isinstance(raw, list | tuple) and len(raw) == 2 and all(type(n) is int for n in raw)
    if not good or not 1 <= raw[0] <= raw[1] <= 100:
        raise UserError(
            f"{where}.length = {raw!r} is not the least and greatest number of items, such as [1, 4].", field=where
        )
    return raw[0], raw[1]


def space_of(raw: Any) -> dict[str, Dimension]:
    """The dimensions by key from what TOML holds: keys may be quoted (``"optimizer.lr"``) or tables in tables.

    Raises UserError.
    """
    if not isinstance(raw, Mapping):
        raise UserError(f"search.space = {raw!r} is not a table of fields.", field="search.space")
    return {key: read_dimension(key, value) for key, value in leaves(raw)}


def leaves(raw: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys, with tables in tables joined by dots, and what each holds."""
    for key, value in raw.items():
        name = f"{prefix}{key}"
        # A table of tables is a part of a key; a table with one of a dimension's words is the dimension.
        if isinstance(value, Mapping) and value and not set(value) & set(_KEYS):
            yield from leaves(value, f"{name}.")
        else:
            yield name, value


def parse_dimension(key: str, text: str) -> dict[str, Any]:
    """The raw table of a one-line dimension.

    Raises UserError when it can't be understood; ``read`` checks what it means.
    """
    rest, *conditions = re.split(r"\s+when\s+", text.strip())
    raw: dict[str, Any] = {}
    for condition in conditions:
        name, sign, values = condition.partition("=")
        if not sign or not name.strip() or not values.strip():
            raise UserError(
                f"search.space.{key}: {condition!r} is not a condition such as when optimizer.name = SGD.",
                field=f"search.space.{key}",
            )
        raw.setdefault("when", {})[name.strip()] = [_value(v) for v in _split(values) if v.strip()]
    rest, _, length = rest.partition(" length ")
    if length:
        found = _RANGE.match(length)
        raw["length"] = [_value(found[1]), _value(found[2])] if found else _value(length)
    ranged = None if "|" in rest else _RANGE.match(rest)
    if ranged is None and isinstance(alone := _value(rest), list):
        raw["choices"] = alone
        return raw
    if ranged is None:
        raw["choices"] = [_value(word) for word in _split(rest) if word.strip()]
        return raw
    raw |= {"low": _value(ranged[1]), "high": _value(ranged[2])}
    words = ranged[3].split()
    while words:
        word = words.pop(0)
        if word == "log":
            raw["log"] = True
        elif word == "step" and words:
            raw["step"] = _value(words.pop(0))
        else:
            raise UserError(
                f"search.space.{key}: {word!r} is not understood; a range is 'LOW .. HIGH log' or 'LOW .. HIGH "
                f"step S'.",
                field=f"search.space.{key}",
            )
    return raw


def _split(text: str) -> list[str]:
    """At the bars that are outside of quotes."""
    return re.findall(r'(?:"(?:[^"\\]|\\.)*"|[^|])+', text)


def _value(text: str) -> Any:
    text = text.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return float(text) if re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?", text, re.IGNORECASE) else text
    except ValueError:
        return text


def _word(value: Any) -> str:
    """A value so that ``_value`` gives it back."""
    if isinstance(value, str) and value == value.strip() and value and not re.search(r'[|="\s]|\.\.', value):
        try:
            json.loads(value)
        except ValueError:
            if _value(value) == value:
                return value
    text = json.dumps(_thawed(value))
    for sign, escaped in (("|", "\\u007c"), ("when", "\\u0077hen"), ("length", "\\u006cength"), ("..", "\\u002e.")):
        text = text.replace(sign, escaped)  # within its quotes, where the same is only spelled otherwise
    return text


def _number(value: Number | None) -> str:
    return json.dumps(value)


def choice_label(choice: Any) -> bool | int | float | str | None:
    """A choice as Optuna keeps it: plain values as they are, lists and tables as JSON."""
    return (
        choice
        if choice is None or isinstance(choice, bool | int | float | str)
        else json.dumps(_thawed(choice), default=str)
    )


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _thawed(value: Any) -> Any:
    return [_thawed(v) for v in value] if isinstance(value, list | tuple) else value
