"""``import torchdeck``: training, searching and looking at runs from Python, held against torch, TensorBoard and
Optuna."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import signal
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from conftest import ROOT
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import torchdeck
from torchdeck.core.data.main_script import why_no_workers
from torchdeck.core.search import serve
from torchdeck.core.search.opening import open_folder
from torchdeck.core.search.storage import SQLITE

DIGITS = load_digits()
X = torch.tensor(DIGITS.images, dtype=torch.float32)[:, None] / 16
Y = torch.tensor(DIGITS.target)
PARTS = slice(0, 600), slice(600, 900), slice(900, 1200)
#: What keeps a run short.
QUICK = {"tracking.graph": False, "tracking.images": False}


class Net(nn.Module):
    """A small network of the user's."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Images(Dataset):
    """A data set of the user's, read sample by sample."""

    classes = tuple("0123456789")

    def __init__(self, part: slice) -> None:
        self.x, self.y = X[part], Y[part]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.x[index], int(self.y[index])


def tensors(part: slice) -> TensorDataset:
    return TensorDataset(X[part], Y[part])


@dataclass
class Objects:
    """What was trained once for all that only look at it."""

    folder: Path
    net: Net
    before: dict[str, torch.Tensor]
    run: torchdeck.Run


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(autouse=True)
def _state_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One user for all tests of this file, who may look at the runs of the one before."""
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))


@pytest.fixture(scope="module")
def objects(home: Path) -> Iterator[Objects]:
    """A module trained on three TensorDatasets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        net = Net()
        before = {name: t.clone() for name, t in net.state_dict().items()}
        run = torchdeck.train(
            overrides={**QUICK, "tracking.every_steps": 5},
            model=net,
            data=tuple(map(tensors, PARTS)),
            epochs=4,
            lr=3e-2,
            batch_size=50,
            runs=home / "runs",
        )
    yield Objects(home / "runs", net, before, run)


def accuracy(net: nn.Module, part: slice) -> float:
    with torch.no_grad():
        return float((net.eval()(X[part]).argmax(1) == Y[part]).double().mean())


def test_the_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text().partition("## In Python")[2]
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    for slow, quick in (('"fashion-cnn"', '"digits"'), ("trials=30", "trials=2, epochs=1"), ("> 0.9", "> 0.1")):
        assert slow in code
        code = code.replace(slow, quick)
    names = {"net": Net(), **dict(zip(("train_set", "val_set", "test_set"), map(tensors, PARTS), strict=True))}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"].val["accuracy"] > 0.1 and names["session"].status == "stopped"
    assert len(names["study"].trials) == 2


def test_the_module_that_is_given_is_trained_and_ends_with_the_best_weights(objects: Objects) -> None:
    after = objects.net.state_dict()
    assert not torch.equal(after["layers.1.weight"], objects.before["layers.1.weight"])
    best = objects.run.best.state_dict()
    assert all(torch.equal(after[name], best[name]) for name in after)
    assert accuracy(objects.net, PARTS[2]) > 0.8


def test_figures_are_those_of_a_plain_forward_of_the_best_checkpoint(objects: Objects) -> None:
    run, net = objects.run, objects.run.best.load(Net())
    assert run.status == "done" and run.epoch == 4 and run.step == 48
    assert run.test["accuracy"] == pytest.approx(accuracy(net, PARTS[2]), abs=1e-9)
    assert run.best.metrics["accuracy"] == pytest.approx(accuracy(net, PARTS[1]), abs=1e-9)
    with torch.no_grad():
        assert run.test["loss"] == pytest.approx(
            float(nn.functional.cross_entropy(net(X[PARTS[2]]), Y[PARTS[2]])), rel=1e-5
        )
    last = run.last.load(Net())
    assert run.last.step == 48 and run.last.epoch == 4
    assert run.val["accuracy"] == pytest.approx(accuracy(last, PARTS[1]), abs=1e-9)
    assert [one.step for one in run.checkpoints] == sorted({one.step for one in run.checkpoints})
    assert torchdeck.Run(run.path) == run  # a run of last week is the same


def test_curves_are_those_that_tensorboard_reads(objects: Objects) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(objects.run.path), size_guidance={"scalars": 0})
    board.Reload()
    metrics = objects.run.metrics()
    for name, tag in (
        ("val/accuracy", "accuracy/val"),
        ("val/loss", "loss/val"),
        ("train/accuracy", "accuracy/train"),
        ("learning_rate", "learning_rate"),
    ):
        points = board.Scalars(tag)
        assert metrics.steps[name].tolist() == [point.step for point in points]
        assert np.allclose(metrics[name], [point.value for point in points], rtol=1e-6)
    # One loss a step here; TensorBoard has the mean of those since the last point.
    loss, steps = metrics["train/loss"], metrics.steps["train/loss"]
    assert steps.tolist() == list(range(1, 49)) and steps.dtype == np.int64
    assert (np.diff(metrics.times["train/loss"]) >= 0).all() and len(metrics.times["train/loss"]) == len(loss)
    first = board.Scalars("loss/train")[0]
    assert first.value == pytest.approx(loss[: first.step].mean(), rel=1e-5)
    with pytest.raises(KeyError, match="did you mean 'val/accuracy'"):
        metrics["val/acuracy"]


def test_evaluation_with_the_objects_given_again(objects: Objects) -> None:
    run, data = objects.run, tuple(map(tensors, PARTS))
    blank = Net()
    weight = blank.layers[1].weight.detach().clone()
    assert run.evaluate(model=blank, data=data) == run.test
    assert torch.equal(blank.layers[1].weight, weight)  # its own weights are left alone
    assert run.evaluate(model=blank, data=data, split="val")["accuracy"] == run.best.metrics["accuracy"]
    other = run.evaluate(
        model=blank, data=(DIGITS.images[1200:1500, None].astype(np.float32) / 16, DIGITS.target[1200:1500])
    )
    assert other["accuracy"] == pytest.approx(accuracy(objects.net, slice(1200, 1500)), abs=1e-9)
    with pytest.raises(torchdeck.UserError, match=r"'object:Net' was an object in the Python process.*with model="):
        run.evaluate()


def test_objects_train_as_code_by_name_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""\
        import torch
        from torch import nn
        from sklearn.datasets import load_digits
        from torch.utils.data import Dataset

        class MyNet(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.1), nn.Linear(16, num_classes))
            def forward(self, x):
                return self.net(x)

        class Digits(Dataset):
            classes = list("0123456789")
            def __init__(self):
                self.x, self.y = load_digits(return_X_y=True)
            def __len__(self):
                return 400
            def __getitem__(self, i):
                return torch.tensor(self.x[i], dtype=torch.float32) / 16, int(self.y[i])

        def smooth(out, y):
            return nn.functional.cross_entropy(out, y, label_smoothing=0.1)
        """)
    )
    monkeypatch.chdir(tmp_path)
    common: dict[str, Any] = {"epochs": 2, "seed": 7, "optimizer": "SGD", "lr": 0.1}
    named = torchdeck.train(
        overrides=QUICK, model="mine.py:MyNet", data="mine.py:Digits", loss="mine.py:smooth", **common
    )
    mine = sys.modules["mine"]
    for data in (mine.Digits(), mine.Digits):
        given = torchdeck.train(overrides=QUICK, model=mine.MyNet, data=data, loss=mine.smooth, **common)
        assert given.test == named.test and given.val == named.val
        assert given.metrics()["train/loss"].tolist() == named.metrics()["train/loss"].tolist()
    assert given.experiment.model.name == "object:MyNet"


@pytest.mark.parametrize(
    "experiment",
    [
        "iris",
        {"data": {"name": "iris"}, "model": {"name": "mlp", "args": {"widths": [8]}}},
        {"data.name": "iris", "model.args.widths": np.array([8])},
    ],
)
def test_an_experiment_is_a_name_a_file_tables_or_itself(experiment: Any, tmp_path: Path) -> None:
    first = torchdeck.train(experiment, {**QUICK, "trainer.validation_share": np.float64(0.2)}, epochs=1, runs=tmp_path)
    again = torchdeck.train(first.path / "experiment.toml", runs=tmp_path)
    same = torchdeck.train(first.experiment, runs=str(tmp_path))
    assert first.experiment.data.name == "iris" and first.experiment.trainer.validation_share == 0.2
    assert again.experiment == same.experiment == first.experiment
    assert again.test == same.test == first.test


def test_regression_on_arrays_stays_in_its_own_unit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(100, 20, (300, 3))
    y = x @ [1.0, 2.0, 3.0] + 50
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    run = torchdeck.train(overrides=QUICK, model=net, data=(x, y), epochs=1, runs=tmp_path)
    assert run.experiment.data.transforms == () and run.experiment.data.scale_target is False
    # Inputs and targets as they are: after one epoch the outputs are still far below the targets of about 650.
    assert run.test["mae"] == pytest.approx(run.test["rmse"], rel=0.2) and run.test["mae"] > 300


def test_names_of_classes_are_taken_over_all_parts(tmp_path: Path) -> None:
    names = np.array(["zebra", "ant", "bee"])
    x, y = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32), np.tile(names[:2], 45)
    run = torchdeck.train(
        overrides=QUICK,
        model=lambda num_classes: nn.Linear(4, num_classes),
        data=((x, y), (x, np.tile(names, 30))),
        epochs=1,
        runs=tmp_path,
    )
    assert run.best.state_dict()["weight"].shape == (3, 4)
    assert not run.test
    with pytest.raises(KeyError, match="the run has no such set"):
        run.test["accuracy"]


class Broken(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            raise RuntimeError("my own mistake")
        return super().forward(x)


def given(**more: Any) -> dict[str, Any]:
    return {"model": Net(), "data": tensors(PARTS[0]), **more}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (given(epoch=3), "There is no keyword 'epoch'; did you mean 'epochs'"),
        (given(lr=0.1, overrides={"optimizer.lr": 0.1}), "lr= and 'optimizer.lr' in overrides are the same"),
        (given(overrides={"model.name": "mlp"}), "model= and 'model.name' in overrides are the same"),
        (given(overrides={"trainer.epoch": 3}), "There is no key 'trainer.epoch'.*did you mean 'epochs'"),
        (given(overrides=["trainer.epochs=3"]), "overrides is a list; give a dict"),
        (
            given(model=functools.partial(Net), overrides={"model.args.width": 3}),
            "model.args.width is not a parameter of Net",
        ),
        (given(epochs=0), "trainer.epochs = 0 is out of range"),
        (given(model=3), "model= is a int"),
        (given(loss=torch.zeros(3)), "loss= is a Tensor"),
        (given(data=X), "data= holds a Tensor; give a Dataset"),
        (given(data=(X,)), "data= holds 1 parts"),
        (given(data=(X, Y[:5])), "X has 1,797 rows and y 5"),
        (given(data=(np.array([object()]), np.array([1]))), "X holds object"),
        (given(data=DataLoader(tensors(PARTS[0]))), "data= is a DataLoader; give its data set"),
        (given(experiment="fashon-cnn"), "no preset or file 'fashon-cnn'; did you mean 'fashion-cnn'"),
        (given(experiment=3), "An experiment can't be a int"),
        (given(model=nn.Linear(3, 3)), "object:Linear"),
        (given(resume="nothing"), "There is no run 'nothing'"),
        (given(device="gpu"), "trainer.device = 'gpu' is not known"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(arguments: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(torchdeck.UserError, match=told) as caught:
        torchdeck.train(**arguments, runs=tmp_path)
    assert isinstance(caught.value, torchdeck.Error) and caught.value.run is None
    assert (
        "\n" not in str(caught.value).strip() or "object:Linear" in told
    )  # torch's own lines come with the model's error


def test_an_error_of_the_users_own_code_and_of_the_training_carry_the_run(tmp_path: Path) -> None:
    with pytest.raises(torchdeck.UserCodeError, match="my own mistake") as caught:
        torchdeck.train(overrides=QUICK, model=Broken(), data=tensors(PARTS[0]), runs=tmp_path)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.run is not None and torchdeck.Run(caught.value.run).status == "failed"
    with pytest.raises(torchdeck.TrainingError) as diverged:
        net, numbers = nn.Linear(4, 1), torch.randn(200, 5)
        data = (numbers[:, :4], numbers[:, 4])
        torchdeck.train(overrides=QUICK, model=net, data=data, optimizer="SGD", lr=1e3, runs=tmp_path)
    assert diverged.value.run is not None and torchdeck.Run(diverged.value.run).message == str(diverged.value)


def interrupting(ready: Callable[[], Any], times: int = 1) -> threading.Thread:
    """Press Ctrl-C once it is so."""

    def press() -> None:
        end = time.monotonic() + 60
        while not ready() and time.monotonic() < end:
            time.sleep(0.01)
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_ctrl_c_stops_after_a_checkpoint_and_the_run_goes_on(tmp_path: Path) -> None:
    plain = torchdeck.train(overrides=QUICK, model=Net, data=tensors(PARTS[0]), epochs=12, runs=tmp_path / "plain")
    handler = signal.getsignal(signal.SIGINT)
    presser = interrupting(lambda: any((tmp_path / "runs").glob("*/checkpoints/*.pt")))
    with pytest.raises(KeyboardInterrupt, match="goes on with") as caught:
        torchdeck.train(overrides=QUICK, model=Slow, data=tensors(PARTS[0]), epochs=12, runs=tmp_path / "runs")
    presser.join()
    assert signal.getsignal(signal.SIGINT) is handler
    assert type(caught.value) is KeyboardInterrupt  # of a subclass Python would exit with 1, and a shell's loop go on
    run = torchdeck.Run(caught.value.run)
    assert run.status == "stopped" and 0 < run.last.step < plain.step
    with pytest.raises(torchdeck.UserError, match=r"'object:(TensorDataset|Slow)' was an object"):
        torchdeck.train(resume=run)
    with pytest.raises(torchdeck.UserError, match=r"takes the experiment from the run"):
        torchdeck.train("digits", resume=run)
    again = torchdeck.train(resume=run, model=Net, data=tensors(PARTS[0]))
    assert again == run and again.status == "done"
    assert again.test == plain.test  # bit by bit as if it had never been stopped


class Slow(Net):
    """The same network, slow enough to be stopped."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.01)
        return super().forward(x)


def test_a_second_ctrl_c_ends_at_once_and_python_lives_on(tmp_path: Path) -> None:
    class Stuck(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(1.0 if self.training else 0)
            return super().forward(x)

    presser = interrupting(lambda: any(tmp_path.glob("*/run.json")), times=2)
    with pytest.raises(KeyboardInterrupt):
        torchdeck.train(overrides=QUICK, model=Stuck, data=tensors(PARTS[0]), runs=tmp_path)
    presser.join()


def test_a_block_that_raises_stops_the_training_and_one_that_ends_waits(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), torchdeck.start("digits", QUICK, epochs=500, runs=tmp_path) as session:
        for event in session:
            if isinstance(event, torchdeck.EpochEnded):
                _ = 1 / 0
    assert session.status == "stopped" and session.run is not None and session.run.last.step == session.step
    with torchdeck.start("digits", QUICK, epochs=2, runs=tmp_path) as session:
        session.pause()
    assert session.status == "done"
    with pytest.raises(torchdeck.UserCodeError), torchdeck.start(model=Broken, data=tensors(PARTS[0]), runs=tmp_path):
        pass


def test_two_modules_of_one_class_are_trained_at_once(tmp_path: Path) -> None:
    nets = Net(), Net()
    arguments: dict[str, Any] = {"overrides": QUICK, "data": tensors(PARTS[0]), "epochs": 2, "runs": tmp_path}
    with (
        torchdeck.start(model=nets[0], **arguments) as first,
        torchdeck.start(model=nets[1], lr=0.1, **arguments) as second,
    ):
        pass
    for net, session in zip(nets, (first, second), strict=True):
        best = session.wait().best.state_dict()
        assert all(torch.equal(tensor, best[name]) for name, tensor in net.state_dict().items())
    assert not torch.equal(nets[0].layers[1].weight, nets[1].layers[1].weight)


def test_weights_go_into_a_compiled_model_and_not_into_another_one(objects: Objects) -> None:
    compiled = objects.run.best.load(torch.compile(Net()))
    assert torch.equal(compiled.layers[1].weight, objects.net.layers[1].weight)
    with pytest.raises(torchdeck.UserError, match=r"best.pt' does not fit the Linear: Unexpected key"):
        objects.run.best.load(nn.Linear(4, 2))


def test_it_trains_beside_the_main_thread(tmp_path: Path) -> None:
    found: list[torchdeck.Run] = []
    thread = threading.Thread(target=lambda: found.append(torchdeck.train("iris", QUICK, epochs=1, runs=tmp_path)))
    thread.start()
    thread.join()
    assert found[0].status == "done"


def test_progress_is_told_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torchdeck.train("iris", QUICK, epochs=2, runs=tmp_path)
    assert capsys.readouterr() == ("", "")  # no terminal
    torchdeck.train("iris", QUICK, epochs=2, runs=tmp_path, progress=True)
    told = capsys.readouterr().out
    assert "epoch 2/2" in told and "done in" in told


def test_runs_are_listed_filtered_and_sorted_as_the_command_does(objects: Objects, home: Path) -> None:
    from torchdeck.tui.commands.runs import listed

    torchdeck.train("iris", QUICK, epochs=1, runs=objects.folder)
    for text, key in (("", "created"), ("val_acc > 0.5", "-val_acc"), ("data:iris", "name")):
        found = torchdeck.runs(objects.folder, text, sort=key)
        assert [run.path for run in found] == [row.path for row in listed([objects.folder], text, key)]
    assert objects.run in torchdeck.runs([objects.folder], "model:Net")
    assert torchdeck.runs(home / "nowhere") == []
    with pytest.raises(torchdeck.UserError, match="No run has 'val_acccuracy'"):
        torchdeck.runs(objects.folder, "val_acccuracy > 0.9")
    with pytest.raises(torchdeck.UserError, match="is not a run"):
        torchdeck.Run(home)


def test_a_run_of_another_tool_has_its_curves(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "theirs")) as writer:
        for step in range(5):
            writer.add_scalar("val/loss", 1 / (step + 1), step)
    (run,) = torchdeck.runs(tmp_path)
    assert run.status == "events" and run.val["loss"] == pytest.approx(0.2)
    assert run.metrics()["val/loss"] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    with pytest.raises(torchdeck.UserError):
        _ = run.best


def test_a_search_gives_the_best_that_optuna_has(tmp_path: Path) -> None:
    study = torchdeck.search(
        overrides=QUICK,
        space={"optimizer.lr": "1e-4 .. 0.3 log", "trainer.batch_size": [25, 50]},
        trials=4,
        objectives="accuracy",
        model=Net,
        data=tuple(map(tensors, PARTS)),
        epochs=1,
        name="mine",
        runs=tmp_path,
    )
    theirs = optuna.load_study(study_name="mine", storage=f"sqlite:///{tmp_path / 'mine' / SQLITE}")
    assert study.name == "mine" and len(study.trials) == len(theirs.trials) == 4
    best = study.best
    assert best.number == theirs.best_trial.number and best.value == theirs.best_value
    assert best.params["optimizer.lr"] == theirs.best_params["optimizer.lr"]
    assert best.run is not None and best.values == {"accuracy": best.run.best.metrics["accuracy"]}
    assert accuracy(best.run.best.load(Net()), PARTS[1]) == pytest.approx(best.value, abs=1e-9)
    with pytest.raises(torchdeck.UserError, match=r"trains 'object:Net', an object of the Python process that made it"):
        serve.work(open_folder(study.path), "quiet")  # as the command does
    again = torchdeck.Study(study.path)
    assert len(again.trials) == 4
    assert again.best == best and [t.values for t in again.front] == [best.values]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"model": Net()}, "A search trains a fresh model in each trial, but Net is one that is made; give its class"),
        ({"model": Net, "workers": 2}, "other processes can't rebuild what was given as objects"),
        ({"trials": 0}, "trials = 0: it must be at least 1"),
        ({"space": {"optimizer.lrr": "1 .. 2"}}, "optimizer.lrr"),
        ({"space": {}}, "Nothing is searched"),
    ],
)
def test_what_can_not_be_searched_is_told_in_a_sentence(arguments: dict[str, Any], told: str, tmp_path: Path) -> None:
    space = {"space": {"optimizer.lr": "1e-4 .. 0.1 log"}}
    with pytest.raises(torchdeck.UserError, match=told):
        torchdeck.search("digits", runs=tmp_path, **{**space, **arguments})


def test_a_search_whose_trials_all_fail_raises_and_ctrl_c_leaves_it_to_go_on(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "space": {"optimizer.lr": "1e-4 .. 0.1 log"},
        "runs": tmp_path,
        "data": tensors(PARTS[0]),
    }
    with pytest.raises(torchdeck.TrainingError, match="my own mistake") as caught:
        torchdeck.search(overrides=QUICK, model=Broken, trials=2, name="broken", **arguments)
    assert caught.value.run == tmp_path / "broken"
    presser = interrupting(lambda: any((tmp_path / "slow").glob("*/checkpoints/*.pt")))
    with pytest.raises(KeyboardInterrupt, match="it goes on"):
        torchdeck.search(overrides=QUICK, model=Slow, trials=1, epochs=20, name="slow", **arguments)
    presser.join()
    (waiting,) = torchdeck.Study(tmp_path / "slow").trials
    assert waiting.state == "waiting"
    study = torchdeck.search(overrides=QUICK, model=Slow, trials=1, epochs=20, name="slow", **arguments)
    assert [one.state for one in study.trials] == ["complete"]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("import torchdeck\n", "below if __name__ == '__main__'"),
        ("if __name__ == '__main__':\n    pass\n", ""),
        (None, "can't run the script"),
    ],
)
def test_workers_are_not_started_where_they_would_run_the_script_again(
    script: str | None, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchdeck.core.data import feeds

    main = types.ModuleType("__main__")
    main.__file__ = str(tmp_path / "script.py")
    if script is not None:
        (tmp_path / "script.py").write_text(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert told in why_no_workers(Images(PARTS[0])) and (told or not why_no_workers(Images(PARTS[0])))
    if not told:
        return
    with pytest.raises(torchdeck.UserError, match=r"data.workers = 1: worker processes .*script.py"):
        torchdeck.train(
            overrides={**QUICK, "data.workers": 1}, model=Net, data=Images(PARTS[0]), epochs=1, runs=tmp_path
        )
    monkeypatch.setattr(feeds, "default_workers", lambda device, cores: 1)  # as where there are more cores
    assert torchdeck.train(overrides=QUICK, model=Net, data=Images(PARTS[0]), epochs=1, runs=tmp_path).status == "done"
    assert "Samples are read without worker processes" in capsys.readouterr().err


def test_workers_do_not_find_what_a_notebook_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = types.ModuleType("__main__")  # no file
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    assert why_no_workers(Images(PARTS[0])) == ""
    defined = type("Mine", (Images,), {"__module__": "__main__"})
    assert "can't find Mine" in why_no_workers(torch.utils.data.Subset(defined(PARTS[0]), [0, 1]))


def test_a_worker_process_that_runs_the_script_again_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(torchdeck.UserError, match="below if __name__ == '__main__'"):
        torchdeck.train("iris")


def test_pandas_is_asked_for_where_it_is_missing(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(torchdeck.UserError, match="pandas is not installed"):
        objects.run.to_pandas()


def test_names_that_there_are_not_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = torchdeck.trian  # type: ignore[attr-defined]
    assert all(hasattr(torchdeck, name) for name in torchdeck.__all__)
    assert set(torchdeck.__all__) <= set(dir(torchdeck))


class Pairs(Dataset):
    """Inputs and targets as they are."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[index], self.y[index]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1)])
@pytest.mark.parametrize("kind", [TensorDataset, Pairs, lambda x, y: (x.numpy(), y.numpy())])
def test_targets_reach_a_loss_of_ones_own_in_their_own_shape(tmp_path: Path, kind: Any, shape: tuple[int, ...]) -> None:
    """A target [N, 1] that comes as [N] is broadcast against outputs [N, 1] to [N, N], and nothing is learned."""
    torch.manual_seed(len(shape))
    inputs = torch.randn(300, *shape[:-1], 4)
    targets = inputs @ torch.randn(4, shape[-1]) if shape else inputs @ torch.randn(4)
    seen: set[tuple[int, ...]] = set()

    def loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.add((*outputs.shape[1:], -1, *y.shape[1:]))
        return ((outputs - y) ** 2).mean()

    net = nn.Linear(4, shape[-1]) if shape else nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    parts = tuple(kind(inputs[a:b], targets[a:b]) for a, b in ((0, 200), (200, 250), (250, 300)))
    run = torchdeck.train(
        {**QUICK, "tracking.tensorboard": False}, model=net, data=parts, loss=loss, epochs=2, lr=0.1, runs=tmp_path
    )
    assert seen == {(*shape, -1, *shape)}
    with torch.no_grad():
        plain = ((run.best.load(net)(inputs[250:]) - targets[250:]) ** 2).mean()
    assert run.test["loss"] == pytest.approx(float(plain), rel=1e-4)


def test_ctrl_c_at_the_end_of_a_block_stops_after_a_checkpoint(tmp_path: Path) -> None:
    presser = interrupting(lambda: any(tmp_path.glob("*/checkpoints/*.pt")))
    with (
        pytest.raises(KeyboardInterrupt, match="stopped by Ctrl-C") as caught,
        torchdeck.start("digits", QUICK, epochs=100_000, runs=tmp_path) as session,
    ):
        pass
    presser.join()
    assert session.status == "stopped"
    assert caught.value.run == torchdeck.Run(caught.value.run).path  # type: ignore[attr-defined]
    assert session.run is not None and session.run.last.step == session.step
