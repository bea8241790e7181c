"""Weights that a model begins with: tied ones, wrapped ones, torchvision's by name; each against torch's own
loading."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from torchdeck.core.checkpoints import load
from torchdeck.core.checkpoints.archive import inspect_file
from torchdeck.core.checkpoints.save import save_weights
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.model_schema import Model
from torchdeck.core.models import build as built
from torchdeck.core.models import weights


class Tied(nn.Module):
    """An embedding and further layers, of which some share their weights: drawn by the seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(draw.randint(2, 6)))
        self.embedding, self.head = nn.Embedding(5, 6), nn.Linear(6, 5, bias=False)
        self.register_buffer("scale", torch.ones(3))
        if draw.random() < 0.7:
            self.head.weight = self.embedding.weight
        for _ in range(draw.randint(0, 4)):
            one, other = draw.sample(list(self.layers), 2)
            one.weight = other.weight
        for parameter in {id(p): p for p in self.parameters()}.values():
            nn.init.normal_(parameter)


def loaded(net: nn.Module, path: Path) -> list[str]:
    told: list[str] = []
    weights.load_into(net, str(path), partial=False, tell=told.append)
    return told


@pytest.mark.parametrize("seed", range(12))
def test_tied_weights_load_as_safetensors_and_torch_load_them(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    net, path = Tied(seed), tmp_path / "tied.safetensors"
    save_model(net, str(path))
    expected, own = Tied(seed), Tied(seed)
    load_model(expected, str(path))
    assert loaded(own, path) == []
    assert all(torch.equal(own.state_dict()[name], value) for name, value in expected.state_dict().items())
    assert set(load.weights(path, "w")) == set(net.state_dict())  # also where nothing is tied any more
    assert inspect_file(path).numel == sum(p.numel() for p in net.parameters()) + 3

    # Hugging Face leaves the doubles out without a word about it.
    distinct = {id(p): name for name, p in net.named_parameters(remove_duplicate=False)}
    kept = {name: t for name, t in net.state_dict().items() if name in distinct.values() or name == "scale"}
    save_weights(kept, tmp_path / "kept.safetensors")
    other = Tied(seed)
    assert loaded(other, tmp_path / "kept.safetensors") == []
    assert all(torch.equal(other.state_dict()[name], value) for name, value in net.state_dict().items())


def test_a_file_that_holds_two_tensors_for_tied_ones_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    net[1].weight = net[0].weight
    with pytest.raises(UserError, match=r"the model ties '1.weight' to '0.weight', but the file holds different"):
        loaded(net, tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("prefix", "told"),
    [
        ("", []),
        ("module.", ["the prefix 'module.' is removed from every name"]),
        ("_orig_mod.module.", ["the prefix '_orig_mod.module.' is removed from every name"]),
        ("net.", ["4 of 4 tensors load, the prefix 'net.' is removed"]),
    ],
)
def test_what_is_taken_off_the_names_is_told(tmp_path: Path, prefix: str, told: list[str]) -> None:
    net, path = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), tmp_path / "w.pt"
    torch.save({f"{prefix}{name}": torch.ones_like(t) for name, t in net.state_dict().items()}, path)
    assert loaded(net, path) == [f"model.weights = {str(path)!r}: {words}." for words in told]
    assert all((t == 1).all() for t in net.state_dict().values())


def test_torchvisions_weights_go_by_every_name_that_torchvision_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    offered = torchvision.models.get_model_weights("squeezenet1_1")["IMAGENET1K_V1"]
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(1)
    given = torchvision.models.squeezenet1_1()
    torch.save(given.state_dict(), tmp_path / "checkpoints" / offered.url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    info = DataInfo("d", "classification", (3, 32, 32), 10, tuple("abcdefghij"))
    for name in ("DEFAULT", "IMAGENET1K_V1", "SqueezeNet1_1_Weights.IMAGENET1K_V1"):
        net = built.build_model(Model(name="squeezenet1_1", weights=name), info)
        assert torch.equal(
            net.get_parameter("features.3.squeeze.weight"), given.get_parameter("features.3.squeeze.weight")
        )
    for name in ("IMAGENET1K_V2", "ResNet50_Weights.IMAGENET1K_V1", "imagenet"):
        with pytest.raises(
            UserError, match=f"model.weights = '{name}' is no file and none of the weights of squeezenet"
        ):
            built.build_model(Model(name="squeezenet1_1", weights=name), info)


def test_every_weight_of_every_model_of_the_catalog_is_a_member_of_torchvisions_enum() -> None:
    import torchvision

    from torchdeck.core import catalog

    names = [e.name for e in catalog.entries("model") if e.fact("family") == "torchvision"]
    assert len(names) > 50
    for model in names:
        for member in torchvision.models.get_model_weights(model):
            assert weights.pretrained(model, member.name) is member
            assert weights.pretrained(model, str(member)) is member
