"""Losses of the user's own: over the set, over a step of several batches, with parameters; against plain torch."""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Train
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from torchdeck.core import catalog
from torchdeck.core.data.batches import Batch, Feed
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.evaluation import trained as trained_models
from torchdeck.core.evaluation.evaluate import evaluate_model
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.model_schema import Model
from torchdeck.core.tasks.losses import build_loss
from torchdeck.core.tasks.training_loss import find_kind
from torchdeck.core.training.evaluation import Evaluator
from torchdeck.core.training.layout import takes_channels_last

CPU = torch.device("cpu")
QUIET = ("tracking.tensorboard=false", "trainer.device=cpu")


class Cut(Feed):
    """Outputs as inputs, cut into batches of a size."""

    def __init__(self, x: Tensor, y: Tensor, size: int) -> None:
        self._x, self._y, self._size = x, y, size

    @property
    def samples(self) -> int:
        return len(self._x)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for x, y in zip(self._x.split(self._size), self._y.split(self._size), strict=True):
            yield Batch(x, y, len(x))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = types.ModuleType("own_losses")
    module.__spec__ = types.SimpleNamespace(name="own_losses")
    monkeypatch.setitem(sys.modules, "own_losses", module)
    return module


@settings(max_examples=40, deadline=None)
@example(12, 12, "function", False)  # two samples of different weight have the same loss
@given(
    st.integers(0, 10**6), st.integers(2, 30), st.sampled_from(["function", "class", "masked", "sum"]), st.booleans()
)
def test_an_own_loss_over_the_set_is_one_call_though_the_samples_tried_are_of_one_class(
    seed: int, count: int, kind: str, small: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.ones(count)
    weight[int(torch.randint(count, (), generator=generator))] = 7.0  # of one class alone
    out, y = torch.randn(60, count, generator=generator), torch.arange(60) % count

    class Weighted(nn.CrossEntropyLoss):
        pass

    losses: dict[str, Any] = {
        "function": lambda a, b: F.cross_entropy(a, b, weight=weight),
        "class": Weighted(weight=weight),
        "masked": lambda a, b: F.cross_entropy(a, b, reduction="none")[b > 0].sum() / (b > 0).sum().clamp(min=1),
        "sum": lambda a, b: F.cross_entropy(a, b, reduction="sum"),
    }
    info = DataInfo("d", "classification", (count,), count, tuple(map(str, range(count))))
    with pytest.MonkeyPatch.context() as patch:
        module: Any = types.ModuleType("own_losses")
        module.__spec__ = types.SimpleNamespace(name="own_losses")
        module.loss = losses[kind]
        patch.setitem(sys.modules, "own_losses", module)
        loss = build_loss(toml.load("digits", ["loss.name=own_losses:loss"]), info, CPU, None)
        loss.kind = find_kind(loss, out[:25], torch.zeros(25, dtype=torch.long), count)
        assert loss.kind == {"class": "weighted", "sum": "sum"}.get(kind, "whole")
        if small:
            patch.setattr("torchdeck.core.tasks.metrics._FEW", 0)
        task: Any = catalog.find("task", "classification").load_factory()
        task = task(toml.build({}), info, nn.Identity(), loss, CPU)
        found = Evaluator(info, task, CPU, nullcontext).evaluate(nn.Identity(), Cut(out, y, 1 + seed % 20))
    expected = float(losses[kind](out, y)) / (60 if kind == "sum" else 1)
    assert found.metrics["loss"] == pytest.approx(expected, rel=1e-5)


STEPS = """
import torch, torch.nn.functional as F
from torch import nn
weight = torch.linspace(0.1, 3, 10)
class Mean(nn.CrossEntropyLoss): pass
class Weighted(nn.CrossEntropyLoss):
    def __init__(self): super().__init__(weight=weight, label_smoothing=0.1)
class Ignoring(nn.CrossEntropyLoss):
    def __init__(self): super().__init__(ignore_index=3)
class Sum(nn.CrossEntropyLoss):
    def __init__(self): super().__init__(reduction="sum")
def function(out, y): return F.cross_entropy(out, y)
def total(out, y): return F.cross_entropy(out, y, reduction="sum")
class Net(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(64, 10))
class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, out, y):
        if self.training:
            self.seen += len(y)
        return F.cross_entropy(out * self.scale.exp(), y)
"""


@pytest.mark.parametrize("name", ["Mean", "Weighted", "Ignoring", "Sum", "function", "total", "weights", "balanced"])
def test_a_step_over_several_batches_is_the_step_of_them_all(train: Train, tmp_path: Path, name: str) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    chosen = [f"loss.name={tmp_path}/steps.py:{name}", "loss.args={}"]
    if name == "weights":
        chosen = ["loss.name=cross_entropy", "loss.args.class_weights=[1,2,3,4,5,6,7,8,9,10]"]
    elif name == "balanced":
        chosen = ["loss.name=cross_entropy", 'loss.args.class_weights="balanced"']
    common = [
        *QUIET,
        *chosen,
        f"model.name={tmp_path}/steps.py:Net",
        "model.args={}",
        "optimizer.name=SGD",
        "optimizer.args={momentum=0.0}",
        "optimizer.lr=0.01",
        "optimizer.weight_decay=0",
        "schedule.name=constant",
        "trainer.steps=1",
    ]
    runs = [train(*common, f"trainer.batch_size={size}", f"trainer.accumulate={k}") for size, k in ((48, 1), (12, 4))]
    whole, parts = (r.session.built.trainer for r in runs)
    assert all(r.status == "done" for r in runs), runs[0].failure
    # Plain torch on the same samples: the weights before, less the rate times the gradient of one call.
    x, y, *_ = next(iter(whole.data.train.epoch(0)))
    torch.manual_seed(whole.experiment.trainer.seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert len(y) == 48
    loss = whole.task.loss.function(net(x), y)
    loss.backward()
    with torch.no_grad():
        for p in net.parameters():
            p -= 0.01 * p.grad
    for trainer in (whole, parts):
        for found, right in zip(trainer.net.parameters(), net.parameters(), strict=True):
            torch.testing.assert_close(found.detach(), right.detach(), rtol=1e-4, atol=1e-6)
    told = float(loss.detach()) / (48 if name in ("Sum", "total") else 1)
    for run in runs:
        epoch = next(e for e in run.events if type(e).__name__ == "EpochEnded")
        assert epoch.train["loss"] == pytest.approx(told, rel=1e-4)
        path = run.path / "checkpoints" / "last.pt"
        test = run.session.built.data.test
        done = evaluate_model(trained_models.load_trained(path, True))
        xs, ys = (torch.cat(part) for part in list(zip(*test.epoch(0), strict=True))[:2])
        with torch.no_grad():
            exact = float(whole.task.loss.function(run.session.built.trainer.net(xs), ys))
        exact = exact / len(ys) if name in ("Sum", "total") else exact
        assert done.report.metrics["loss"] == pytest.approx(exact, rel=1e-4)


def test_parameters_and_buffers_of_a_loss_are_trained_saved_and_resumed(train: Train, tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    common = [
        *QUIET,
        f"loss.name={tmp_path}/steps.py:Learned",
        "loss.args={}",
        "trainer.epochs=2",
        "trainer.batch_size=64",
    ]
    once = train(*common)
    assert once.status == "done", once.failure
    assert any("has 1 parameter of its own" in getattr(e, "message", "") for e in once.events)
    trainer = once.session.built.trainer
    steps, samples = trainer.step, trainer.data.info.samples["train"]
    assert trainer.task.loss.module.seen == 2 * samples  # neither trying it out nor evaluation has moved it
    assert trainer.task.loss.module.scale != 1
    stopped = train(*common, stop_at=steps // 2 + 1)
    resumed = train(resume=stopped.path)
    for a, b in (
        (trainer.net, resumed.session.built.trainer.net),
        (trainer.task.loss.module, resumed.session.built.trainer.task.loss.module),
    ):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name
    state = torch.load(once.path / "checkpoints" / "last.pt", weights_only=True)
    assert torch.equal(state["loss"]["scale"], trainer.task.loss.module.scale.detach())
    found = evaluate_model(trained_models.load_trained(once.path / "checkpoints" / "last.pt", True)).report.metrics[
        "loss"
    ]
    xs, ys = (torch.cat(part) for part in list(zip(*trainer.data.test.epoch(0), strict=True))[:2])
    with torch.no_grad():
        trainer.net.eval()
        right = F.cross_entropy(trainer.net(xs) * trainer.task.loss.module.scale.exp(), ys)
    assert found == pytest.approx(float(right), rel=1e-5)


class Conv(nn.Module):
    """Draws random numbers of every kind and keeps statistics; ``flat`` decides which layouts it takes."""

    def __init__(self, flat: str) -> None:
        super().__init__()
        self.conv, self.norm, self.flat = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), flat
        self.head = nn.Linear(4 * 36, 2)

    def forward(self, x: Tensor) -> Tensor:
        random.random()
        np.random.rand()
        x = F.dropout(self.norm(self.conv(x)), training=self.training)
        if self.flat == "train" and self.training:
            x = x.view(len(x), -1)
        return self.head(x.view(len(x), -1) if self.flat == "view" else x.flatten(1))


@pytest.mark.parametrize(("flat", "takes"), [("view", False), ("train", False), ("flatten", True)])
def test_channels_last_is_tried_without_a_trace(flat: str, takes: bool) -> None:
    net = Conv(flat)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    for count in (1, 2, 5):
        assert takes_channels_last(net, torch.randn(count, 3, 8, 8, generator=torch.Generator()), Model()) is takes
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None and p.is_contiguous() for p in net.parameters())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    if not takes:
        with pytest.raises(UserError, match=r"model.channels_last = true, but .* does not take it"):
            takes_channels_last(net, torch.randn(2, 3, 8, 8), Model(channels_last=True))


def test_a_loss_that_gives_no_one_number_is_one_short_sentence(train: Train, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import torch.nn.functional as F\n"
        "from torch import nn\n"
        "def each(out, y): return F.cross_entropy(out, y, reduction='none')\n"
        "def pair(out, y): return F.cross_entropy(out, y), 1\n"
        "none = nn.CrossEntropyLoss(reduction='none')\n"
    )
    for name, words in (("each", r"a tensor of the shape [25]"), ("pair", "a tuple"), ("none", "reduction='none'")):
        run = train(*QUIET, f"loss.name={tmp_path}/bad.py:{name}", "loss.args={}")
        assert run.failure is not None and words in run.failure.message and "\n" not in run.failure.message


REGRESSION = """
import torch
from torch import nn
from torch.utils.data import Dataset
class Base(Dataset):
    def __init__(self, train=True):
        self.x = torch.randn(60, 3, generator=torch.Generator().manual_seed(int(train)))
        self.targets = self.make(self.x)
    def __len__(self): return 60
    def __getitem__(self, i): return self.x[i], self.targets[i]
class Plain(Base):
    def make(self, x): return 5e4 + 1e4 * x.sum(1)
class Tiny(Base):
    def make(self, x): return 1e-15 * x.sum(1).double()
class Hot(Base):
    def make(self, x): return (x > 0).float()
class Same(Base):
    def make(self, x): return torch.full((60,), 7.5)
class One(Base):
    def make(self, x): return torch.stack([1.7e9 + 1e3 * x[:, 0].double(), torch.full((60,), 3.0)], 1)
class Net(nn.Module):
    def __init__(self, num_outputs):
        super().__init__()
        self.l = nn.Linear(3, num_outputs)
    def forward(self, x):
        if not x.any():
            raise ValueError("these are no real inputs")
        return self.l(x)
def own(out, y): return ((out.reshape(y.shape) - y) ** 2).mean()
def zero(out, y): return (out ** 2).mean()
"""


def test_targets_are_standardised_where_it_is_known_and_said(train: Train, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(REGRESSION)
    own, off, on = f"loss.name={tmp_path}/r.py:own", "data.scale_target=false", "data.scale_target=true"
    draws: list[tuple[str, list[str], bool]] = [
        ("Plain", [], False),  # data of the user's own are left as they are
        ("Plain", [on], True),
        ("Plain", [off], False),
        ("Plain", [own], False),
        ("Plain", [own, on], True),
        ("Tiny", [on], True),
        ("Hot", [], False),
        ("Hot", [on], True),
        ("One", [on], True),
        ("Same", [f"loss.name={tmp_path}/r.py:zero"], False),
        ("Plain", ["loss.name=huber", on], True),
    ]
    for name, more, scaled in draws:
        run = train(
            *QUIET,
            f"data.name={tmp_path}/r.py:{name}",
            f"model.name={tmp_path}/r.py:Net",
            "trainer.steps=1",
            "data.workers=0",
            *more,
            source=None,
        )
        assert run.status == "done", run.failure
        said = [e.message for e in run.events if getattr(e, "message", "").startswith("Targets are standardised")]
        data = run.session.built.data
        assert (bool(said), bool(data.info.target_mean)) == (scaled, scaled), (name, more)
        if scaled:
            y = np.concatenate([y.double().numpy() for _, y, *_ in data.train.epoch(0)]).reshape(54, -1)
            assert np.abs(y.mean(0)).max() < 1e-6
            assert y.std(0, ddof=1)[0] == pytest.approx(1, rel=1e-5)
            assert "data.scale_target = false" in said[0] and f"{data.info.target_mean[0]:.6g}" in said[0]
        if name == "One":
            assert "1 3, always" in said[0]  # what never changes has no deviation to tell
        # The model raises on zeros; it was tried, trained and is evaluated on real inputs alone.
        found = evaluate_model(trained_models.load_trained(run.path / "checkpoints" / "last.pt", True)).report.metrics
        assert found["loss"] == pytest.approx(
            run.session.built.trainer.evaluator.evaluate(run.session.built.trainer.net, data.test).metrics["loss"],
            rel=1e-5,
        )
    run = train(
        *QUIET, f"data.name={tmp_path}/r.py:Same", f"model.name={tmp_path}/r.py:Net", "data.workers=0", source=None
    )
    assert run.failure is not None and "every target is 7.5; there is nothing to learn" in run.failure.message
