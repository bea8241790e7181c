"""data.collate: functions that drop samples, and that return nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchdeck.core.data.load import load_data
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml

CODE = """
import torch
from torch.utils.data import Dataset, default_collate

class Own(Dataset):
    targets = [i % 2 for i in range(40)]
    def __len__(self): return 40
    def __getitem__(self, i): return torch.full((3,), float(i)), i % 2

def drops(items): return default_collate([item for item in items if item[0][0] % 4])
def nothing(items): pass
short = lambda items: (torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items[1:]]))
"""


def loaded(folder: Path, name: str):
    file = folder / "collated.py"
    file.write_text(CODE)
    given = [f"data.name={file}:Own", f"data.collate={file}:{name}", "data.workers=0", "trainer.batch_size=8"]
    return load_data(toml.load(None, [*given, "data.num_classes=2", "model.name=torch.nn:Linear"]), torch.device("cpu"))


def test_a_batch_counts_the_samples_that_were_kept(tmp_path: Path) -> None:
    feed = loaded(tmp_path, "drops").train
    found = list(feed.epoch(0))
    assert [batch.size for batch in found] == [len(batch.x) for batch in found]
    assert sum(batch.size for batch in found) == sum(1 for i in feed.indices.tolist() if i % 4)


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "data.collate gave None for a batch"), ("short", "25 inputs and 24 targets")]
)
def test_what_is_no_batch_is_one_sentence(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        list(loaded(tmp_path, name).train.epoch(0))
    assert message in str(error.value)
