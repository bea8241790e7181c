"""Our schedules are formulas; torch's own schedulers must give the same learning rates."""

from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from torchdeck.core.experiment.model_schema import Schedule
from torchdeck.core.training.schedules import Scheduler

TOTAL, PER_EPOCH, LR = 120, 10, 0.4


def optimizer(momentum: float = 0.9, kind: type = torch.optim.SGD) -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.zeros(1))
    return kind([parameter], lr=LR, **({"momentum": momentum} if kind is torch.optim.SGD else {}))


def ours(schedule: Schedule, opt: torch.optim.Optimizer) -> tuple[list[float], list[float]]:
    scheduler = Scheduler(schedule, opt, TOTAL, PER_EPOCH)
    rates, momenta = [], []
    for step in range(TOTAL):
        scheduler.set(step)
        rates.append(scheduler.learning_rate())
        group = opt.param_groups[0]
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
    return rates, momenta


def reference(scheduler: theirs.LRScheduler, opt: torch.optim.Optimizer, every: int) -> tuple[list[float], list[float]]:
    rates, momenta = [], []
    for step in range(TOTAL):
        rates.append(opt.param_groups[0]["lr"])
        group = opt.param_groups[0]
        momenta.append(group["betas"][0] if "betas" in group else group["momentum"])
        opt.step()
        if (step + 1) % every == 0 and step + 1 < TOTAL:
            scheduler.step()
    return rates, momenta


@pytest.mark.parametrize(
    ("schedule", "make", "every"),
    [
        (Schedule(name="constant"), lambda o: theirs.ConstantLR(o, 1.0), 1),
        (Schedule(name="step", args={"step_size": 3, "gamma": 0.5}), lambda o: theirs.StepLR(o, 3, 0.5), PER_EPOCH),
        (Schedule(name="multistep", args={"milestones": [2, 7]}), lambda o: theirs.MultiStepLR(o, [2, 7]), PER_EPOCH),
        (Schedule(name="exponential", args={"gamma": 0.8}), lambda o: theirs.ExponentialLR(o, 0.8), PER_EPOCH),
        (Schedule(name="cosine"), lambda o: theirs.CosineAnnealingLR(o, TOTAL), 1),
        (
            Schedule(name="cosine", args={"final": 0.1}),
            lambda o: theirs.CosineAnnealingLR(o, TOTAL, eta_min=LR * 0.1),
            1,
        ),
        (Schedule(name="linear", args={"final": 0.2}), lambda o: theirs.LinearLR(o, 1.0, 0.2, TOTAL), 1),
        (Schedule(name="one_cycle"), lambda o: theirs.OneCycleLR(o, LR, TOTAL), 1),
        (
            Schedule(name="one_cycle", args={"warmup": 0.1, "div": 10, "final_div": 100}),
            lambda o: theirs.OneCycleLR(o, LR, TOTAL, pct_start=0.1, div_factor=10, final_div_factor=100),
            1,
        ),
    ],
    ids=lambda v: v.name if isinstance(v, Schedule) else "",
)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_schedules_are_torchs(schedule: Schedule, make, every: int, kind: type) -> None:
    mine = optimizer(kind=kind)
    got = ours(schedule, mine)
    other = optimizer(kind=kind)
    expected = reference(make(other), other, every)
    assert got[0] == pytest.approx(expected[0], rel=1e-9, abs=1e-12)
    assert got[1] == pytest.approx(expected[1], rel=1e-9)


def test_plateau_is_torchs() -> None:
    mine, other = optimizer(), optimizer()
    scheduler = Scheduler(Schedule(name="plateau", args={"patience": 2, "gamma": 0.5}), mine, TOTAL, PER_EPOCH)
    reference = theirs.ReduceLROnPlateau(
        other, factor=0.5, patience=2, threshold=0, threshold_mode="abs", min_lr=LR * 1e-4
    )
    for epoch, value in enumerate([5, 4, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3]):
        scheduler.epoch_ended(value, higher_is_better=False)
        scheduler.set(epoch)
        reference.step(value)
        assert scheduler.learning_rate() == pytest.approx(other.param_groups[0]["lr"]), epoch


def test_warm_up_rises_to_the_peak_and_a_hand_on_the_rate_holds() -> None:
    opt = optimizer()
    scheduler = Scheduler(Schedule(name="cosine", args={"warmup": 0.25}), opt, TOTAL, PER_EPOCH)
    rates = []
    for step in range(TOTAL):
        scheduler.set(step)
        rates.append(scheduler.learning_rate())
    assert rates[0] == pytest.approx(LR / 31)
    assert max(rates) == rates[30] == pytest.approx(LR)
    assert rates == sorted(rates[:31]) + sorted(rates[31:], reverse=True)

    scheduler.set_learning_rate(0.04, 30)
    assert scheduler.learning_rate() == pytest.approx(0.04)
    scheduler.set(75)
    assert scheduler.learning_rate() == pytest.approx(rates[75] / 10)
