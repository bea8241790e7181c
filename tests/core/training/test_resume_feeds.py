"""Runs that were interrupted in mid-epoch end with the very same weights, whatever gives their batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Train

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.events import LogLine

CODE = """
import os, torch
from torch.utils.data import Dataset, IterableDataset

def item(i):
    x = torch.randn(4, generator=torch.Generator().manual_seed(i)) + 0.1 * torch.randn(4)
    return x, int(x[0] > 0)

class Indexed(Dataset):
    targets = [item(i)[1] for i in range(80)]
    def __len__(self): return 80
    def __getitem__(self, i):
        return torch.randn(4, generator=torch.Generator().manual_seed(i)) + 0.1 * torch.rand(4), self.targets[i]

class Stream(IterableDataset):
    def __iter__(self): return (item(int(torch.randint(1000, ()))) for _ in range(80))

class Sized(Stream):
    def __len__(self): return 80

class Kept(Sized):  # tells where it is, and leaves a note where it begins
    def __init__(self): self.at, self.loaded = 0, 0
    def __iter__(self):
        self.at, self.loaded = self.loaded, 0
        with open(os.path.join(os.path.dirname(__file__), "begun.txt"), "a") as file:
            file.write(f"{self.at} ")
        while self.at < 80:
            self.at += 1
            yield item(int(torch.randint(1000, ())))
    def state_dict(self): return {"at": self.at}
    def load_state_dict(self, state): self.loaded = state["at"]

class Goes(Kept):  # goes on where it is, begins anew at its end, and counts its epochs
    def __init__(self): self.at = self.epoch = 0
    def __len__(self): return 84  # a last batch of four
    def __iter__(self):
        while self.at < 84:
            self.at += 1
            yield item(1000 * self.epoch + self.at)
        self.at, self.epoch = 0, self.epoch + 1
    def state_dict(self): return {"at": self.at, "epoch": self.epoch}
    def load_state_dict(self, state): self.at, self.epoch = state["at"], state["epoch"]

class Iterated(Sized):  # its iterator tells where it is
    class Iterator:
        at = 0
        def __iter__(self): return self
        def __next__(self):
            if self.at == 80: raise StopIteration
            self.at += 1
            return item(self.at)
        def state_dict(self): return {"at": self.at}
        def load_state_dict(self, state): self.at = state["at"]
    def __iter__(self): return self.Iterator()

class Forgets(Goes):  # what is in its buffer is in no state
    def __iter__(self):
        buffer = []
        for one in super().__iter__():
            buffer.append(one)
            if len(buffer) > 8: yield buffer.pop(int(torch.randint(9, ())))
        yield from buffer

def shuffled(data, batch_size):
    cut = torch.arange(len(data)).split(batch_size)
    return [cut[i].tolist() for i in torch.randperm(len(cut))]
"""
ANEW = """
class Anew(Indexed):
    def __init__(self): self.x = torch.rand(80, 4) + int.from_bytes(os.urandom(1)) / 256
    def __getitem__(self, i): return self.x[i], self.targets[i]
"""
CASES = {
    "map": ("Indexed",),
    "sampler": ("Indexed", "data.sampler=balanced"),
    "batch sampler": ("Indexed", "data.batch_sampler=@:shuffled"),
    "stream": ("Sized",),
    "stream without a length": ("Stream", "trainer.steps=30"),
}


@pytest.mark.parametrize("case", CASES)
def test_resume_in_mid_epoch_is_bit_identical(train: Train, tmp_path: Path, case: str) -> None:
    file = tmp_path / "fed.py"
    file.write_text(CODE)
    name, *more = CASES[case]
    options = (f"data.name={file}:{name}", "trainer.batch_size=8", "trainer.epochs=3", "tracking.tensorboard=false")
    options = (*options, "data.workers=0", "model.args.dropout=0.2", "data.num_classes=2", *more)
    options = tuple(option.replace("@", str(file)) for option in options)
    whole, part = train(*options), train(*options, stop_at=13)
    assert whole.status == "done", whole.failure
    assert part.status == "stopped", part.failure
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    a, b = (load_checkpoint(run.path / "checkpoints" / "last.pt", "test") for run in (whole, part))
    assert a["step"] == b["step"] > 13
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in a["model"])
    assert a["best"] == b["best"]
    if name != "Indexed":
        assert any("skips to its place" in line.message for line in whole.of(LogLine))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_tells_where_it_is_goes_on_there(train: Train, tmp_path: Path, workers: int) -> None:
    (tmp_path / "fed.py").write_text(CODE)
    options = (f"data.name={tmp_path}/fed.py:Kept", "trainer.batch_size=8", "trainer.epochs=2", "data.num_classes=2")
    options = (*options, "tracking.tensorboard=false", "model.args.dropout=0.2", f"data.workers={workers}")
    whole, part = train(*options), train(*options, stop_at=13)
    assert whole.status == "done", whole.failure
    state = load_checkpoint(part.path / "checkpoints" / "last.pt", "test")
    assert state["feed"]["stream"] == {"at": 24} and (state["feed"]["epoch"], state["feed"]["batch"]) == (1, 3)
    assert any("goes on from its state_dict" in line.message for line in whole.of(LogLine))
    (tmp_path / "begun.txt").unlink()
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    begun = (tmp_path / "begun.txt").read_text().split()
    assert begun[-max(workers, 1) :] == ["24"] * max(workers, 1)  # in each worker
    assert begun.count("24") == max(workers, 1)
    same_weights(whole, part)


@pytest.mark.parametrize(
    ("name", "stop", "told"),
    [
        ("Goes", 13, "goes on from its state_dict"),
        ("Goes", 22, "goes on from its state_dict"),  # between two epochs
        ("Iterated", 13, "goes on from its state_dict"),
        ("Forgets", 13, "skips to its place"),
    ],
)
def test_states_of_other_kinds(train: Train, tmp_path: Path, name: str, stop: int, told: str) -> None:
    (tmp_path / "fed.py").write_text(CODE)
    options = (f"data.name={tmp_path}/fed.py:{name}", "trainer.batch_size=8", "trainer.epochs=3", "data.num_classes=2")
    options = (*options, "tracking.tensorboard=false", "data.workers=0", "optimizer.lr=0.01")
    whole, part = train(*options), train(*options, stop_at=stop)
    assert whole.status == "done", whole.failure
    assert any(told in line.message for line in whole.of(LogLine))
    rest = train(resume=part.path)
    assert rest.status == "done", rest.failure
    same_weights(whole, part)


def same_weights(one, other) -> None:
    a, b = (load_checkpoint(run.path / "checkpoints" / "last.pt", "test")["model"] for run in (one, other))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_data_that_are_drawn_anew_are_told(train: Train, tmp_path: Path) -> None:
    (tmp_path / "fed.py").write_text(CODE + ANEW)
    options = (f"data.name={tmp_path}/fed.py:Anew", "trainer.batch_size=8", "trainer.epochs=2", "data.workers=0")
    part = train(*options, "tracking.tensorboard=false", stop_at=3)
    rest = train(resume=part.path)
    assert any("The data are not those that the run began with" in line.message for line in rest.of(LogLine))
