"""Streams: their batches against the stream itself, with any number of workers, from any batch on; and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from torchdeck.core.data.load import load_data
from torchdeck.core.errors import UserCodeError, UserError
from torchdeck.core.experiment import toml
from torchdeck.core.machine.distributed import World

CODE = """
import os, random, torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

class Plain(IterableDataset):
    def __init__(self, n=50): self.n = n
    def __iter__(self):
        for i in range(self.n): yield torch.full((3,), float(i)), i % 2

class Sized(Plain):
    def __len__(self): return self.n

class Shuffled(Sized):  # draws as it goes, and shares itself out among workers
    epoch = 0
    def set_epoch(self, epoch): self.epoch = epoch
    def __iter__(self):
        order = list(range(self.n))
        random.Random(self.epoch).shuffle(order)
        info = get_worker_info()
        for i in order[info.id :: info.num_workers] if info else order:
            yield torch.tensor([float(i), torch.rand(1).item(), random.random()]), i % 2

class Liar(Plain):
    def __len__(self): return 80

class Endless(Plain):
    def __iter__(self):
        while True: yield from super().__iter__()

class Breaks(Sized):
    def __iter__(self):
        for i, item in enumerate(super().__iter__()):
            if i == 20 and self.started: raise OSError("the line went dead")
            yield item
        self.started = True
    started = False

class Once(Plain):
    def __init__(self): self.items = iter([(torch.zeros(3), i % 2) for i in range(9)])
    def __iter__(self): return self.items

class Texts(Plain):
    def __iter__(self):
        for i in range(9): yield torch.zeros(3), "ab"[i % 2]

class Clocked(Sized):  # seeded by the clock
    def __iter__(self):
        for i in random.Random(os.urandom(8)).sample(range(50), 50): yield torch.full((3,), float(i)), i % 2

class Goes(Plain):  # more than is looked at, and goes on where it is
    at = 0
    def __init__(self): self.n = 700
    def __iter__(self):
        while self.at < self.n:
            self.at += 1
            yield torch.full((3,), float(self.at - 1)), self.at % 2
        self.at = 0
    def state_dict(self): return {"at": self.at}
    def load_state_dict(self, state): self.at = state["at"]

class Turns(IterableDataset):  # to something else in its middle
    def __init__(self, to): self.to = to
    def __len__(self): return 800
    def __iter__(self):
        for i in range(800): yield self.item(i, self.to if i >= 604 else "first")
    def item(self, i, kind):
        x, y = torch.full((3,), float(i)), i % 2
        items = {"first": (x, y), "text": (x, "cat"), "pair": (x, torch.tensor([0, 1])), "longer": (torch.zeros(4), y)}
        return {**items, "without": {"x": x}, "nothing": None}[kind]

class Dicts(Turns):
    def item(self, i, kind):
        found = {"x": torch.zeros(3), "extra": torch.zeros(3), "label": i % 2}
        if kind == "key": found["other"] = found.pop("extra")
        return (found["x"], 0) if kind == "tuple" else found

def collated(): return DataLoader(Sized(), batch_size=4, collate_fn=doubled)
def doubled(items): return 2 * torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])

def both(): return Sized(), Plain(10)
def endless_val(): return Sized(), Endless()
def empty(): return Plain(0)
"""


#: Options of data sets of one input, and of several.
MODEL: tuple[list[str], list[str]] = ([], ["data.num_classes=2"])


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("streams") / "streamed.py"
    file.write_text(CODE)
    return file


def loaded(code, data, *options, warn=lambda text: None):
    given = [f"data.name={code}:{data}", "data.transforms=[]", "trainer.batch_size=8", "data.workers=0", *options]
    return load_data(toml.load(None, given), torch.device("cpu"), warn)


def batches(feed, epoch=0, start=0):
    return [batch.x.tolist() for batch in feed.epoch(epoch, start)]


def numbers(found):
    return [int(x[0]) for batch in found for x in batch]


def test_an_epoch_of_a_stream_that_knows_its_length_is_one_pass(code):
    told = []
    data = loaded(code, "Sized", warn=told.append)
    assert numbers(batches(data.train)) == list(range(50))
    assert data.info.samples == {"train": 50, "val": 0, "test": 0}
    assert data.val is None
    assert any("is a stream" in text and "skips to its place" in text for text in told)


def test_else_it_is_the_whole_training_and_the_stream_begins_anew(code):
    told = []
    data = loaded(code, "Plain", "trainer.steps=20", "trainer.accumulate=2", warn=told.append)
    assert len(data.train) == 40
    assert numbers(batches(data.train)) == [n % 50 for n in range(320)]
    assert sum("ended after 50 items and begins anew" in text for text in told) == 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_batches_are_the_same_with_any_number_of_workers_and_from_any_batch_on(code):
    state = torch.get_rng_state()
    feed = loaded(code, "Shuffled").train
    epochs = [batches(feed, epoch) for epoch in (0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(sorted(numbers(found)) == list(range(50)) for found in epochs)
    assert numbers(epochs[0]) != numbers(epochs[1])
    assert batches(feed, 1, 3) == epochs[1][3:]
    for workers in (1, 3):
        data = loaded(code, "Shuffled", f"data.workers={workers}")
        try:
            assert batches(data.train, 1, 3) == epochs[1][3:]
            assert batches(data.train, 0) == epochs[0]
        finally:
            data.close()


def test_several_processes_get_each_item_once(code, monkeypatch):
    found = []
    for rank in (0, 1):
        monkeypatch.setattr("torchdeck.core.data.feeds.world", lambda rank=rank: World(rank, 2))
        found.append(numbers(batches(loaded(code, "Shuffled").train)))
    assert len(found[0]) == len(found[1]) == 24  # 50 items: six batches of eight, and two items that don't go round
    assert len({*found[0], *found[1]}) == 48


def test_one_whose_order_is_of_the_clock_has_one_worker_and_one_process(code, monkeypatch):
    told = []
    data = loaded(code, "Clocked", "data.workers=3", warn=told.append)
    try:
        assert sorted(numbers(batches(data.train))) == list(range(50))  # each once
    finally:
        data.close()
    assert any("a resumed run goes on with others" in text for text in told)
    assert any("is read by one worker of 3" in text for text in told)
    monkeypatch.setattr("torchdeck.core.data.feeds.world", lambda: World(0, 2))
    with pytest.raises(UserError, match="several processes need one order"):
        loaded(code, "Clocked")


def test_one_that_goes_on_where_it_is_was_only_looked_at_before(code):
    feed = loaded(code, "Goes", "trainer.steps=90").train
    assert numbers(batches(feed)) == [n % 700 for n in range(720)]


def test_the_collate_function_of_a_loader_makes_the_batches(code):
    feed = loaded(code, "collated").train
    assert numbers(batches(feed)) == [2 * n for n in range(50)]


def test_a_stream_to_validate_on_is_kept(code):
    data = loaded(code, "both")
    assert data.info.samples["val"] == 10
    assert sorted(numbers(batches(data.val))) == list(range(10))


def test_one_that_is_shorter_than_it_says_begins_anew(code):
    told = []
    feed = loaded(code, "Liar", warn=told.append).train
    assert numbers(batches(feed)) == [n % 50 for n in range(80)]
    assert any("ended after 50 items" in text for text in told)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("Plain", [], "does not tell its length; say how long to train with trainer.steps"),
        ("Endless", [], "trainer.steps"),
        ("empty", [], "is empty"),
        ("Texts", ["trainer.steps=3"], "give class numbers"),
        ("Sized", ["data.sampler=balanced"], "a stream gives its own order"),
        ("Once", ["trainer.steps=3"], "must begin at the start each time"),
        ("Breaks", [], "the line went dead"),
    ],
)
def test_what_is_wrong_is_one_sentence(code, data, options, message):
    with pytest.raises((UserError, UserCodeError)) as error:
        batches(loaded(code, data, *options).train)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("data", "to", "batch", "message"),
    [
        ("Turns", "text", 8, "The target of sample 604 of .* is str"),
        ("Turns", "pair", 8, r"targets of several sizes, such as \[\] and \[2\]"),
        ("Turns", "longer", 8, r"inputs of several sizes, such as \[3\] and \[4\]"),
        ("Turns", "nothing", 8, "The input of sample 604 of .* is None"),
        ("Turns", "without", 8, "Sample 604 of .* has no target, and sample 600 has one"),
        ("Turns", "without", 4, "gives items without a target in batch 152, though the first have one"),
        ("Dicts", "key", 8, "Sample 600 of .* has the key 'extra', and sample 604 has not"),
        ("Dicts", "tuple", 8, "sample 600 is a dict of x, extra, label, sample 604 is a tuple of 2"),
    ],
)
def test_items_that_turn_to_another_kind_are_one_sentence(code, data, to, batch, message):
    feed = loaded(code, data, f"data.args.to={to}", f"trainer.batch_size={batch}", *MODEL[data == "Dicts"]).train
    with pytest.raises(UserError, match=message):
        batches(feed, start=600 // batch - 1) if data == "Turns" else list(feed.epoch(0, 600 // batch - 1))


def test_a_stream_to_evaluate_on_must_end(code, monkeypatch):
    monkeypatch.setattr("torchdeck.core.data.streams.MOST", 600)
    with pytest.raises(UserError, match="one to evaluate on must end"):
        loaded(code, "endless_val")
