"""Labels and targets of the user's own data sets, one of which is of another kind than the first: told by its index."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from torchdeck.core.data.load import load_data
from torchdeck.core.data.vocabulary import vocabulary_of
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment

CODE = """
import torch
from torch.utils.data import Dataset
class Data(Dataset):
    def __init__(self, usual, odd, at): self.usual, self.odd, self.at = usual, odd, at
    def __len__(self): return 40
    def __getitem__(self, i):
        x = torch.ones(4, dtype=torch.complex64) if self.usual == "complex" and i == self.at else torch.ones(4)
        if i == self.at and self.odd == "raise": raise KeyError("gone")
        y = eval(self.odd) if i == self.at and self.odd != "usual" else self.labels(i)
        return x, y
    def labels(self, i):
        return {"classes": i % 2, "gaps": (3, 7)[i % 2], "numbers": float(i), "complex": i % 2}[self.usual]
"""


def read(folder: Path, usual: str, odd: str, at: int) -> list[str]:
    """All batches are read; what was said of the data."""
    (folder / "own.py").write_text(CODE)
    args = {"usual": usual, "odd": odd, "at": at}
    data = {"name": f"{folder / 'own.py'}:Data", "args": args, "workers": 0}
    notes: list[str] = []
    loaded = load_data(Experiment.model_validate({"data": data}), torch.device("cpu"), notes.append)
    for feed in (loaded.train, loaded.val, loaded.test):
        if feed is not None:
            list(feed.epoch(0))
    return notes


@pytest.mark.parametrize(
    ("usual", "odd"),
    [("classes", odd) for odd in ("None", "'x'", "0.5", "[0, 1]", "{}", "1j", "raise")]
    + [("numbers", odd) for odd in ("None", "'x'", "float('nan')", "float('inf')", "1j", "raise")]
    + [("complex", "usual")],
)
def test_one_odd_sample_is_told_by_its_index(tmp_path: Path, usual: str, odd: str) -> None:
    for at in random.Random(usual + odd).sample(range(1, 40), 3):
        with pytest.raises(UserError, match=rf"(?i)sample {at}\b"):
            read(tmp_path, usual, odd, at)


def test_what_is_sound_is_read_and_gaps_are_told(tmp_path: Path) -> None:
    assert not any("gaps" in note for note in read(tmp_path, "classes", "usual", 0))
    assert any("2 are in use, of the 8 classes from 0 to 7" in note for note in read(tmp_path, "gaps", "usual", 0))


@pytest.mark.parametrize("name", ["itos", "stoi", "vocabulary", "vocab"])
def test_a_vocabulary_has_several_usual_names(name: str) -> None:
    kept = {"a": 0, "b": 1} if name == "stoi" else ["a", "b"]
    assert vocabulary_of(SimpleNamespace(**{name: kept})) == (("a", "b"), None)
