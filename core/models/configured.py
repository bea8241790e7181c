"""Models whose constructor takes a config: a dataclass, a node with defaults, a Namespace, or one of transformers."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from torchdeck.core import usercode
from torchdeck.core.errors import UserError, did_you_mean

#: What a parameter is called that takes an object with attributes.
_NAMES = ("config", "configs", "configuration", "cfg", "conf", "args", "hparams", "opt", "opts", "options", "params")


def with_config(target: Callable[..., Any], args: dict[str, Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for a call of ``target``: as they are, or one object made of them where its one required parameter
    is no value. ``offered``: what fills in what the object lacks, by name.

    Raises UserError for an argument that the object does not have.
    """
    name = _required(target, args, offered)
    if name is None:
        return args
    kind = getattr(target, "config_class", None)
    if isinstance(kind, type):
        return {name: _of_transformers(kind, args, offered)}
    kind = _dataclass(target, name)
    if kind is not None:
        return {name: _of_dataclass(kind, args, offered)}
    default = getattr(target, "get_default_config", None)
    if callable(default):
        return {name: _of_defaults(default(), args, offered)}
    if name.lower() in _NAMES:
        return {name: argparse.Namespace(**{**offered, **args})}
    return args


def pretrained(target: Any, folder: str | None, args: Mapping[str, Any]) -> nn.Module | None:
    """A model of transformers from a local folder, config and weights; None where that is not what is asked for.
    Nothing is downloaded.

    Raises UserError where the folder does not hold such a model.
    """
    load = getattr(target, "from_pretrained", None)
    if folder is None or not callable(load) or not Path(folder).expanduser().is_dir():
        return None
    if getattr(target, "__module__", "").startswith("transformers.models.auto."):
        # Code in the folder is run only if the user says so, and nobody is asked in mid-run.
        args = {"trust_remote_code": False, **args}
    try:
        return load(str(Path(folder).expanduser()), local_files_only=True, **args)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"model.weights = {folder!r}: {first}", field="model.weights") from None


def _required(target: Callable[..., Any], args: Mapping[str, Any], offered: Mapping[str, Any]) -> str | None:
    """The one required parameter that nothing is given for; None where there are several, or none."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    missing = [p for p in parameters.values() if p.kind in positional and p.default is p.empty]
    if len(missing) != 1 or missing[0].name in (*args, *offered, "writer"):
        return None
    others = [name for name in args if name in parameters]
    return None if others else missing[0].name


def _dataclass(target: Any, name: str) -> type | None:
    """The dataclass that a parameter takes: by its annotation, or the one beside the model that is called after it."""
    function = vars(target).get("__init__", target) if isinstance(target, type) else target
    try:
        kind = typing.get_type_hints(function).get(name)
    except (NameError, TypeError, AttributeError):
        kind = None
    if isinstance(kind, type):
        return kind if dataclasses.is_dataclass(kind) else None
    if name.lower() not in _NAMES:
        return None
    module = vars(sys.modules.get(getattr(target, "__module__", ""), object))
    beside = [v for v in module.values() if isinstance(v, type) and dataclasses.is_dataclass(v)]
    called = [f"{owner}{word}" for owner in (target.__name__.lower(), "model", "") for word in ("config", "args")]
    return next((v for v in beside if v.__name__.lower() in called), None)


def _of_dataclass(kind: type, args: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    _check_names(args, list(fields), kind.__name__)
    empty = dataclasses.MISSING
    without = [n for n, f in fields.items() if f.default is empty and f.default_factory is empty]
    lacking = [n for n in without if n not in args]
    filled = {n: offered[n] for n, f in fields.items() if n in offered and (n in without or f.default is None)}
    missing = next((n for n in lacking if n not in filled), None)
    if missing is not None:
        raise UserError(f"model.args.{missing} is missing: {kind.__name__} requires it.", field=f"model.args.{missing}")
    with usercode.user_errors():
        return kind(**{**filled, **args})


def _of_defaults(config: Any, args: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """A config with defaults, as minGPT's ``get_default_config()`` gives it."""
    known = list(vars(config))
    _check_names(args, known, type(config).__name__)
    for name, value in {**{n: offered[n] for n in known if n in offered and vars(config)[n] is None}, **args}.items():
        setattr(config, name, value)
    return config


def _of_transformers(kind: type, args: Mapping[str, Any], offered: Mapping[str, Any]) -> Any:
    """A config of transformers, which takes any name unasked; as many labels as the data have, where it has such."""
    known = kind()
    names = [n for n in (*vars(known), "num_labels") if hasattr(known, n) and not n.startswith("_")]
    _check_names(args, names, kind.__name__)
    filled = {"num_labels": offered["num_classes"]} if "num_classes" in offered and hasattr(known, "num_labels") else {}
    filled |= {"vocab_size": offered["vocab_size"]} if "vocab_size" in offered and hasattr(known, "vocab_size") else {}
    with usercode.user_errors():
        return kind(**{**filled, **args})


def _check_names(args: Mapping[str, Any], known: list[str], what: str) -> None:
    unknown = next((name for name in args if name not in known), None)
    if unknown is not None:
        raise UserError(
            f"model.args.{unknown} is not a value of {what}; {did_you_mean(unknown, known)}",
            field=f"model.args.{unknown}",
        )
