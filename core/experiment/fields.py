"""The Experiment as a list of fields: what a form shows, and how what is typed becomes a value.

Everything comes from the Experiment's own definition and the catalog; nothing is said twice.
"""

from __future__ import annotations

import ast
import contextlib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from torchdeck.core import catalog
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import dimension, toml
from torchdeck.core.experiment.data_schema import Transform
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.experiment.section import Picked
from torchdeck.core.experiment.space import Space
from torchdeck.core.usercode.scan import parameters_of

#: What most people set; all else is folded away.
_COMMON = {
    "data.name",
    "task.name",
    "model.name",
    "model.weights",
    "model.freeze",
    "optimizer.name",
    "optimizer.lr",
    "optimizer.weight_decay",
    "schedule.name",
    "loss.name",
    "trainer.epochs",
    "trainer.batch_size",
    "trainer.device",
    "trainer.precision",
    "trainer.seed",
    "tracking.name",
    "tracking.tags",
    "tracking.note",
}


@dataclass(frozen=True)
class Field:
    """One value of an experiment, as a form shows it."""

    path: tuple[str, ...]
    #: text, number, bool, choice, pick (a catalog name or the user's own), list, transforms or table.
    kind: str
    help: str
    #: What may be given, in words.
    limits: str
    default: Any
    #: What is given; None: the default holds.
    given: Any
    choices: tuple[str, ...] = ()
    common: bool = False
    required: bool = False

    @property
    def key(self) -> str:
        """``trainer.epochs``."""
        return ".".join(self.path)

    @property
    def value(self) -> Any:
        """What holds: the given value or the default."""
        return self.default if self.given is None else self.given


def fields(raw: Mapping[str, Any]) -> Iterator[Field]:
    """Every field of an experiment with these raw tables, section by section, in the order of its definition."""
    for section, info in Experiment.model_fields.items():
        model: type[BaseModel] = info.annotation  # type: ignore[assignment]
        table = raw.get(section, {})
        table = table if isinstance(table, Mapping) else {}
        for name, field in model.model_fields.items():
            if name == "args":
                yield from _arguments(section, model, table)
            elif (section, name) == ("search", "space"):
                yield from _dimensions(table.get(name, {}))
            else:
                yield _field(section, name, field, model, table.get(name), table)


def _field(
    section: str, name: str, info: FieldInfo, model: type[BaseModel], given: Any, table: Mapping[str, Any]
) -> Field:
    key = f"{section}.{name}"
    kind, choices, limits = _kind(info.annotation, info.metadata)
    default = info.default
    if name == "name" and issubclass(model, Picked):
        kind, choices = "pick", tuple(entry.name for entry in catalog.entries(model.kind()))
        limits = "from the catalog" + ("" if section in ("task", "sampler", "pruner") else ", or your own")
    elif key in ("data.transforms", "data.target_transforms"):
        kind, limits = "transforms", "a list such as ToTensor, RandomCrop(size=28, padding=4)"
    elif key in ("optimizer.lr", "optimizer.weight_decay"):
        default = _of_optimizer(table, name)
    if key == "trainer.device":
        choices = ("auto", "cuda", "mps", "cpu")
    return Field((section, name), kind, info.description or "", limits, default, given, choices, key in _COMMON)


def _dimensions(space: Any) -> Iterator[Field]:
    for key, given in dimension.leaves(space) if isinstance(space, Mapping) else ():
        yield searched(key, given)


def searched(key: str, given: Any = None) -> Field:
    """The field of a dimension of the search space."""
    with contextlib.suppress(UserError):
        given = dimension.read_dimension(key, given).text if given is not None else None
    return Field(
        ("search", "space", key),
        "dimension",
        f"Searched values of {key}.",
        "a range such as '1e-4 .. 0.1 log' or '16 .. 512 step 16', choices such as 'SGD | AdamW'; with "
        "'when KEY = VALUE'; nothing: not searched",
        None,
        given,
        common=True,
    )


def _range_around(low: float, high: float) -> str:
    if isinstance(low, int):
        return f"{max(1, low // 4)} .. {max(high * 2, 4)} log"
    return f"{low / 10:.3g} .. {high * 10:.3g} log" if 0 < low < 0.1 else "0 .. 0.5"


def suggestion(item: Field) -> str:
    """A range for a field to begin with: around the value that holds."""
    value = item.value
    if item.kind == "bool":
        return "true | false"
    if item.kind == "choice" or (item.kind == "pick" and item.choices):
        others = [c for c in item.choices if c != value]
        return " | ".join(
            map(str, ([value] if value is not None else []) + others[: len(others) if item.kind == "choice" else 1])
        )
    numbers = value if isinstance(value, list | tuple) else [value]
    if numbers and all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        words = _range_around(min(numbers), max(numbers))
        return words + (f" length 1 .. {len(numbers) + 1}" if isinstance(value, list | tuple) else "")
    return f"{field_text(value)} | " if value is not None else ""


def _of_optimizer(table: Mapping[str, Any], name: str) -> float | None:
    try:
        return catalog.find("optimizer", str(table.get("name", "AdamW"))).fact(name)
    except UserError:
        return None


def _arguments(section: str, model: Any, table: Mapping[str, Any]) -> Iterator[Field]:
    name = table.get("name", model.model_fields["name"].default)
    given = table.get("args", {})
    given = given if isinstance(given, Mapping) else {}
    if not isinstance(name, str):
        return
    if catalog.is_user_code(name):
        known = parameters_of(name)
        for parameter, default in known.items():
            yield Field(
                (section, "args", parameter),
                "any",
                f"parameter of {name.rpartition(':')[2]}",
                "a value",
                default,
                given.get(parameter),
                common=True,
            )
        for parameter in given:
            if parameter not in known:
                yield Field((section, "args", parameter), "any", "", "a value", None, given[parameter], common=True)
        return
    try:
        entry = catalog.find(model.kind(), name)
    except UserError:
        return
    kinds = {"int": "number", "float": "number", "bool": "bool", "str": "text", "any": "any", "size": "any"}
    for p in entry.params:
        kind = "choice" if p.choices else kinds.get(p.kind, "list")
        limits = p.describe() + (f", {p.limits()}" if p.low is not None or p.high is not None else "")
        yield Field(
            (section, "args", p.name),
            kind,
            p.help,
            limits,
            p.default,
            given.get(p.name),
            p.choices,
            common=True,
            required=p.required,
        )


def _kind(annotation: Any, metadata: Sequence[Any]) -> tuple[str, tuple[str, ...], str]:
    """Kind, choices and limits of an annotation."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        inside = [a for a in get_args(annotation) if a is not types.NoneType]
        if len(inside) > 1 and bool in inside:
            names = ("true", "false", *(str(n) for a in inside if get_origin(a) is Literal for n in get_args(a)))
            return "choice", names, "one of " + ", ".join(names)
        inner = inside[0]
        kind, choices, limits = _kind(inner, ())
        return kind, choices, f"{limits}, or none"
    if origin is typing.Annotated:
        inner, *extra = get_args(annotation)
        return _kind(inner, extra)
    if origin is Literal:
        names = tuple(str(a) for a in get_args(annotation))
        return "choice", names, "one of " + ", ".join(names)
    if annotation is bool:
        return "bool", ("true", "false"), "true or false"
    if annotation in (int, float):
        return "number", (), " ".join(["a whole number" if annotation is int else "a number", *_bounds(metadata)])
    if origin is tuple:
        inside = get_args(annotation)[0]
        tables = isinstance(inside, type) and issubclass(inside, BaseModel)
        return ("table" if tables else "list"), (), "a list of tables" if tables else "a list"
    if origin is dict:
        return "any", (), "tables, such as {generator = {name = 'gan.py:Generator'}}"
    return "text", (), "a text"


def _bounds(metadata: Sequence[Any]) -> list[str]:
    parts = []
    for item in metadata:
        for inner in getattr(item, "metadata", [item]):
            for attribute, word in (("gt", "more than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most")):
                bound = getattr(inner, attribute, None)
                if bound is not None:
                    parts.append(f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:g}")
    return [", ".join(parts)] if parts else []


def field_text(value: Any) -> str:
    """A value as it is typed; empty for what is not set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(_show_item(v) for v in value)
    if isinstance(value, Mapping):
        return _inline(value) if value else ""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def _inline(value: Any) -> str:
    """A table as TOML has it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_inline(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else field_text(value)


def _show_item(value: Any) -> str:
    if isinstance(value, Transform):
        value = value.record()
    if isinstance(value, Mapping) and "name" in value:
        args = ", ".join(f"{k}={v!r}" for k, v in value.items() if k != "name")
        return f"{value['name']}({args})" if args else str(value["name"])
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {field_text(v)}" for k, v in value.items()) + "}"
    return field_text(value)


def typed(field: Field, text: str) -> Any:
    """What was typed as a raw value; None for nothing, so that the default holds.

    Raises UserError where it can't be understood; ``toml.build`` checks what it means.
    """
    text = text.strip()
    if field.kind == "dimension":
        return text or None
    if text == "" or (text.lower() == "none" and field.kind != "text"):
        return None
    if field.kind == "transforms":
        return _transforms(field, text)
    if field.kind in ("list", "table"):
        return _list(text)
    if field.kind in ("text", "pick") or (field.kind == "choice" and text not in ("true", "false")):
        return text
    return toml.parse_value(text)


def _list(text: str) -> Any:
    bracketed = text if text.startswith("[") else f"[{text}]"
    value = toml.parse_value(bracketed)
    if isinstance(value, list):
        return value
    return [toml.parse_value(part.strip()) for part in text.strip("[]").split(",") if part.strip()]


def _transforms(field: Field, text: str) -> list[dict[str, Any]]:
    """``ToTensor, RandomCrop(size=28)``, or TOML."""
    value = toml.parse_value(text if text.startswith("[") else f"[{text}]")
    if isinstance(value, list):
        return value
    try:
        calls = ast.parse(text if text.startswith("[") else f"[{text}]", mode="eval").body
        return [_transform(item) for item in calls.elts]  # type: ignore[attr-defined]
    except (SyntaxError, ValueError, AttributeError):
        raise UserError(f"{field.key} = {text!r} is not {field.limits}.") from None


def _transform(node: ast.expr) -> dict[str, Any]:
    if isinstance(node, ast.Name):
        return {"name": node.id}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        values = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
        return {"name": node.func.id, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {"name": node.value}
    raise ValueError


def change(raw: Mapping[str, Any], field: Field, text: str) -> dict[str, Any]:
    """Raw tables with what was typed for a field.

    Raises UserError, in the words of toml.build, when the experiment would be wrong in that field; what is wrong in
    others is not asked here, so that they can be put right one after the other.
    """
    changed = toml.put(raw, field.path, typed(field, text))
    try:
        experiment = toml.build(changed)
        if field.kind == "dimension":
            Space(experiment)
    except UserError as error:
        mine = next((one for one in error.each if one.about(field.key)), None)
        if mine is not None:
            raise mine from None
        if problem(raw) is None and field.path[-1] != "name":
            raise
    return changed


def problem(raw: Mapping[str, Any]) -> UserError | None:
    """What is wrong with an experiment; None when it can be trained."""
    try:
        toml.build(raw)
    except UserError as error:
        return error
    return None
