"""Checkpoints are whole or not there, run nothing, and fall back a generation."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Train, verb
from torch import nn

from torchdeck.core.checkpoints.read import load_checkpoint, load_weights, strip_prefixes
from torchdeck.core.errors import UserError
from torchdeck.core.events import CheckpointWritten, LogLine, Started


def test_checkpoints_load_with_weights_only_and_hold_everything(train: Train) -> None:
    run = train("trainer.ema=0.9", "trainer.epochs=2")
    state = torch.load(run.path / "checkpoints" / "last.pt", weights_only=True)
    assert {
        "experiment",
        "model",
        "ema",
        "optimizer",
        "scheduler",
        "scaler",
        "random",
        "epoch",
        "step",
        "best",
        "data",
    } <= set(state)
    assert {"python", "numpy", "torch"} <= set(state["random"])
    assert not any(name.startswith(("_orig_mod.", "module.")) for name in (*state["model"], *state["ema"]["model"]))


def test_generations_are_kept_and_the_best_is_named(train: Train) -> None:
    run = train("trainer.epochs=3", "trainer.checkpoint_steps=5", "trainer.keep=3")
    folder = run.path / "checkpoints"
    steps = sorted(int(p.stem[5:]) for p in folder.glob("step-*.pt"))
    assert steps == [55, 60, 63]
    written = run.of(CheckpointWritten)
    assert {5, 10, 21, 42, 63} <= {e.step for e in written}
    best = max((e for e in written if e.best), key=lambda e: e.step)
    assert load_checkpoint(folder / "best.pt", "t")["step"] == best.step
    assert load_checkpoint(folder / "last.pt", "t")["step"] == 63


@pytest.mark.parametrize("harm", ["truncated", "empty", "zeros in the middle", "flipped bit"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(train: Train, harm: str) -> None:
    run = train("trainer.epochs=3", "trainer.checkpoint_steps=5", stop_at=33)
    last = run.path / "checkpoints" / "last.pt"
    content = bytearray(last.read_bytes())
    middle = len(content) // 2
    if harm == "truncated":
        content = content[:middle]
    elif harm == "empty":
        content = bytearray()
    elif harm == "flipped bit":
        content[middle] ^= 16
    else:
        content[middle : middle + 1000] = bytes(1000)
    last.write_bytes(bytes(content))  # step-000000033.pt is the same file under another name
    again = train(resume=run.path)
    assert again.status == "done", again.failure
    assert again.of(Started)[0].step == 30
    assert any("is damaged" in e.message and "step 30" in e.message for e in again.of(LogLine))
    assert (run.path / "checkpoints" / "step-000000033.pt.damaged").exists()
    assert load_checkpoint(last, "t")["step"] == 63


def test_a_kill_before_the_second_name_costs_nothing(train: Train) -> None:
    run = train("trainer.epochs=3", "trainer.checkpoint_steps=5", stop_at=33)
    folder = run.path / "checkpoints"
    (folder / "last.pt").unlink()
    shutil.copy(folder / "step-000000030.pt", folder / "last.pt")
    again = train(resume=run.path)
    assert again.of(Started)[0].step == 33
    assert not list(folder.glob("*.damaged"))


def test_with_every_checkpoint_damaged_nothing_is_touched(train: Train) -> None:
    run = train("trainer.epochs=2")
    for path in (run.path / "checkpoints").glob("*.pt"):
        path.write_bytes(b"PK\x03\x04 no more")
    before = {p.name: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != "lock"}
    again = train(resume=run.path)
    assert again.failure and again.failure.user
    assert "is damaged or was not written by torch.save" in again.failure.message
    assert {p.name: p.read_bytes() for p in run.path.rglob("*") if p.is_file() and p.name != "lock"} == before


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self):
        return open, (self.canary, "w")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_runs_nothing(train: Train, tmp_path: Path, legacy: bool) -> None:
    canary = tmp_path / "canary"
    run = train("trainer.epochs=1")
    for path in (run.path / "checkpoints").glob("*.pt"):
        path.unlink()
    evil = run.path / "checkpoints" / "last.pt"
    torch.save({"torchdeck": 1, "step": Evil(canary)}, evil, _use_new_zipfile_serialization=not legacy)
    pickle.loads(pickle.dumps(Evil(canary)))  # the canary sings where code is run
    assert canary.exists()
    canary.unlink()
    again = train(resume=run.path)
    assert again.failure and again.failure.user
    assert "would run io.open when loaded" in again.failure.message
    shown = verb("show", str(evil), cwd=tmp_path)
    assert shown.returncode == 0
    assert "DANGER: when unpickled, it would run io.open" in shown.stdout
    weights = train(f"model.weights={evil}")
    assert weights.failure and "would run" in weights.failure.message
    assert not canary.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {"a": torch.zeros(1)}}, "is not a torchdeck checkpoint"),
        ({"torchdeck": 99}, "was written by a later torchdeck (layout 99)"),
        ([1, 2], "is not a torchdeck checkpoint"),
    ],
)
def test_foreign_checkpoints_are_told(tmp_path: Path, content, sentence: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError) as caught:
        load_checkpoint(tmp_path / "x.pt", "--resume")
    assert sentence in str(caught.value)


def test_a_checkpoint_of_another_model_is_told(train: Train) -> None:
    run = train("trainer.epochs=1")
    other = train("trainer.epochs=1", "model.args.widths=[8]")
    shutil.copy(other.path / "checkpoints" / "last.pt", run.path / "checkpoints" / "last.pt")
    again = train(resume=run.path)
    assert again.failure and again.failure.user
    assert "does not fit the experiment" in again.failure.message
    changed = train("trainer.batch_size=32", resume=other.path)
    assert changed.failure and "an epoch had 21 steps and now has 41" in changed.failure.message


def test_prefixes_are_stripped() -> None:
    tensor = torch.zeros(1)
    assert list(strip_prefixes({"_orig_mod.module.a": tensor, "_orig_mod.module.b": tensor})) == ["a", "b"]
    assert list(strip_prefixes({"module.a": tensor, "b": tensor})) == ["module.a", "b"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
        lambda s: {"model": {f"_orig_mod.{k}": v for k, v in s.items()}, "epoch": 3},
    ],
)
def test_weights_of_all_kinds_start_a_run(train: Train, tmp_path: Path, wrap) -> None:
    run = train("trainer.epochs=2")
    best = load_checkpoint(run.path / "checkpoints" / "best.pt", "t")
    torch.save(wrap(best["model"]), tmp_path / "w.pth")
    assert torch.equal(load_weights(tmp_path / "w.pth", "t")["1.weight"], best["model"]["1.weight"])
    fine = train(f"model.weights={tmp_path}/w.pth", "model.freeze=['1', '4.*']", "trainer.epochs=1")
    assert fine.status == "done", fine.failure
    after = load_checkpoint(fine.path / "checkpoints" / "last.pt", "t")["model"]
    assert torch.equal(after["1.weight"], best["model"]["1.weight"])
    assert torch.equal(after["4.bias"], best["model"]["4.bias"])
    assert not torch.equal(after["7.weight"], best["model"]["7.weight"])


def test_a_head_of_another_size_is_left_fresh_and_a_strange_body_is_refused(train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=1")
    torch.save(load_checkpoint(run.path / "checkpoints" / "last.pt", "t")["model"], tmp_path / "w.pth")
    narrow = train(f"model.weights={tmp_path}/w.pth", "model.args.widths=[64,128]", "trainer.epochs=1")
    assert (
        narrow.failure
        and "'1.weight' has the shape [256, 64] in the file and [64, 64] in the model" in narrow.failure.message
    )
    frozen = train("model.freeze=['nothing*']")
    assert frozen.failure and "no parameter matches 'nothing*'" in frozen.failure.message


def test_exports_give_the_same_numbers(train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=3", "trainer.ema=0.9")
    x = run.session.built.data.sample.x
    expected = run.session.built.trainer.trained_net.eval()(x)
    runs = str(tmp_path / "runs")
    for format, name in (("state_dict", "a.pth"), ("safetensors", "a.safetensors"), ("model", "m.pth")):
        done = verb("export", run.path.name, "--runs", runs, "--format", format, "-o", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(name)
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(128, 10),
    ).eval()
    for name in ("a.pth", "a.safetensors"):
        net.load_state_dict(load_weights(tmp_path / name, "t"))
        assert torch.equal(net(x), expected)
    whole = torch.load(tmp_path / "m.pth", weights_only=False)
    assert torch.equal(whole(x), expected)
    refused = verb("export", run.path.name, "--runs", runs, "-o", "no/such/folder.pth", cwd=tmp_path)
    assert refused.returncode == 2
    assert "can't be written" in refused.stderr
