"""The search space: how it is written, what is wrong with it, and what a trial gets of it."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.dimension import Dimension, read_dimension
from torchdeck.core.experiment.space import Space
from torchdeck.core.search.objectives import objectives

numbers = st.one_of(
    st.integers(-1000, 10**6), st.floats(-1e6, 1e6, allow_nan=False, allow_infinity=False, allow_subnormal=False)
)
plain = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8))
awkward = st.sampled_from(["|", "a when b = c", "1 length 2", "1 .. 2", '"', "\\\\when", " "])
values = st.one_of(plain, awkward, st.lists(plain, max_size=3))
keys = st.sampled_from(["optimizer.name", "model.args.widths", "trainer.epochs"])


@st.composite
def dimensions(draw: st.DrawFn) -> dict[str, Any]:
    raw: dict[str, Any] = {}
    if draw(st.booleans()):
        raw["choices"] = draw(st.lists(values, min_size=1, max_size=4, unique_by=lambda v: repr(v)))
    else:
        low, high = sorted((draw(numbers), draw(numbers)))
        raw |= {"low": low, "high": high}
        if low > 0 and draw(st.booleans()):
            raw["log"] = True
        elif draw(st.booleans()):
            raw["step"] = draw(st.integers(1, 100))
    if draw(st.booleans()):
        raw["length"] = sorted((draw(st.integers(1, 5)), draw(st.integers(1, 5))))
    if draw(st.booleans()):
        raw["when"] = draw(st.dictionaries(keys, st.lists(values, min_size=1, max_size=2), min_size=1, max_size=2))
    return raw


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(dimensions())
def test_a_dimension_reads_back_from_its_line(raw: dict[str, Any]) -> None:
    try:
        dimension = read_dimension("model.args.widths", raw)
    except UserError as error:
        assert "twice" in str(error)  # 1 and 1.0, or true, are the same choice to Optuna
        return
    again = read_dimension("model.args.widths", dimension.text)
    assert again.text == dimension.text
    assert (again.low, again.high, again.log, again.step, again.length) == (
        dimension.low,
        dimension.high,
        dimension.log,
        dimension.step,
        dimension.length,
    )
    assert again.choices == dimension.choices
    assert again.when == dimension.when


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40))
def test_any_line_is_read_or_told_to_be_wrong(text: str) -> None:
    try:
        assert isinstance(read_dimension("optimizer.lr", text), Dimension)
    except UserError as error:
        assert "search.space.optimizer.lr" in str(error)


def test_bars_in_quotes_are_part_of_a_value() -> None:
    assert read_dimension("x", 'a | "b|c" when y = "|" | d').choices == ("a", "b|c")
    assert read_dimension("x", 'a | "b|c" when y = "|" | d').when == {"y": ("|", "d")}


def space(**dimensions: Any) -> Space:
    """Keys with __ for dots."""
    raw = toml.read(toml.presets()["digits"])
    raw["search"] = {"space": {key.replace("__", "."): value for key, value in dimensions.items()}}
    return Space(toml.build(raw))


@pytest.mark.parametrize(
    ("dimensions", "said"),
    [
        ({"optimizer__lrr": "1 .. 2"}, "no key 'optimizer.lrr' in an experiment; did you mean 'lr'?"),
        ({"nothing": "1 .. 2"}, "no key 'nothing'"),
        ({"optimizer__lr": "2 .. 1"}, "low = 2 is more than high = 1"),
        ({"optimizer__lr": "0 .. 1 log"}, "low = 0 has no logarithm"),
        ({"optimizer__lr": {"low": 1e-4}}, "has no high"),
        ({"optimizer__lr": {"low": 1e-4, "high": 1, "lg": True}}, "optimizer.lr.lg is not known; did you mean 'log'?"),
        ({"optimizer__lr": {"low": 1e-4, "high": 1, "choices": [1]}}, "both choices and low"),
        ({"optimizer__lr": {"low": 1e-4, "high": 1, "step": 0}}, "step = 0 is not a number above 0"),
        ({"optimizer__lr": {"low": 1e-4, "high": 1, "step": 0.1, "log": True}}, "both log and step"),
        ({"optimizer__lr": {"low": "a", "high": 1}}, "low = 'a' is not a finite number"),
        ({"optimizer__lr": "1 .. 5000"}, "optimizer.lr = 5000.0 is out of range; it must be at most 1000"),
        ({"optimizer__name": []}, "choices is empty"),
        ({"optimizer__name": ["SGD", "SGD"]}, "holds 'SGD' twice"),
        ({"optimizer__name": ["SGD", "Adamm"]}, "'Adamm' is not in the catalog; did you mean 'Adam'?"),
        ({"trainer__batch_size": "0.5 .. 2"}, "0.5 is not a whole number"),
        ({"optimizer__args__momentum": "0 .. 0.9"}, "momentum is not a parameter of optimizer 'AdamW'"),
        ({"optimizer__lr": "0.1 .. 1 when model.name = mlp"}, "depends on 'model.name', which is not searched"),
        (
            {"optimizer__lr": "0.1 .. 1 when optimizer.name = Adam", "optimizer__name": ["SGD", "AdamW"]},
            "which is never so: SGD | AdamW",
        ),
        (
            {"optimizer__lr": "0.1 .. 1 when model.name = mlp", "model__name": "mlp | linear when optimizer.lr = 0.1"},
            "depend on each other",
        ),
        ({"search__trials": "1 .. 5"}, "'search.trials' can't be searched"),
        ({"model__args__widths": "8 .. 16 length 3 .. 1"}, "length = [3, 1]"),
        ({"model__args__widths__deeper__still": "1 .. 2"}, "goes too deep"),
    ],
)
def test_what_is_wrong_with_a_space_is_told_in_one_sentence(dimensions: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        space(**dimensions)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def conditional() -> Space:
    return space(
        optimizer__name=["SGD", "AdamW"],
        optimizer__args__momentum="0 .. 0.9 when optimizer.name = SGD",
        model__args__widths="8 .. 64 log length 1 .. 3",
        optimizer__lr="1e-4 .. 0.1 log",
        trainer__batch_size=[16, 32, 64],
    )


def test_trials_get_only_what_their_conditions_allow() -> None:
    one = conditional()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        values = one.suggest(trial)
        assert ("optimizer.args.momentum" in values) == (values["optimizer.name"] == "SGD")
        assert 1 <= len(values["model.args.widths"]) <= 3
        assert all(isinstance(width, int) and 8 <= width <= 64 for width in values["model.args.widths"])
        experiment = one.apply(values)
        assert experiment.optimizer.lr == values["optimizer.lr"]
        assert experiment.model.args["widths"] == tuple(values["model.args.widths"])
        assert experiment.search.space == {}
        seen.add((values["optimizer.name"], len(values["model.args.widths"])))
        # What Optuna keeps stands for the same values, and back.
        assert one.values_of(trial.params) == values
        assert one.encode(values) == dict(trial.params)
    assert len(seen) == 6


def test_a_name_brings_back_the_defaults_of_its_arguments() -> None:
    raw = toml.override(toml.read(toml.presets()["digits"]), ["optimizer.name=SGD", "optimizer.args.nesterov=true"])
    raw["search"] = {"space": {"optimizer.name": ["SGD", "AdamW"]}}
    one = Space(toml.build(raw))
    assert one.apply({"optimizer.name": "AdamW"}).optimizer.args == {}
    assert one.apply({"optimizer.name": "SGD"}).optimizer.args == {"nesterov": True}


def test_choices_may_be_lists_and_tables() -> None:
    transforms = [[{"name": "ToTensor"}], [{"name": "ToTensor"}, {"name": "RandomCrop", "size": 8, "padding": 1}]]
    one = space(data__transforms=transforms, model__args__widths=[[64], [128, 32]])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    found = [one.apply(one.suggest(study.ask())) for _ in range(12)]
    assert {len(e.data.transforms or ()) for e in found} == {1, 2}
    assert {e.model.args["widths"] for e in found} == {(64,), (128, 32)}


def test_numbers_are_whole_where_the_field_is() -> None:
    found = space(
        trainer__epochs="1 .. 9", optimizer__lr="1 .. 9", model__args__dropout="0 .. 0.75 step 0.25"
    ).distributions()
    assert found["trainer.epochs"] == IntDistribution(1, 9)
    assert found["optimizer.lr"] == FloatDistribution(1.0, 9.0)
    assert found["model.args.dropout"] == FloatDistribution(0.0, 0.75, step=0.25)
    assert space(trainer__compile="true | false").distributions()["trainer.compile"] == CategoricalDistribution(
        [True, False]
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optimizer.lr": 5}, "outside of 0.0001 .. 0.1 log"),
        ({"optimizer.lr": "much"}, "outside of"),
        ({"model.args.widths": [8, 8, 8, 8]}, "outside of 8 .. 64 log length 1 .. 3"),
        ({"trainer.batch_size": 17}, "is not one of 16, 32, 64"),
        ({"optimizer.name": "AdamW", "optimizer.args.momentum": 0.5}, "searched only when optimizer.name = SGD"),
        ({"optimizer.l": 0.1}, "'optimizer.l' is not searched; did you mean 'optimizer.lr'?"),
    ],
)
def test_settings_outside_of_the_space_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        conditional().encode(values)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (['search.objectives=["test_accuracy"]'], "the test set is read once, at the end"),
        (['search.objectives=["accuracy", "val_acc"]'], "names 'accuracy' twice"),
        (['search.objectives=["parameters"]'], "alone seeks the least model"),
        (['search.objectives=["accuracy", "latency"]', "pruner.name=median"], "Optuna prunes by one objective only"),
        (["trainer.validation_share=0"], "needs a validation set"),
        (["search.objectives=[]"], "search.objectives is empty"),
    ],
)
def test_what_cannot_be_sought_is_told(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        objectives(toml.load("digits", overrides))
    assert said in str(error.value)


def test_directions_come_from_names_or_words() -> None:
    found = objectives(
        toml.load(
            "digits",
            ['search.objectives=["val_acc", "minimize mine", "latency", "f1"]', 'tracking.metrics=["m.py:mine"]'],
        )
    )
    assert [(o.name, o.higher) for o in found] == [
        ("accuracy", True),
        ("mine", False),
        ("latency", False),
        ("f1", True),
    ]
    assert [o.text for o in objectives(toml.load("diabetes", []))] == ["minimize loss"]
