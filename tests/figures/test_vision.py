"""Figures of masks, labels and boxes are of the whole set, however it is cut: against NumPy and scikit-learn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor, nn

from torchdeck.core.data.batches import Batch, Feed
from torchdeck.core.data.source import DataInfo
from torchdeck.core.experiment import toml
from torchdeck.core.tasks.base import Task
from torchdeck.core.tasks.build import build_task
from torchdeck.core.training.evaluation import Evaluator

CPU = torch.device("cpu")


class Cut(Feed):
    """Outputs as inputs, cut into batches at random places."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        places = torch.randperm(len(x) - 1, generator=torch.Generator().manual_seed(seed))[: seed % 4] + 1
        cuts = [0, *sorted(places.tolist()), len(x)]
        self.batches = [Batch(x[a:b], y[a:b], b - a) for a, b in itertools.pairwise(cuts)]
        self.length = len(x)

    @property
    def samples(self) -> int:
        return self.length

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from self.batches


def task_of(info: DataInfo, *overrides: str, targets: Tensor | None = None) -> Task:
    experiment = toml.load(
        None, [f"task.name={info.task}", "data.name=some.py:Data", "model.name=some.py:Net", *overrides]
    )
    return build_task(experiment, info, nn.Identity(), CPU, targets)


def figures(info: DataInfo, out: Tensor, y: Tensor, seed: int, *overrides: str) -> dict[str, float]:
    evaluator = Evaluator(info, task_of(info, *overrides), CPU, nullcontext)
    return evaluator.evaluate(nn.Identity(), Cut(out, y, seed)).metrics


# --- masks -----------------------------------------------------------------------------------------------------------


def masks(classes: int) -> DataInfo:
    return DataInfo("x", "segmentation", (3, 5, 4), classes, tuple("abcdefgh"[:classes]))


def drawn_masks(seed: int, classes: int, ignored: int, channels: int | None = None) -> tuple[Tensor, Tensor]:
    """Logits and masks of seven images, of which some pixels do not count, and of one image none."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(7, channels or classes, 5, 4, generator=generator)
    y = torch.randint(0, classes, (7, 5, 4), generator=generator)
    y[torch.rand(y.shape, generator=generator) < 0.2] = ignored
    y[seed % 7] = ignored
    return out, y


def by_numpy(guess: np.ndarray, y: np.ndarray, classes: int, ignored: int) -> dict[str, float]:
    """Each figure from its definition, class by class over all pixels."""
    there = y != ignored
    guess, y = guess[there], y[there]
    iou, dice = {}, {}
    for c in range(classes):
        both, either = ((guess == c) & (y == c)).sum(), ((guess == c) | (y == c)).sum()
        if either and c != ignored:
            iou["abcdefgh"[c]] = both / either
            dice[c] = 2 * both / ((guess == c).sum() + (y == c).sum())
    return {
        "miou": np.mean(list(iou.values())),
        "dice": np.mean(list(dice.values())),
        "accuracy": (guess == y).mean(),
        **{f"iou_{name}": value for name, value in iou.items()},
    }


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 8),
    ignored=st.sampled_from([-100, 255, 0]),
    channel=st.booleans(),
)
def test_figures_of_masks_are_of_all_pixels_that_count(seed: int, classes: int, ignored: int, channel: bool) -> None:
    out, y = drawn_masks(seed, classes, ignored)
    found = figures(masks(classes), out, y[:, None] if channel else y, seed, f"task.args.ignore_index={ignored}")

    loss = F.cross_entropy(out, y, ignore_index=ignored)
    expected = by_numpy(out.argmax(1).numpy(), y.numpy(), classes, ignored) | {"loss": float(loss)}
    assert found == pytest.approx(expected, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), mean=st.booleans())
def test_one_logit_tells_two_classes_apart(seed: int, mean: bool) -> None:
    out, y = drawn_masks(seed, 2, 255, channels=1)
    found = figures(masks(2), out, y, seed, "task.args.ignore_index=255", "loss.name=bce_with_logits")

    there = y != 255
    loss = F.binary_cross_entropy_with_logits(out[:, 0][there], y[there].float())
    expected = by_numpy((out[:, 0] > 0).numpy(), y.numpy(), 2, 255) | {"loss": float(loss)}
    assert found == pytest.approx(expected, abs=1e-6)


def test_classes_that_are_not_there_and_outputs_beyond_them() -> None:
    """The class c neither occurs nor is predicted; the fifth output is none of the classes."""
    y = torch.tensor([[[0, 0], [1, 3]]] * 2)
    guess = torch.tensor([[[0, 4], [1, 1]]] * 2)
    found = figures(masks(4), F.one_hot(guess, 5).movedim(-1, 1).float(), y, 0)

    assert {name: found[name] for name in found if name != "loss"} == pytest.approx(
        {"miou": (0.5 + 0.5 + 0) / 3, "dice": (2 / 3 + 2 / 3 + 0) / 3, "accuracy": 0.5}
        | {"iou_a": 0.5, "iou_b": 0.5, "iou_d": 0.0}
    )


def test_an_auxiliary_output_is_half_of_the_loss_and_none_of_the_figures() -> None:
    out, y = drawn_masks(1, 3, -100)
    aux = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))

    class Both(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x[:, :3], "aux": x[:, 3:]}

    evaluator = Evaluator(masks(3), task_of(masks(3)), CPU, nullcontext)
    found = evaluator.evaluate(Both(), Cut(torch.cat([out, aux], 1), y, 3)).metrics
    parts = {"out": float(F.cross_entropy(out, y)), "aux": float(F.cross_entropy(aux, y))}
    assert found == pytest.approx(
        by_numpy(out.argmax(1).numpy(), y.numpy(), 3, -100) | parts | {"loss": parts["out"] + 0.5 * parts["aux"]},
        abs=1e-6,
    )


def test_pixels_are_counted_while_training_and_batches_weigh_by_them() -> None:
    out, y = drawn_masks(5, 3, 255)
    task = task_of(masks(3), "task.args.ignore_index=255")
    batches = Cut(out, y, 3).batches
    steps = [task.forward(nn.Identity(), batch) for batch in batches]
    total = sum(task.weight(batch) for batch in batches)
    shares = []
    for step, batch in zip(steps, batches, strict=True):
        task.add_loss(step)
        shares.append(task.share(step.loss, batch, total))

    right, counted = task.count_right([task.keep(step) for step in steps])
    assert (right, counted) == (float(((out.argmax(1) == y) & (y != 255)).sum()), float((y != 255).sum()))
    assert float(sum(shares)) == pytest.approx(float(F.cross_entropy(out, y, ignore_index=255)))


def test_balanced_weights_are_by_pixels() -> None:
    out, y = drawn_masks(6, 3, 255)
    options = ("task.args.ignore_index=255", "loss.name=cross_entropy", "loss.args.class_weights=balanced")
    found = Evaluator(masks(3), task_of(masks(3), *options, targets=y), CPU, nullcontext).evaluate(
        nn.Identity(), Cut(out, y, 2)
    )
    counts = np.bincount(y[y != 255].numpy(), minlength=3)
    weights = torch.tensor(counts.sum() / (3 * counts), dtype=torch.float32)
    expected = F.cross_entropy(out, y, weights, ignore_index=255)
    assert found.metrics["loss"] == pytest.approx(float(expected), abs=1e-6)


def test_mirror_images_are_mirrored_back() -> None:
    """A net that knows the left from the right: with trainer.flip_test its outputs for both are in one place."""
    out, y = drawn_masks(7, 3, -100)
    slope = torch.linspace(-1, 1, 4)

    class Sided(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * slope

    evaluator = Evaluator(masks(3), task_of(masks(3)), CPU, nullcontext, flip=True)
    found = evaluator.evaluate(Sided(), Cut(out, y, 1)).metrics
    mean = (out * slope + (out.flip(-1) * slope).flip(-1)) / 2
    assert found["loss"] == pytest.approx(float(F.cross_entropy(mean, y)), abs=1e-6)


# --- labels ----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), labels=st.integers(2, 6), threshold=st.sampled_from([0.5, 0.3, 0.9]))
def test_figures_of_labels_are_those_of_scikit_learn(seed: int, labels: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    out = torch.randn(23, labels, generator=generator) * (30 if seed % 3 == 0 else 1)
    y = (torch.rand(23, labels, generator=generator) < 0.4).float()
    y[:, 0] = 0 if seed % 2 else y[:, 0]  # a label that does not occur
    info = DataInfo("x", "multilabel", (4,), labels, tuple("abcdefgh"[:labels]))
    found = figures(info, out, y, seed, f"task.args.threshold={threshold}")

    p, true = out.double().sigmoid().numpy(), y.numpy()
    guess = p >= threshold
    there = true.sum(0) > 0
    assert found == pytest.approx(
        {
            "loss": float(F.binary_cross_entropy_with_logits(out, y)),
            "f1": sk.f1_score(true, guess, average="macro", zero_division=0),
            "f1_micro": sk.f1_score(true, guess, average="micro", zero_division=0),
            "exact_match": sk.accuracy_score(true, guess),
            "map": np.mean([sk.average_precision_score(true[:, k], p[:, k]) for k in np.flatnonzero(there)]),
        },
        abs=1e-5,
    )


# --- boxes -----------------------------------------------------------------------------------------------------------

IOUS = np.linspace(0.5, 0.95, 10)
Boxes = dict[str, Tensor]


def drawn_boxes(seed: int, images: int, most: int = 4) -> tuple[list[Boxes], list[Boxes]]:
    """What is found, and what is there: boxes of three classes, some images without any, and some found twice."""
    random = np.random.default_rng(seed)
    found, true = [], []
    for _ in range(images):
        count = int(random.integers(0, most + 1))
        corner = random.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + random.uniform(4, 40, (count, 2))], 1)
        labels = random.integers(1, 4, count)
        near = np.concatenate([boxes + random.normal(0, 2, boxes.shape), boxes[:1] + 0.5, [[1, 1, 9, 9]]])
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        guess = np.concatenate([labels, labels[:1], [1]])
        guess[: count // 2] = random.integers(1, 4, count // 2)
        true.append({"boxes": torch.tensor(boxes).float().reshape(-1, 4), "labels": torch.tensor(labels)})
        scores = torch.tensor(random.permutation(len(near)) / 10 + random.uniform(0, 0.05, len(near))).float()
        found.append({"boxes": torch.tensor(near).float(), "labels": torch.tensor(guess), "scores": scores})
    return found, true


def iou(one: np.ndarray, other: np.ndarray) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(areas) - both)


def precision_of(found: list[Boxes], true: list[Boxes], label: int, least: float) -> float | None:
    """COCO's average precision of one class at one IoU: each box found, the surest first, takes the best box that is
    still free; precision is read at 101 recalls, as the best at that recall or beyond."""
    rows = []
    total = sum(int((one["labels"] == label).sum()) for one in true)
    for guess, there in zip(found, true, strict=True):
        free = [box for box, n in zip(there["boxes"].numpy(), there["labels"], strict=True) if n == label]
        of_class = guess["labels"] == label
        for at in guess["scores"][of_class].argsort(descending=True):
            box = guess["boxes"][of_class][at].numpy()
            overlaps = [iou(box, other) for other in free]
            hit = bool(overlaps) and max(overlaps) >= least
            if hit:
                free.pop(int(np.argmax(overlaps)))
            rows.append((float(guess["scores"][of_class][at]), hit))
    if not total:
        return None
    hits = np.array([hit for _, hit in sorted(rows, key=lambda row: -row[0])], dtype=float)
    recall, precision = hits.cumsum() / total, hits.cumsum() / (np.arange(len(hits)) + 1)
    return float(np.mean([max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, 101)]))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), most=st.sampled_from([4, 4, 0]))
@example(seed=0, most=0)
def test_figures_of_boxes_are_coco_s(seed: int, most: int) -> None:
    found, true = drawn_boxes(seed, 9, most)
    info = DataInfo("x", "detection", (), 4, ("background", "one", "two", "three"))
    batches = [Batch(found[a:b], true[a:b], b - a) for a, b in itertools.pairwise([0, 1, 4, 9])]

    class Given(Feed):
        samples = 9

        def __init__(self) -> None:
            pass

        def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
            yield from batches

    told = Evaluator(info, task_of(info), CPU, nullcontext).evaluate(nn.Identity(), Given()).metrics
    each = {n: [precision_of(found, true, n, least) for least in IOUS] for n in (1, 2, 3)}
    there = {info.class_names[n]: values for n, values in each.items() if values[0] is not None}
    if not there:  # undefined, which is never the best
        assert told.keys() == {"map", "map50", "map75"} and all(map(math.isnan, told.values()))
        return
    expected = {"map": np.mean(list(there.values())), "map50": np.mean([v[0] for v in there.values()])}
    expected |= {"map75": np.mean([v[5] for v in there.values()])}
    assert told == pytest.approx(expected | {f"map_{n}": np.mean(v) for n, v in there.items()}, abs=1e-6)
