"""data.sampler and data.batch_sampler: against plain torch, resumed in mid-epoch, over processes, and wrong ones."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from torchdeck.core.data.load import load_data
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.machine.distributed import World

CODE = """
import torch
from torch.utils.data import Dataset, Sampler, RandomSampler, TensorDataset

def resident():
    x = torch.arange(60.).reshape(60, 1).repeat(1, 3)
    return TensorDataset(x, (torch.arange(60) >= 50).long())

class Own(Dataset):
    def __init__(self):
        self.targets = [int(i >= 50) for i in range(60)]
        self.weights = [0.0] * 30 + [1.0] * 30
    def __len__(self): return 60
    def __getitem__(self, i): return torch.full((3,), float(i)), self.targets[i]

class Half(Sampler):
    def __init__(self, data): self.data = data
    def __len__(self): return len(self.data) // 2
    def __iter__(self): return iter(torch.randperm(len(self.data))[: len(self)].tolist())

def twice(data): return torch.randperm(len(data)).tolist() * 2
def outside(data): return [0, len(data)]
def endless(data):
    while True: yield 0
def nothing(data): return []
def text(data): return ["a"]
def uneven(data, epoch): return range(40 - 20 * epoch)
def buckets(data, batch_size, epoch):
    g = torch.Generator().manual_seed(epoch)
    cut = [list(range(a, min(a + batch_size, len(data)))) for a in range(0, len(data), batch_size)]
    return [cut[i] for i in torch.randperm(len(cut), generator=g)]
def flat(data): return [1, 2, 3]
def hollow(data): return [[1], []]
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    file = tmp_path_factory.mktemp("sampling") / "sampled.py"
    file.write_text(CODE)
    return file


def loaded(code, data, *options, warn=lambda text: None):
    given = [f"data.name={code}:{data}", "data.transforms=[]", "trainer.batch_size=8", "trainer.validate_on=test"]
    given += ["data.test_share=0.25", "data.workers=0", *(o.replace("@", f"{code}:") for o in options)]
    return load_data(toml.load(None, given), torch.device("cpu"), warn)


def numbers(feed, epoch=0, start=0):
    return [batch.x[:, 0].int().tolist() for batch in feed.epoch(epoch, start)]


@pytest.mark.parametrize("data", ["resident", "Own"])
@pytest.mark.parametrize("option", ["sampler=balanced", "sampler=@Half", "sampler=@twice", "batch_sampler=@buckets"])
def test_the_order_is_a_function_of_seed_and_epoch_from_any_batch_on(code, data, option):
    feed, again = (loaded(code, data, f"data.{option}").train for _ in range(2))
    first, second = numbers(feed), numbers(feed, 1)
    assert len(first) == len(second) == len(feed)
    assert first != second
    assert numbers(again, 1, 2) == second[2:]
    assert numbers(again, 0, 3) == first[3:]
    assert {n for batch in first for n in batch} <= set(feed.indices.tolist())  # nothing held out is trained on


def test_balanced_draws_each_class_as_often(code):
    feed = loaded(code, "Own", "data.sampler=balanced").train
    drawn = Counter(int(n >= 50) for epoch in range(40) for batch in numbers(feed, epoch) for n in batch)
    assert drawn[0] / drawn.total() == pytest.approx(0.5, abs=0.04)  # 1 in 6 without it; 3 standard errors are 0.036


def test_weights_of_none_are_never_drawn(code):
    drawn = [n for batch in numbers(loaded(code, "Own", "data.sampler=weighted").train) for n in batch]
    assert min(drawn) >= 30


def test_a_longer_sampler_is_told_and_gives_each_sample_twice(code):
    told = []
    feed = loaded(code, "Own", "data.sampler=@twice", warn=told.append).train
    found = Counter(n for batch in numbers(feed) for n in batch)
    assert set(found.values()) == {2} and set(found) == set(feed.indices.tolist())
    assert any("an epoch has 90 samples, of 45 to train on" in text for text in told)


def test_batches_are_those_of_the_batch_sampler(code):
    feed = loaded(code, "Own", "data.batch_sampler=@buckets").train
    kept = feed.indices.tolist()
    expected = sorted(kept[a : a + 8] for a in range(0, len(kept), 8))
    assert sorted(numbers(feed, 3)) == expected
    assert [b.size for b in feed.epoch(3)] == [len(b) for b in numbers(feed, 3)]


def test_several_processes_share_the_batches_of_a_sampler_without_doubles(code, monkeypatch):
    found = []
    for rank in (0, 1):
        monkeypatch.setattr("torchdeck.core.data.feeds.world", lambda rank=rank: World(rank, 2))
        found.append(numbers(loaded(code, "Own", "data.batch_sampler=@buckets").train, 2))
    assert [len(batches) for batches in found] == [3, 3]
    flat = [n for batches in found for batch in batches for n in batch]
    assert len(set(flat)) == len(flat)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["data.sampler=@outside"], "gave the index 45; the 45 training samples are numbered 0 to 44"),
        (["data.sampler=@endless"], "an epoch must end"),
        (["data.sampler=@nothing"], "gave nothing for epoch 1"),
        (["data.sampler=@text"], "gave 'a'; indices of samples are needed"),
        (["data.sampler=@buckets"], "lists of them: data.batch_sampler"),
        (["data.batch_sampler=@flat"], "gave a int; lists of indices are needed"),
        (["data.batch_sampler=@hollow"], "gave an empty batch"),
        (["data.sampler=even"], "data.sampler = 'even' is unknown; give balanced, weighted"),
        (["data.sampler=@twice", "data.batch_sampler=@buckets"], "only one can be given"),
        (["data.sampler=@twice", "data.shuffle=false"], "give the order"),
    ],
)
def test_a_wrong_sampler_is_one_sentence(code, options, message):
    with pytest.raises(UserError) as error:
        loaded(code, "Own", *options)
    assert message in str(error.value)


def test_fewer_batches_in_a_later_epoch_are_refused(code):
    feed = loaded(code, "Own", "data.sampler=@uneven").train
    assert len(numbers(feed)) == 5
    with pytest.raises(UserError, match=r"3 batches \(20 samples\) in epoch 2 and 5 in the first"):
        numbers(feed, 1)


def test_weights_need_a_data_set_that_has_them(code):
    with pytest.raises(UserError, match="the attribute 'weights'"):
        loaded(code, "resident", "data.sampler=weighted")
