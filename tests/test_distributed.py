"""Several processes under torchrun, on the CPU with gloo: one run, the weights of one process with a larger batch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, command, json_lines
from test_batch import only_run, wait_for_steps

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.data.batches import batch_bounds, share_of
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.runs.directory import read_info
from torchdeck.core.training import sharding

pytestmark = pytest.mark.alone


def torchrun(folder: Path, *words: str, processes: int = 2) -> subprocess.Popen[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launch += ["-m", "torchdeck"]
    return subprocess.Popen(
        [*launch, "--batch", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


PLAIN = (
    "--set",
    "trainer.device=cpu",
    "--set",
    "model.args.dropout=0",
    "--set",
    "optimizer.name=SGD",
    "--set",
    "schedule.name=constant",
    "--set",
    "tracking.tensorboard=false",
)


def test_two_processes_train_one_run(tmp_path: Path) -> None:
    options = (*PLAIN, "--set", "trainer.epochs=3", "--set", "trainer.batch_size=32")
    process = torchrun(tmp_path, "digits", "--json", *options)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    events = json_lines(out)
    assert [e["epoch"] for e in events if e["event"] == "epoch"] == [1, 2, 3]
    assert sum(sum(row) for row in events[-1]["confusion"]) == 359  # each sample once, whatever the processes
    run = only_run(tmp_path)
    assert read_info(run).status == "done"

    # The same by hand: a step sees two neighbouring batches of the order, and batches left over are left out.
    from torchdeck.core.control import Control
    from torchdeck.core.experiment import toml
    from torchdeck.core.training.build import build_trainer

    experiment = toml.build(toml.override(toml.read(run / "experiment.toml"), []))
    built = build_trainer(experiment, Control(), lambda event: None)
    net, optimizer = built.trainer.net, built.trainer.optimizer
    for epoch in range(3):
        batches = list(built.data.train.epoch(epoch))
        for first, second in zip(batches[::2], batches[1::2], strict=False):
            loss = sum(built.trainer.task.loss(net(x), y) for x, y, *_ in (first, second)) / 2
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    state = load_checkpoint(run / "checkpoints" / "last.pt", "t")
    assert state["step"] == 3 * (len(batches) // 2)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(state["model"][name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_a_stop_reaches_every_process_and_the_run_goes_on(tmp_path: Path) -> None:
    process = torchrun(tmp_path, "digits", "--plain", *PLAIN, "--set", "trainer.epochs=100000")
    run = wait_for_steps(tmp_path, 100)
    os.kill(read_info(run).get("process")["pid"], signal.SIGUSR1)
    os.kill(read_info(run).get("process")["pid"], signal.SIGTERM)
    process.communicate(timeout=100)
    assert read_info(run).status == "stopped"
    state = load_checkpoint(run / "checkpoints" / "last.pt", "t")
    again = torchrun(tmp_path, "--plain", "--resume", run.name, "--set", f"trainer.epochs={state['epoch'] + 1}")
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert f"from step {state['step']:,}" in out
    assert read_info(run).status == "done"


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_batches_are_dealt_out_evenly(processes: int) -> None:
    bounds = batch_bounds(1000, 32)
    dealt = [share_of(bounds, rank, processes) for rank in range(processes)]
    assert {len(d) for d in dealt} == {len(bounds) // processes}
    together = sorted(b for d in dealt for b in d)
    assert together == bounds[: len(together)]


STEPS = """
from torch.nn.functional import cross_entropy

def loss(model, batch):
    return cross_entropy(model.layers(batch[0]), batch[1])  # not through forward

def own(model, optimizer, batch):
    value = loss(model, batch)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return value

import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Tanh(),
                                          torch.nn.Linear(32, 10))
"""


@pytest.mark.parametrize("step", ["loss", "own"])
def test_steps_of_ones_own_share_gradients(tmp_path: Path, step: str) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    chosen = ("data.name=digits", "model.name=steps.py:Net", f"task.step=steps.py:{step}", "trainer.clip_norm=0.3")
    rest = ("trainer.epochs=1", "trainer.batch_size=64", "optimizer.lr=0.3", "optimizer.weight_decay=0")
    settings = [word for one in (*chosen, *rest) for word in ("--set", one)]
    process = torchrun(tmp_path, "--json", *PLAIN[:2], *PLAIN[4:], *settings)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    run = only_run(tmp_path)

    from torchdeck.core.control import Control
    from torchdeck.core.experiment import toml
    from torchdeck.core.runs.folder import located
    from torchdeck.core.training.build import build_trainer

    experiment = located(toml.build(toml.read(run / "experiment.toml")), tmp_path, lambda text: None)
    built = build_trainer(experiment, Control(), lambda event: None)
    net = built.trainer.net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    batches = list(built.data.train.epoch(0))
    for first, second in zip(batches[::2], batches[1::2], strict=False):
        loss = sum(torch.nn.functional.cross_entropy(net.layers(b.x), b.y) for b in (first, second)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.3)
        optimizer.step()
    state = load_checkpoint(run / "checkpoints" / "last.pt", "t")
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(state["model"][name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_a_model_that_is_shared_out_is_the_one_of_whole_copies_and_goes_on_in_any_number(tmp_path: Path) -> None:
    """FSDP2 against DDP; then resumed on one process and on two, and exported as one file."""
    options = (*PLAIN, "--set", "trainer.batch_size=32", "--set", "trainer.clip_norm=1", "--set", "optimizer.args={}")
    common = ("digits", "--plain", *options, "--set", "optimizer.name=AdamW")
    runs: dict[str, Path] = {}
    for name, more in (("fsdp", ("--set", "trainer.parallel=fsdp")), ("ddp", ())):
        folder = tmp_path / name
        folder.mkdir()
        out, err = torchrun(folder, *common, *more, "--set", "trainer.epochs=2").communicate(timeout=200)
        assert "test loss" in out, err
        runs[name] = only_run(folder)
    states = {name: load_checkpoint(run / "checkpoints" / "last.pt", "t") for name, run in runs.items()}
    same_state(states["fsdp"], states["ddp"], 1e-5)

    ends = {}
    for count in (1, 2):
        folder = tmp_path / f"on{count}"
        shutil.copytree(tmp_path / "fsdp", folder)
        more = ("--resume", str(only_run(folder)), "--set", "trainer.epochs=3", "--plain")
        out, err = torchrun(folder, *more, processes=count).communicate(timeout=200)
        assert "epoch 3/3" in out, err
        ends[count] = load_checkpoint(only_run(folder) / "checkpoints" / "last.pt", "t")
        assert ends[count]["step"] == 3 * ends[count]["epoch_length"]
    assert [ends[count]["epoch_length"] for count in (1, 2)] == [41, 20]
    folder = tmp_path / "whole"
    folder.mkdir()
    out, err = torchrun(folder, *common, "--set", "trainer.epochs=3").communicate(timeout=200)
    same_state(ends[2], load_checkpoint(only_run(folder) / "checkpoints" / "last.pt", "t"), 1e-4)

    file = tmp_path / "one.pt"
    export = command(
        "export", str(runs["fsdp"]), "--checkpoint", "last", "--format", "state_dict", "-o", str(file), cwd=tmp_path
    )
    assert export.returncode == 0, export.stderr
    exported = torch.load(file, weights_only=True)
    assert all(torch.equal(exported[name], value) for name, value in states["fsdp"]["model"].items())


def same_state(one: dict[str, Any], other: dict[str, Any], near: float) -> None:
    for name, value in other["model"].items():
        torch.testing.assert_close(one["model"][name], value, atol=near, rtol=near, msg=name)
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()
    for at, kept in other["optimizer"]["state"].items():
        for name, value in kept.items():
            torch.testing.assert_close(one["optimizer"]["state"][at][name], value, atol=near, rtol=near, msg=name)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [("trainer.ema=0.9", "trainer.ema averages whole weights"), ("optimizer.name=Muon", "needs whole matrices")],
)
def test_what_does_not_go_with_a_model_that_is_shared_out_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, option: str, sentence: str
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    experiment = toml.load("digits", ["trainer.parallel=fsdp", option])
    task: Any = SimpleNamespace(name="classification")
    with pytest.raises(UserError, match=f"keeps a part of each weight in each process, but .*{sentence}"):
        sharding.refuse_unable(experiment, task, False)
