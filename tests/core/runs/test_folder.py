"""A run that was started elsewhere: its code and data are found where it was started."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Train

from torchdeck.core.errors import UserError
from torchdeck.core.events import LogLine
from torchdeck.core.experiment import toml
from torchdeck.core.runs.directory import read_info
from torchdeck.core.runs.folder import folder_of, located
from torchdeck.tui.__main__ import main

CODE = """\
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layer = torch.nn.Linear(2, num_classes)

    def forward(self, x):
        return self.layer(x)

def loss(outputs, y):
    return torch.nn.functional.cross_entropy(outputs, y)

def share(outputs, y):
    return (outputs.argmax(1) == y).float().mean()

def double(x):
    return x * 2
"""
SETTINGS = (
    "data.name=table",
    "data.args.path=data/points.csv",
    "data.args.task=classification",
    "model.name=net.py:Net",
    "loss.name=net:loss",
    "tracking.metrics=['net.py:share']",
    "trainer.epochs=2",
    "tracking.tensorboard=false",
    "data.transforms=[{name='Lambda', function='net.py:double'}]",
)


def project(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "net.py").write_text(CODE)
    rows = [f"{i % 7},{i % 5},{'ab'[i % 2]}" for i in range(60)]
    (folder / "data" / "points.csv").write_text("u,v,kind\n" + "\n".join(rows) + "\n")
    return folder


def test_a_run_goes_on_and_is_evaluated_from_any_folder(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, elsewhere = project(tmp_path / "home"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    done = train(*SETTINGS, source=None)
    assert done.status == "done", done.failure
    assert read_info(done.path).get("folder") == str(home) == str(folder_of(done.path))
    assert main(["evaluate", str(done.path), "--json"]) == 0
    here = json.loads(capsys.readouterr().out)

    monkeypatch.chdir(elsewhere)
    assert main(["evaluate", str(done.path), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == here
    assert f"model.name: 'net.py' is taken from {str(home)!r}, where the run was started." in said.err
    assert main(["predict", str(done.path), str(home / "data" / "points.csv"), "--json"]) == 0
    # A checkpoint that was taken out of its run knows it, too; the code of a stranger's still needs a word.
    shutil.copy(done.path / "checkpoints" / "best.pt", elsewhere / "alone.pt")
    capsys.readouterr()
    assert main(["evaluate", str(elsewhere / "alone.pt"), "--json"]) == 2
    assert "--trust-code" in capsys.readouterr().err
    assert main(["evaluate", str(elsewhere / "alone.pt"), "--json", "--trust-code"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == here["metrics"]

    before = (done.path / "experiment.toml").read_text()
    more = train("trainer.epochs=3", resume=done.path)
    assert more.status == "done", more.failure
    assert any("data/points.csv" in e.message for e in more.of(LogLine))
    # It stays the user's own words, so that it can be moved and goes on as the same.
    assert (done.path / "experiment.toml").read_text() == before.replace("epochs = 2", "epochs = 3")
    assert read_info(done.path).get("folder") == str(home)

    # What is missing is named with both places; a project that was moved is found from the current folder.
    (home / "net.py").rename(elsewhere / "gone.py")
    gone = train("trainer.epochs=4", resume=done.path)
    assert gone.failure is not None and gone.failure.user
    assert "there is no 'net.py' in" in gone.failure.message
    assert str(home) in gone.failure.message and str(elsewhere) in gone.failure.message
    (elsewhere / "gone.py").rename(elsewhere / "net.py")
    shutil.move(str(home / "data"), str(elsewhere / "data"))
    home.rmdir()
    moved = train("trainer.epochs=4", resume=done.path)
    assert moved.status == "done", moved.failure
    assert read_info(done.path).get("folder") == str(elsewhere)


def test_what_is_there_wins_over_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, here = project(tmp_path / "home"), project(tmp_path / "here")
    monkeypatch.chdir(here)
    (home / "package").mkdir()
    (home / "package" / "deep.py").write_text("")
    (here / "w.pt").write_bytes(b"")
    experiment = toml.load(
        None,
        [
            "model.name=package.deep:Net",
            "data.root=data",
            "data.name=net.py:Set",
            "data.args.split=data",
            "data.args.file=data/points.csv",
            "model.weights=w.pt",
            "loss.name=torch.nn:L1Loss",
        ],
    )
    said: list[str] = []
    found = located(experiment, home, said.append)
    assert found.model.name == f"{home}/package/deep.py:Net"
    assert (found.data.name, found.data.root) == (f"{home}/net.py:Set", str(home / "data"))
    assert found.data.args == {"split": "data", "file": str(home / "data/points.csv")}
    assert (found.model.weights, found.loss.name) == ("w.pt", "torch.nn:L1Loss")
    assert len(said) == 4
    for same in (None, here, tmp_path / "nowhere"):
        assert located(experiment, same, said.append) is experiment
    with pytest.raises(
        UserError, match=r"there is no 'no\.py' in '.*home', where the run was started, nor in '.*here'"
    ):
        located(toml.load(None, ["model.name=no.py:Net"]), home, said.append)


def test_a_transform_keeps_what_is_said_of_it(tmp_path: Path) -> None:
    (tmp_path / "aug.py").write_text("def heavy(x):\n    return x\n")
    experiment = toml.load(None, ['data.transforms=[{name="aug.py:heavy", train_only=true}]'])
    (found,) = located(experiment, tmp_path, lambda text: None).data.transforms or ()
    assert found.record() == {"name": f"{tmp_path}/aug.py:heavy", "train_only": True}
