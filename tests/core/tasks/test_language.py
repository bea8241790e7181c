"""Language models as their users have them: whoever moves the targets, the figures are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import Train

from torchdeck.core.checkpoints.read import load_checkpoint
from torchdeck.core.events import LogLine, TextWritten
from torchdeck.core.runs.directory import read_metrics

CODE = '''
import torch
from torch import nn
from torch.nn import functional as F

TEXT = "she sells sea shells on the sea shore. " * 12


class Chars(torch.utils.data.Dataset):
    """Characters and those that follow them."""

    def __init__(self):
        names = sorted(set(TEXT))
        self.stoi = {c: i for i, c in enumerate(names)}
        self.data = torch.tensor([self.stoi[c] for c in TEXT])

    def __len__(self):
        return len(self.data) - 12

    def piece(self, i):
        return self.data[i : i + 13]

    def __getitem__(self, i):
        return self.piece(i)[:-1], self.piece(i)[1:]


class Alone(Chars):
    def __getitem__(self, i):
        return self.piece(i)


class Again(Chars):
    def __getitem__(self, i):
        return {"input_ids": self.piece(i), "labels": self.piece(i)}


class Unknown(Chars):
    def __init__(self):
        super().__init__()
        del self.stoi


class Beyond(Chars):
    vocab_size = 9


class Padded(Chars):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x, torch.where(torch.arange(12) < 3 + i % 8, y, -1)


def time_first(items):
    return tuple(torch.stack(part, 1) for part in zip(*items))


class Net(nn.Module):
    def __init__(self, vocab_size, width=24):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.body = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, idx):
        return self.head(self.body(self.embed(idx))[0])


class TimeFirst(Net):
    def forward(self, idx):
        return super().forward(idx.T).transpose(0, 1)


class Second(Net):
    def forward(self, idx):
        return super().forward(idx).transpose(1, 2)


class Flat(Net):
    def forward(self, idx):
        return super().forward(idx).flatten(0, 1), torch.zeros(3, 3)


class GivesLoss(Net):
    def forward(self, idx, targets=None):
        logits = super().forward(idx)
        if targets is None:
            return logits[:, [-1]], None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


class Moves(Net):
    def forward(self, input_ids, labels=None):
        logits = super().forward(input_ids)
        found = {"logits": logits}
        if labels is not None:
            found["loss"] = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return found


class Smoothed(Net):
    def forward(self, idx, targets=None):
        logits = super().forward(idx)
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.3)


class TooFew(Net):
    def __init__(self):
        super().__init__(9)


class FewOutputs(Net):
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.head = nn.Linear(24, 5)


class Short(Net):
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.places = nn.Embedding(8, 24)

    def forward(self, idx):
        return self.head(self.embed(idx) + self.places(torch.arange(idx.shape[1])))


class OneLength(Net):
    def forward(self, idx):
        assert idx.shape[1] == 12, "twelve tokens"
        return super().forward(idx)
'''

QUICK = (
    "trainer.epochs=1",
    "optimizer.lr=0.01",
    "tracking.tensorboard=false",
    "task.name=language",
    "task.args.sample_tokens=20",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("language") / "lm_of_users.py"
    path.write_text(CODE)
    return path


def overrides(file: Path, data: str, net: str, *more: str) -> tuple[str, ...]:
    return (f"data.name={file}:{data}", f"model.name={file}:{net}", *QUICK, *more)


def test_figures_are_the_same_whoever_moves_the_targets(train: Train, file: Path) -> None:
    """The targets follow, are not there, or are the inputs; the model makes no loss, makes it as it is given the
    targets, or moves them first; logits have the classes last, second or are in one row; time comes second or first."""
    told = {}
    texts = {}
    for data, net, more in (
        ("Chars", "Net", ()),
        ("Chars", "Second", ()),
        ("Chars", "Flat", ()),
        ("Chars", "GivesLoss", ()),
        ("Alone", "Net", ()),
        ("Alone", "GivesLoss", ()),
        ("Alone", "Moves", ()),
        ("Again", "Moves", ()),
        ("Again", "GivesLoss", ()),
        ("Chars", "GivesLoss", ("loss.name=cross_entropy",)),
        ("Chars", "TimeFirst", (f"data.collate={file}:time_first",)),
    ):
        run = train(*overrides(file, data, net, *more), source=None)
        assert run.status == "done", run.failure
        told[data, net, more] = dict(run.session.finished.test)
        texts[data, net, more] = [e.text for e in run.of(TextWritten)]
    first, *others = told.values()
    assert {"loss", "perplexity", "accuracy", "bits_per_byte"} == set(first)
    for other in others:
        assert other == pytest.approx(first, rel=1e-4)
    assert len({text for [text] in texts.values()}) == 1
    assert re.fullmatch(r"[a-z. ]{21}", next(iter(texts.values()))[0])


def test_targets_that_would_be_moved_twice_are_moved_back(train: Train, file: Path) -> None:
    run = train(*overrides(file, "Chars", "Moves"), source=None)
    assert run.status == "done", run.failure
    assert any("moves its targets by one itself" in e.message for e in run.of(LogLine))
    assert run.session.finished.test["loss"] < 3  # of 11 characters: what comes after the next one is no better known


def test_a_loss_that_is_not_that_of_the_logits_leaves_the_figures_out(train: Train, file: Path) -> None:
    run = train(*overrides(file, "Chars", "Smoothed"), source=None)
    assert run.status == "done", run.failure
    assert set(run.session.finished.test) == {"loss"}
    assert any("perplexity and accuracy are not measured" in e.message for e in run.of(LogLine))


def test_text_changes_nothing_in_the_training(train: Train, file: Path) -> None:
    weights = []
    for tokens in (0, 30):
        run = train(
            *overrides(file, "Chars", "Net", f"task.args.sample_tokens={tokens}", "trainer.epochs=2"), source=None
        )
        weights.append(load_checkpoint(run.path / "checkpoints" / "last.pt", "test"))
        written = [e["text"] for e in read_metrics(run.path) if e["event"] == "text"]
        assert len(written) == (2 if tokens else 0)
        log = (run.path / "train.log").read_text()
        assert all(f"text after epoch {i}: {text}" in log for i, text in enumerate(written, start=1))
    a, b = weights
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert torch.equal(a["random"]["torch"], b["random"]["torch"])


def test_prompts_and_what_can_not_be_written(train: Train, file: Path) -> None:
    prompted = train(
        *overrides(file, "Chars", "Net", 'task.args.prompt="sea "', "task.args.temperature=0"), source=None
    )
    [text] = [e.text for e in prompted.of(TextWritten)]
    assert text.startswith("sea ") and len(text) == 24
    refused = train(*overrides(file, "Chars", "Net", "task.args.prompt=Sea"), source=None)
    assert refused.failure is not None and "holds 'S', none of the" in refused.failure.message
    silent = train(*overrides(file, "Unknown", "Net"), source=None)
    assert silent.status == "done" and not silent.of(TextWritten)
    assert "bits_per_byte" not in silent.session.finished.test
    stiff = train(*overrides(file, "Chars", "OneLength", "trainer.epochs=2"), source=None)
    assert stiff.status == "done" and not stiff.of(TextWritten)
    assert sum("No text is written" in e.message for e in stiff.of(LogLine)) == 1


@pytest.mark.parametrize(
    ("data", "net", "said"),
    [
        ("Chars", "TooFew", "the data hold the token 10, beyond the 9 rows of its embedding 'embed'"),
        ("Chars", "FewOutputs", "which are of 11 tokens; logits of the shape"),
        ("Chars", "Short", "the sequences have 12 tokens, beyond the 8 positions of its embedding 'places'"),
        ("Beyond", "Net", "; with a vocabulary of 9 it must be between 0 and 8"),
    ],
)
def test_wrong_vocabularies_are_told_before_training(train: Train, file: Path, data: str, net: str, said: str) -> None:
    run = train(*overrides(file, data, net), source=None)
    assert run.failure is not None and run.failure.user
    assert said in run.failure.message
    assert "\n" not in run.failure.message


def test_what_is_ignored_counts_nowhere(train: Train, file: Path) -> None:
    told = [
        dict(train(*overrides(file, "Padded", net, "task.args.ignore_index=-1"), source=None).session.finished.test)
        for net in ("Net", "GivesLoss")
    ]
    assert told[0] == pytest.approx(told[1], rel=1e-4)
