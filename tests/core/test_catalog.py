"""The catalog is written down without torch; here it is held against torch."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

from torchdeck.core import catalog
from torchdeck.core.catalog.models import TORCHVISION
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.model_schema import Model, Optimizer
from torchdeck.core.models.build import build_model
from torchdeck.core.training.optimizers import build_optimizer


def test_every_torchvision_classification_model_is_listed() -> None:
    import torchvision

    assert torchvision.models.list_models(module=torchvision.models) == sorted(TORCHVISION)


@pytest.mark.parametrize("entry", catalog.entries("optimizer"), ids=lambda e: e.name)
def test_optimizers_are_torchs(entry: catalog.Entry) -> None:
    if not hasattr(torch.optim, entry.name):
        pytest.skip(f"this torch has no {entry.name}")
    parameters = inspect.signature(getattr(torch.optim, entry.name)).parameters
    for p in entry.params:
        if p.name == "adamw_lr":
            continue
        assert p.name in parameters
        if (entry.name, p.name) not in {("SGD", "momentum")}:
            assert p.default == parameters[p.name].default, p.name
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = build_optimizer(Optimizer(name=entry.name), net, torch.device("cpu"))
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(5, 4)).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_all_plain_optimizers_of_torch_are_there() -> None:
    ours = {e.name for e in catalog.entries("optimizer")}
    theirs = {
        n for n, c in vars(torch.optim).items() if inspect.isclass(c) and issubclass(c, torch.optim.Optimizer)
    } - {"Optimizer", "LBFGS", "SparseAdam"}
    assert theirs <= ours


def test_norms_and_biases_do_not_decay() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    groups = build_optimizer(Optimizer(name="SGD", weight_decay=0.1), net, torch.device("cpu")).param_groups
    assert {tuple(p.shape) for p in groups[0]["params"]} == {(2, 1, 3, 3), (3, 8)}
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert sum(len(g["params"]) for g in groups) == 6
    together = build_optimizer(
        Optimizer(name="SGD", weight_decay=0.1, decay_norms_and_biases=True), net, torch.device("cpu")
    )
    assert [g["weight_decay"] for g in together.param_groups] == [0.1]


SMALL_IMAGES = {
    "resnet18",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "efficientnet_b0",
    "regnet_y_400mf",
    "densenet121",
    "mnasnet0_5",
    "vgg11",
    "convnext_tiny",
    "alexnet",
}


@pytest.mark.parametrize("name", sorted(SMALL_IMAGES))
def test_torchvision_models_take_one_channel_and_any_classes(name: str) -> None:
    net = build_model(Model(name=name), DataInfo("x", "classification", (1, 64, 64), 7, tuple("abcdefg")))
    net.eval()
    assert net(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("name", ["inception_v3", "googlenet", "vit_b_32", "swin_t", "maxvit_t"])
def test_torchvision_models_of_fixed_size(name: str) -> None:
    side = 299 if name == "inception_v3" else 224
    net = build_model(Model(name=name), DataInfo("x", "classification", (3, side, side), 4, tuple("abcd")))
    net.train()
    assert net(torch.rand(2, 3, side, side)).shape == (2, 4)


@pytest.mark.parametrize("kind", sorted(catalog.KINDS))
def test_entries_are_found_and_defaults_are_valid(kind: str) -> None:
    for entry in catalog.entries(kind):
        assert catalog.find(kind, entry.name.upper()) is entry
        given = {p.name: p.default for p in entry.params if p.default is not None}
        given |= {p.name: {"str": "x", "size": 3}[p.kind] for p in entry.params if p.required}
        assert entry.check(given, "test") == given


@pytest.mark.parametrize("kind", ["data", "model", "optimizer"])
def test_what_makes_an_entry_takes_its_parameters(kind: str) -> None:
    for entry in catalog.entries(kind):
        if entry.fact("family") == "torchvision" or entry.name == "Muon":  # whose parameters are taken apart first
            continue
        takes = inspect.signature(entry.load_factory()).parameters
        assert {p.name for p in entry.params} <= set(takes), entry.name


def test_unknown_names_tell_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        catalog.find("model", "resnet-18b")
    with pytest.raises(UserError, match="There is no catalog of"):
        catalog.entries("models")
