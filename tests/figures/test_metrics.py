"""Metrics are of samples, whatever the batches: against scikit-learn and torchmetrics on the gathered outputs."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.metrics import Precision
from sklearn import metrics as sk
from torch import Tensor, nn

from torchdeck.core import catalog
from torchdeck.core.control import Control
from torchdeck.core.data.batches import Batch, Feed
from torchdeck.core.data.source import DataInfo
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.metric_names import known_direction, watched
from torchdeck.core.search import opening as studies
from torchdeck.core.search.attempt import objective_values
from torchdeck.core.search.objectives import objectives, with_directions
from torchdeck.core.tasks.base import Step, Task
from torchdeck.core.tasks.losses import build_loss
from torchdeck.core.tasks.metrics import Gathered
from torchdeck.core.tasks.training_loss import TrainingLoss, find_kind
from torchdeck.core.training.build import build_trainer
from torchdeck.core.training.evaluation import Evaluator, Report, Tried
from torchdeck.core.training.monitor import Monitor

CPU = torch.device("cpu")
sizes = st.integers(1, 40)


class Cut(Feed):
    """Outputs as inputs, cut into batches at random places."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        self._x, self._y = x, y
        places = torch.randperm(len(x) - 1, generator=torch.Generator().manual_seed(seed))[: seed % 7] + 1
        self._cuts = [0, *sorted(places.tolist()), len(x)] if len(x) > 1 else [0, 1]

    @property
    def samples(self) -> int:
        return len(self._x)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        for a, b in zip(self._cuts, self._cuts[1:], strict=False):
            yield Batch(self._x[a:b], self._y[a:b], b - a)


def report(
    info: DataInfo, loss: TrainingLoss, out: Tensor, y: Tensor, seed: int, metrics: tuple[str, ...] = ()
) -> Report:
    return evaluator(info, loss, metrics).evaluate(nn.Identity(), Cut(out, y, seed))


def evaluator(info: DataInfo, loss: TrainingLoss, metrics: tuple[str, ...] = ()) -> Evaluator:
    """Of outputs that are the inputs."""
    return Evaluator(info, task_of(info, loss), CPU, nullcontext, metrics=metrics)


def task_of(info: DataInfo, loss: TrainingLoss) -> Task:
    kind: Any = catalog.find("task", info.task).load_factory()
    return kind(toml.build({}), info, nn.Identity(), loss, CPU)


def classes(count: int) -> DataInfo:
    return DataInfo("d", "classification", (count,), count, tuple(f"c{i}" for i in range(count)))


def drawn(seed: int, n: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, count, generator=generator), torch.randint(count, (n,), generator=generator)


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("own_metrics")
    module.mcc = lambda out, y: sk.matthews_corrcoef(y, out.argmax(1))
    module.recall = lambda out, y: sk.recall_score(y, out.argmax(1), average="macro", zero_division=0)
    module.each = Precision
    module.PerClass_c1 = lambda out, y: 0.5
    module.clash = lambda out, y: {"a": [1.0, 2.0], "a_c1": 3.0}
    module.nested = lambda out, y: {"a": [1.0, 2.0], "b": 3.0}
    module.r2_0 = lambda out, y: 0.5
    module.softened = lambda out, y: float(out.softmax(1).mul_(0).sum() + out.zero_().sum())
    module.total_of = lambda out, y: out.sum()
    module.broken = lambda out, y: [0.0][len(y)]
    module.total = lambda out, y: (out.flatten() - y).abs().sum()
    module.nothing = lambda out, y: None
    module.matrix = lambda out, y: torch.zeros(2, 2)
    module.kappa = lambda: torchmetrics.CohenKappa("multiclass", num_classes=4)
    module.Kappa = type(
        "Kappa",
        (torchmetrics.classification.MulticlassCohenKappa,),
        {"__init__": lambda self: torchmetrics.classification.MulticlassCohenKappa.__init__(self, 4)},
    )
    module.Odd = type("Odd", (module.Kappa,), {})
    module.PerClass = type("PerClass", (Precision,), {"__init__": lambda self: Precision.__init__(self, average=False)})
    monkeypatch.setitem(sys.modules, "own_metrics", module)
    module.__spec__ = types.SimpleNamespace(name="own_metrics")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([2, 3, 4, 7, 12]))
def test_classification_is_scikit_learns_however_the_set_is_cut(seed: int, n: int, count: int) -> None:
    out, y = drawn(seed, n, count)
    found = report(classes(count), build_loss(toml.load("digits"), classes(count), CPU, None), out, y, seed)
    guess = out.argmax(1)
    assert found.metrics["accuracy"] == pytest.approx(sk.accuracy_score(y, guess))
    labels = sorted({*y.tolist(), *guess.tolist()})
    assert found.metrics["f1"] == pytest.approx(sk.f1_score(y, guess, average="macro", labels=labels, zero_division=0))
    assert found.metrics["loss"] == pytest.approx(float(nn.functional.cross_entropy(out, y)), rel=1e-5)
    assert np.array(found.confusion).tolist() == sk.confusion_matrix(y, guess, labels=range(count)).tolist()
    if count > 5:
        assert found.metrics["top5"] == pytest.approx(sk.top_k_accuracy_score(y, out, k=5, labels=range(count)))


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([1, 2, 5]), st.sampled_from([0.0, 1e3, 1.7e9]))
def test_regression_is_scikit_learns_for_each_target_and_their_mean(
    seed: int, n: int, count: int, offset: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(n, count, generator=generator)
    out = y + torch.randn(n, count, generator=generator) * (seed % 3)
    mean, std = [offset * (i + 1) for i in range(count)], [3.0 + i for i in range(count)]
    names = tuple(f"t{i}" for i in range(count))
    info = DataInfo("d", "regression", (count,), count, (), tuple(mean), tuple(std), target_names=names)
    found = report(info, TrainingLoss(nn.functional.mse_loss), out, y, seed).metrics
    scale, shift = np.array(std), np.array(mean)
    real, guess = y.double().numpy() * scale + shift, out.double().numpy() * scale + shift
    expected = {"mae": sk.mean_absolute_error, "rmse": sk.root_mean_squared_error, "r2": sk.r2_score}
    for name, function in expected.items():
        each = function(real, guess, multioutput="raw_values")
        assert found[name] == pytest.approx(float(np.mean(each)), rel=1e-6, abs=1e-6)
        if count > 1:
            assert [found[f"{name}_{t}"] for t in names] == pytest.approx(each.tolist(), rel=1e-6, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 20), st.sampled_from([(1, 2, 3), (3, 1), (4, 4)]))
def test_targets_of_more_dimensions_are_one(seed: int, n: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(shape, generator=generator) * 5
    y = torch.randn(n, *shape, generator=generator) * scale
    out = y + torch.randn(n, *shape, generator=generator)
    info = DataInfo("d", "regression", (2,), math.prod(shape), target_shape=shape)
    found = report(info, TrainingLoss(nn.functional.mse_loss), out, y, seed).metrics
    assert set(found) == {"loss", "mae", "rmse", "r2"}
    real, guess = y.double().flatten(1).numpy(), out.double().flatten(1).numpy()
    assert found["rmse"] == pytest.approx(sk.mean_squared_error(real, guess) ** 0.5, rel=1e-6)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(real, guess), rel=1e-6)
    assert found["r2"] == pytest.approx(sk.r2_score(real, guess, multioutput="variance_weighted"), rel=1e-6, abs=1e-6)


def test_r2_of_a_constant_target_is_scikit_learns() -> None:
    info = DataInfo("d", "regression", (1,), 1)
    for out in (torch.ones(8, 1), torch.arange(8.0)[:, None]):
        found = report(info, TrainingLoss(nn.functional.mse_loss), out, torch.ones(8, 1), 3).metrics["r2"]
        assert found == sk.r2_score(np.ones(8), out[:, 0].numpy())
    assert math.isnan(
        report(info, TrainingLoss(nn.functional.mse_loss), torch.ones(1, 1), torch.ones(1, 1), 0).metrics["r2"]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(8, 60))
def test_metrics_of_the_users_own_are_computed_over_the_set(seed: int, n: int) -> None:
    out, y = drawn(seed, n, 4)
    loss = TrainingLoss(nn.functional.cross_entropy)
    wanted = ("own_metrics:mcc", "own_metrics:recall", "own_metrics:Kappa", "own_metrics:PerClass")
    made = evaluator(classes(4), loss, wanted)
    for again in range(2):  # what was added up is forgotten between evaluations
        found = made.evaluate(nn.Identity(), Cut(out, y, seed + again)).metrics
        assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(y, out.argmax(1)))
        assert found["recall"] == pytest.approx(sk.recall_score(y, out.argmax(1), average="macro", zero_division=0))
        assert found["Kappa"] == pytest.approx(sk.cohen_kappa_score(y, out.argmax(1)), abs=1e-5)
        each = sk.precision_score(y, out.argmax(1), average=None, labels=range(4), zero_division=0)
        assert [found[f"PerClass_c{i}"] for i in range(4)] == pytest.approx(each.tolist())


def test_what_is_no_number_is_told_before_the_training() -> None:
    out, y = drawn(0, 8, 3)
    for name, sentence in (("nothing", "gave NoneType None"), ("matrix", r"array of the shape \[2, 2\]")):
        made = evaluator(classes(3), TrainingLoss(nn.functional.cross_entropy), (f"own_metrics:{name}",))
        with pytest.raises(UserError, match=sentence):
            made.try_out(Step(out, y, len(y)), print)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(4, 60),
    st.sampled_from(["weighted", "ignored", "sum", "mean", "odd", "own mean"]),
)
def test_the_loss_of_a_set_is_that_of_one_batch(seed: int, n: int, kind: str) -> None:
    out, y = drawn(seed, n, 3)
    weight = torch.tensor([0.2, 1.0, 7.0])
    if kind == "ignored":
        y[::3] = -100
    losses: dict[str, Any] = {
        "weighted": nn.CrossEntropyLoss(weight, label_smoothing=0.1),
        "ignored": nn.CrossEntropyLoss(weight),
        "sum": nn.CrossEntropyLoss(reduction="sum"),
        "mean": nn.CrossEntropyLoss(),
        "odd": lambda a, b: nn.functional.cross_entropy(a, b) ** 2 + a.std(),
        "own mean": lambda a, b: nn.functional.cross_entropy(a, b),
    }
    module: Any = sys.modules["own_metrics"]
    module.loss = losses[kind]
    loss = build_loss(toml.load("digits", ["loss.name=own_metrics:loss"]), classes(3), CPU, None)
    loss.kind = find_kind(loss, *drawn(seed + 1, 16, 3))
    assert loss.kind == {"odd": "whole", "sum": "sum", "own mean": "mean"}.get(kind, "weighted")
    found = report(classes(3), loss, out, y, seed).metrics["loss"]
    expected = float(losses[kind](out, y)) / (n if kind == "sum" else 1)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True)

    # A step over several batches is the step of them all.
    whole = out.clone().requires_grad_()
    losses[kind](whole, y).backward()
    parts = out.clone().requires_grad_()
    pieces = list(Cut(parts, y, seed).epoch(0))
    task = task_of(classes(3), loss)
    total = sum(task.weight(piece) for piece in pieces)
    counted = [piece for piece in pieces if kind != "ignored" or (piece.y >= 0).any()]
    sum(task.share(loss(piece.x, piece.y), piece, total) for piece in counted).backward()
    if kind != "odd":
        torch.testing.assert_close(parts.grad, whole.grad)


@pytest.mark.parametrize(
    ("names", "higher"),
    [
        (
            "accuracy val_accuracy balanced_accuracy acc mcc auc AUROC roc_auc ap mAP f1 macro_f1 dice iou "
            "mean_iou kappa ndcg "
            "psnr ssim r2 bleu rouge_l precision recall_at_5 top5 spearman explained_variance",
            True,
        ),
        (
            "loss dice_loss error rmse mae mape perplexity wer cer fid mean_squared_error log_loss hinge_loss "
            "ece brier_score "
            "hamming_distance false_error_rate",
            False,
        ),
        ("reward score my_metric foo x loud", None),
    ],
)
def test_directions_of_the_fields_usual_names_are_known_and_no_others(names: str, higher: bool | None) -> None:
    assert {name: known_direction(name) for name in names.split()} == dict.fromkeys(names.split(), higher)
    assert watched("maximize foo") == ("foo", True)
    assert watched("val_loss") == ("loss", False)


@pytest.mark.parametrize("target", ["distance", "error", "loss_a", "map", "price", "latency"])
def test_a_target_or_a_class_tells_no_direction(target: str) -> None:
    """More of r2 is better whatever the target is called, and so with one class's figure of a metric of the user's."""
    assert watched(f"r2_{target}")[1] is True
    assert watched(f"mae_{target}")[1] is False
    assert watched(f"recall_{target}", ["recall"])[1] is True
    assert watched("r2_loss", ["r2_loss"])[1] is False  # a metric of the user's own of that name


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (['tracking.metrics=["a.py:loss"]'], "the name 'loss' is taken"),
        (['tracking.metrics=["a.py:accuracy"]'], "the name 'accuracy' is taken"),
        (['tracking.metrics=["a.py:learning_rate"]'], "the name 'learning_rate' is taken"),
        (['tracking.metrics=["a.py:mcc","b.py:mcc"]'], "two metrics named 'mcc'"),
        (["trainer.monitor=rmse"], "trainer.monitor = 'rmse' is not measured"),
        (["trainer.monitor=maximise accuracy"], "is not of the form"),
        (['search.objectives=["acuracy"]'], "search.objectives = 'acuracy' is not measured; did you mean 'accuracy'"),
    ],
)
def test_names_are_refused_before_anything_runs(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        toml.load("digits", overrides)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("info", "names", "taken"),
    [
        (classes(2), ("PerClass", "PerClass_c1"), "PerClass_c1"),
        (classes(2), ("clash",), "clash_a_c1"),
        (DataInfo("d", "regression", (2,), 2), ("r2_0",), "r2_0"),
    ],
)
def test_two_figures_of_one_name_are_told_before_and_never_overwritten(
    info: DataInfo, names: tuple[str, ...], taken: str
) -> None:
    out, y = drawn(0, 12, 2)
    if info.task == "regression":
        y = torch.randn(12, 2)
    loss = TrainingLoss(nn.functional.cross_entropy if info.classes else nn.functional.mse_loss)
    made = evaluator(info, loss, tuple(f"own_metrics:{name}" for name in names))
    with pytest.raises(UserError, match=f"two figures are named '{taken}'; call one of them something else"):
        made.try_out(Step(out, y, len(y)), print)
    with pytest.raises(UserError, match=f"two figures are named '{taken}'"):
        made.evaluate(nn.Identity(), Cut(out, y, 3))


def test_what_a_try_out_tells_are_the_names_of_the_evaluation() -> None:
    out, y = drawn(1, 40, 7)
    metrics = ("own_metrics:mcc", "own_metrics:PerClass", "own_metrics:nested", "own_metrics:broken")
    loss, told = TrainingLoss(nn.functional.cross_entropy), list[str]()
    tried = evaluator(classes(7), loss, metrics).try_out(Step(out[:25], y[:25], 25), told.append)
    found = evaluator(classes(7), loss, metrics[:3]).evaluate(nn.Identity(), Cut(out, y, 2))
    assert tried == Tried(tuple(found.metrics), ("broken",))
    assert {"nested_a_0", "nested_a_1", "nested_b", "PerClass_c6", "top5"} <= set(tried.names)
    assert told == [
        "tracking.metrics: 'own_metrics:broken' raised IndexError: list index out of range on 25 samples; it is "
        "tried again "
        "with the whole set."
    ]


def test_functions_share_one_copy_of_the_outputs_and_can_not_spoil_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    update = Gathered.update
    monkeypatch.setattr(Gathered, "update", lambda self, out, y: (kept.append(len(y)), update(self, out, y))[1])
    out, y = drawn(2, 40, 3)
    metrics = ("own_metrics:softened", "own_metrics:total_of", "own_metrics:recall")
    found = report(classes(3), TrainingLoss(nn.functional.cross_entropy), out, y, 5, metrics).metrics
    assert found["total_of"] == pytest.approx(float(out.sum()), rel=1e-5)
    assert sum(kept) == 40


@pytest.mark.parametrize(
    ("values", "higher", "best"),
    [
        ((1.0, math.inf, 2.0, math.nan, -math.inf), True, math.inf),
        ((1.0, -math.inf, 2.0, math.nan, math.inf), False, -math.inf),
        ((math.nan, math.inf, 3.0), False, 3.0),
        ((-math.inf, math.nan), True, None),
    ],
)
def test_infinity_can_be_the_best_and_nan_never(values: tuple[float, ...], higher: bool, best: float | None) -> None:
    direction = "maximize" if higher else "minimize"
    experiment = toml.build({"data": {"name": "digits"}, "trainer": {"monitor": f"{direction} f1"}})
    monitor = Monitor(experiment, "loss", lambda name: None)
    for epoch, value in enumerate(values):
        monitor.epoch_ended(epoch, value, 0.0)
    assert monitor.best_value == best


DATA = """
import torch
from torch.utils.data import TensorDataset

class Houses(TensorDataset):
    def __init__(self):
        x = torch.randn(80, 3)
        super().__init__(x, x[:, :2] * 2)

def reward(out, y):
    return [0.5, 0.25]

def single(out, y):
    return 0.5

def large(out, y):
    if len(y) < 30:
        raise ValueError("too few")
    return {"a": 1.0}
"""


@pytest.mark.parametrize(
    ("best", "sentence"),
    [
        ("r2_11", r"trainer\.monitor = 'r2_11' is not measured for regression here; did you mean 'r2_1'"),
        ("maximize reward_7", "is not measured for regression here; did you mean 'reward_"),
        ("maximize single_x", "'single_x' is not measured"),
        ("r2_1", None),
        ("maximize reward_1", None),
        ("maximize large_a", None),
    ],
)
def test_a_figure_that_will_not_be_is_refused_before_the_first_step(
    tmp_path: Path, best: str, sentence: str | None
) -> None:
    file = tmp_path / "houses.py"
    file.write_text(DATA)
    metrics = [f"{file}:{name}" for name in ("reward", "single", "large")]
    wanted = toml.load(
        "digits",
        [f"data.name={file}:Houses", "loss.name=mse", f"tracking.metrics={metrics}", f"trainer.monitor={best}"],
    )
    told: list[str] = []
    if sentence is None:
        build_trainer(wanted, Control(), lambda event: None, told.append).data.close()
        assert any("large' raised ValueError: too few on 25 samples" in one for one in told)
    else:
        with pytest.raises(UserError, match=sentence):
            build_trainer(wanted, Control(), lambda event: None, told.append)


def searched(*overrides: str) -> Any:
    metrics = ["own_metrics:Odd", "own_metrics:total_of"]
    return toml.load(
        "digits", [f"tracking.metrics={metrics}", "search.space={'optimizer.lr'='1e-4 .. 0.1'}", *overrides]
    )


def test_a_search_asks_a_metric_for_its_direction_as_the_training_does() -> None:
    for sought in ("search.objectives=['Odd']", "trainer.monitor=Odd"):
        experiment = searched(sought)
        with pytest.raises(UserError, match="write 'maximize Odd' or 'minimize Odd'"):
            objectives(experiment)
        assert [one.text for one in objectives(with_directions(experiment))] == ["maximize Odd"]
    for kept in ("search.objectives=['minimize Odd']", "search.objectives=['accuracy', 'latency']"):
        assert with_directions(searched(kept)).search.objectives == searched(kept).search.objectives
    with pytest.raises(UserError, match="write 'maximize total_of'"):
        objectives(with_directions(searched("search.objectives=['total_of']")))


def test_a_trial_is_told_a_direction_that_its_metric_does_not_tell(tmp_path: Path) -> None:
    """The name of a class tells none, though it is the word for one."""
    study = studies.create(searched("search.objectives=['maximize total_of_recall']"), tmp_path)
    assert study.experiment_of({"optimizer.lr": 0.01}).trainer.monitor == "maximize total_of_recall"


@pytest.mark.parametrize(("sought", "value"), [("maximize Odd", math.inf), ("minimize Odd", -math.inf)])
def test_a_best_that_is_infinite_is_the_value_of_its_trial(tmp_path: Path, sought: str, value: float) -> None:
    study = studies.create(searched(f"search.objectives=['{sought}']"), tmp_path)
    session: Any = types.SimpleNamespace(run={"best": {"loss": 0.5, "Odd": None}})  # null in run.json
    assert objective_values(study, session) == [value]
