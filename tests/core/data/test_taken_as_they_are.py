"""Data, models and losses that public training codes brought, each of which was refused or changed once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, jaccard_score
from torch.nn import functional as F

from torchdeck.core.data.infer import Hints, infer
from torchdeck.core.data.load import load_data
from torchdeck.core.errors import UserError
from torchdeck.core.events import LogLine
from torchdeck.core.experiment import toml
from torchdeck.core.session.preview import Previewer

CODE = """
import torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.data import Dataset, TensorDataset

class Given(Dataset):
    def __init__(self, how="labels"):
        g = torch.Generator().manual_seed(0)
        self.x, self.how = torch.rand(80, 1, 8, 8, generator=g), how
        self.features, self.format = "M", "png"  # which other data sets call their columns and how they give them
        self.y = torch.randint(2, (80, 3), generator=g)
    def __len__(self): return 80
    def __getitem__(self, i):
        if self.how == "labels": return self.x[i].flatten(), self.y[i]
        if self.how == "text": return "ab"[i % 2] * (1 + i % 5), ["no", "yes"][i % 2]
        if self.how == "double": return self.x[i].flatten().double(), float(self.x[i].sum())
        if self.how == "flat": return self.x[i].flatten(), self.y[i, 0].float()
        if self.how == "classed": return self.x[i], int(self.y[i, 0])
        if self.how == "tokens": return (self.x[i].flatten() * 20).long()
        if self.how == "dict":
            ids, cut = (self.x[i].flatten() * 20).long(), 40 + i % 7
            of = torch.arange(64) < cut
            return {"input_ids": ids, "attention_mask": of.long(), "labels": torch.where(of, ids, -100)}
        if self.how == "masks": return self.x[i], (self.x[i, 0] > 0.7).long()
        return (self.x[i],)

class Sequences(TensorDataset):
    def __init__(self):
        super().__init__(torch.rand(60, 2, 50) * 5, torch.rand(60, 1))

def tensors(): return TensorDataset(*Sequences().tensors)

class Drawn(Dataset):
    def __init__(self):
        self.targets = torch.tensor([0] * 30 + [1] * 3)
    def __len__(self): return 33
    def __getitem__(self, i): return torch.cat([torch.tensor([float(i)]), torch.rand(1)]), self.targets[i]

class Text(Dataset):
    def __len__(self): return 30_000
    def __getitem__(self, i):
        x = torch.arange(i % 7, i % 7 + 9) % 50
        return x[:-1], x[1:]
class Next(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.e = nn.Embedding(vocab_size, vocab_size)
    def forward(self, x): return self.e(x)

class Flat(nn.Module):
    def __init__(self, out=3):
        super().__init__()
        self.l = nn.Linear(64, out)
    def forward(self, x): return self.l(x.flatten(1))
class One(Flat):
    def __init__(self): super().__init__(1)
    def forward(self, x): return self.l(x).sigmoid()
class Labels(Flat):
    def forward(self, x): return self.l(x.flatten(1)).sigmoid()
class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Conv2d(1, 1, 1)
    def forward(self, x): return self.l(x).sigmoid()
def cross(out, y): return F.binary_cross_entropy(out.reshape(y.shape), y.float())
class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(2, 1)
    def forward(self, x):
        assert float(x.max()) > 2, "scaled"
        return self.l(x.mean(-1))
def double(): return Flat(1).double()
class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.l, self.m = nn.Linear(64, 64), nn.Linear(64, 4)
    def forward(self, x): return self.l(x.flatten(1)).sigmoid(), self.m(x.flatten(1)), self.m(x.flatten(1))
def elbo(recon, x, mu, logvar):
    bce = F.binary_cross_entropy(recon, x.flatten(1), reduction="sum")
    return bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(64, 64)
    def forward(self, x):
        assert 0 <= float(x.min()) and float(x.max()) < 20, "scaled"
        return F.mse_loss(self.l(x.flatten(1).float()), x.flatten(1).float())
class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(20, 20)
    def forward(self, input_ids, attention_mask, labels=None):
        logits = self.e(input_ids)
        if labels is None: return logits
        return {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), "logits": logits}
def causal(): return Causal()
def letters(items):
    assert all(isinstance(label, str) for _, label in items)
    most = max(len(text) for text, _ in items)
    x = torch.tensor([[ord(c) - 97.0 for c in text.ljust(most, "a")] for text, _ in items])
    return x.mean(1, keepdim=True), torch.tensor([int(label == "yes") for _, label in items])
class Mean(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.l = nn.Linear(1, num_classes)
    def forward(self, x): return self.l(x)
"""

PLAIN = ("tracking.tensorboard=false", "trainer.epochs=1", "data.workers=0", "trainer.batch_size=16")


@pytest.fixture
def code(tmp_path: Path) -> str:
    file = tmp_path / "given_code.py"
    file.write_text(CODE)
    return str(file)


@pytest.mark.parametrize(
    ("options", "task"),
    [
        (["data.name={code}:Given", "model.name={code}:Flat"], "multilabel"),
        (["data.name={code}:tensors", "data.transforms=[]", "model.name={code}:Sums"], "regression"),
        (["data.name={code}:Given", "data.args.how=double", "model.name={code}:double"], "regression"),
        (["data.name={code}:Given", "data.args.how=flat", "model.name={code}:One", "loss.name=torch.nn:BCELoss"],
         "classification"),
        (["data.name={code}:Given", "data.args.how=text", "data.collate={code}:letters", "data.num_classes=2",
          "model.name={code}:Mean"], "classification"),
        (["data.name={code}:Given", "data.args.how=tokens", "model.name={code}:Scalar"], "own"),
        (["data.name={code}:Given", "data.args.how=classed", "model.name={code}:Scalar"], "own"),
    ],
)  # fmt: skip
def test_it_trains(train: Train, code: str, options: list[str], task: str) -> None:
    run = train(*PLAIN, *(o.format(code=code) for o in options), source=None)
    assert run.status == "done", run.failure
    assert run.session.built.data.info.task == task


def test_text_labels_for_a_collate_function_need_their_number(train: Train, code: str) -> None:
    named = [f"data.name={code}:Given", "data.args.how=text", f"data.collate={code}:letters", f"model.name={code}:Mean"]
    run = train(*PLAIN, *named, source=None)
    assert run.failure is not None and "set data.num_classes to how many there are" in run.failure.message


@pytest.mark.parametrize(
    "data",
    [
        ["data.name={code}:Given", "data.args.how=image", "task.name=reconstruction"],
        ["data.name={code}:Given", "data.args.how=classed"],
        ["data.name=digits"],
    ],
)
def test_the_sum_of_a_vaes_loss_is_told_as_its_mean_over_samples(train: Train, code: str, data: list[str]) -> None:
    options = [*(o.format(code=code) for o in data), f"model.name={code}:VAE", f"loss.name={code}:elbo"]
    run = train(
        *PLAIN, *options, "data.transforms=['ToTensor']" if len(data) == 1 else "data.transforms=[]", source=None
    )
    assert run.status == "done", run.failure
    trainer = run.session.built.trainer
    assert trainer.task.loss.kind == "sum" and trainer.task.name == "reconstruction"
    told = any("the loss takes the inputs and no target" in getattr(event, "message", "") for event in run.events)
    assert told == ("task.name=reconstruction" not in data)
    x = torch.cat([batch.x for batch in trainer.data.test.epoch(0)])
    recon, mu, logvar = trainer.net.eval()(x)
    bce = F.binary_cross_entropy(recon, x.flatten(1), reduction="sum")
    exact = float(bce - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())) / len(x)
    assert run.session.finished.test["loss"] == pytest.approx(exact, rel=1e-5)


def test_what_is_normalised_by_default_is_said(train: Train, code: str) -> None:
    run = train(*PLAIN, f"data.name={code}:tensors", "model.name=mlp", source=None)
    assert run.status == "done", run.failure
    assert [t.name for t in run.session.built.data.transforms] == ["Normalize"]
    assert any("go through Normalize; data.transforms = []" in getattr(event, "message", "") for event in run.events)


SLOW = """
import multiprocessing, time, torch
from torch.utils.data import Dataset
if multiprocessing.current_process().name.endswith("2"):
    time.sleep(6)  # the second worker, which has no batch of the validation, still imports when the next one begins
class Slow(Dataset):
    def __init__(self, train=True): self.count = 40 if train else 4
    def __len__(self): return self.count
    def __getitem__(self, i): return torch.zeros(4), i % 2
"""


def test_a_worker_that_still_imports_when_an_epoch_begins_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    data = load_data(
        toml.load(None, [f"data.name={tmp_path}/slow.py:Slow", "data.workers=2", "data.num_classes=2"]),
        torch.device("cpu"),
    )
    assert data.test is not None
    for _ in range(2):
        assert sum(batch.size for batch in data.test.epoch(0)) == 4
    data.close()


def test_a_sample_that_a_sampler_draws_again_is_changed_in_another_way(code: str) -> None:
    options = [f"data.name={code}:Drawn", "data.sampler=balanced", "data.workers=0", "data.transforms=[]"]
    data = load_data(
        toml.load(None, [*options, "trainer.validation_share=0", "data.test_share=0"]), torch.device("cpu")
    )
    rows = torch.cat([batch.x for batch in data.train.epoch(0)])
    again = torch.cat([batch.x for batch in data.train.epoch(0)])
    assert torch.equal(rows, again)
    rare = rows[rows[:, 0] >= 30]
    assert len(rare) > 8 and len(rare.unique(dim=0)) == len(rare)


def test_the_vocabulary_is_that_of_the_models_own_argument(code: str) -> None:
    options = [f"data.name={code}:Text", f"model.name={code}:Next", "data.workers=0"]
    data = load_data(toml.load(None, [*options, "model.args.vocab_size=64"]), torch.device("cpu"))
    assert (data.info.task, data.info.outputs) == ("language", 64)


def test_labels_that_are_the_tokens_again_are_told_from_those_of_masked_ones(train: Train, code: str) -> None:
    options = [f"data.name={code}:Given", "data.args.how=dict", f"model.name={code}:causal"]
    run = train(*PLAIN, *options, source=None)
    assert run.status == "done", run.failure
    trainer, figures = run.session.built.trainer, run.session.finished.test
    assert (trainer.task.name, trainer.data.info.outputs) == ("language", 20)
    surprise, tokens = 0.0, 0
    with torch.no_grad():
        for batch in trainer.data.test.epoch(0):
            logits, labels = trainer.net.e(batch.x["input_ids"])[:, :-1].flatten(0, 1), batch.y[:, 1:].flatten()
            surprise += float(F.cross_entropy(logits, labels, reduction="sum"))
            tokens += int((labels != -100).sum())
    assert figures["loss"] == pytest.approx(surprise / tokens, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(surprise / tokens), rel=1e-5)
    item = {"input_ids": torch.arange(20), "attention_mask": torch.ones(20)}
    masked = torch.where(torch.arange(20) == 3, 3, -100)
    with pytest.raises(UserError, match="what they are can't be told"):
        infer(item, masked, Hints("auto", f"{code}:causal"))


def test_many_samples_of_tokens_are_not_read_to_count_them(code: str) -> None:
    with pytest.raises(
        UserError, match=r"how many tokens there are; set data.num_classes \(or model.args.vocab_size\)"
    ):
        load_data(toml.load(None, [f"data.name={code}:Text", f"model.name={code}:Next"]), torch.device("cpu"))


def test_a_model_that_gives_its_loss_is_refused_for_a_task_that_the_user_named(train: Train, code: str) -> None:
    options = [f"data.name={code}:Given", "data.args.how=classed", f"model.name={code}:Scalar", "data.transforms=[]"]
    run = train(*PLAIN, *options, "task.name=classification", source=None)
    assert run.failure is not None and "task.name = 'own' trains it by that" in run.failure.message


def test_the_workbench_shows_a_model_that_gives_its_loss(code: str) -> None:
    options = [f"data.name={code}:Given", "data.args.how=classed", f"model.name={code}:Scalar"]
    told: list[dict[str, Any]] = []
    Previewer(told.append).answer(1, toml.dumps(toml.load(None, options)))
    assert not any("error" in part for part in told)
    assert [part["data"]["task"] for part in told if "data" in part] == ["classification", "own"]
    assert any("model" in part for part in told)


@pytest.mark.parametrize("loss", [("torch.nn:BCELoss",), ("{code}:cross", "task.args.probabilities=true")])
@pytest.mark.parametrize(("how", "net"), [("flat", "One"), ("labels", "Labels"), ("masks", "Pixels")])
def test_figures_of_outputs_that_are_probabilities(
    train: Train, code: str, how: str, net: str, loss: tuple[str, ...]
) -> None:
    options = [f"data.name={code}:Given", f"data.args.how={how}", f"model.name={code}:{net}", "data.transforms=[]"]
    name, *said = loss
    if said:
        tasks = {"flat": "multilabel", "labels": "multilabel", "masks": "segmentation"}
        options += [f"loss.name={name.format(code=code)}", f"task.name={tasks[how]}"]
        unsaid = train(*PLAIN, *options, source=None)
        assert any("task.args.probabilities = true says" in line.message for line in unsaid.of(LogLine))
    else:
        options += [f"loss.name={name}"]
    run = train(*PLAIN, *options, *said, source=None)
    assert run.status == "done", run.failure
    assert not any("task.args.probabilities" in line.message for line in run.of(LogLine))
    trainer, figures = run.session.built.trainer, run.session.finished.test
    with torch.no_grad():
        given = [(trainer.net(batch.x), batch.y) for batch in trainer.data.test.epoch(0)]
    out, y = torch.cat([p for p, _ in given]), torch.cat([t for _, t in given])
    out = out.reshape(y.shape)
    guess = (out > 0.5).long()
    if how == "masks":
        assert figures["accuracy"] == pytest.approx(float((guess == y).double().mean()))
        assert figures["miou"] == pytest.approx(jaccard_score(y.flatten(), guess.flatten(), average="macro"))
        return
    out, y, guess = (t.reshape(len(t), -1) for t in (out, y, guess))
    yes_or_no = trainer.task.name == "classification"
    assert yes_or_no == (how == "flat" and not said)
    assert figures["accuracy" if yes_or_no else "exact_match"] == pytest.approx(accuracy_score(y, guess))
    if yes_or_no:
        assert figures["f1"] == pytest.approx(f1_score(y, guess, average="macro"))
        return
    assert figures["map"] == pytest.approx(average_precision_score(y, out))
    each = [f1_score(y[:, k], guess[:, k], zero_division=0) for k in range(y.shape[1])]
    assert figures["f1"] == pytest.approx(sum(each) / len(each))
