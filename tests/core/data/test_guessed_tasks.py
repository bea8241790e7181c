"""What ``task.name = "auto"`` takes targets and losses for, and the figures that come of it, against scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, mean_absolute_error
from torch.nn import functional as F

from torchdeck.core.data.infer import Hints, infer
from torchdeck.core.data.load import load_data
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml

CODE = """
import torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.data import Dataset, TensorDataset

g = torch.Generator().manual_seed(1)
X = torch.randn(150, 5, generator=g)
Y = X[:, 0] * 2 + X[:, 1] + 0.3 * torch.randn(150, generator=g)
CLASSES = torch.bucketize(Y, torch.tensor([-1.0, 1.0]))
TARGETS = {
    "row": CLASSES[:, None],
    "yes": (Y > 0).float(),
    "yes_row": (Y > 0).float()[:, None],
    "yes_int": (Y > 0).long(),
    "one_hot": F.one_hot(CLASSES, 3),
    "shares": torch.softmax(torch.randn(150, 3, generator=g), 1),
    "counts": (Y * 10).long(),
    "floats": CLASSES.float(),
    "numbers": Y,
    "signs": torch.sign(Y)[:, None],
    "empty": torch.empty(150, 0),
}

class Given(Dataset):
    def __init__(self, how, first=0, last=150): self.y, self.first, self.last = TARGETS[how], first, last
    def __len__(self): return self.last - self.first
    def __getitem__(self, i): return X[self.first + i], self.y[self.first + i]

def parts(how): return Given(how, 0, 70), Given(how, 70, 101), Given(how, 101, 150)
def tensors(how): return tuple(TensorDataset(X[a:b], TARGETS[how][a:b]) for a, b in ((0, 70), (70, 101), (101, 150)))
def pairs(how): return tuple(TensorDataset(x, -x, y) for x, y in (part.tensors for part in tensors(how)))
def masks(how):
    images = torch.rand(60, 3, 8, 9, generator=torch.Generator().manual_seed(2))
    y = (images[:, 0] > 0.6).float()[:, None] if how == "yes" else (images[:, 0] * 3).long()
    if how == "ignored": y[:, 0] = 255
    if how == "bools": y = y > 1
    return [(x, m) for x, m in zip(images, y)]
class Many(Given):
    def __init__(self): super().__init__("yes")
    def __len__(self): return 21_000
    def __getitem__(self, i): return super().__getitem__(i % 150)
def triplets(): return [(x, x + 0.1, x.flip(0)) for x in X]
def arrays(): return X, CLASSES.numpy()
def arrays_of_parts(): return (X[:100], CLASSES[:100]), (X[100:], CLASSES[100:])
def indexed(): return [(x, int(c), i) for i, (x, c) in enumerate(zip(X, CLASSES))]

class Net(nn.Module):
    def __init__(self, out=3):
        super().__init__()
        self.l = nn.Linear(5, out)
    def forward(self, x): return self.l(x)
class Pixels(nn.Conv2d):
    def __init__(self, out): super().__init__(3, out, 1)
class Sum(Net):
    def forward(self, a, b): return self.l(a + 2 * b)
class Weighted(nn.BCEWithLogitsLoss): pass
def rows(out, y): return F.cross_entropy(out, y.squeeze(1))
def squares(out, y): return ((out - y) ** 2).mean()
def margin(anchor, positive, negative): return F.triplet_margin_loss(anchor, positive, negative)
"""

PLAIN = ("tracking.tensorboard=false", "trainer.epochs=1", "data.workers=0", "trainer.batch_size=16",
         "trainer.eval_batch_size=20", "optimizer.lr=0.02", "data.transforms=[]")  # fmt: skip
BCE, CE, MSE = "torch.nn:BCEWithLogitsLoss", "torch.nn:CrossEntropyLoss", "torch.nn:MSELoss"


@pytest.fixture
def code(tmp_path: Path) -> str:
    file = tmp_path / "guessed_code.py"
    file.write_text(CODE)
    return str(file)


def _messages(run: Any) -> str:
    return "\n".join(getattr(event, "message", "") for event in run.events)


@pytest.mark.parametrize(
    ("how", "given", "loss", "out"),
    [
        ("row", "parts", None, 3),
        ("row", "parts", "{code}:rows", 3),
        ("yes", "parts", BCE, 1),
        ("yes_row", "tensors", BCE, 1),
        ("yes_row", "pairs", BCE, 1),
        ("yes_row", "parts", "{code}:Weighted", 1),
        ("yes_int", "parts", BCE, 1),
        ("one_hot", "parts", CE, 3),
        ("shares", "parts", CE, 3),
        ("shares", "tensors", "cross_entropy", 3),
        ("floats", "parts", "task.name=classification", 3),
    ],
)
def test_figures_of_classes_however_they_are_given(
    train: Train, code: str, how: str, given: str, loss: str | None, out: int
) -> None:
    named = [] if loss is None else [loss.format(code=code) if "=" in loss else f"loss.name={loss.format(code=code)}"]
    model = f"model.name={code}:{'Sum' if given == 'pairs' else 'Net'}"
    options = [f"data.name={code}:{given}", f"data.args.how={how}", model, f"model.args.out={out}"]
    run = train(*PLAIN, *options, *named, source=None)
    assert run.status == "done", run.failure
    built, figures = run.session.built, run.session.finished.test
    assert built.data.info.task == "classification"
    with torch.no_grad():
        made = [
            (built.trainer.net(*(b.x if isinstance(b.x, tuple) else (b.x,))), b.y) for b in built.data.test.epoch(0)
        ]
    logits, y = torch.cat([o for o, _ in made]), torch.cat([t for _, t in made])
    true = y.argmax(1) if y.numel() > len(y) else y.reshape(-1).long()
    if out == 1:
        guess, exact = (logits[:, 0] > 0).long(), F.binary_cross_entropy_with_logits(logits[:, 0], true.float())
    else:
        guess, exact = logits.argmax(1), F.cross_entropy(logits, y.float() if y.numel() > len(y) else true)
    assert len(true) == 49
    assert figures["loss"] == pytest.approx(float(exact), rel=1e-5)
    assert figures["accuracy"] == pytest.approx(accuracy_score(true, guess))
    assert figures["f1"] == pytest.approx(f1_score(true, guess, average="macro"))


@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("yes", (f"loss.name={BCE}",)),
        ("bools", ()),
        ("ignored", ("task.args.ignore_index=255",)),
        ("ignored", (f"loss.name={CE}", "loss.args.ignore_index=255")),
    ],
)
def test_masks_of_floats_and_with_pixels_that_do_not_count(
    train: Train, code: str, how: str, options: tuple[str, ...]
) -> None:
    out = {"yes": 1, "bools": 2}.get(how, 3)
    named = [f"data.name={code}:masks", f"data.args.how={how}", f"model.name={code}:Pixels", f"model.args.out={out}"]
    run = train(*PLAIN, *named, *options, source=None)
    assert run.status == "done", run.failure
    built, figures = run.session.built, run.session.finished.test
    assert built.data.info.task == "segmentation"
    with torch.no_grad():
        made = [(built.trainer.net(b.x), b.y.reshape(-1, 8, 9).long()) for b in built.data.test.epoch(0)]
    logits, y = torch.cat([o for o, _ in made]), torch.cat([t for _, t in made])
    if how == "yes":
        exact, guess = F.binary_cross_entropy_with_logits(logits[:, 0], y.float()), (logits[:, 0] > 0).long()
    else:
        exact, guess = F.cross_entropy(logits, y, ignore_index=255), logits.argmax(1)
    true, guess = y[y != 255], guess[y != 255]
    assert figures["loss"] == pytest.approx(float(exact), rel=1e-5)
    assert figures["accuracy"] == pytest.approx(accuracy_score(true, guess))
    assert figures["miou"] == pytest.approx(jaccard_score(true, guess, average="macro"))


@pytest.mark.parametrize(("given", "loss"), [("parts", MSE), ("tensors", "torch.nn.functional:smooth_l1_loss")])
def test_whole_numbers_are_numbers_for_a_loss_of_numbers(train: Train, code: str, given: str, loss: str) -> None:
    options = [f"data.name={code}:{given}", "data.args.how=counts", f"model.name={code}:Net", "model.args.out=1"]
    run = train(*PLAIN, *options, f"loss.name={loss}", source=None)
    assert run.status == "done", run.failure
    built, figures = run.session.built, run.session.finished.test
    assert built.data.info.task == "regression" and "which the loss compares as numbers" in _messages(run)
    with torch.no_grad():
        made = [(built.trainer.net(b.x)[:, 0], b.y) for b in built.data.test.epoch(0)]
    out, y = torch.cat([o for o, _ in made]), torch.cat([t for _, t in made])
    exact = F.mse_loss(out, y) if loss == MSE else F.smooth_l1_loss(out, y)
    assert figures["loss"] == pytest.approx(float(exact), rel=1e-5)
    assert figures["mae"] == pytest.approx(mean_absolute_error(y, out), rel=1e-5)


def test_triplets_are_told_by_their_loss(train: Train, code: str) -> None:
    options = [f"data.name={code}:triplets", f"model.name={code}:Net", f"loss.name={code}:margin"]
    run = train(*PLAIN, *options, source=None)
    assert run.status == "done", run.failure
    assert run.session.built.data.info.task == "contrastive" and "triplet_accuracy" in run.session.finished.test


def test_a_loss_that_broadcasts_is_told(train: Train, code: str) -> None:
    options = [f"data.name={code}:parts", "data.args.how=numbers", f"model.name={code}:Net", "model.args.out=1"]
    run = train(*PLAIN, *options, f"loss.name={code}:squares", source=None)
    assert "which PyTorch broadcasts" in _messages(run)
    rows = train(*PLAIN, *options, f"loss.name={MSE}", source=None)
    assert "broadcasts" not in _messages(rows)


IMAGE, MASK = torch.zeros(3, 8, 9), torch.eye(9)[:8]
TOKENS = torch.tensor([5, 3, 8, 1, 9, 4])
AGAIN = torch.tensor([3, 8, 1, 9, -100, -100])


@pytest.mark.parametrize(
    ("x", "y", "loss", "task"),
    [
        (IMAGE, MASK, BCE, "segmentation"),
        (IMAGE, MASK, MSE, "regression"),
        (torch.zeros(5), torch.tensor([0.0, 1.0]), "torch.nn.functional:binary_cross_entropy", "multilabel"),
        (torch.zeros(5), torch.tensor([0.2, 0.8]), CE, "classification"),
        (torch.zeros(5), torch.tensor([0.2, 0.9]), CE, "regression"),
        (torch.zeros(5), torch.tensor([0, 1]), CE, "classification"),
        (torch.zeros(5), torch.tensor([1, 1]), CE, "multilabel"),
        (torch.zeros(5), 1, "mse", "classification"),
        (torch.zeros(5), True, MSE, "classification"),
        (torch.zeros(5), torch.tensor([0.2, 0.8]), "torch.nn:KLDivLoss", "classification"),
        (torch.zeros(5), 2.0, CE, "classification"),
        (torch.zeros(5), 2.5, CE, "regression"),
        (torch.zeros(5), -1, "torch.nn:CosineEmbeddingLoss", "regression"),
        (TOKENS, AGAIN, None, "language"),
        (TOKENS, TOKENS, None, "language"),
        (TOKENS, torch.tensor([3, -100, -100, -100, -100, -100]), None, "token_classification"),
    ],
)
def test_what_it_is_taken_for(x: Any, y: Any, loss: str | None, task: str) -> None:
    assert infer(x, y, Hints(loss=loss))[0] == task


@pytest.mark.parametrize(
    ("task", "how", "said"),
    [
        ("classification", "numbers", "in classification each is a class number"),
        ("segmentation", "yes_int", "a class is needed for each pixel, and the first target is a single number"),
        ("token_classification", "yes_int", "a class is needed for each token"),
        ("language", "yes_int", "tokens are rows of whole numbers"),
        ("detection", "yes_int", "the targets are no boxes"),
        ("lightning", "yes_int", "needs a LightningModule"),
        ("auto", "empty", "is empty"),
    ],
)
@pytest.mark.parametrize("given", ["parts", "tensors"])
def test_a_task_that_makes_no_sense_says_so(code: str, given: str, task: str, how: str, said: str) -> None:
    options = [f"data.name={code}:{given}", f"data.args.how={how}", f"model.name={code}:Net", f"task.name={task}"]
    with pytest.raises(UserError) as error:
        load_data(toml.load(None, [*PLAIN, *options]), torch.device("cpu"))
    if not (task == "classification" and given == "tensors"):
        assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_floats_of_0_and_1_are_told_though_samples_are_read_one_by_one(code: str) -> None:
    told: list[str] = []
    options = [f"data.name={code}:parts", "data.args.how=yes", f"model.name={code}:Net"]
    assert load_data(toml.load(None, [*PLAIN, *options]), torch.device("cpu"), told.append).info.task == "regression"
    assert any("taken as numbers (the task is regression)" in text for text in told)


@pytest.mark.parametrize(("given", "samples"), [("arrays", 150), ("arrays_of_parts", 150)])
def test_arrays_are_inputs_and_targets(code: str, given: str, samples: int) -> None:
    data = load_data(
        toml.load(None, [*PLAIN, f"data.name={code}:{given}", f"model.name={code}:Net"]), torch.device("cpu")
    )
    assert data.info.task == "classification" and sum(data.info.samples.values()) == samples
    assert data.info.samples["val"] == (50 if given == "arrays_of_parts" else 12)


def test_figures_of_numbers_are_not_told_of_what_is_none(train: Train, code: str) -> None:
    options = [f"data.name={code}:parts", "data.args.how=signs", f"model.name={code}:Net", "model.args.out=1"]
    run = train(*PLAIN, *options, "loss.name=torch.nn:SoftMarginLoss", source=None)
    assert run.status == "done", run.failure
    assert set(run.session.finished.test) == {"loss"} and "judged by the loss alone" in _messages(run)


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_yes_and_no_are_two_classes_without_reading_them_all(code: str, task: str) -> None:
    options = [f"data.name={code}:Many", f"model.name={code}:Net", f"loss.name={BCE}", f"task.name={task}"]
    assert load_data(toml.load(None, [*PLAIN, *options]), torch.device("cpu")).info.class_names == ("0", "1")


def test_how_an_item_was_taken_apart_is_told_where_forward_takes_less(train: Train, code: str) -> None:
    run = train(*PLAIN, f"data.name={code}:indexed", f"model.name={code}:Net", source=None)
    assert "the last part as the target; data.inputs and data.target say otherwise" in run.failure.message


def test_parameters_of_a_task_that_is_told_later() -> None:
    assert toml.load(None, ["task.args.ignore_index=255"]).task.args == {"ignore_index": 255}
    with pytest.raises(UserError, match="did you mean 'ignore_index'"):
        toml.load(None, ["task.args.ignoreindex=255"])
    with pytest.raises(UserError, match="not a parameter of task 'classification'"):
        load_data(toml.load(None, ["task.args.ignore_index=255"]), torch.device("cpu"))


def test_weights_of_a_loss_of_torch_are_given_as_a_list(train: Train, code: str) -> None:
    options = [f"data.name={code}:parts", "data.args.how=row", f"model.name={code}:Net", f"loss.name={CE}"]
    run = train(*PLAIN, *options, "loss.args.weight=[1.0, 5.0, 0.2]", source=None)
    assert run.status == "done", run.failure
    built = run.session.built
    with torch.no_grad():
        made = [(built.trainer.net(b.x), b.y.reshape(-1)) for b in built.data.test.epoch(0)]
    out, y = torch.cat([o for o, _ in made]), torch.cat([t for _, t in made])
    exact = F.cross_entropy(out, y, weight=torch.tensor([1.0, 5.0, 0.2]))
    assert run.session.finished.test["loss"] == pytest.approx(float(exact), rel=1e-5)
