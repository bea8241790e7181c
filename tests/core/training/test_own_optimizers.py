"""Optimizers, schedules and callbacks of the user's own, against plain torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.events import EpochEnded

CODE = """
import json, torch
from torch.optim import Optimizer

class Lion(Optimizer):
    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                b1, b2 = group["betas"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_((m * b1 + p.grad * (1 - b1)).sign(), alpha=-group["lr"])
                m.mul_(b2).add_(p.grad, alpha=1 - b2)

class NoLr(Optimizer):
    def __init__(self, params): super().__init__(params, {})
    def step(self, closure=None): pass

class Asks(Optimizer):
    def __init__(self, params, lr): super().__init__(params, {"lr": lr})
    def step(self, closure=None): pass

class Elsewhere(torch.optim.SGD):
    def __init__(self, params, lr=0.1): super().__init__([torch.nn.Parameter(torch.zeros(1))], lr)
class Stepless(Optimizer):
    def __init__(self, params, lr=0.1): super().__init__(params, {"lr": lr})
class Around(Optimizer):
    def __init__(self, params, lr=0.1):
        self.base = torch.optim.SGD(params, lr)
        self.param_groups, self.defaults, self.state = self.base.param_groups, self.base.defaults, self.base.state
    def step(self, closure=None): self.base.step(closure)
class ByPosition(torch.optim.SGD):
    def __init__(self, *args, **options): super().__init__(*args, **options)
def rate(lr=0.1): return torch.optim.SGD([torch.zeros(1)], lr)

def nothing(): return None
def number(params): return 3
def made(params, lr=0.05): return torch.optim.SGD(params, lr=lr, momentum=0.9)

def triangle(step, total_steps, peak=0.5): return min(step / (peak * total_steps), 1.0)
def negative(step): return -1.0
def negative_at_last(step, total_steps): return -1.0 if step == total_steps - 1 else 1.0
def halving(at, total, per_epoch): return 0.5 ** (at // per_epoch)
def unknown(epoch, momentum): return 1.0
class Alone: pass
class Odd:
    def __init__(self, optimizer): pass

def heard(event):
    with open("heard.jsonl", "a") as file:
        file.write(type(event).__name__ + "\\n")
def raises(event):
    if type(event).__name__ == "EpochEnded": raise ValueError("not this one")
class Counts:
    def __init__(self): self.seen = 0
    def __call__(self, event):
        self.seen += 1
        if type(event).__name__ == "Finished": open("seen.txt", "w").write(str(self.seen))
"""

PLAIN = ("tracking.tensorboard=false", "model.name=linear", "trainer.batch_size=64", "trainer.epochs=2")


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"own_{tmp_path.name[-20:].replace('-', '_')}.py"
    file.write_text(CODE)
    return str(file)


def weights(run: Any) -> dict[str, torch.Tensor]:
    return load_checkpoint(run.path / "checkpoints" / "last.pt", "t")["model"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def by_hand(run: Any, optimizer: Any, scheduler: Any = None, by_step: bool = False) -> nn.Module:
    """The same steps in plain torch."""
    built = run.session.built
    torch.manual_seed(built.experiment.trainer.seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    made = optimizer(net)
    schedule = scheduler(made) if scheduler is not None else None
    for epoch in range(built.trainer.total_epochs):
        for x, y, *_ in built.data.train.epoch(epoch):
            F.cross_entropy(net(x), y).backward()
            made.step()
            made.zero_grad()
            if schedule is not None and by_step:
                schedule.step()
        if schedule is not None and not by_step:
            schedule.step()
    return net


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("torch.optim:ASGD", ["optimizer.lr=0.02"], lambda net: torch.optim.ASGD(net.parameters(), lr=0.02)),
        ("made", [], lambda net: torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)),
        ("ByPosition", ["optimizer.args={lr=0.1}"], lambda net: torch.optim.SGD(net.parameters(), lr=0.1)),
        ("torch.optim:SGD", ["optimizer.args={lr=0.1}"], lambda net: torch.optim.SGD(net.parameters(), lr=0.1)),
        (
            "torch.optim:AdamW",
            ["optimizer.decay_norms_and_biases=true", "optimizer.weight_decay=0.3"],
            lambda net: torch.optim.AdamW(net.parameters(), weight_decay=0.3),
        ),
    ],
)
def test_an_own_optimizer_does_what_it_does_in_plain_torch(
    train: Train, code: str, name: str, options: list[str], plain: Any
) -> None:
    name = name if ":" in name else f"{code}:{name}"
    run = train(*PLAIN, f"optimizer.name={name}", "optimizer.args={}", "schedule.name=constant", *options)
    assert run.status == "done", run.failure
    for found, right in zip(run.session.built.trainer.net.parameters(), by_hand(run, plain).parameters(), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)


def test_lbfgs_asks_for_the_loss_again(train: Train, code: str) -> None:
    run = train(
        *PLAIN, "optimizer.name=torch.optim:LBFGS", "optimizer.args={max_iter=3}", "trainer.steps=4",
        "trainer.batch_size=500", "schedule.name=constant",
    )  # fmt: skip
    assert run.status == "done", run.failure
    built = run.session.built
    torch.manual_seed(built.experiment.trainer.seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    made = torch.optim.LBFGS(net.parameters(), max_iter=3)
    batches = [batch for epoch in range(4) for batch in built.data.train.epoch(epoch)][:4]
    for x, y, *_ in batches:

        def closure(x: Any = x, y: Any = y) -> Any:
            made.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            return loss

        made.step(closure)
    for found, right in zip(built.trainer.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "plain", "by_step"),
    [
        (
            "torch.optim.lr_scheduler:CosineAnnealingWarmRestarts",
            ["schedule.args={T_0=1}", "schedule.interval=step"],
            lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 1),
            True,
        ),
        ("torch.optim.lr_scheduler:ExponentialLR", ["schedule.args={gamma=0.3}"],
         lambda o: lr_scheduler.ExponentialLR(o, 0.3), False),
        ("torch.optim.lr_scheduler:OneCycleLR", ["schedule.args={max_lr=0.3}"],
         lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=42), True),
        ("torch.optim.lr_scheduler:CyclicLR",
         ["schedule.args={base_lr=0.01, max_lr=0.2, step_size_up=8}", "schedule.interval=step"],
         lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, 8), True),
        ("halving", ["schedule.args={}"], lambda o: lr_scheduler.StepLR(o, 1, 0.5), False),
        ("triangle", ["schedule.args={peak=0.25}"],
         lambda o: lr_scheduler.LambdaLR(o, lambda step: min(step / (0.25 * 42), 1.0)), True),
    ],
)  # fmt: skip
def test_an_own_schedule_does_what_it_does_in_plain_torch(
    train: Train, code: str, name: str, options: list[str], plain: Any, by_step: bool
) -> None:
    name = name if ":" in name else f"{code}:{name}"
    common = [*PLAIN, f"schedule.name={name}", "optimizer.name=SGD", "optimizer.lr=0.1", "optimizer.weight_decay=0"]
    common += ["optimizer.args={momentum=0.9}", *options]
    run = train(*common)
    assert run.status == "done", run.failure
    trainer = run.session.built.trainer
    assert trainer.total_steps == 42
    net = by_hand(run, lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), plain, by_step)
    for found, right in zip(trainer.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-6)
    part = train(*common, stop_at=30)
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    assert same(weights(run), weights(rest))


def test_lion_resumes_bit_identically_with_averaging_and_clipping(train: Train, code: str) -> None:
    options = [*PLAIN, f"optimizer.name={code}:Lion", "optimizer.args={}", "trainer.ema=0.9", "trainer.clip_norm=1"]
    whole = train(*options)
    rest = train(resume=train(*options, stop_at=25).path)
    assert whole.status == rest.status == "done", rest.failure
    assert same(weights(whole), weights(rest))


def test_a_plateau_goes_by_the_watched_metric_and_its_direction(train: Train, code: str) -> None:
    run = train(
        *PLAIN, "schedule.name=torch.optim.lr_scheduler:ReduceLROnPlateau", "schedule.args={patience=0,factor=0.5}",
        "trainer.epochs=12", "trainer.monitor=accuracy", "optimizer.name=SGD", "optimizer.args={}", "optimizer.lr=1.0",
    )  # fmt: skip
    assert run.status == "done", run.failure
    epochs = run.of(EpochEnded)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=0, factor=0.5)
    for epoch in epochs:
        scheduler.step(epoch.val["accuracy"])
        assert epoch.learning_rate == optimizer.param_groups[0]["lr"]
    assert epochs[-1].learning_rate < 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["optimizer.name={code}:NoLr"], "keeps no 'lr' in its parameter groups"),
        (["optimizer.name={code}:Asks"], "has no learning rate of its own; set optimizer.lr"),
        (["optimizer.name={code}:nothing"], "takes no parameters to train"),
        (["optimizer.name={code}:rate"], "takes no parameters to train: the first of what it is called with is 'lr'"),
        (["optimizer.name={code}:Elsewhere"], "leaves out 2 of the 2 parameters that it was given"),
        (["optimizer.name={code}:Stepless"], "gave a Stepless without a step() of its own"),
        (["optimizer.name={code}:Around"], "can't give its state (AttributeError"),
        (["optimizer.name=torch.optim:Muon"], "Muon(params=<list>) raised ValueError: Muon only supports 2D"),
        (["schedule.name={code}:negative_at_last"], "gave -1.0 at step 41"),
        (["schedule.name={code}:unknown"], "needs epoch, momentum; a function of (step, total_steps, epoch_length)"),
        (["schedule.name={code}:Alone"], "takes no optimizer, as a scheduler like torch's does"),
        (["schedule.name=torch.optim.lr_scheduler:CosineLR"], "did you mean 'CosineAnnealingLR'"),
        (
            ["schedule.name=torch.optim.lr_scheduler:OneCycleLR", "schedule.args={{max_lr=1,total_steps=9}}"],
            "ends after 9 steps, and is stepped 42 times",
        ),
        (
            ["schedule.name=torch.optim.lr_scheduler:LambdaLR", "schedule.args={{lr_lambda='x.py:f'}}"],
            "schedule.args.lr_lambda = 'x.py:f' is a text. Name the function in schedule.name",
        ),
        (["optimizer.name={code}:number"], "gave a int; a torch.optim.Optimizer is needed"),
        (["optimizer.name={code}:Lion", "optimizer.args={{beta=1}}"], "optimizer.args.beta is not a parameter of Lion"),
        (["optimizer.name={code}:made", "optimizer.weight_decay=0.1"], "made has no weight decay"),
        (["schedule.name={code}:Odd"], "gave a Odd without step()"),
        (["schedule.name={code}:negative"], "gave -1.0 at step 0; a factor of 0 or more is needed"),
        (["trainer.callbacks=['{code}:CODE']"], "CODE"),
        (["trainer.callbacks=['{code}:raises']"], "raised ValueError: not this one in"),
    ],
)
def test_what_can_not_be_used_is_told_in_a_sentence(train: Train, code: str, options: list[str], sentence: str) -> None:
    first = ["optimizer.args={}"] if "optimizer" in options[0] else ["schedule.args={}"]
    run = train(*PLAIN, *first, *(o.format(code=code) for o in options))
    assert run.status == "failed"
    assert sentence in run.failure.message


def test_callbacks_hear_every_event_in_order(train: Train, code: str) -> None:
    run = train(*PLAIN, f"trainer.callbacks=['{code}:heard', '{code}:Counts']")
    assert run.status == "done", run.failure
    heard = Path("heard.jsonl").read_text().split()
    assert heard == [type(event).__name__ for event in run.events][-len(heard) :]
    assert heard[-1] == "Finished" or "Finished" in heard
    assert {"StepSummary", "EpochEnded", "CheckpointWritten", "Finished"} <= set(heard)
    assert int(Path("seen.txt").read_text()) == heard.index("Finished") + 1


def test_a_schedule_that_is_told_its_length_is_not_prolonged(train: Train, code: str) -> None:
    run = train(*PLAIN, "schedule.name=torch.optim.lr_scheduler:OneCycleLR", "schedule.args={max_lr=0.3}")
    assert run.status == "done", run.failure
    more = train("trainer.epochs=3", resume=run.path)
    assert more.status == "failed"
    assert "was made for 42 steps, and now there are 63" in more.failure.message
