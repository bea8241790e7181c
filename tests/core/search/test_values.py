"""What an objective function may return, against Optuna's own ``study.optimize``; how values leave a study."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from torchdeck.core import usercode
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.search import opening as studies
from torchdeck.core.search.storage import in_memory
from torchdeck.core.search.study import Study
from torchdeck.core.search.values import values_of
from torchdeck.core.search.worker import Worker
from torchdeck.tui.__main__ import main

NUMBER = st.floats(width=32) | st.integers(-(10**30), 10**30) | st.sampled_from([math.inf, -math.inf, math.nan])
AS_NUMBER = st.sampled_from(
    [
        float,
        np.float32,
        np.float64,
        np.array,
        torch.tensor,
        lambda v: torch.tensor([v]),
        lambda v: np.array([v]),
        lambda v: torch.tensor(float(v), requires_grad=True),
        lambda v: Decimal(str(v)),
        lambda v: complex(v, 1),
    ]
)
ONE = st.builds(lambda make, value: make(float(value)), AS_NUMBER, NUMBER) | st.sampled_from(
    [True, np.True_, Fraction(1, 3), np.int64(7), None, object(), {}, {"a": 1}, [], (), np.zeros(2), torch.zeros(2)]
)
RETURNED = ONE | st.lists(ONE, max_size=3) | st.tuples(ONE, ONE)
RAISED = st.sampled_from([ValueError("no"), MemoryError(), SystemExit(3), optuna.TrialPruned("enough"), KeyError("k")])


def calls(outcomes: list[Any]) -> Callable[[optuna.trial.BaseTrial], Any]:
    def objective(trial: optuna.trial.BaseTrial) -> Any:
        outcome = outcomes[trial.number % len(outcomes)]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return objective


def optunas(outcomes: list[Any], count: int) -> list[tuple[TrialState, Any]]:
    """Each outcome by itself, as Optuna judges it (to which ``sys.exit`` ends the process)."""
    outcomes = [RuntimeError("exit") if isinstance(one, SystemExit) else one for one in outcomes]
    study = optuna.create_study(directions=["minimize"] * count)
    study.optimize(calls(outcomes), n_trials=len(outcomes), catch=(Exception,))
    return [(t.state, t.values) for t in study.get_trials()]


@pytest.fixture(scope="module", params=[1, 2])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, int, dict[str, Any]]:
    """A study whose function does what ``now["does"]`` says."""
    folder = tmp_path_factory.mktemp("values")
    (folder / "mine.py").write_text("now = {}\ndef objective(trial):\n    return now['does'](trial)\n")
    names = ", ".join(f'"minimize value{i}"' for i in range(request.param))
    settings = [
        f"search.function={folder}/mine.py:objective",
        f"search.objectives=[{names}]",
        "search.failures=1000000",
        "search.name=v",
    ]
    study = studies.create(toml.load("digits", settings), folder)
    return study, request.param, usercode.load(f"{folder}/mine.py:now", "now")


@given(returned=RETURNED, count=st.integers(1, 3))
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_what_is_a_number_is_what_optuna_takes_for_one(returned: Any, count: int) -> None:
    [(state, values)] = optunas([returned], count)
    if state == TrialState.COMPLETE:
        assert values_of(returned, count, "f") == values
        return
    with pytest.raises(UserError) as caught:
        values_of(returned, count, "f")
    assert str(caught.value).startswith("f returned ")
    assert "\n" not in str(caught.value)


class Odd:
    """What can be neither converted nor shown."""

    def __float__(self) -> float:
        raise RuntimeError("not\nme")

    __repr__ = __float__


@pytest.mark.parametrize("returned", ["5", "0.5", b"1", ["5"], "", 10**400, Odd(), complex(1, 0)])
def test_what_optuna_itself_falls_over_is_no_number(returned: Any) -> None:
    with pytest.raises(UserError, match=r"^f returned .*, not a number[^\n]*\.$"):
        values_of(returned, 1, "f")


@given(outcomes=st.lists(RETURNED | RAISED, min_size=6, max_size=8))
@settings(max_examples=4, deadline=None, phases=[Phase.generate])
@pytest.mark.filterwarnings("ignore")
def test_the_outcomes_of_a_function_are_judged_as_optuna_judges_them(made: Any, outcomes: list[Any]) -> None:
    study, count, now = made
    begun = len(study.trials())
    now["does"] = lambda trial: calls(outcomes)(type("At", (), {"number": trial.number - begun})())
    study.set_limits(trials=begun + len(outcomes))
    worker = Worker(study, lambda trial: None, lambda text: None)
    code = worker.work()
    own = study.trials()[begun:]
    assert [(t.state, t.values) for t in own] == optunas(outcomes, count)
    failed = [t for t in own if t.state == TrialState.FAIL]
    assert all(t.user_attrs["reason"].strip() for t in failed)
    assert code == (1 if len(failed) == len(own) else 0)
    assert (worker.failure is None) == (code == 0)


def test_what_raises_before_the_first_line_of_the_users_fails_too(made: Any) -> None:
    study, _, now = made
    begun = len(study.trials())
    now["does"] = np.linalg.inv  # raised in no line of the user's
    study.set_limits(trials=begun + 1)
    worker = Worker(study, lambda trial: None, lambda text: None)
    assert worker.work() == 1
    assert worker.failure is not None
    assert worker.failure.startswith("The trial has failed: ")


# --- what leaves a study ----------------------------------------------------------------------------------------------


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A study with infinite values, told and reported, and NaN among those reported."""
    (tmp_path / "mine.py").write_text(
        "inf, nan = float('inf'), float('nan')\n"
        "def objective(trial):\n"
        "    trial.suggest_float('x', 0, 1)\n"
        "    trial.suggest_categorical('kind', ['a', 'b'])\n"
        "    for step, value in enumerate([inf, nan, -inf, 1.0]):\n"
        "        trial.report(value, step)\n"
        "    trial.set_user_attr('spread', inf)\n"
        "    return [1.0, inf, -inf][trial.number]\n"
    )
    return tmp_path


def strictly(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_infinities_survive_every_export_and_json_is_json(endless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from optuna_dashboard._serializer import serialize_frozen_trial

    runs = ["--runs", str(endless / "runs")]
    words = [
        "--batch",
        "digits",
        "--json",
        "--trials",
        "3",
        *runs,
        "--set",
        "search.name=i",
        "--set",
        f"search.function={endless}/mine.py:objective",
        "--set",
        'search.objectives=["minimize value"]',
    ]
    assert main(words) == 0
    told = [strictly(line) for line in capsys.readouterr().out.splitlines()]
    theirs = [serialize_frozen_trial(0, trial, {}) for trial in studies.open_folder(endless / "runs" / "i").trials()]
    expected = [trial["values"][0] for trial in theirs]
    assert expected == [1.0, "inf", "-inf"]
    assert [event["values"]["value"] for event in told] == expected
    assert told[0]["intermediate"] == [[0, "inf"], [1, None], [2, "-inf"], [3, 1.0]]
    for verb in (["show", "i", "--json"], ["export", "i", "--json"], ["list", "--json"], ["best", "i", "--json"]):
        assert main(["study", *verb, *runs]) == 0
        found = strictly(capsys.readouterr().out)
        if verb[0] in ("show", "export"):
            rows = found["list"] if verb[0] == "show" else found
            assert [row["values"]["value"] for row in rows] == expected
            assert rows[0]["attributes"]["spread"] == "inf"
        elif verb[0] == "list":
            assert found[0]["best_value"] == "-inf"
        else:
            assert found["values"] == ["-inf"]
    assert main(["study", "export", "i", *runs]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["value"]) for row in rows] == [1.0, math.inf, -math.inf]
    # The best trial of a function that trained no run has its parameters, as TOML.
    assert main(["study", "best", "i", *runs]) == 0
    trial = studies.open_folder(endless / "runs" / "i").best()[0]
    import tomllib

    assert tomllib.loads(capsys.readouterr().out) == trial.params


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///:memory:",
        "sqlite://",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:trials?mode=memory&uri=true",
    ],
)
def test_a_storage_in_memory_is_not_for_several_workers(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--batch",
        "digits",
        "--workers",
        "2",
        "--runs",
        str(tmp_path / "runs"),
        "--set",
        "search.space.optimizer.lr=0.1 .. 1",
        "--set",
        f"search.storage={url}",
    ]
    assert main(words) == 2
    assert "is in the memory of one process" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_other_storages_are_not_in_memory() -> None:
    for url in ("sqlite:////tmp/memory.db", "sqlite", "auto", "postgresql://me@db/memory", "journal:///tmp/j"):
        assert not in_memory(url)
