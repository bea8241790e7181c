"""Reconstructions against NumPy, torchmetrics and the loss of a VAE written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from torchdeck.core.data.source import DataInfo
from torchdeck.core.experiment import toml
from torchdeck.core.tasks.base import Step
from torchdeck.core.tasks.build import build_task
from torchdeck.core.tasks.reconstruction import Reconstruction, ReconstructionTask

CPU = torch.device("cpu")


def task(*overrides: str, pictures: bool = True) -> ReconstructionTask:
    shape = (1, 4, 4) if pictures else (3,)
    info = DataInfo("d", "reconstruction", shape, math.prod(shape), raw_shape=shape if pictures else ())
    experiment = toml.load(
        None, ["task.name=reconstruction", "data.name=some.py:Data", "model.name=some.py:Net", *overrides]
    )
    made = build_task(experiment, info, nn.Identity(), CPU)
    assert isinstance(made, ReconstructionTask)
    return made


def measured(of: ReconstructionTask, out: Tensor, x: Tensor, seed: int) -> dict[str, float]:
    """The figures of outputs that come in batches cut at random places."""
    [metric] = of.of_task(Step(out, x, len(x)))
    cuts = sorted(
        {0, len(x), *torch.randint(len(x), (seed % 4,), generator=torch.Generator().manual_seed(seed)).tolist()}
    )
    for a, b in itertools.pairwise(cuts):
        metric.take(Step(out[a:b], x[a:b], b - a))
    return metric.compute()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.booleans(), st.sampled_from(["mse", "l1", "bce_with_logits"]))
def test_figures_are_of_all_numbers_of_the_set(seed: int, n: int, pictures: bool, loss: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, 1, 4, 4) if pictures else (n, 3)
    x = torch.rand(shape, generator=generator) * (1 if pictures else 7) - (0 if pictures else 3)
    out = x + torch.randn(shape, generator=generator)
    found = measured(task(f"loss.name={loss}", pictures=pictures), out.flatten(1), x, seed)
    compared = 1 / (1 + np.exp(-out.double().numpy())) if loss == "bce_with_logits" else out.double().numpy()
    error = compared - x.double().numpy()
    assert found["mae"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    assert found["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)
    span = 1.0 if pictures else float(x.max() - x.min())
    expected = peak_signal_noise_ratio(torch.from_numpy(compared), x.double(), data_range=span)
    assert found["psnr"] == pytest.approx(float(expected), rel=1e-5)


def test_psnr_without_error_is_infinite_and_of_what_never_changes_unknown() -> None:
    x = torch.rand(3, 5)
    one = Reconstruction(False, False)
    one.update(x, x)
    assert one.compute()["psnr"] == math.inf
    other = Reconstruction(False, False)
    other.update(torch.ones(3, 5), torch.zeros(3, 5))
    assert math.isnan(other.compute()["psnr"])


@pytest.mark.parametrize("kind", ["bce", "bce_with_logits", "mse"])
def test_the_elbo_is_that_of_torchs_distributions(kind: str) -> None:
    torch.manual_seed(0)
    x, logits, mean, logvar = torch.rand(6, 1, 4, 4).round(), torch.randn(6, 16), torch.randn(6, 3), torch.randn(6, 3)
    out = logits.sigmoid() if kind == "bce" else logits
    of = task("loss.name=elbo", f"loss.args.reconstruction={kind}", "loss.args.beta=0.5")
    assert of.loss is not None and of.loss.kind == "mean"
    loss, parts = of.loss.with_parts((out, mean, logvar), x)
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(torch.zeros(3), torch.ones(3)))
    flat = x.flatten(1)
    error = (
        ((out - flat) ** 2).sum(1)
        if kind == "mse"
        else -torch.distributions.Bernoulli(logits=logits).log_prob(flat).sum(1)
    )
    assert float(parts["reconstruction"]) == pytest.approx(float(error.mean()), rel=1e-5)
    assert float(parts["kl"]) == pytest.approx(float(kl.sum(1).mean()), rel=1e-5)
    assert float(loss) == pytest.approx(float(error.mean() + 0.5 * kl.sum(1).mean()), rel=1e-5)
    by_name, _ = of.loss.with_parts({"recon": out, "mu": mean, "logvar": logvar}, x)
    assert torch.equal(loss, by_name)
    assert F.mse_loss(*(torch.tensor([float(v)]) for v in (loss, by_name))) == 0
