"""Several processes under torchrun, on the CPU with gloo: one run, the weights of one process with a larger batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, json_lines
from test_batch import only_run, wait_for_steps

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.data.batches import batch_bounds, share_of
from torchdeck.core.runs.directory import read_info

pytestmark = pytest.mark.alone


def torchrun(folder: Path, *words: str) -> subprocess.Popen[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "torchdeck"]
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
