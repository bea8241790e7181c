"""No text that is typed, or half typed, raises anything but a UserError: the checks behind every line of the app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import fields, toml
from torchdeck.core.experiment.dimension import read_dimension
from torchdeck.core.experiment.space import Space
from torchdeck.core.runs.filter import Filter
from torchdeck.tui.keyboard import lenient
from torchdeck.tui.screens import checkpoint_actions, experiment_keys, run_keys, search_actions
from torchdeck.tui.screens.dialogs import more_than

#: What people type: whole texts, whose beginnings are typed on the way.
_TEXTS = [
    "lr=0.01",
    "lr=1e-400",
    "lr=nan",
    "lr=inf",
    "lr=-1",
    "lr=true",
    "lr=",
    "=",
    "batch_size=32.5",
    "batch_size=1e999",
    "batch_size=" + "9" * 5000,
    "optimizer.name=SGD",
    "lr=[[1]]",
    "lr={a=1}",
    "lr=2020-01-01",
    "1e-4 .. 0.1 log",
    "32 .. 512 step 32",
    "SGD | AdamW |",
    "0 .. 0.99 when optimizer.name = SGD",
    "16 .. 256 log length 1 .. 4",
    "1 .. " + "9" * 400,
    "nan .. inf",
    '"a | b" | \'c',
    "val_acc > 0.9 model:cnn tag:paper -status:failed",
    "a or b",
    '"',
    "lr >= 1e",
    "> <",
    "~nobody/x.toml",
    "²",
    "50 2",
    "١",
    "9" * 5000,
    "\x00/x.toml",
    "\ud800",
    "[" * 3000,
    "{" * 3000,
    "crop(padding=4), flip()",
    "[64, 32",
    "0x10",
    "-0",
    "1_0",
]

typed = st.one_of(
    st.sampled_from(_TEXTS).flatmap(lambda text: st.integers(0, min(len(text), 40)).map(lambda n: text[:n])),
    st.sampled_from(_TEXTS),
    st.text(max_size=30),
    st.text(alphabet="0123456789.-+eE=|[]{}\"' loginfasteph", max_size=20),
)


def experiment() -> Any:
    return toml.build(
        {
            "search": {
                "space": {
                    "optimizer.lr": "1e-4 .. 0.1 log",
                    "trainer.batch_size": "16 .. 64 step 16",
                    "optimizer.name": "SGD | AdamW",
                    "model.args.widths": "8 .. 64 log length 1 .. 3",
                }
            }
        }
    )


class _Opened:
    space = Space(experiment())


def _add_trial(text: str) -> None:
    from torchdeck.tui.commands.study import settings_of
    from torchdeck.tui.screens.trial_actions import shell_words

    settings_of(_Opened, shell_words(text))  # type: ignore[arg-type]


_FIELDS = list(fields.fields({}))

_CHECKS: dict[str, Callable[[str], Any]] = {
    "add a trial": _add_trial,
    "range": lambda text: read_dimension("optimizer.lr", text),
    "filter": Filter,
    "learning rate": run_keys.read_learning_rate,
    "prolong": more_than(3),
    "save as": experiment_keys.check_toml_name,
    "study's name": search_actions.check_study_name,
    "key": search_actions.check_search_key,
    "trials and workers": search_actions.read_trials_and_workers,
    "factor": checkpoint_actions.check_backbone_factor,
    "keep": checkpoint_actions.check_generations,
}


@pytest.mark.parametrize("line", _CHECKS)
@settings(max_examples=150, deadline=None)
@example(text="lr=0")
@example(text="batch_size=" + "9" * 5000)
@given(text=typed)
def test_a_line_takes_it_or_says_what_is_wrong(line: str, text: str) -> None:
    try:
        _CHECKS[line](text)
    except UserError as error:
        assert str(error)


@settings(max_examples=150, deadline=None)
@given(field=st.sampled_from(_FIELDS), text=typed)
def test_a_field_of_the_form_takes_it_or_says_what_is_wrong(field: fields.Field, text: str) -> None:
    try:
        fields.change({}, field, text)
    except UserError as error:
        assert str(error)


@settings(max_examples=200, deadline=None)
@given(value=st.one_of(st.floats(), st.integers(), st.sampled_from([0, 1e-4, 0.1, 0.1000001, 10**400])))
def test_a_trial_by_hand_is_within_its_range(value: float) -> None:
    try:
        taken = _Opened.space.encode({"optimizer.lr": value})
    except UserError:
        assert not 1e-4 <= value <= 0.1
    else:
        assert taken == {"optimizer.lr": float(value)}
        assert 1e-4 <= value <= 0.1


@settings(max_examples=100, deadline=None)
@given(
    parts=st.lists(
        st.one_of(st.text(alphabet=st.characters(codec="utf-8"), max_size=5).map(str.encode), st.binary(max_size=4))
    )
)
def test_input_that_is_no_utf8_is_dropped(parts: list[bytes]) -> None:
    decoder = lenient("utf-8")()
    assert "".join(decoder.decode(part) for part in parts) + decoder.decode(b"", True) == b"".join(parts).decode(
        "utf-8", "ignore"
    )
