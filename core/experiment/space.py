"""The search space: which values a trial takes, in the order in which they depend on each other."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torchdeck.core import catalog
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.dimension import Dimension, choice_label
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.experiment.space_check import check_dimension, check_space_key, in_order, thaw

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution


class Space:
    """The searched fields of an experiment, those that others depend on first.

    Raises UserError for a field that does not exist, a value that the experiment does not take, and a condition that
    can't come true.
    """

    def __init__(self, experiment: Experiment) -> None:
        #: The raw tables of an experiment without search, to which values are applied.
        self.base: dict[str, Any] = experiment.model_dump(mode="json", exclude_unset=True, exclude=set(toml.SEARCHING))
        given = experiment.search.space
        for key in given:
            check_space_key(key)
        self.dimensions = in_order(given)
        #: int or float, for each range.
        self.number_types = {key: self._number_type(key, d) for key, d in self.dimensions.items() if d.choices is None}
        for key in self.dimensions:
            check_dimension(self, key)

    # --- values of a trial -------------------------------------------------------------------------------------------

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The values of a trial by key; those whose conditions don't hold are left out."""
        values: dict[str, Any] = {}
        for key, dimension in self.dimensions.items():
            if not _holds(dimension, values):
                continue
            if dimension.length is not None:
                length = trial._suggest(f"{key}.length", self._length(dimension))
                values[key] = [self._one(trial, f"{key}[{i}]", key, dimension) for i in range(length)]
            else:
                values[key] = self._one(trial, key, key, dimension)
        return values

    def _one(self, trial: Trial, name: str, key: str, dimension: Dimension) -> Any:
        value = trial._suggest(name, self._distribution(key, dimension))
        return _choice(dimension, value) if dimension.choices is not None else value

    def values_of(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The values by key that Optuna's parameters of a trial stand for; those that are not searched (any more, or by
        a function of the user's own) come last, by their own names."""
        values: dict[str, Any] = {}
        left = dict(params)
        lists = [
            name.removesuffix(".length")
            for name in params
            if name.endswith(".length") and f"{name.removesuffix('.length')}[0]" in params
        ]
        for key in dict.fromkeys([*self.dimensions, *lists]):
            dimension = self.dimensions.get(key)
            names = [f"{key}[{i}]" for i in range(params[f"{key}.length"])] if key in lists else [key]
            if all(name in params for name in names):
                found = [_choice(dimension, params[name]) for name in names]
                values[key] = found if key in lists else found[0]
            for name in (*names, f"{key}.length"):
                left.pop(name, None)
        return values | {name: _choice(None, value) for name, value in left.items()}

    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's parameters for values by key; keys may be left out, and are then sampled.

        Raises UserError for a key that is not searched and a value that is outside of its range.
        """
        params: dict[str, Any] = {}
        for key, value in values.items():
            dimension = self.dimensions.get(key)
            if dimension is None:
                raise UserError(f"{key!r} is not searched; {did_you_mean(key, self.dimensions)}", field=key)
            if dimension.length is None:
                self._encode(params, key, key, dimension, value)
                continue
            if not isinstance(value, list | tuple) or not dimension.length[0] <= len(value) <= dimension.length[1]:
                raise UserError(f"{key} = {value!r} is outside of {dimension.text}.", field=key)
            params[f"{key}.length"] = len(value)
            for number, item in enumerate(value):
                self._encode(params, f"{key}[{number}]", key, dimension, item)
        for key, dimension in self.dimensions.items():
            if key in values and not _holds(dimension, {k: values.get(k, _Unknown()) for k in self.dimensions}):
                raise UserError(f"{key} is searched only when {_conditions(dimension)}.", field=key)
        return params

    def _encode(self, params: dict[str, Any], name: str, key: str, dimension: Dimension, value: Any) -> None:
        if dimension.choices is not None:
            labels = [choice_label(choice) for choice in dimension.choices]
            if choice_label(value) not in labels:
                raise UserError(f"{name} = {value!r} is not one of {', '.join(map(str, labels))}.", field=key)
            params[name] = choice_label(value)
            return
        kind = self.number_types[key]
        assert dimension.low is not None and dimension.high is not None
        # The limits first: what is beyond them (0 on a log range, NaN, 1e400) may have no logarithm and no integer.
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good = good and dimension.low <= value <= dimension.high and (kind is float or value == int(value))
        distribution = self._distribution(key, dimension)
        if not good or not distribution._contains(distribution.to_internal_repr(kind(value))):
            raise UserError(f"{name} = {value!r} is outside of {dimension.text}.", field=key)
        params[name] = kind(value)

    def apply(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment with these values, without search.

        Raises UserError when they don't fit together.
        """
        raw = self.base
        for key, value in sorted(values.items(), key=lambda pair: not pair[0].endswith(".name")):
            raw = toml.put(raw, toml.path_of(key), value)
        return toml.build(raw)

    # --- as Optuna has it --------------------------------------------------------------------------------------------

    def distributions(self) -> dict[str, BaseDistribution]:
        """Every parameter that a trial may have, by its name in Optuna."""
        found: dict[str, BaseDistribution] = {}
        for key, dimension in self.dimensions.items():
            one = self._distribution(key, dimension)
            if dimension.length is None:
                found[key] = one
            else:
                found[f"{key}.length"] = self._length(dimension)
                found |= {f"{key}[{i}]": one for i in range(dimension.length[1])}
        return found

    def _distribution(self, key: str, dimension: Dimension) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if dimension.choices is not None:
            return CategoricalDistribution([choice_label(choice) for choice in dimension.choices])
        assert dimension.low is not None
        assert dimension.high is not None
        if self.number_types[key] is int:
            return IntDistribution(int(dimension.low), int(dimension.high), dimension.log, int(dimension.step or 1))
        return FloatDistribution(float(dimension.low), float(dimension.high), dimension.log, dimension.step)

    def _length(self, dimension: Dimension) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        assert dimension.length is not None
        return IntDistribution(*dimension.length)

    def grid(self) -> dict[str, list[Any]]:
        """Every value of every parameter, for a grid.

        Raises UserError where a range has no end of values, and where a field depends on another.
        """
        found = {}
        for key, dimension in self.dimensions.items():
            if dimension.when or dimension.length is not None:
                raise UserError(
                    f"search.space.{key}: a grid knows no conditions and no lengths; use sampler.name = 'brute-force'.",
                    field=f"search.space.{key}",
                )
            found[key] = self.all_values(key, dimension)
        return found

    def all_values(self, key: str, dimension: Dimension) -> list[Any]:
        """Every value of one range.

        Raises UserError when it has no end of them.
        """
        if dimension.choices is not None:
            return [choice_label(choice) for choice in dimension.choices]
        step = dimension.step or (1 if self.number_types[key] is int and not dimension.log else None)
        if step is None or dimension.low is None or dimension.high is None:
            raise UserError(
                f"search.space.{key} = {dimension.text!r} has no end of values; give it a step, or choices.",
                field=f"search.space.{key}",
            )
        count = int((dimension.high - dimension.low) / step + 1e-9) + 1
        return [self.number_types[key](dimension.low + i * step) for i in range(count)]

    # --- checks ------------------------------------------------------------------------------------------------------

    def _number_type(self, key: str, dimension: Dimension) -> type:
        """Whether a field takes whole numbers."""
        section, field, *rest = toml.path_of(key)
        model: Any = Experiment.model_fields[section].annotation
        if field == "args":
            kinds = {p.kind for e in self._entries(section, model) for p in e.params if p.name == rest[0]}
        else:
            found = set(_flattened(model.model_fields[field].annotation))
            kinds = set()
            if int in found:
                kinds = {"int"}
            elif float in found:
                kinds = {"float"}
        whole = all(isinstance(n, int) for n in (dimension.low, dimension.high, dimension.step or 1))
        if kinds & {"int", "ints", "size"} and not kinds & {"float", "floats", "any"}:
            odd = [n for n in (dimension.low, dimension.high, dimension.step) if n is not None and n != int(n)]
            if odd:
                raise UserError(
                    f"search.space.{key}: {odd[0]!r} is not a whole number, which {key} takes.",
                    field=f"search.space.{key}",
                )
            return int
        return float if kinds & {"float", "floats"} or not whole else int

    def _entries(self, section: str, model: Any) -> Iterator[catalog.Entry]:
        searched = self.dimensions.get(f"{section}.name")
        fixed = self.base.get(section, {}).get("name", model.model_fields["name"].default)
        for name in searched.choices if searched and searched.choices else (fixed,):
            if isinstance(name, str) and not catalog.is_user_code(name):
                yield catalog.find(model.kind(), name, f"search.space.{section}.name")

    def takes(self, key: str, value: Any) -> bool:
        """Whether a searched field may take that value."""
        dimension = self.dimensions[key]
        try:
            self._encode({}, key, key, dimension, value)
        except UserError:
            return False
        return True


class _Unknown:
    """A value that is not known yet, and may be any."""


def _holds(dimension: Dimension, values: Mapping[str, Any]) -> bool:
    for key, allowed in dimension.when.items():
        if key not in values:
            return False
        if not isinstance(values[key], _Unknown) and choice_label(values[key]) not in [
            choice_label(one) for one in allowed
        ]:
            return False
    return True


def _conditions(dimension: Dimension) -> str:
    return " and ".join(f"{k} = {' | '.join(map(str, v))}" for k, v in dimension.when.items())


def _choice(dimension: Dimension | None, value: Any) -> Any:
    """The choice that Optuna keeps as a plain value."""
    if dimension is None or dimension.choices is None:
        return value
    return next((thaw(choice) for choice in dimension.choices if choice_label(choice) == value), value)


def _flattened(annotation: Any) -> Iterator[Any]:
    inner = [a for a in typing.get_args(annotation) if a is not type(None)]
    if not inner:
        yield annotation
    for one in inner:
        yield from _flattened(one)
