"""Graphs as PyTorch Geometric gives them: a list of them is joined to batches, whose parts reach forward by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Train

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.data.load import load_data
from torchdeck.core.events import LogLine
from torchdeck.core.experiment import toml

# What of PyTorch Geometric is needed, by its own protocol: where it is installed, it is taken itself.
STAND_IN = """
import torch

class Data:
    def __init__(self, **parts): self.__dict__.update(parts)
    def __inc__(self, key, value): return len(self.x) if "index" in key else 0
    def __cat_dim__(self, key, value): return -1 if "index" in key else 0
    def to_dict(self): return dict(vars(self))
    def to(self, device, **options):
        return type(self)(**{key: value.to(device) for key, value in vars(self).items()})

class Batch(Data):
    @classmethod
    def from_data_list(cls, graphs):
        offsets, parts = [0], {"x": [], "edge_index": [], "y": [], "batch": []}
        for number, graph in enumerate(graphs):
            parts["x"].append(graph.x)
            parts["y"].append(graph.y)
            parts["edge_index"].append(graph.edge_index + offsets[-1])
            parts["batch"].append(torch.full((len(graph.x),), number))
            offsets.append(offsets[-1] + len(graph.x))
        return cls(**{key: torch.cat(values, -1 if key == "edge_index" else 0) for key, values in parts.items()})
"""
CODE = """
import torch
from torch import nn
from torch_geometric.data import Data

def made():
    g = torch.Generator().manual_seed(0)
    for i in range(80):
        nodes = 3 + i % 4
        edges = torch.randint(0, nodes, (2, 2 * nodes), generator=g)
        label = int(i >= 60)
        yield Data(x=torch.randn(nodes, 4, generator=g) + label, edge_index=edges, y=torch.tensor([label]))

graphs = list(made())

class ByName(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, num_classes)
    def forward(self, x, edge_index, batch):
        h = self.first(x).relu()
        h = h.index_add(0, edge_index[1], h[edge_index[0]])
        count = int(batch.max()) + 1
        return self.last(h.new_zeros(count, 8).index_add(0, batch, h))

class Whole(ByName):
    def forward(self, data): return super().forward(data.x, data.edge_index, data.batch)
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    try:
        import torch_geometric  # noqa: F401
    except ImportError:
        (tmp_path / "torch_geometric").mkdir()
        (tmp_path / "torch_geometric" / "__init__.py").touch()
        (tmp_path / "torch_geometric" / "data.py").write_text(STAND_IN)
    file = tmp_path / "molecules.py"
    file.write_text(CODE)
    return file


def test_batches_are_the_graphs_side_by_side(code: Path) -> None:
    options = [f"data.name={code}:graphs", f"model.name={code}:ByName", "trainer.batch_size=6", "data.workers=0"]
    told: list[str] = []
    data = load_data(toml.load(None, options), torch.device("cpu"), told.append)
    assert (data.info.task, data.info.classes) == ("classification", 2)
    assert not any("at random" in text for text in told)
    from molecules import graphs  # type: ignore[import-not-found]

    order = data.train._planned(0)[0].tolist()
    batch = next(iter(data.train.epoch(0)))
    chosen = [graphs[i] for i in order[:6]]
    assert torch.equal(batch.x.x, torch.cat([graph.x for graph in chosen]))
    assert torch.equal(batch.y, torch.cat([graph.y for graph in chosen]))
    begins = [sum(len(graph.x) for graph in chosen[:at]) for at in range(6)]
    edges = [graph.edge_index + begin for graph, begin in zip(chosen, begins, strict=True)]
    assert torch.equal(batch.x.edge_index, torch.cat(edges, 1))


def test_a_model_of_graphs_is_trained_with_a_sampler_and_resumed_exactly(train: Train, code: Path) -> None:
    options = (f"data.name={code}:graphs", "data.sampler=balanced", "trainer.batch_size=8", "trainer.epochs=3")
    options = (*options, "tracking.tensorboard=false", "data.workers=0", "optimizer.lr=0.01")
    whole = train(*options, f"model.name={code}:ByName")
    assert whole.status == "done", whole.failure
    part = train(*options, f"model.name={code}:Whole", stop_at=11)
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    a, b = (load_checkpoint(run.path / "checkpoints" / "last.pt", "test")["model"] for run in (whole, part))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not any("not those that the run began with" in line.message for line in rest.of(LogLine))
