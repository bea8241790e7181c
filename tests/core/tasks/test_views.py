"""Items of contrastive learning and reconstruction as their users have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Train

from torchdeck.core.data.load import load_data
from torchdeck.core.events import LogLine
from torchdeck.core.experiment import toml

CODE = """
import torch
from sklearn.datasets import load_digits
from torch import nn

DIGITS = load_digits()
X, Y = torch.tensor(DIGITS.images / 16).float().unsqueeze(1)[:300], torch.tensor(DIGITS.target)[:300]


class Labelled(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return (X[i], X[i].roll(1, -1)), int(Y[i])


class Pairs(Labelled):
    def __getitem__(self, i):
        return X[i], X[i].roll(1, -1)


class Triplets(Labelled):
    def __getitem__(self, i):
        same, other = (Y == Y[i]).nonzero()[:, 0], (Y != Y[i]).nonzero()[:, 0]
        return X[i], X[same[i % len(same)]], X[other[i % len(other)]]


class Image(Labelled):
    def __getitem__(self, i):
        return X[i], int(Y[i])


class Embed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x):
        return self.layers(x)


class SideBySide(Embed):
    def forward(self, first, second):
        return self.layers(first), self.layers(second)


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(64, 16), nn.Linear(8, 64)

    def forward(self, x):
        mu, logvar = self.encode(x.flatten(1)).chunk(2, 1)
        return self.decode(mu), mu, logvar


def distance(z1, z2):
    return ((z1 - z2) ** 2).mean()


def vae_loss(recon, x, mu, logvar):
    error = nn.functional.mse_loss(recon, x.flatten(1))
    return {"loss": error + 1e-3 * mu.square().mean(), "error": error, "size": mu.square().mean()}
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("views") / "views_of_users.py"
    path.write_text(CODE)
    return path


def overrides(file: Path, task: str, data: str, net: str, *more: str) -> tuple[str, ...]:
    names = (f"data.name={file}:{data}", f"model.name={file}:{net}", f"task.name={task}")
    return (*names, "trainer.epochs=2", "tracking.tensorboard=false", *more)


def test_views_that_items_hold(train: Train, file: Path) -> None:
    for data, net, loss, figures in (
        ("Pairs", "Embed", "", {"top1", "top5"}),
        ("Pairs", "SideBySide", "", {"top1", "top5"}),
        ("Pairs", "Embed", f"loss.name={file}:distance", {"top1", "top5"}),
        ("Labelled", "Embed", "", {"top1", "top5", "neighbour_accuracy"}),
        ("Triplets", "Embed", "loss.name=triplet", {"top1", "top5", "triplet_accuracy"}),
        ("Triplets", "Embed", "loss.name=torch.nn:TripletMarginLoss", {"top1", "top5", "triplet_accuracy"}),
    ):
        run = train(*overrides(file, "contrastive", data, net, *([loss] if loss else [])), source=None)
        assert run.status == "done", run.failure
        assert set(run.session.finished.test) == {"loss", *figures}, (data, net, loss)
    refused = train(*overrides(file, "contrastive", "Triplets", "Embed"), source=None)
    assert refused.failure is not None and "of triplets loss.name = 'triplet' is" in refused.failure.message
    refused = train(*overrides(file, "contrastive", "Image", "Embed"), source=None)
    assert refused.failure is not None and "data.transforms has none" in refused.failure.message


CROPS = "data.transforms=[{name='RandomCrop',size=8,padding=2},{name='ToTensor'}]"
ROTATED = "data.transforms=[{name='RandomRotation',degrees=40},{name='ToTensor'}]"


@pytest.mark.parametrize("chosen", [CROPS, ROTATED], ids=["on the batch", "sample by sample"])
def test_views_are_a_function_of_seed_epoch_and_place(chosen: str) -> None:
    def batches(epoch: int, start: int, which: str = "train") -> list[tuple[torch.Tensor, ...]]:
        experiment = toml.load(
            "digits", ["task.name=contrastive", "model.name=projected_cnn", chosen, "data.workers=0"]
        )
        data = load_data(experiment, torch.device("cpu"))
        return [batch.x for batch in getattr(data, which).epoch(epoch, start)][: 4 - start]

    whole, rest, other = batches(3, 0), batches(3, 2), batches(4, 0)
    for (a, b), (c, d) in zip(whole[2:], rest, strict=True):
        assert torch.equal(a, c) and torch.equal(b, d)
        assert a.shape == b.shape == (64, 1, 8, 8)
        assert (a != b).flatten(1).any(1).float().mean() > 0.8  # two draws may be the same
    assert not torch.equal(whole[0][0], other[0][0])
    [(a, b)], [(c, d)] = batches(0, 0, "val"), batches(0, 0, "val")
    assert torch.equal(a, c) and torch.equal(b, d) and not torch.equal(a, b)


def test_reconstructions_of_a_tuple_with_parts_of_the_loss(train: Train, file: Path) -> None:
    run = train(*overrides(file, "reconstruction", "Image", "Vae", f"loss.name={file}:vae_loss"), source=None)
    assert run.status == "done", run.failure
    test = run.session.finished.test
    assert set(test) == {"loss", "error", "size", "mae", "rmse", "psnr"}
    assert test["rmse"] ** 2 == pytest.approx(test["error"], rel=1e-4)
    said = [e.message for e in run.of(LogLine)]
    assert any("are not used: the input is the target" in text for text in said)
    assert any("task.args.logits" in text for text in said)
    plain = train(*overrides(file, "reconstruction", "Image", "Vae"), source=None)
    assert plain.status == "done", plain.failure
    assert any("of which the loss takes the reconstruction alone" in e.message for e in plain.of(LogLine))
