"""What is given in Python (a preset's name, tables, objects, everyday options) as an Experiment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from torchdeck import _objects
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.usercode.objects import is_object, reference_to

AnyExperiment: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Experiment | None


class Options(TypedDict, total=False):
    """Keywords of everyday, each for one key of an experiment."""

    epochs: int
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    optimizer: str
    schedule: str
    device: Any
    precision: str
    seed: int
    name: str


_KEYS = {
    "epochs": "trainer.epochs",
    "steps": "trainer.steps",
    "batch_size": "trainer.batch_size",
    "lr": "optimizer.lr",
    "weight_decay": "optimizer.weight_decay",
    "optimizer": "optimizer.name",
    "schedule": "schedule.name",
    "device": "trainer.device",
    "precision": "trainer.precision",
    "seed": "trainer.seed",
    "name": "tracking.name",
}

#: Keywords that are no options.
_OTHERS = ("experiment", "overrides", "model", "data", "loss", "runs", "resume", "progress")


@dataclass(frozen=True)
class Described:
    """An experiment, the objects that it names by reference, and what it was made from, in words."""

    experiment: Experiment
    objects: dict[str, Any] = field(default_factory=dict)
    base: str = ""


def describe(
    experiment: AnyExperiment,
    overrides: Mapping[str, Any] | None,
    objects: Mapping[str, Any],
    options: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> Described:
    """The experiment that is meant. ``objects``: model, data and loss, None where not given; ``more``: further values
    by key.

    Raises UserError for what is wrong.
    """
    chosen = {**_values(overrides, options), **(more or {})}
    without_data = experiment is None and objects.get("data") is None and "data.name" not in chosen
    if without_data and not isinstance(objects.get("model"), str | None):
        raise UserError("model= needs data to train on: give data=, or name a data set of the catalog.")
    given: dict[str, Any] = {}
    for kind, thing in objects.items():
        if thing is not None:
            chosen |= _chosen(kind, thing, f"{kind}.name", chosen, given)
    raw, where = _tables(experiment, [f"{key}=" for key in chosen])
    names = f" and {', '.join(chosen)} given in Python" if chosen else ""
    return Described(toml.build(toml.put_all(raw, chosen.items()), where), given, f"{where}{names}")


def describe_resumed(
    path: Path, overrides: Mapping[str, Any] | None, objects: Mapping[str, Any], options: Mapping[str, Any]
) -> Described:
    """The experiment of a run to go on with; objects take the places of those that it began with.

    Raises UserError for what is wrong, and for an object in place of what was none.
    """
    raw = toml.read(path / "experiment.toml")
    given = {}
    for kind, thing in objects.items():
        if thing is None:
            continue
        name = raw.get(kind, {}).get("name")
        if isinstance(thing, str) or not is_object(str(name)):
            raise UserError(f"{kind}=: the run {str(path)!r} began with {kind}.name = {name!r}, and goes on with that.")
        given[name] = _taken(kind, thing)
    chosen = _values(overrides, options)
    return Described(toml.build(toml.put_all(raw, chosen.items()), str(path)), given, str(path / "experiment.toml"))


def _values(overrides: Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key.

    Raises UserError for an option that there is not, and for a key that is given twice.
    """
    if overrides is not None and not isinstance(overrides, Mapping):
        raise UserError(
            f"overrides is a {type(overrides).__name__}; give a dict of values by key: {{'trainer.epochs': 3}}."
        )
    found = {str(key): _plain(value) for key, value in (overrides or {}).items()}
    for name, value in options.items():
        if name not in _KEYS:
            near = did_you_mean(name, [*_KEYS, *_OTHERS], limit=len(_KEYS))
            raise UserError(
                f"There is no keyword {name!r}; {near} (any other key goes into overrides: {{'trainer.ema': 0.99}})"
            )
        if _KEYS[name] in found:
            raise UserError(f"{name}= and {_KEYS[name]!r} in overrides are the same; give one of them.")
        found[_KEYS[name]] = str(value) if name == "device" else _plain(value)
    return found


def _plain(value: Any) -> Any:
    """A value as TOML would have it: scalars of NumPy and torch as numbers, paths as texts."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _chosen(kind: str, thing: Any, key: str, chosen: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The values that an object stands for; it is added to those that are given.

    Raises UserError where the key is given, too.
    """
    if key in chosen:
        raise UserError(f"{kind}= and {key!r} in overrides are the same; give one of them.")
    if isinstance(thing, str):
        return {key: thing}
    taken = _taken(kind, thing)
    reference = reference_to(_objects.name_of(taken))
    if reference in given:
        reference = reference_to(f"{_objects.name_of(taken)}_{kind}")
    given[reference] = taken
    values: dict[str, Any] = {key: reference}
    if kind == "data":
        inputs = _objects.resident(taken)
        if inputs is not None and inputs.is_floating_point() and "data.transforms" not in chosen:
            values["data.transforms"] = []
        if "data.scale_target" not in chosen:
            values["data.scale_target"] = False
    return values


def _taken(kind: str, thing: Any) -> Any:
    return {"model": _objects.model_of, "data": _objects.data_of, "loss": _objects.loss_of}[kind](thing)


def _tables(experiment: AnyExperiment, chosen: list[str]) -> tuple[dict[str, Any], str]:
    """The raw tables of what is given as an experiment, and what it is in words."""
    if isinstance(experiment, Experiment):
        return experiment.model_dump(mode="json", exclude_unset=True), "an Experiment"
    if isinstance(experiment, Mapping):
        tables = {key: _plain(value) for key, value in experiment.items() if "." not in key}
        values = [(key, _plain(value)) for key, value in experiment.items() if "." in key]
        return toml.put_all(tables, values), "the experiment"
    if experiment is not None and not isinstance(experiment, str | os.PathLike):
        raise UserError(
            f"An experiment can't be a {type(experiment).__name__}; give a preset's name, a TOML file, a dict of "
            "tables or an Experiment."
        )
    source = toml.base_of(os.fspath(experiment) if experiment is not None else None, chosen)
    return toml.tables(source), toml.said_base(source, ())
