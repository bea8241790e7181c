"""Pipelines of WebDataset, and streams of batches: a seeded order, each item once, with any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from torchdeck.core.data.adapted import Unbatched, adapted, gives_batches, shuffles_in_buffer
from torchdeck.core.data.load import load_data
from torchdeck.core.data.stream_items import StreamItems, stream_of
from torchdeck.core.experiment import toml

# The parts of WebDataset's pipelines by their own names and attributes: where it is installed, it is taken itself.
STAND_IN = """
import os, random
from torch.utils.data import IterableDataset

class Stage:
    def __init__(self, f, *args, **kw): self.f, self.args, self.kw = f, args, kw
    def __call__(self, data): return self.f(data, *self.args, **self.kw)

def single_node_only(source):
    if int(os.environ.get("WORLD_SIZE", "1")) > 1: raise ValueError("you need to add an explicit nodesplitter")
    yield from source

def _shuffle(data, bufsize, rng=None, seed=None):
    rng = rng or random.Random(seed if seed is not None else os.urandom(8))
    items = list(data)
    while items: yield items.pop(rng.randint(0, len(items) - 1))

def _batched(data, size):
    items = list(data)
    for at in range(0, len(items), size):
        yield tuple(map(list, zip(*items[at : at + size])))

class Resampled:
    def __init__(self): self.deterministic, self.worker_seed, self.epoch = False, os.getpid, -1
    def __call__(self):
        self.epoch += 1
        seed = (self.worker_seed(), self.epoch) if self.deterministic else os.urandom(8)
        rng = random.Random(str(seed))
        return ((float(rng.randrange(30)), 0) for _ in range(30))

class Pipeline(IterableDataset):
    def __init__(self, *stages): self.pipeline = list(stages)
    def __iter__(self):
        source = self.pipeline[0]()
        for stage in self.pipeline[1:]: source = stage(source)
        return iter(source)

def numbers(): return ((float(i), i % 2) for i in range(30))
def shuffled(): return Pipeline(numbers, single_node_only, Stage(_shuffle, 10))
def batched(): return Pipeline(numbers, single_node_only, Stage(_batched, 7))
def resampled(): return Pipeline(Resampled(), single_node_only)
"""


@pytest.fixture
def pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import importlib
    import sys

    monkeypatch.delitem(sys.modules, "webdataset", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "webdataset.py").write_text(STAND_IN)
    return importlib.import_module("webdataset")


def first(stream: Any, epoch: int = 0, seed: int = 0) -> list[int]:
    return [int(item[0]) for item in StreamItems(stream_of(stream, "x"), seed, epoch).take(0, 30).values()]


@pytest.mark.parametrize("name", ["shuffled", "resampled"])
def test_what_is_drawn_by_the_clock_is_seeded_and_no_process_is_refused(pipelines, monkeypatch, name):
    monkeypatch.setenv("WORLD_SIZE", "2")
    notes: list[str] = []
    one, other = (adapted(getattr(pipelines, name)(), name, "train", notes) for _ in range(2))
    orders = [first(one), first(other), first(one, epoch=1), first(other, epoch=1)]
    assert orders[0] == orders[1] != orders[2] == orders[3]
    assert first(one) == orders[0]
    assert name == "resampled" or sorted(orders[0]) == list(range(30))
    assert "is drawn by trainer.seed" in notes[0]


def test_batches_of_a_pipeline_are_taken_apart(pipelines):
    notes: list[str] = []
    assert gives_batches(pipelines.batched()) and not gives_batches(pipelines.shuffled())
    assert list(adapted(pipelines.batched(), "b", "train", notes)) == [(float(i), i % 2) for i in range(30)]
    assert "gives batches, which are taken apart" in notes[0]


@pytest.mark.parametrize(
    ("batch", "items"),
    [
        ((torch.arange(2), ["a", "b"]), [(0, "a"), (1, "b")]),
        ([torch.arange(2), torch.arange(2) + 5], [(0, 5), (1, 6)]),
        ({"x": {"y": torch.arange(2)}, "z": [3, 4]}, [{"x": {"y": 0}, "z": 3}, {"x": {"y": 1}, "z": 4}]),
        ([(1, 2), (3, 4)], [(1, 2), (3, 4)]),
        (torch.arange(2), [0, 1]),
    ],
)
def test_batches_of_any_form_are_taken_apart(batch, items):
    assert list(Unbatched([batch])) == items


def test_a_loader_without_a_batch_size_gives_batches(tmp_path):
    (tmp_path / "made.py").write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, IterableDataset\n"
        "class Batches(IterableDataset):\n"
        "    def __iter__(self): return ((torch.arange(5.) + 5 * i, torch.arange(5) % 2) for i in range(6))\n"
        "def loader(): return DataLoader(Batches(), batch_size=None)\n"
    )
    options = [f"data.name={tmp_path}/made.py:loader", "data.transforms=[]", "trainer.batch_size=6", "data.workers=0"]
    data = load_data(toml.load(None, [*options, "trainer.steps=5"]), torch.device("cpu"))
    assert data.info.task == "classification"
    assert torch.cat([batch.x.flatten() for batch in data.train.epoch(0)]).tolist() == list(range(30))


def test_a_buffer_of_shuffled_items_is_found_below_other_stages():
    kind = type("BufferShuffledExamplesIterable", (), {"ex_iterable": None})
    mapped = type("Mapped", (), {"ex_iterable": type("Cycling", (), {"ex_iterables": [kind()]})()})
    assert shuffles_in_buffer(type("Stream", (), {"_ex_iterable": mapped()})())
    assert not shuffles_in_buffer(type("Stream", (), {"_ex_iterable": type("Mapped", (), {"ex_iterable": None})()})())
