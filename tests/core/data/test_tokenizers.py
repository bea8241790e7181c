"""Texts go through the tokenizer in the folder of the model: a stand-in with the calls of transformers' own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from conftest import Train, verb

from torchdeck.core.data.load import load_data
from torchdeck.core.errors import UserError
from torchdeck.core.events import LogLine
from torchdeck.core.experiment import toml

TRANSFORMERS = """
from pathlib import Path
import torch

class AutoTokenizer:
    model_max_length, model_input_names = 6, ["input_ids", "attention_mask"]
    @classmethod
    def from_pretrained(cls, folder, local_files_only, trust_remote_code):
        made = cls()
        made.words = (Path(folder) / "vocab.txt").read_text().split()
        return made
    def __call__(self, *columns, padding, truncation, max_length, return_tensors):
        rows = [" [SEP] ".join(texts).split() for texts in zip(*columns)]
        ids = [[self.words.index(word) for word in row][:max_length] for row in rows]
        return self.pad([{"input_ids": one} for one in ids], return_tensors)
    def pad(self, rows, return_tensors):
        rows = [torch.as_tensor(row["input_ids"]) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        return {"input_ids": ids, "attention_mask": mask}

class Classifier(torch.nn.Module):
    @classmethod
    def from_pretrained(cls, folder, local_files_only): return cls()
    def __init__(self):
        super().__init__()
        self.embedding, self.last = torch.nn.Embedding(7, 8), torch.nn.Linear(8, 2)
    def forward(self, input_ids, attention_mask, labels=None):
        h = (self.embedding(input_ids) * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        logits = self.last(h)
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits}
"""
CODE = """
from torch.utils.data import IterableDataset

def text(i): return "very " * (i % 5) + ("good" if i % 3 else "bad") + " film"
class Texts:
    def __len__(self): return 60
    def __getitem__(self, i): return {"text": text(i), "id": i, "label": int(i % 3 > 0)}
class Stream(IterableDataset):
    def __len__(self): return 60
    def __iter__(self): return (Texts()[i] for i in range(60))
def columns(): return Texts()
def stream(): return Stream()
def pairs(): return [((text(i), text(i + 1)), int(i % 3 > 0)) for i in range(60)]
def tokens(): return [{"input_ids": list(range(1, 2 + i % 5)), "text": text(i), "label": i % 2} for i in range(60)]
def named(): return [(text(i), "good" if i % 3 else "bad") for i in range(60)]
def three(): return [{"a": "bad", "b": "bad", "c": "bad", "label": i % 2} for i in range(60)]
"""
WORDS = ["[PAD]", "very", "good", "bad", "film", "[SEP]", "a"]


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    (tmp_path / "transformers.py").write_text(TRANSFORMERS)
    (tmp_path / "vocab.txt").write_text(" ".join(WORDS))
    (tmp_path / "texts.py").write_text(CODE)
    return tmp_path


def options(code: Path, data: str) -> list[str]:
    model = [f"model.name={code}/transformers.py:Classifier", f"model.weights={code}"]
    return [f"data.name={code}/texts.py:{data}", *model, "trainer.batch_size=8", "data.workers=0"]


def loaded(code: Path, data: str, warn=lambda text: None):
    return load_data(toml.load(None, options(code, data)), torch.device("cpu"), warn)


def test_texts_become_tokens_padded_to_the_longest_and_cut(code: Path) -> None:
    told: list[str] = []
    data = loaded(code, "stream", told.append)
    batch = next(iter(data.train.epoch(0)))
    expected = [["very"] * (i % 5) + ["good" if i % 3 else "bad", "film"] for i in range(8)]
    ids = [[WORDS.index(word) for word in row] + [0] * (6 - len(row)) for row in expected]
    assert batch.x["input_ids"].tolist() == ids
    assert batch.x["attention_mask"].tolist() == [[int(word > 0) for word in row] for row in ids]
    assert batch.y.tolist() == [int(i % 3 > 0) for i in range(8)]
    assert any("Texts (text) go through the tokenizer" in text and "id of the items: not used" in text for text in told)


def test_two_texts_tokens_of_any_length_and_named_classes(code: Path) -> None:
    sample = loaded(code, "pairs").sample
    assert (sample.x["input_ids"] == 5).any(1).float().mean() > 0.5  # [SEP], where the first text left place for it
    told: list[str] = []
    sample = loaded(code, "tokens", told.append).sample
    assert set(sample.x["attention_mask"].sum(1).tolist()) == {1, 2, 3, 4, 5}
    assert any("tokens already: text of them not used" in text for text in told)
    assert loaded(code, "named").info.class_names == ("bad", "good")


def test_more_texts_are_one_sentence(code: Path) -> None:
    with pytest.raises(UserError, match=r"hold several texts \(a, b, c\); name the one or two"):
        loaded(code, "three")


def test_a_classifier_of_texts_is_trained_and_evaluated(train: Train, code: Path) -> None:
    more = ("trainer.epochs=20", "optimizer.lr=0.05", "tracking.tensorboard=false")
    run = train(*options(code, "columns"), *more, source=None)
    assert run.status == "done", run.failure
    assert any("cut after 6 tokens" in line.message for line in run.of(LogLine))
    done = verb("evaluate", str(run.path), cwd=code)
    assert done.returncode == 0, done.stderr
    assert "100.00%" in done.stdout
