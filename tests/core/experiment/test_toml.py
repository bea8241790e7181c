"""The Experiment as TOML and on the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from random import Random

import pytest
import tomli_w
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from torchdeck.core import catalog
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.schema import Experiment

names = st.sampled_from
floats = st.floats(min_value=1e-9, max_value=100, allow_nan=False)

overrides = st.fixed_dictionaries(
    {},
    optional={
        "data": st.fixed_dictionaries(
            {"name": names([e.name for e in catalog.entries("data") if not any(p.required for p in e.params)])}
        ),
        "model": st.fixed_dictionaries(
            {
                "name": names([e.name for e in catalog.entries("model")]),
                "freeze": st.lists(st.text(max_size=8), max_size=3),
            }
        ),
        "optimizer": st.fixed_dictionaries(
            {"name": names([e.name for e in catalog.entries("optimizer")]), "lr": st.none() | floats}
        ),
        "schedule": st.fixed_dictionaries({"name": names([e.name for e in catalog.entries("schedule")])}),
        "trainer": st.fixed_dictionaries(
            {
                "epochs": st.integers(1, 10**6),
                "clip_norm": st.none() | floats,
                "seed": st.integers(0, 2**63 - 1),
                "ema": st.floats(0, 0.999),
            }
        ),
        "tracking": st.fixed_dictionaries({"note": st.text(), "tags": st.lists(st.text())}),
    },
)


@given(overrides)
def test_every_experiment_survives_toml(raw: dict) -> None:
    experiment = toml.build(raw)
    assert toml.loads(toml.dumps(experiment), "test") == experiment


@given(st.text())
def test_any_text_is_toml_or_one_sentence(text: str) -> None:
    try:
        assert isinstance(toml.loads(text, "the file"), Experiment)
    except UserError as error:
        assert str(error)


@given(st.text(), st.text())
def test_any_override_is_taken_or_one_sentence(key: str, value: str) -> None:
    try:
        toml.load(None, [f"{key}={value}"])
    except UserError as error:
        assert str(error)


@given(overrides, st.sampled_from(["data", "model"]), st.randoms())
def test_set_without_a_preset_is_a_toml_file_of_the_same_lines(raw: dict, chosen: str, random: Random) -> None:
    raw.setdefault(chosen, {"name": "digits" if chosen == "data" else "mlp"})
    pairs = [(f"{table}.{key}", v) for table, inner in raw.items() for key, v in inner.items() if v is not None]
    random.shuffle(pairs)
    lines = [tomli_w.dumps({"value": value}).removeprefix("value = ").strip() for _, value in pairs]
    words = [f"{key}={line}" for (key, _), line in zip(pairs, lines, strict=True)]
    text = "\n".join(f"{key} = {line}" for (key, _), line in zip(pairs, lines, strict=True))
    base = toml.base_of(None, words)
    assert base is None
    assert toml.load(base, words) == toml.loads(text, "the file")


def test_where_nothing_is_chosen_the_preset_for_those_who_try_is_trained() -> None:
    for words in ([], ["trainer.epochs=3"], ["model.args.widths=[8]", "data.test_share=0.1"]):
        assert toml.load(toml.base_of(None, words), words) == toml.load("digits", words)
    assert toml.said_base("digits", ["trainer.epochs=3"]) == "preset digits and 1 --set"
    assert toml.said_base(None, ["data.name=iris"]) == "the defaults and 1 --set"
    assert toml.said_base("mine.toml", []) == "file mine.toml"
    assert toml.base_of("fashion-cnn", ["data.name=digits"]) == "fashion-cnn"


def test_everything_has_a_default_and_presets_are_valid() -> None:
    assert Experiment() == toml.build({})
    assert {"digits", "fashion-mlp", "fashion-cnn", "fashion-best", "iris", "diabetes"} <= set(toml.presets())
    for name in toml.presets():
        assert toml.load(name) != Experiment()


def test_every_field_has_help() -> None:
    for section in Experiment.model_fields.values():
        for name, field in section.annotation.model_fields.items():  # type: ignore[union-attr]
            assert field.description, name


def test_overrides_are_typed_and_come_in_any_order() -> None:
    experiment = toml.load(
        "digits", ["model.args.channels=[8, 16]", "model.name=cnn", "optimizer.lr=1e-2", "trainer.clip_norm=none"]
    )
    assert experiment.model.name == "cnn"
    assert experiment.model.args == {"channels": (8, 16)}  # the MLP's widths are gone
    assert experiment.optimizer.lr == 0.01
    assert experiment.trainer.clip_norm is None
    assert experiment.trainer.epochs == toml.load("digits").trainer.epochs


def test_names_are_found_whatever_their_case() -> None:
    assert toml.load(None, ["data.name=fashionmnist", "optimizer.name=sgd"]).data.name == "FashionMNIST"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.epoch=3", "did you mean 'epochs'?"),
        ("trainr.epochs=3", "did you mean 'trainer.epochs'?"),
        ("optimizer.momentum=0.9", "did you mean 'optimizer.args.momentum'?"),
        ("trainer.epochs=0", "trainer.epochs = 0 is out of range; it must be at least 1."),
        ("trainer.batch_size=0", "trainer.batch_size = 0 is out of range"),
        ("trainer.epochs=many", "trainer.epochs = 'many' is not a whole number."),
        ("optimizer.lr=-1", "optimizer.lr = -1 is out of range; it must be more than 0"),
        ("optimizer.lr=1e30", "optimizer.lr = 1e+30 is out of range"),
        ("optimizer.lr=nan", "optimizer.lr = nan is not a finite number."),
        ("model.name=mpl", "did you mean 'mlp'?"),
        ("model.args.width=[3]", "did you mean 'widths'?"),
        ("model.args.dropout=2", "it must be between 0 and 0.99"),
        ("trainer.precision=fp8", "choose from auto, fp32, tf32, bf16, fp16"),
        ("trainer.device=gpu", "choose from auto, cuda, cuda:N, mps, cpu"),
        ("data.transforms=[{name='Resize',sz=3}]", "did you mean 'size'?"),
        ("data.transforms=[{name='Resize'}]", "data.transforms[0].size is missing"),
        ("trainer=3", "is a table; name one of its fields"),
        ("epochs", "is not of the form key.path=value"),
        ("loss.args.delta=2", "loss.args is given without loss.name"),
        ("schedule.interval=step", "schedule.interval is for schedulers of your own"),
    ],
)
def test_wrong_values_are_one_clear_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        toml.load("digits", [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_loss_must_fit_the_task() -> None:
    with pytest.raises(UserError, match="choose from mse, l1, huber"):
        toml.load("diabetes", ["loss.name=cross_entropy"])


def test_all_wrong_values_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "e.toml"
    file.write_text("[trainer]\nepochs = 0\nbatchsize = 3\n")
    with pytest.raises(UserError) as caught:
        toml.load(str(file))
    assert "2 wrong values" in str(caught.value)
    assert "did you mean 'batch_size'?" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"[trainer\n", "is not valid TOML"), (b"\xff\xfe", "is not UTF-8"), (None, "There is no file")],
)
def test_broken_files(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "e.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        toml.load(str(file))


def test_a_wrong_preset_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'digits'"):
        toml.load("digit")


def test_sentences_name_keys_that_exist() -> None:
    """Every text in the code that looks like a key of an experiment is one."""
    known = set(toml.keys())
    sections = sorted({key.split(".")[0] for key in known})
    pattern = re.compile(rf"(?<![\w.'/@])(?:{'|'.join(sections)})\.([a-z_]+)")
    found = 0
    for path in [p for room in ("core", "tui") for p in (ROOT / room).rglob("*.py")]:
        texts = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        for text in [t for t in texts if isinstance(t, str) and " " in t]:
            for match in pattern.finditer(text):
                found += 1
                assert match.group() in known or match.group(1) == "py", f"{path}: {match.group()} in {text!r}"
    assert found > 100


OLD = """
[trainer]
best = "loss"
[optimizer]
body_lr = 0.5
[search.space]
"optimizer.body_lr" = "0.1 .. 1 log"
"""


def test_keys_with_a_former_name_are_read_and_told(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text(OLD)
    new = OLD.replace("body_lr", "backbone_lr_factor").replace("best", "monitor")
    (tmp_path / "new.toml").write_text(new)
    old = toml.load(str(tmp_path / "old.toml"))
    assert old == toml.load(str(tmp_path / "new.toml")) == toml.loads(OLD, "the file")
    assert (old.trainer.monitor, old.optimizer.backbone_lr_factor) == ("loss", 0.5)
    words = ["trainer.best=loss", "optimizer.body_lr=0.5", "search.space.optimizer.body_lr=0.1 .. 1 log"]
    assert toml.load(None, words) == old
    told = [
        "trainer.best is called trainer.monitor now.",
        "optimizer.body_lr is called optimizer.backbone_lr_factor now.",
    ]
    assert toml.notes(str(tmp_path / "old.toml"), ()) == toml.notes(None, words) == told
    assert toml.notes(str(tmp_path / "new.toml"), ()) == toml.notes("digits", ["trainer.monitor=loss"]) == []
    with pytest.raises(UserError, match=r"trainer.best is called trainer.monitor now, and both are given"):
        toml.loads(OLD.replace("best =", 'monitor = "loss"\nbest ='), "the file")
