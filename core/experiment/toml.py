"""Experiments as TOML: read, overridden with ``--set key.path=value``, written; every error one plain sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from torchdeck.core import catalog
from torchdeck.core.errors import UserError, did_you_mean, nearest
from torchdeck.core.experiment.model_schema import ModelPart, OptimizerPart
from torchdeck.core.experiment.renamed import current_key, current_tables, old_keys
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.experiment.section import Collected, Picked

#: The sections that describe a search, and nothing of a single training.
SEARCHING = ("search", "sampler", "pruner")


def presets() -> dict[str, Path]:
    """The experiments that ship with torchdeck, by name."""
    folder = Path(str(resources.files("torchdeck.core") / "presets"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def load(source: str | None = None, overrides: Iterable[str] = ()) -> Experiment:
    """An experiment from a preset's name or a TOML file, with overrides on top; None: the defaults.

    Raises UserError in one sentence (or one line per wrong value).
    """
    return build(tables(source, overrides), "the experiment" if source is None else source)


def tables(source: str | None = None, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """The raw tables of ``load``, not yet validated."""
    if source is None:
        return override({}, overrides)
    path = presets().get(source)
    if path is None:
        path = Path(source).expanduser()
        if not path.suffix and not path.exists():
            raise UserError(f"There is no preset or file {source!r}; {did_you_mean(source, presets())}")
    return override(read(path), overrides)


#: What is trained where nothing is said.
DEFAULT_PRESET = "digits"


def base_of(source: str | None, overrides: Sequence[str]) -> str | None:
    """What an experiment begins with where none is named: the defaults (None), as in a TOML file of the same lines, as
    soon as data or a model are chosen; else the preset for those who only try."""
    chosen = {text.partition("=")[0].strip() for text in overrides}
    return source or (None if chosen & {"data.name", "model.name"} else DEFAULT_PRESET)


def said_base(source: str | None, overrides: Sequence[str]) -> str:
    """The same in words, such as ``preset digits and 2 --set``."""
    kind = "preset" if source in presets() else "file"
    base = f"{kind} {source}" if source else "the defaults"
    return f"{base} and {len(overrides)} --set" if overrides else base


def notes(source: str | None, overrides: Sequence[str]) -> list[str]:
    """What to tell somebody who has just given a file and overrides: keys of theirs that have another name today."""
    path = Path(source).expanduser() if source and source not in presets() else None
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):  # told when it is read
        raw = {}
    return old_keys(raw, tuple(overrides))


def read(path: Path) -> dict[str, Any]:
    """The raw tables of a TOML file, with the names that keys have today.

    Raises UserError when it can't be read or is not TOML.
    """
    try:
        return current_tables(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"There is no file {str(path)!r}.") from None
    except OSError as error:
        raise UserError(f"{str(path)!r} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"{str(path)!r} is not a TOML file: it is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{str(path)!r} is not valid TOML: {error}.") from None


def loads(text: str, where: str) -> Experiment:
    """An experiment from TOML text.

    Raises UserError, naming ``where``.
    """
    try:
        return build(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{where} is not valid TOML: {error}.") from None


def dumps(experiment: Experiment) -> str:
    """The experiment as TOML, every field written out (of a search only where there is one); ``loads`` gives the same
    experiment back."""
    unused = {name for name in SEARCHING if getattr(experiment, name) == Experiment.model_fields[name].default}
    exclude = unused if unused == set(SEARCHING) else set()
    return tomli_w.dumps(_without_none(experiment.model_dump(mode="json", exclude=exclude)))


def build(raw: Mapping[str, Any], where: str = "the experiment") -> Experiment:
    """Validate raw tables.

    Raises UserError with a sentence for each wrong key or value, and the field that each is about.
    """
    try:
        return Experiment.model_validate(current_tables(raw))
    except ValidationError as error:
        wrong = [_in_words(e) for e in error.errors()]
        if len(wrong) == 1:
            raise wrong[0] from None
        lines = "\n".join(str(one) for one in wrong)
        raise UserError(f"{where} has {len(wrong)} wrong values:\n{lines}", errors=wrong) from None


def override(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Raw tables with ``key.path=value`` texts on top.

    A new ``name`` in a table that picks from the catalog brings that table back to its defaults first: the arguments
    of another model mean nothing. Names go first, so the order of the overrides does not matter.

    Raises UserError for a text that isn't ``key.path=value`` and for a key that does not exist.
    """
    pairs = []
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise UserError(f"--set {text!r} is not of the form key.path=value.")
        pairs.append((key.strip(), parse_value(value.strip())))
    try:
        return put_all(raw, pairs)
    except IsTable as error:
        raise IsTable(f"--set {error}", field=error.field) from None


def put_all(raw: Mapping[str, Any], pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Raw tables with values by key (``trainer.epochs``) on top, those of ``name`` first, as in ``put``.

    Raises UserError for a key that does not exist.
    """
    result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in raw.items()}
    paths = [(path_of(key), value) for key, value in pairs]
    for path, _ in paths:
        check_path(path)
    for path, value in sorted(paths, key=lambda pair: pair[0][-1] != "name" or "args" in pair[0]):
        result = put(result, path, value)
    return result


def path_of(key: str) -> list[str]:
    """The steps of a key: ``search.space.optimizer.lr`` is the key optimizer.lr of the table search.space."""
    space = "search.space."
    if key.startswith(space):
        return ["search", "space", current_key(key.removeprefix(space))]
    return current_key(key).split(".")


def put(raw: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Raw tables with one value changed; None takes it out, so that the default holds again.

    A new ``name`` in a table that picks from the catalog brings that table back to its defaults first.
    """
    result = {k: dict(v) if isinstance(v, Mapping) else v for k, v in raw.items()}
    if list(path[1:]) == ["name"] and path[0] in _PICKS:
        default = Experiment.model_fields[path[0]].default.name
        old = result.get(path[0], {}).get("name", default)
        if str(default if value is None else value).lower() != str(old).lower():
            result[path[0]] = {}
    if _is_part(path) and path[-1] == "name":
        parts = result.get(path[0], {}).get("parts", {})
        if value != parts.get(path[2], {}).get("name"):
            result[path[0]] = {**result.get(path[0], {}), "parts": {**parts, path[2]: {}}}
    table = result
    for step in path[:-1]:
        inner = table.setdefault(step, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {'.'.join(path)}: {step!r} is not a table.")
        table[step] = dict(inner)
        table = table[step]
    if value is None:
        table.pop(path[-1], None)
    else:
        table[path[-1]] = value
    return result


_PICKS = {n for n, f in Experiment.model_fields.items() if issubclass(f.annotation, Picked)}  # type: ignore[arg-type]


def parse_value(text: str) -> Any:
    """A value as TOML has it; what is not TOML is a plain text, so that names need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # numbers of thousands of digits and deep brackets, too
        return text


def keys() -> list[str]:
    """Every key path that ``--set`` takes, such as ``trainer.epochs``."""
    return [
        f"{section}.{key}"
        for section, field in Experiment.model_fields.items()
        for key in field.annotation.model_fields  # type: ignore[union-attr]
    ]


class IsTable(UserError):
    """A key that names a table of the experiment and not one of its fields."""


def check_key(key: str) -> None:
    """Raises UserError, with the nearest names, for a key that an experiment does not have."""
    check_path(path_of(key))


def check_path(path: list[str]) -> None:
    """Raises UserError, with the nearest names, for a key that an experiment does not have."""
    key = ".".join(path)
    if len(path) == 1:
        if path[0] in Experiment.model_fields:
            raise IsTable(f"{key}: {key!r} is a table; name one of its fields, such as {key}.name=...", field=key)
        raise UserError(f"There is no key {key!r} in an experiment; {did_you_mean(key, keys())}", field=key)
    if _is_part(path) and path[0] in ("model", "optimizer"):
        model = ModelPart if path[0] == "model" else OptimizerPart
        if len(path) == 4 and path[3] in model.model_fields:
            return
        if len(path) == 5 and path[3] == "args":
            return
        raise UserError(
            f"There is no key {key!r} in an experiment; {did_you_mean(path[3], model.model_fields)}", field=key
        )
    if len(path) == 3 and path[1] == "parts" and path[0] in ("model", "optimizer"):
        raise IsTable(f"{key}: {key!r} is a table; name one of its fields, such as {key}.name=...", field=key)
    if ".".join(path[:2]) not in keys() or (len(path) > 2 and path[1] not in ("args", "space")):
        raise UserError(f"There is no key {key!r} in an experiment; {_nearest(path)}", field=key)


def _is_part(path: Sequence[str]) -> bool:
    """Whether a key is of a part of the model: ``model.parts.generator.name``."""
    return len(path) > 3 and path[1] == "parts"


def _nearest(path: list[str]) -> str:
    section = Experiment.model_fields.get(path[0])
    if section is None:
        return did_you_mean(".".join(path[:2]), keys())
    fields = list(section.annotation.model_fields)  # type: ignore[union-attr]
    if nearest(path[1], fields) is None and issubclass(section.annotation, Picked):  # type: ignore[arg-type]
        entry = section.default.entry()
        names = [p.name for kind in [section.annotation.kind()] for e in catalog.entries(kind) for p in e.params]  # type: ignore[union-attr]
        if entry and path[1] in names:
            return f"did you mean '{path[0]}.args.{path[1]}'?"
    return did_you_mean(path[1], fields)


def _in_words(error: Any) -> UserError:
    """What pydantic tells of one wrong value."""
    collected = error.get("ctx", {}).get("error")
    if isinstance(collected, Collected):
        return collected.error
    loc = [str(part) for part in error["loc"]]
    key = ".".join(loc).replace(".function-before", "")
    return UserError(_sentence(error, loc, key), field=key)


def _sentence(error: Any, loc: list[str], key: str) -> str:
    kind, value = error["type"], error["input"]
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"There is no key {key!r} in an experiment; {_unknown(loc)}"
    if kind == "missing":
        return f"{key} is missing."
    if kind == "literal_error":
        return f"{key} = {value!r} is not known; {did_you_mean(str(value), _literals(loc))}"
    limits = {
        "greater_than": "more than",
        "greater_than_equal": "at least",
        "less_than": "less than",
        "less_than_equal": "at most",
    }
    if kind in limits:
        return f"{key} = {value!r} is out of range; it must be {limits[kind]} {next(iter(context.values()))}."
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "string": "a text",
        "tuple": "a list",
        "dict": "a table",
        "model": "a table",
        "finite": "a finite number",
    }
    for prefix, word in words.items():
        if kind.startswith(prefix):
            return f"{key} = {value!r} is not {word}."
    return f"{key} = {value!r} is wrong: {error['msg'].removeprefix('Value error, ')}."


def _model_at(loc: list[str]) -> type[BaseModel] | None:
    model: Any = Experiment
    for part in loc:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        if field is None:
            return None
        options = [field.annotation, *get_args(field.annotation)]
        options += [inner for option in options for inner in get_args(option)]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if model is None:
            return None
    return model


def _unknown(loc: list[str]) -> str:
    parent = _model_at(loc[:-1])
    return did_you_mean(loc[-1], parent.model_fields if parent else [])


def _literals(loc: list[str]) -> list[str]:
    parent = _model_at(loc[:-1])
    return [str(v) for v in get_args(parent.model_fields[loc[-1]].annotation)] if parent else []


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_none(v) for v in value]
    return value
