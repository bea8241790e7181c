"""Studies with real trainings, in this process."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial, TrialState

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.runs.directory import read_info, read_metrics
from torchdeck.core.runs.listing import RunList
from torchdeck.core.runs.opened import Opened
from torchdeck.core.search import keep
from torchdeck.core.search import opening as studies
from torchdeck.core.search.change import StudyExists, edit
from torchdeck.core.search.snapshot import StudyPoller
from torchdeck.core.search.study import Study, trial_id
from torchdeck.core.search.watch import PROCESS, ask_of
from torchdeck.core.search.worker import DEATHS, Worker
from torchdeck.tui.__main__ import main

LR = "search.space.optimizer.lr=1e-3 .. 0.1 log"
QUICK = ("trainer.epochs=2", "model.args.widths=[8]", "search.name=study", LR)

Search = Callable[..., tuple[Study, Worker, int]]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Search in this process: ``search(*overrides)`` gives the study, the worker and its exit code."""

    def run(*overrides: str, told: Callable[[FrozenTrial], None] = lambda trial: None) -> tuple[Study, Worker, int]:
        study = studies.create(toml.load("digits", [*QUICK, *overrides]), tmp_path / "runs")
        worker = Worker(study, told, lambda text: None)
        return study, worker, worker.work()

    return run


def test_an_artifact_is_put_there_once(tmp_path: Path) -> None:
    """Though a trial is told again after a database did not answer."""
    study = studies.create(toml.load("digits", [*QUICK]), tmp_path / "runs")
    trial = study.optuna.ask()
    checkpoints = study.run_of(trial.number) / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "best.pt").write_bytes(b"weights")
    for _ in range(2):
        keep.publish(study, trial, None)
    assert [one.filename for one in get_all_artifact_meta(trial, storage=study.storage)] == ["best.pt"]
    assert len(list((study.folder / "artifacts").iterdir())) == 1


def test_the_minutes_count_from_the_start_of_the_search(tmp_path: Path) -> None:
    """A worker that takes a dead one's place has what is left of them."""
    study = studies.create(toml.load("digits", [*QUICK, "search.trials=1", "search.minutes=1"]), tmp_path / "runs")
    assert Worker(study, lambda trial: None, lambda text: None, time.time() - 61).work() == 0
    assert not study.trials()
    assert Worker(study, lambda trial: None, lambda text: None, time.time() - 5).work() == 0
    assert len(study.trials()) == 1


def test_each_trial_is_a_run_whose_best_epoch_is_its_value(search: Search, tmp_path: Path) -> None:
    told: list[int] = []
    study, _, code = search("search.trials=3", "trainer.epochs=4", told=lambda trial: told.append(trial.number))
    assert code == 0
    assert told == [0, 1, 2]
    trials = study.trials()
    assert [t.number for t in trials] == [0, 1, 2]
    assert len({t.params["optimizer.lr"] for t in trials}) == 3
    for trial in trials:
        run = study.run_of(trial.number)
        info = read_info(run)
        epochs = [r for r in read_metrics(run) if r["event"] == "epoch"]
        assert info.status == "done"
        assert trial.state == TrialState.COMPLETE
        assert trial.values == [max(e["val"]["accuracy"] for e in epochs)]
        assert trial.intermediate_values == {e["epoch"]: e["val"]["accuracy"] for e in epochs}
        assert info.get("best")["accuracy"] == trial.value
        assert info.get("test") is None  # chosen among, not judged by
        assert toml.read(run / "experiment.toml")["optimizer"]["lr"] == trial.params["optimizer.lr"]
        assert trial.user_attrs["best_epoch"] == info.get("best_epoch")
        assert (run / "checkpoints" / "best.pt").exists()
        written = Opened(run)
        written.poll()
        assert "val/accuracy" in written.history.names()
        assert list(run.glob("events.out.tfevents.*"))
    best = study.best()[0]
    assert (study.folder / "best.pt").resolve() == (study.run_of(best.number) / "checkpoints" / "best.pt").resolve()
    # They are found among the runs, by their study.
    rows = RunList([tmp_path / "runs"]).scan()
    assert [r.name for r in rows] == ["study-0000", "study-0001", "study-0002"]
    assert all("study" in row.tags for row in rows)


def test_the_same_seed_draws_the_same_trials_also_after_a_break(search: Search, tmp_path: Path) -> None:
    study, _, _ = search("search.trials=2", "search.name=whole", "sampler.name=random")
    search("search.trials=1", "search.name=broken", "sampler.name=random")
    broken, _, _ = search("search.trials=2", "search.name=broken", "sampler.name=random")
    assert [t.params for t in study.trials()] == [t.params for t in broken.trials()]
    assert [t.value for t in study.trials()] == [t.value for t in broken.trials()]


def test_trials_in_all_means_in_all(search: Search) -> None:
    search("search.trials=2")
    study, _, _ = search("search.trials=2")
    assert len(study.trials()) == 2
    study, _, _ = search("search.trials=3")
    assert len(study.trials()) == 3


def test_bad_trials_are_pruned_by_their_epochs(search: Search) -> None:
    study, _, _ = search(
        "search.trials=4",
        "trainer.epochs=30",
        "pruner.name=median",
        "pruner.args.n_startup_trials=1",
        'search.enqueue=[{"optimizer.lr"=0.05}, {"optimizer.lr"=0.001}]',
        "schedule.name=constant",
    )
    states = {t.number: t.state for t in study.trials()}
    assert states[0] == TrialState.COMPLETE
    assert states[1] == TrialState.PRUNED
    run = study.run_of(1)
    assert read_info(run).status == "pruned"
    epochs = [r["epoch"] for r in read_metrics(run) if r["event"] == "epoch"]
    assert epochs == sorted(study.trials()[1].intermediate_values)
    assert len(epochs) < 30


def test_with_steps_trials_are_judged_between_epochs(search: Search) -> None:
    study, _, _ = search("search.trials=1", "trainer.eval_steps=5")
    assert sorted(study.trials()[0].intermediate_values) == [5, 10, 15, 20, 21, 25, 30, 35, 40, 42]


def test_a_trial_that_diverges_is_pruned_and_the_study_lives(search: Search) -> None:
    study, _, code = search(
        "search.trials=2",
        'search.enqueue=[{"optimizer.lr"=1000.0}]',
        "search.space.optimizer.lr=1e-3 .. 1000 log",
        "optimizer.name=SGD",
        "model.args.widths=[64,64,64]",
    )
    first, second = study.trials()
    assert first.params["optimizer.lr"] == 1000.0
    assert first.state == TrialState.PRUNED
    assert "became" in first.user_attrs["reason"]
    assert second.state != TrialState.FAIL
    assert code == 0


def test_when_all_fail_the_common_reason_is_told_and_the_search_ends(search: Search, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def net(width):\n    raise RuntimeError('no such width')\n")
    study, worker, code = search(
        "search.trials=50", f"model.name={tmp_path}/net.py:net", "search.failures=3", "model.args={width=3}"
    )
    assert code == 1
    assert len(study.trials()) == 3
    assert {t.state for t in study.trials()} == {TrialState.FAIL}
    assert worker.failure is not None
    assert "The last 3 trials have all failed" in worker.failure
    assert "no such width" in worker.failure


def test_an_objective_that_is_never_measured_is_told_before_the_search(search: Search) -> None:
    with pytest.raises(UserError, match=r"search\.objectives = 'bleu' is not measured; choose from loss, accuracy"):
        search("search.trials=9", "search.failures=2", 'search.objectives=["bleu"]')


def test_several_objectives_have_a_front(search: Search) -> None:
    study, _, _ = search(
        "search.trials=5",
        'search.objectives=["accuracy", "parameters", "latency"]',
        "search.space.model.args.widths=4 .. 64 length 1 .. 2",
        "sampler.name=NSGA-II",
        "search.keep=1",
    )
    trials = study.trials()
    assert all(t.state == TrialState.COMPLETE and len(t.values) == 3 for t in trials)
    assert all(t.values[1] == read_info(study.run_of(t.number)).get("parameters") for t in trials)
    assert all(0 < t.values[2] < 1000 for t in trials)
    front = {t.number for t in study.best()}
    for t in trials:
        beaten = any(
            o.values[0] >= t.values[0]
            and o.values[1] <= t.values[1]
            and o.values[2] <= t.values[2]
            and o.values != t.values
            for o in trials
        )
        assert (t.number in front) == (not beaten)
        # What is on the front keeps its checkpoint, whatever search.keep says.
        assert (study.run_of(t.number) / "checkpoints" / "best.pt").exists() == (t.number in front)


def test_only_the_best_keep_their_checkpoints(search: Search) -> None:
    study, _, _ = search("search.trials=4", "search.keep=2")
    ranked = sorted(study.trials(), key=lambda t: (-t.value, t.number))  # type: ignore[operator]
    kept = [t.number for t in ranked if list((study.run_of(t.number) / "checkpoints").glob("*.pt"))]
    assert kept == [t.number for t in ranked[:2]]
    assert all((study.run_of(t.number) / "metrics.jsonl").exists() for t in ranked)


def test_it_ends_when_nothing_gets_better(search: Search) -> None:
    study, _, _ = search(
        "search.trials=50",
        "search.patience=2",
        'search.enqueue=[{"optimizer.lr"=0.05}]',
        "search.space.optimizer.lr=1e-5 .. 0.05 log",
        "sampler.name=random",
        "pruner.name=none",
        "trainer.epochs=3",
    )
    best = study.best()[0]
    assert len(study.trials()) == best.number + 1 + 2


def test_it_ends_with_the_time_and_goes_on_with_the_trial(search: Search) -> None:
    study, _, code = search("search.trials=1", "search.minutes=0.03", "trainer.epochs=120")
    assert code == 0
    (trial,) = study.trials()
    assert trial.state == TrialState.WAITING
    before = len(trial.intermediate_values)
    assert 0 < before < 120
    assert read_info(study.run_of(0)).status == "stopped"
    study, _, _ = search("search.trials=1", "trainer.epochs=120")
    (trial,) = study.trials()
    assert trial.state == TrialState.COMPLETE
    epochs = [r["epoch"] for r in read_metrics(study.run_of(0)) if r["event"] == "epoch"]
    assert epochs == list(range(1, 121))
    assert sorted(trial.intermediate_values) == epochs


def test_a_trial_of_a_dead_process_goes_on_and_one_that_always_dies_is_given_up(search: Search) -> None:
    study, _, _ = search("search.trials=1")
    dead = {"host": "elsewhere", "pid": 1}
    from torchdeck.core.runs import process

    here = process.identity() | {"process_started": 0.0}
    for who, deaths in ((here, (0, 0)), (here, (5, 0))):
        trial = study.optuna.ask()
        study.storage.set_trial_system_attr(trial_id(trial), PROCESS, who)
        study.storage.set_trial_system_attr(trial_id(trial), DEATHS, deaths)
    alive = study.optuna.ask()  # on another machine, whose heartbeat may come yet
    study.storage.set_trial_system_attr(trial_id(alive), PROCESS, dead)
    study, _, _ = search("search.trials=2")
    states = [t.state for t in study.trials()]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert "died 6 times in the same place" in study.trials()[2].user_attrs["reason"]


def test_trials_are_stopped_and_pruned_by_hand(search: Search, tmp_path: Path) -> None:
    """From another process of the same storage."""
    import threading

    study = studies.create(toml.load("digits", [*QUICK, "search.trials=2", "trainer.epochs=100000"]), tmp_path / "runs")

    def ask() -> None:
        for number, command in ((0, "stop"), (1, "prune")):
            while not any(t.number == number and t.intermediate_values for t in study.trials()):
                pass
            ask_of(study, number, command)

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    own, _, code = search("search.trials=2", "trainer.epochs=100000")
    first, second = own.trials()
    assert code == 0
    assert first.state == TrialState.COMPLETE
    assert first.user_attrs["reason"] == "stopped by hand"
    assert second.state == TrialState.PRUNED
    assert second.user_attrs["reason"] == "by hand"
    with pytest.raises(UserError, match="Trial 0 is over already: complete"):
        ask_of(own, 0, "prune")


# --- warm starts, changes
# ----------------------------------------------------------------------------------------------


def test_former_runs_are_learned_from_and_do_not_count(search: Search, train: Any) -> None:
    run = train("optimizer.lr=0.02", "trainer.epochs=1", "model.args.widths=[8]").path
    train("optimizer.lr=0.5", "trainer.epochs=1", "model.args.widths=[8]")  # outside of the space
    study, _, _ = search("search.trials=2", f'search.warm_start=["{run.parent}"]', "search.name=second")
    every = study.optuna.get_trials()
    assert len(every) == 3
    assert every[0].params == {"optimizer.lr": 0.02}
    assert every[0].value == read_info(run).get("best")["accuracy"]
    assert len(study.trials()) == 2
    assert [r.former for r in StudyPoller(study).poll().rows] == [True, False, False]
    with pytest.raises(UserError, match=r"no run in .* fits"):
        search(f'search.warm_start=["{run}"]', "search.space.optimizer.lr=0.5 .. 0.9", "search.name=third")


def test_a_name_that_is_taken_tells_what_differs(search: Search, tmp_path: Path) -> None:
    search("search.trials=1")
    with pytest.raises(UserError) as error:
        search("trainer.epochs=3", "search.space.optimizer.lr=1e-3 .. 0.2 log")
    said = str(error.value)
    assert "trainer.epochs: 2, and now 3" in said
    assert "search.space.optimizer.lr: 0.001 .. 0.1 log, and now 0.001 .. 0.2 log" in said
    assert "--set search.name=study-2" in said
    assert "search.warm_start=" in said
    # How it is searched, and where, may change.
    study, _, _ = search("search.trials=2", "sampler.name=random", "trainer.device=cpu")
    assert study.experiment.sampler.name == "random"


def test_the_space_may_change_where_optuna_allows_it(search: Search) -> None:
    study, _, _ = search("search.trials=2", "search.space.trainer.batch_size=[32, 64]")
    edit(study, {"optimizer.lr": "0.01 .. 0.02 log", "model.args.dropout": "0 .. 0.5"})
    again = studies.open_folder(study.folder)
    worker = Worker(again, lambda trial: None, lambda text: None)
    again.set_limits(trials=4)
    assert worker.work() == 0
    fresh = again.trials()[2:]
    assert len(fresh) == 2
    assert all(0.01 <= t.params["optimizer.lr"] <= 0.02 and "model.args.dropout" in t.params for t in fresh)
    for key, value in (("trainer.batch_size", "[16, 32]"), ("optimizer.lr", "0.01 .. 0.02")):
        with pytest.raises(UserError, match=r"can't be changed.*warm_start"):
            edit(again, {key: json.loads(value) if value[0] == "[" else value})
    edit(again, {"trainer.batch_size": None})
    assert "trainer.batch_size" not in studies.open_folder(study.folder).space.dimensions
    # A trial of the old space still is the experiment that it was.
    row = StudyPoller(again).poll().rows[0]
    assert (
        again.experiment_of_trial(row.fields, row.run).trainer.batch_size
        == again.trials()[0].params["trainer.batch_size"]
    )


def test_a_running_worker_takes_over_a_changed_space(search: Search, tmp_path: Path) -> None:
    def narrow(trial: FrozenTrial) -> None:
        if trial.number == 0:
            other = studies.open_folder(tmp_path / "runs" / "study")
            edit(other, {"optimizer.lr": "0.05 .. 0.06 log"})

    study, _, _ = search("search.trials=2", told=narrow)
    assert 0.05 <= study.trials()[1].params["optimizer.lr"] <= 0.06


def test_a_moved_study_still_opens(search: Search, tmp_path: Path) -> None:
    study, _, _ = search("search.trials=1")
    (tmp_path / "elsewhere").mkdir()
    moved = study.folder.rename(tmp_path / "elsewhere" / "study")
    again = studies.open_folder(moved)
    assert len(again.trials()) == 1
    assert (moved / "best.pt").resolve() == (again.run_of(0) / "checkpoints" / "best.pt").resolve()


# --- the user's own objective
# --------------------------------------------------------------------------------------------


def test_an_objective_of_ones_own(search: Search, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import optuna\n"
        "def plain(trial):\n    x = trial.suggest_float('x', -1, 1)\n    return x * x\n"
        "def trained(trial, train):\n"
        "    found = train({'optimizer.lr': trial.suggest_float('lr', 1e-3, 1e-1), 'model.args.widths': [8] * "
        "trial.suggest_int('depth', 1, 2)})\n"
        "    return found['loss'] + 1\n"
        "def pruning(trial):\n    raise optuna.TrialPruned('enough')\n"
        "def wrong(trial):\n    return 'much'\n"
    )
    mine = f"search.function={tmp_path / 'mine.py'}:"
    study, _, _ = search("search.trials=3", mine + "plain", 'search.objectives=["minimize y"]', "search.name=plain")
    assert all(t.value == t.params["x"] ** 2 for t in study.trials())
    study, _, _ = search("search.trials=2", mine + "trained", 'search.objectives=["loss"]', "search.name=trained")
    for trial in study.trials():
        info = read_info(study.run_of(trial.number))
        assert trial.value == info.get("best")["loss"] + 1
        assert info.get("hyperparameters")["optimizer.lr"] == trial.params["lr"]
    study, _, _ = search("search.trials=1", mine + "pruning", "search.name=pruning")
    assert study.trials()[0].state == TrialState.PRUNED
    _, worker, code = search("search.trials=9", "search.failures=2", mine + "wrong", "search.name=wrong")
    assert code == 1
    assert worker.failure is not None
    assert "returned 'much', not a number" in worker.failure


# --- samplers and pruners
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "grid", "CMA-ES", "GP", "QMC", "NSGA-II", "NSGA-III", "brute-force"])
def test_each_sampler_searches(search: Search, name: str) -> None:
    space = ["search.space.trainer.batch_size=[64, 128]"]
    if name in ("grid", "brute-force"):
        space += ["search.space.optimizer.lr=0.01 .. 0.03 step 0.02", "search.trials=9"]
    else:
        space += ["search.trials=3", f"sampler.args={'{n_startup_trials=1}' if name in ('GP', 'CMA-ES') else '{}'}"]
    study, worker, code = search(f"sampler.name={name}", "trainer.epochs=1", *space)
    assert code == 0, worker.failure
    params = [tuple(sorted(t.params.items())) for t in study.trials()]
    if name in ("grid", "brute-force"):
        assert len(params) == len(set(params)) == 4  # it ends with the last combination
        study, _, _ = search(f"sampler.name={name}", "trainer.epochs=1", *space)
        assert len(study.trials()) == 4
    else:
        assert len(params) == 3


@pytest.mark.parametrize(
    "name", ["percentile", "halving", "hyperband", "patient", "threshold", "wilcoxon", "none", "auto"]
)
def test_each_pruner_judges(search: Search, name: str) -> None:
    args = {"threshold": "{lower=0.0}", "patient": "{inner='median'}"}.get(name, "{}")
    study, worker, code = search("search.trials=3", f"pruner.name={name}", f"pruner.args={args}")
    assert code == 0, worker.failure
    assert study.pruner_name == ("median" if name == "auto" else name)
    assert study.prunes == (name != "none")
    assert {t.state for t in study.trials()} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_a_grid_needs_an_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no end of values; give it a step, or choices"):
        studies.create(toml.load("digits", [*QUICK, "sampler.name=grid"]), tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="knows one objective only"):
        studies.create(
            toml.load("digits", [*QUICK, "sampler.name=CMA-ES", 'search.objectives=["accuracy","latency"]']), tmp_path
        )


def test_the_catalog_is_optunas() -> None:
    """Parameters and defaults of every sampler and pruner are those of the installed Optuna."""
    import inspect

    from torchdeck.core import catalog

    ours = {"n_startup_trials": None, "percentile": None, "min_resource": None, "max_resource": None, "patience": None}
    for kind, place in (("sampler", optuna.samplers), ("pruner", optuna.pruners)):
        for entry in catalog.entries(kind):
            if entry.fact("class") is None:  # auto stands for others
                continue
            known = inspect.signature(getattr(place, entry.fact("class")).__init__).parameters
            for param in entry.params:
                if (entry.name, param.name) == ("patient", "inner"):
                    continue
                assert param.name in known, (entry.name, param.name)
                if param.name not in ours:
                    default = known[param.name].default
                    assert param.default == default or param.required, (entry.name, param.name, default)


VALUES = """\
import decimal, fractions, math
import numpy as np
import torch

VALUES = [0.5, 1, True, np.float32(0.25), np.float64("nan"), np.array(2.0), np.array([3.0]), torch.tensor(4.0),
          torch.tensor([5.0]),
          float("nan"), math.inf, -math.inf, None, 1j, {}, [1.0], (2.0,), [1.0, 2.0], [math.nan],
          decimal.Decimal("1.5"), fractions.Fraction(1, 4), np.int64(7), np.ones(3), object(), ValueError]

def objective(trial):
    trial.suggest_float("x", 0, 1)
    value = VALUES[trial.number]
    if value is ValueError:
        raise ValueError("of the user's")
    return value
"""


def test_an_objective_of_ones_own_ends_as_in_optuna_whatever_it_gives(
    search: Search, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "o.py").write_text(VALUES)
    names: dict[str, Any] = {}
    exec(VALUES, names)
    count = len(names["VALUES"])
    study, _, code = search(
        f"search.function={tmp_path}/o.py:objective",
        'search.objectives=["minimize value"]',
        f"search.trials={count}",
        "search.failures=100",
        "search.name=own",
    )
    assert code == 0
    theirs = optuna.create_study()
    theirs.optimize(names["objective"], n_trials=count, catch=Exception)
    ours = study.trials()
    for mine, expected, given in zip(ours, theirs.trials, names["VALUES"], strict=True):
        assert (mine.state, mine.value) == (expected.state, expected.value), given
        assert bool(mine.user_attrs.get("reason")) is (mine.state == TrialState.FAIL)
    assert theirs.best_value == study.best()[0].value == -math.inf

    # Nothing of it is lost in an export, and all JSON is JSON.
    for words in (["export", "own", "--json"], ["show", "own", "--json"], ["best", "own", "--json"], ["export", "own"]):
        assert main(["study", *words, "--runs", str(tmp_path / "runs")]) == 0
        out = capsys.readouterr().out
        if "--json" in words:
            told = json.loads(out, parse_constant=lambda constant: pytest.fail(f"not JSON: {constant}"))
            listed = told if isinstance(told, list) else told.get("list", [])
            values = [one["values"].get("value") for one in listed]
        else:
            rows = list(csv.DictReader(io.StringIO(out)))
            values = [float(row["value"]) if row["value"] else None for row in rows]
        if words[0] != "best":
            read = [float(v) if v is not None else None for v in values]
            assert read == [t.value for t in theirs.trials]
    assert main(["study", "best", "own", "--runs", str(tmp_path / "runs")]) == 0
    assert f"x = {study.best()[0].params['x']!r}" in capsys.readouterr().out


def test_when_all_of_fewer_trials_than_the_limit_fail_that_is_the_end(search: Search, tmp_path: Path) -> None:
    (tmp_path / "o.py").write_text("def objective(trial):\n    return float('nan')\n")
    _, worker, code = search(
        f"search.function={tmp_path}/o.py:objective",
        'search.objectives=["minimize value"]',
        "search.trials=3",
        "search.failures=5",
    )
    assert code == 1
    assert worker.failure is not None and "The last 3 trials have all failed" in worker.failure
    assert "NaN is no value of an objective" in worker.failure


def test_editing_is_advised_only_where_it_is_possible(search: Search, tmp_path: Path) -> None:
    search("search.trials=1", "search.space.optimizer.lr=1e-3 .. 1e-2 log", "search.name=s")
    for change, possible in (
        ("search.space.optimizer.lr=1e-4 .. 1e-2 log", True),
        ("search.space.optimizer.lr=1e-3 .. 1e-2", False),
        ("trainer.epochs=7", False),
    ):
        space = [] if "space" in change else ["search.space.optimizer.lr=1e-3 .. 1e-2 log"]
        with pytest.raises(StudyExists) as error:
            search("search.trials=1", *space, change, "search.name=s")
        assert ("torchdeck study edit" in str(error.value)) is possible
        assert str(error.value).startswith(error.value.difference) and "--set" not in error.value.difference
        assert error.value.free_name == "s-2" and error.value.folder.name == "s"
