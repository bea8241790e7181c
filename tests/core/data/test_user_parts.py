"""Data sets by part, columns and class names as Hugging Face keeps them, generators, WebDataset's keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchdeck.core.data.load import load_data
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml

CODE = """
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

class ClassLabel:
    dtype, names = "int64", ["cat", "dog", "eel"]

class Value:
    dtype = "float32"

class Columns:  # indexed by row and by column
    features = {"x": Value(), "label": ClassLabel()}
    def __init__(self, n): self.n, self.read = n, 0
    def __len__(self): return self.n
    def __getitem__(self, at):
        if isinstance(at, str): return [i % 2 for i in range(self.n)]
        self.read += 1
        return {"x": [float(at), 1.0], "label": at % 2}

class DatasetDict(dict): pass

class Stream(IterableDataset):
    features = {"x": Value(), "label": ClassLabel()}
    def __iter__(self):
        for i in range(12): yield {"__key__": str(i), "x": torch.full((2,), float(i)), "label": i % 2}

class Kept(Columns):
    features = None
    def __getitem__(self, at): return torch.full((2,), float(at)), int(at >= 50)

whole = DatasetDict(train=Columns(60), validation=Columns(20), test=Columns(10), unsupervised=Columns(5))
tensors = lambda n: TensorDataset(torch.rand(n, 2), torch.arange(n) % 2)

def columns(): return Columns(60)
def parts(): return whole
def loaders(): return {"train": DataLoader(tensors(60)), "val": DataLoader(tensors(20))}
def without(): return {"a": Columns(5), "b": Columns(6)}
def stream(): return Stream()
def kept(): return Kept(60)
def counted(n=12):
    for i in range(n): yield torch.full((2,), float(i)), i % 2
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("parts") / "given.py"
    file.write_text(CODE)
    return file


def loaded(code, data, *options, warn=lambda text: None):
    given = [f"data.name={code}:{data}", "data.transforms=[]", "trainer.batch_size=4", "data.workers=0", *options]
    return load_data(toml.load(None, given), torch.device("cpu"), warn)


def test_a_dict_of_data_sets_gives_the_parts_by_their_names(code):
    told = []
    data = loaded(code, "parts", warn=told.append)
    assert data.info.samples == {"train": 60, "val": 20, "test": 10}
    assert any("gives 'unsupervised', too: not used" in text for text in told)
    assert loaded(code, "loaders").info.samples == {"train": 60, "val": 20, "test": 0}


def test_classes_and_their_names_are_those_of_the_column(code):
    data = loaded(code, "columns")
    assert data.info.class_names == ("cat", "dog", "eel")
    assert data.train_targets is not None and data.train_targets.tolist() == [i % 2 for i in data.train.indices]
    assert next(iter(data.train.epoch(0))).x.shape == (4, 2)


def test_a_stream_of_dicts_has_no_inputs_but_its_own_and_the_names_of_its_classes(code):
    data = loaded(code, "stream", "trainer.steps=3")
    assert data.info.class_names == ("cat", "dog", "eel")
    assert data.sample.x.shape == (12, 2)


def test_a_generator_function_is_called_anew_for_each_pass(code):
    data = loaded(code, "counted", "trainer.steps=6", "data.args.n=10")
    assert [int(x[0]) for batch in data.train.epoch(0) for x in batch.x] == [i % 10 for i in range(24)]


def test_classes_that_were_read_to_count_them_balance_the_samples(code):
    drawn = torch.cat(
        [b.y for epoch in range(20) for b in loaded(code, "kept", "data.sampler=balanced").train.epoch(epoch)]
    )
    assert drawn.double().mean() == pytest.approx(0.5, abs=0.06)  # a sixth without it; three standard errors are 0.05


def test_a_dict_without_a_training_set_is_one_sentence(code):
    with pytest.raises(UserError, match="a dict with the keys 'a', 'b'; give data sets as 'train'"):
        loaded(code, "without")
