"""The loop itself: what it computes, when it ends, and what it does when numbers go wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from conftest import Train, command
from torch import nn

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.events import CheckpointWritten, EpochEnded, Started, StepSummary
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.model_schema import Model
from torchdeck.core.machine.devices import choose_device, precision
from torchdeck.core.models.build import build_model
from torchdeck.core.models.summary import summarize
from torchdeck.core.runs.directory import read_info
from torchdeck.core.training.compiling import Compiling
from torchdeck.core.training.ema import build_ema
from torchdeck.core.training.memory import fitting_batch_size

PLAIN = ("tracking.tensorboard=false", "trainer.epochs=1")


def weights(run) -> dict[str, torch.Tensor]:
    return load_checkpoint(run.path / "checkpoints" / "last.pt", "t")["model"]


def test_one_step_is_the_textbook_step(train: Train) -> None:
    """The whole machine against five lines of torch."""
    run = train(
        *PLAIN,
        "trainer.steps=1",
        "trainer.batch_size=64",
        "optimizer.name=SGD",
        "optimizer.lr=0.1",
        "schedule.name=constant",
        "model.args.dropout=0",
    )
    built = run.session.built
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    x, y, *_ = next(iter(built.data.train.epoch(0)))
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    for (name, parameter), ours in zip(net.named_parameters(), weights(run).values(), strict=True):
        torch.testing.assert_close(ours, parameter.detach() - 0.1 * parameter.grad, msg=name)
    assert run.of(StepSummary)[0].losses == (pytest.approx(loss.item()),)


def test_denormal_numbers_are_flushed_while_training(train: Train, tmp_path: Path) -> None:
    """They would slow the CPU down once momenta have faded; the training thread must have switched that on."""
    (tmp_path / "m.py").write_text(
        "import torch\n\ndef left(logits, targets):\n    return float((torch.full((4,), 1e-40) * 1.0).sum() > 0)\n"
    )
    run = train(*PLAIN, f"tracking.metrics=['{tmp_path}/m.py:left']")
    assert run.of(EpochEnded)[0].val["left"] == 0


def test_accumulated_batches_are_one_large_batch(train: Train) -> None:
    options = (
        *PLAIN,
        "optimizer.name=SGD",
        "optimizer.args.momentum=0",
        "model.args.dropout=0",
        "schedule.name=constant",
    )
    large = train(*options, "trainer.batch_size=128")
    small = train(*options, "trainer.batch_size=32", "trainer.accumulate=4")
    assert large.of(Started)[0].epoch_length == small.of(Started)[0].epoch_length == 11
    for a, b in zip(weights(large).values(), weights(small).values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_gradients_are_clipped(train: Train) -> None:
    options = (
        *PLAIN,
        "trainer.steps=1",
        "optimizer.name=SGD",
        "optimizer.lr=1",
        "schedule.name=constant",
        "optimizer.args.momentum=0",
    )
    start = weights(train(*options, "optimizer.lr=1e-12"))
    clipped = weights(train(*options, "trainer.clip_norm=0.01"))
    moved = torch.cat([(clipped[n] - start[n]).flatten() for n in start]).norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-2)


def test_the_average_of_weights_is_what_is_evaluated(train: Train) -> None:
    run = train(*PLAIN, "trainer.epochs=3", "trainer.ema=0.9")
    trainer = run.session.built.trainer
    assert trainer.trained_net is trainer.ema.module
    assert not torch.equal(trainer.net[1].weight, trainer.ema.module[1].weight)


def test_the_average_is_the_exponential_one() -> None:
    net = nn.Linear(2, 1)
    ema = build_ema(net, 0.99)
    expected = None
    for step in range(30):
        with torch.no_grad():
            net.weight.add_(1.0)
        ema.update_parameters(net)
        if expected is None:
            expected = net.weight.detach().clone()
        else:
            decay = min(0.99, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * net.weight.detach()
    torch.testing.assert_close(ema.module.weight.detach(), expected)


def test_early_stopping_and_the_best_epoch(train: Train) -> None:
    run = train("trainer.epochs=200", "trainer.early_stopping=3", "tracking.tensorboard=false", "optimizer.lr=0.02")
    epochs = run.of(EpochEnded)
    assert run.status == "done"
    assert len(epochs) < 200
    values = [e.val["accuracy"] for e in epochs]
    first_best = values.index(max(values)) + 1
    assert [e.epoch for e in epochs if e.best][-1] == first_best
    assert epochs[-1].epoch == first_best + 3
    assert load_checkpoint(run.path / "checkpoints" / "best.pt", "t")["epoch"] == first_best
    again = train(resume=run.path)
    assert again.status == "done"
    assert not again.of(EpochEnded)


def test_out_of_memory_is_advised_on(train: Train, tmp_path: Path) -> None:
    """Really asked for: more than any machine has, in the user's own code."""
    (tmp_path / "n.py").write_text(
        "import torch\nfrom torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self, num_classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))\n    def forward(self, x):\n"
        "        if self.training and len(x) > 2:\n            torch.empty(2**50)\n        return super().forward(x)\n"
    )
    run = train(f"model.name={tmp_path}/n.py:Net", "tracking.graph=false")
    assert run.failure and not run.failure.user
    assert "Out of memory on cpu: 4194304.00 GiB was asked for" in run.failure.message
    assert "set trainer.batch_size to 32 or less" in run.failure.message


def test_steps_end_in_mid_epoch(train: Train) -> None:
    run = train("trainer.steps=30", "tracking.tensorboard=false")
    assert [(e.epoch, e.step) for e in run.of(EpochEnded)] == [(1, 21), (2, 30)]


def test_a_diverging_run_ends_before_its_weights_are_spoilt(train: Train, tmp_path: Path) -> None:
    run = train(
        "optimizer.name=SGD",
        "optimizer.lr=1000",
        "schedule.name=constant",
        "trainer.checkpoint_steps=1",
        "trainer.keep=100",
    )
    assert run.status == "failed"
    assert run.failure and not run.failure.user
    assert "The loss became" in run.failure.message or "The weights became" in run.failure.message
    assert "optimizer.lr" in run.failure.message
    assert read_info(run.path).status == "failed"
    assert read_info(run.path).get("message") == run.failure.message
    for path in (run.path / "checkpoints").glob("*.pt"):
        assert all(torch.isfinite(t).all() for t in load_checkpoint(path, "t")["model"].values())
    done = command(
        "--batch", "digits", "--plain", "--set", "optimizer.name=SGD", "--set", "optimizer.lr=1000", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_nan_never_wins_best(train: Train, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "calls = 0\n\ndef odd(logits, targets):\n    global calls\n    calls += 1\n"
        "    return float('nan') if calls % 2 else 1.0 / calls\n"
    )
    run = train(
        "trainer.epochs=4",
        f"tracking.metrics=['{tmp_path}/m.py:odd']",
        "trainer.monitor=minimize odd",
        "tracking.tensorboard=false",
    )
    assert run.status == "done", run.failure
    # It is called once before the training, to see that it gives a number.
    assert [e.best for e in run.of(EpochEnded)] == [True, False, True, False]


def test_an_unknown_best_metric_is_told_before_anything_is_built() -> None:
    with pytest.raises(UserError, match=r"trainer\.monitor = 'acuracy' is not measured; did you mean 'accuracy'"):
        toml.load("digits", ["trainer.monitor=acuracy"])


@pytest.mark.parametrize("loss", ["cross_entropy", "nll", "bce_with_logits", "mse", "l1", "huber"])
@pytest.mark.parametrize("one_hot", [False, True])
def test_every_loss_learns(train: Train, loss: str, one_hot: bool) -> None:
    hot = ("data.target_transforms=[{name='OneHot'}]",) if one_hot else ()
    run = train(f"loss.name={loss}", *hot, "trainer.epochs=8", "tracking.tensorboard=false")
    assert run.status == "done", run.failure
    assert run.of(EpochEnded)[-1].val["accuracy"] > 0.85


def test_class_weights(train: Train) -> None:
    assert train(*PLAIN, "loss.name=cross_entropy", "loss.args.class_weights=balanced").status == "done"
    run = train(*PLAIN, "loss.name=cross_entropy", "loss.args.class_weights=[1, 2]")
    assert run.failure and "has 2 numbers for 10 classes" in run.failure.message


def test_two_classes_with_one_logit(train: Train, tmp_path: Path) -> None:
    (tmp_path / "n.py").write_text(
        "from torch import nn\n\ndef net(in_features):\n    return nn.Sequential(nn.Linear(in_features, 16), "
        "nn.ReLU(), nn.Linear(16, 1))\n"
    )
    run = train(
        "data.name=breast_cancer",
        f"model.name={tmp_path}/n.py:net",
        "loss.name=bce_with_logits",
        "trainer.epochs=20",
        "optimizer.lr=1e-2",
        source=None,
    )
    assert run.status == "done", run.failure
    assert run.of(EpochEnded)[-1].val["accuracy"] > 0.9


@pytest.mark.parametrize("preset", ["iris", "diabetes"])
def test_table_presets(train: Train, preset: str) -> None:
    run = train(source=preset)
    assert run.status == "done", run.failure
    test = run.session.finished.test
    assert test["accuracy"] >= 0.9 if preset == "iris" else test["r2"] > 0.3


def test_bf16_channels_last_progressive_sizes_and_flips(train: Train) -> None:
    run = train(
        "model.name=fastnet",
        "model.args.channels=[8,8,16,16]",
        "trainer.precision=bf16",
        "trainer.flip_test=true",
        "trainer.image_sizes=[{until=0.5,size=6}]",
        "trainer.epochs=2",
        "trainer.ema=0.9",
        "tracking.graph=false",
    )
    assert run.status == "done", run.failure
    assert run.of(Started)[0].precision == "bf16"
    trainer = run.session.built.trainer
    assert trainer.channels_last
    assert all(p.dtype == torch.float32 for p in trainer.net.parameters())


@pytest.mark.parametrize(("plain", "compiled", "kept"), [(0.001, 0.003, False), (0.003, 0.001, True)])
def test_compile_auto_keeps_what_is_faster(
    monkeypatch: pytest.MonkeyPatch, plain: float, compiled: float, kept: bool
) -> None:
    """The compiler is a stand-in; what is measured is real."""
    monkeypatch.setattr(torch, "compile", lambda net: lambda: time.sleep(compiled))
    said: list[str] = []
    chosen = Compiling(lambda: time.sleep(plain), "auto", torch.device("cpu"), said.append)
    for step in range(40):
        with chosen.measuring(step / 1e6):
            chosen.forward()
        assert (chosen.chosen is None) == (step < 29)
    assert chosen.chosen is kept
    assert len(said) == 1 and said[0].endswith("): kept." if kept else "): not kept.")


def test_a_resume_goes_on_with_what_was_chosen(train: Train) -> None:
    run = train(*PLAIN, "trainer.compile=auto", "trainer.steps=40")
    assert run.status == "done", run.failure
    assert any("torch.compile is not tried" in getattr(e, "message", "") for e in run.events)
    assert load_checkpoint(run.path / "checkpoints" / "last.pt", "t")["compiled"] is False


def test_compiled_models_keep_their_names(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    # The compiler itself (a C++ compiler, minutes) is torch's; what is ours is which module is compiled and saved.
    monkeypatch.setattr(torch, "compile", lambda net: torch._dynamo.optimize("eager")(net))
    run = train(*PLAIN, "trainer.compile=true", "tracking.graph=false")
    assert run.status == "done", run.failure
    assert not any(name.startswith("_orig_mod") for name in weights(run))


def test_checkpoints_by_steps_and_no_validation(train: Train) -> None:
    run = train(
        "trainer.epochs=2", "trainer.checkpoint_steps=10", "trainer.validation_share=0", "tracking.tensorboard=false"
    )
    assert run.status == "done", run.failure
    assert {10, 20, 30, 40} <= {e.step for e in run.of(CheckpointWritten)}
    assert all(e.val == {} for e in run.of(EpochEnded))
    assert run.session.finished.test["accuracy"] > 0.5


def test_a_profile_is_written_on_request(train: Train) -> None:
    run = train("trainer.profile=true", "trainer.epochs=2", "tracking.graph=false")
    assert run.status == "done", run.failure
    (trace,) = (run.path / "profile").glob("*.pt.trace.json*")
    assert trace.stat().st_size > 1000


# --- devices and precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cuda:99", "mps"])
def test_a_device_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(UserError, match=f"trainer.device = '{name}' is not on this machine.*it has .*cpu"):
        choose_device(name)


def test_precisions() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert precision("auto", cpu).dtype is None
    assert precision("bf16", cpu).dtype is torch.bfloat16
    assert precision("fp16", cuda).scaler
    assert precision("tf32", cuda).tf32
    for name in ("fp16", "tf32"):
        with pytest.raises(UserError, match=r"trainer\.precision"):
            precision(name, cpu)


def test_the_advised_batch_size_fits() -> None:
    assert fitting_batch_size(100, None, 0) == 64
    assert fitting_batch_size(64, None, 0) == 32
    assert fitting_batch_size(1, None, 0) == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["auto", "fp32", "tf32", "bf16", "fp16"])
def test_training_on_a_gpu(train: Train, name: str) -> None:
    run = train("trainer.device=cuda", f"trainer.precision={name}", "trainer.epochs=5", "trainer.ema=0.9")
    assert run.status == "done", run.failure
    assert run.of(EpochEnded)[-1].val["accuracy"] > 0.8
    again = train("trainer.epochs=6", resume=run.path)
    assert again.status == "done", again.failure


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_out_of_memory_on_a_gpu_is_advised_on(train: Train) -> None:
    run = train(
        "model.name=cnn",
        "model.args.channels=[4096,4096]",
        "trainer.device=cuda",
        "trainer.batch_size=1294",
        "data.name=FakeData",
        "data.args.image_size=[3,512,512]",
    )
    assert run.failure and "set trainer.batch_size to" in run.failure.message


# --- the summary tree ------------------------------------------------------------------------------------------------


def test_the_summary_counts_what_is_there() -> None:
    info = DataInfo("x", "classification", (1, 28, 28), 10, tuple("0123456789"))
    net = build_model(Model(name="cnn", args={"channels": (4, 8)}, freeze=("stages.0",)), info)
    summary = summarize(net, torch.zeros(1, 1, 28, 28), batch_size=32, optimizer="SGD")
    root = summary.root
    assert root.parameters == sum(p.numel() for p in net.parameters())
    assert root.trainable == root.parameters - (4 * 9 + 8)
    assert root.multiply_adds == 28 * 28 * 9 * 4 + 14 * 14 * 9 * 4 * 8 + 8 * 10
    by_name = {node.name: node for _, node in root.walk()}
    assert by_name["stages"].output_shape == (8, 7, 7)
    assert by_name["head"].share == pytest.approx(90 / root.parameters)
    assert sum(child.parameters for child in root.children) == root.parameters
    assert summary.weights > 0 < summary.activations


def test_the_summary_of_every_kind_of_model() -> None:
    info = DataInfo("x", "classification", (3, 32, 32), 10, tuple("0123456789"))
    for name in ("mlp", "linear", "cnn", "resnet", "fastnet", "resnet18"):
        summary = summarize(build_model(Model(name=name), info), torch.zeros(1, 3, 32, 32), 8)
        assert summary.root.output_shape == (10,), name
        assert summary.root.multiply_adds > 0


class LooksAtValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x) if x.sum().item() >= 0 else x


def test_models_that_can_not_run_on_meta_are_run_for_real() -> None:
    assert summarize(LooksAtValues(), torch.zeros(1, 4), 1).root.multiply_adds == 8


def test_experiments_are_kept_with_the_run(train: Train) -> None:
    run = train("trainer.epochs=1", "tracking.tags=['paper']", "tracking.note=hello", "tracking.name=first try")
    assert toml.load(str(run.path / "experiment.toml")) == run.session.experiment
    info = read_info(run.path)
    assert info.get("tags") == ["paper"]
    assert info.get("note") == "hello"
    assert info.name.endswith("-first-try")
