"""The form's fields: all of the experiment, and text that becomes a value."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchdeck.core import catalog
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import fields, toml
from torchdeck.core.experiment.fields import Field
from torchdeck.core.experiment.space import Space


def field(key: str, raw: dict[str, Any] | None = None) -> Field:
    return next(f for f in fields.fields(raw or {}) if f.key == key)


def test_every_key_of_the_toml_can_be_reached() -> None:
    found = {f.key for f in fields.fields({})}
    assert set(toml.keys()) - {f"{kind}.args" for kind in catalog.KINDS} - {"search.space"} <= found


@pytest.mark.parametrize("kind", ["data", "model", "loss", "optimizer", "schedule"])
def test_every_parameter_of_every_entry_is_a_field(kind: str) -> None:
    for entry in catalog.entries(kind):
        found = {f.path[-1]: f for f in fields.fields({kind: {"name": entry.name}}) if f.path[:2] == (kind, "args")}
        assert set(found) == {p.name for p in entry.params}
        assert all(found[p.name].help for p in entry.params)


def test_every_field_has_help_and_limits() -> None:
    for item in fields.fields({}):
        assert item.help, item.key
        assert item.limits, item.key


@pytest.mark.parametrize("name", sorted(toml.presets()))
def test_what_is_shown_is_what_is_typed(name: str) -> None:
    raw = toml.read(toml.presets()[name])
    changed = raw
    for item in fields.fields(raw):
        if item.given is not None:
            changed = fields.change(changed, item, fields.field_text(item.given))
    assert toml.build(changed) == toml.build(raw)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("trainer.epochs", " 7 ", 7),
        ("trainer.epochs", "1_000", 1000),
        ("optimizer.lr", "3e-4", 3e-4),
        ("optimizer.lr", "none", None),
        ("trainer.compile", "true", True),
        ("trainer.precision", "bf16", "bf16"),
        ("tracking.tags", "paper, first try", ["paper", "first try"]),
        ("tracking.tags", '["a,b"]', ["a,b"]),
        ("tracking.name", "none of them", "none of them"),
        ("model.args.widths", "256, 128", [256, 128]),
        ("model.args.widths", "[64]", [64]),
        ("model.args.widths", "64", [64]),
        ("model.freeze", "features.*", ["features.*"]),
        (
            "data.transforms",
            "ToTensor, RandomCrop(size=28, padding=4)",
            [{"name": "ToTensor"}, {"name": "RandomCrop", "size": 28, "padding": 4}],
        ),
        (
            "data.transforms",
            'RandomCrop(size=(28, 28), padding_mode="reflect")',
            [{"name": "RandomCrop", "size": [28, 28], "padding_mode": "reflect"}],
        ),
        ("data.transforms", '[{name = "ToTensor"}]', [{"name": "ToTensor"}]),
        ("trainer.image_sizes", "{until = 0.4, size = 20}", [{"until": 0.4, "size": 20}]),
        ("trainer.seed", "", None),
    ],
)
def test_typed(key: str, text: str, value: Any) -> None:
    assert fields.typed(field(key), text) == value


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("trainer.epochs", "many", "not a whole number"),
        ("trainer.epochs", "0", "at least 1"),
        ("trainer.batch_size", "-1", "at least 1"),
        ("optimizer.lr", "nan", "lr"),
        ("optimizer.lr", "-1", "more than 0"),
        ("optimizer.lr", "1e30", "at most"),
        ("model.name", "mlpp", "did you mean 'mlp'"),
        ("optimizer.name", "adamm", "did you mean"),
        ("model.args.widths", "a, b", "list of whole numbers"),
        ("model.args.dropout", "1.5", "between 0 and 0.99"),
        ("data.transforms", "Crop(", "data.transforms"),
        ("data.transforms", "ToTensorr", "did you mean 'ToTensor'"),
        ("data.transforms", "__import__('os').system('true')", "data.transforms"),
        ("trainer.device", "tpu", "choose from"),
        ("trainer.precision", "fp8", "not known"),
    ],
)
def test_wrong_values_are_told_in_the_words_of_the_toml(key: str, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fields.change({}, field(key), text)


def test_what_does_not_fit_together_is_told() -> None:
    raw = {"data": {"name": "diabetes"}}
    with pytest.raises(UserError, match="does not fit"):
        fields.change(raw, field("loss.name", raw), "cross_entropy")


def test_fields_can_be_put_right_one_after_the_other() -> None:
    raw: dict[str, Any] = {"trainer": {"epochs": 0, "batch_size": 0}}
    raw = fields.change(raw, field("trainer.epochs", raw), "3")
    assert "batch_size" in str(fields.problem(raw))
    raw = fields.change(raw, field("trainer.batch_size", raw), "8")
    assert fields.problem(raw) is None


def test_another_model_forgets_the_arguments_of_the_one_before() -> None:
    raw = toml.read(toml.presets()["fashion-cnn"])
    raw = fields.change(raw, field("model.name", raw), "mlp")
    assert raw["model"] == {"name": "mlp"}


def test_parameters_of_ones_own_code_are_fields(tmp_path: Any) -> None:
    code = tmp_path / "net.py"
    code.write_text("import torch\nclass Net(torch.nn.Module):\n    def __init__(self, num_classes, width=32): ...\n")
    raw: dict[str, Any] = {"model": {"name": f"{code}:Net"}}
    assert field("model.args.width", raw).default == 32
    raw = fields.change(raw, field("model.args.width", raw), "64")
    assert raw["model"]["args"] == {"width": 64}


@given(st.text(max_size=60), st.sampled_from([f.key for f in fields.fields({})]))
def test_whatever_is_typed_is_a_value_or_one_sentence(text: str, key: str) -> None:
    try:
        changed = fields.change({}, field(key), text)
    except UserError as error:
        assert str(error)
    else:
        toml.build(changed)


def test_a_field_is_not_blamed_for_another_whose_key_begins_like_it() -> None:
    raw: dict[str, Any] = {"trainer": {"epochs_": 3}}
    changed = fields.change(raw, field("trainer.epochs", raw), "4")
    assert changed["trainer"]["epochs"] == 4

    raw = {"search": {"space": {"optimizer.lr": "2 .. 1"}}}
    changed = fields.change(raw, field("optimizer.lr", raw), "0.1")
    assert changed["optimizer"]["lr"] == 0.1


def test_a_field_is_judged_also_while_another_table_is_wrong() -> None:
    raw: dict[str, Any] = {"optimizer": {"name": "adamm"}}
    with pytest.raises(UserError, match="at least 1") as told:
        fields.change(raw, field("trainer.epochs", raw), "0")
    assert told.value.field == "trainer.epochs"


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"optimizer": {"lr": -1}}, "optimizer.lr"),
        ({"optimizer": {"name": "adamm"}}, "optimizer.name"),
        ({"optimizer": {"args": {"betas": "x"}}}, "optimizer.args.betas"),
        ({"trainer": {"epoch": 1}}, "trainer.epoch"),
        ({"trainer": {"device": "tpu"}}, "trainer.device"),
        ({"trainer": {"monitor": "maximize"}}, "trainer.monitor"),
        ({"trainer": {"image_sizes": [{"until": 2, "size": 8}]}}, "trainer.image_sizes.0.until"),
        ({"data": {"transforms": ["ToTensor", {"name": "Resize"}]}}, "data.transforms[1].size"),
        ({"data": {"name": "diabetes"}, "loss": {"name": "cross_entropy"}}, "loss.name"),
        ({"tracking": {"metrics": ["a.py:loss"]}}, "tracking.metrics"),
        ({"search": {"space": {"optimizer": {"lr": "2 .. 1"}}}}, "search.space.optimizer.lr"),
        ({"search": {"space": 3}}, "search.space"),
        ({"search": {"storage": "tape"}}, "search.storage"),
        ({"sampler": {"name": "none at all"}}, "sampler.name"),
    ],
)
def test_an_error_carries_the_field_that_it_is_about(raw: dict[str, Any], key: str) -> None:
    error = fields.problem(raw)
    assert error is not None
    assert error.field == key


@pytest.mark.parametrize(
    ("space", "key"),
    [
        ({"optimizer.lr": "0 .. 1"}, "optimizer.lr"),
        ({"tracking.name": "a | b"}, "tracking.name"),
        ({"optimizer": "a | b"}, "optimizer"),
        ({"trainer.epochs": "1.5 .. 2.5"}, "trainer.epochs"),
        ({"optimizer.lr": "1e-4 .. 0.1 when trainer.seed = 1"}, "optimizer.lr"),
    ],
)
def test_an_error_of_the_space_carries_the_searched_field(space: dict[str, str], key: str) -> None:
    with pytest.raises(UserError) as told:
        Space(toml.build({"search": {"space": space}}))
    assert told.value.field == f"search.space.{key}"


def test_parts_are_typed_as_tables() -> None:
    raw = {"task": {"step": "gan.py:step"}}
    text = "{generator = {name = \"gan.py:G\", args = {noise = 8}}, critic = {name = 'mlp'}}"
    field = next(f for f in fields.fields(raw) if f.key == "model.parts")
    changed = fields.change(raw, field, text)
    assert changed["model"]["parts"]["generator"] == {"name": "gan.py:G", "args": {"noise": 8}}
    again = next(f for f in fields.fields(changed) if f.key == "model.parts")
    assert fields.change(raw, again, fields.field_text(again.value)) == changed
