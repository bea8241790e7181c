"""data.collate: functions that drop samples, and that return nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import Train

from torchdeck.core.data.boxes import check_item
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


@pytest.mark.parametrize(
    ("bad", "more", "sentence"),
    [
        ("{'x': x}", (), "Sample 3 of .* has no target, and sample "),
        ("{'x': x, 'y': y, 'z': x}", ("model.name={file}:Two",), "has the key 'z', and sample .* has not"),
    ],
)
def test_items_that_lack_what_others_have(
    tmp_path: Path, train: Train, bad: str, more: tuple[str, ...], sentence: str
) -> None:
    file = tmp_path / "lacking_items.py"
    first = "{'x': x, 'y': y}" if "z" not in bad else "{'x': x, 'w': x, 'y': y}"
    bad = bad.replace("'y'", "'w': x, 'y'") if "z" in bad else bad
    file.write_text(
        "import torch\n"
        "class Items(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 40\n"
        "    def __getitem__(self, i):\n"
        f"        x, y = torch.ones(4) * i, i % 2\n        return {bad} if i == 3 else {first}\n"
        "class Two(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(4, 2)\n"
        "    def forward(self, x, w): return super().forward(x + w)\n"
    )
    options = (f"data.name={file}:Items", "data.num_classes=2", "trainer.validation_share=0", "data.test_share=0")
    run = train(*options, "trainer.epochs=1", *(one.format(file=file) for one in more), source=None)
    assert run.status == "failed" and re.search(sentence, run.failure.message), run.failure


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ({"labels": torch.tensor([1.5])}, "its labels hold 1.5, which is no class"),
        ({"labels": torch.tensor([1]), "masks": torch.zeros(2, 8, 8)}, "it has 1 boxes, and masks for 2"),
    ],
)
def test_boxes_whose_parts_do_not_fit(target: dict[str, torch.Tensor], sentence: str) -> None:
    boxes = {"boxes": torch.tensor([[1.0, 1.0, 4.0, 5.0]])}
    with pytest.raises(UserError, match=sentence):
        check_item(torch.zeros(3, 8, 8), boxes | target, 3, "Sample 0")
