"""Figures of tokens are of all that count, however a set is cut: against torchmetrics, scikit-learn and plain torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor, nn
from torchmetrics.functional.text import perplexity

from torchdeck.core.data.batches import Batch, Feed
from torchdeck.core.data.source import DataInfo
from torchdeck.core.experiment import toml
from torchdeck.core.tasks.build import build_task
from torchdeck.core.tasks.tokens import classes_last
from torchdeck.core.training.evaluation import Evaluator

CPU = torch.device("cpu")


class Cut(Feed):
    """Logits as inputs, cut into batches at random places."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        places = torch.randperm(len(x) - 1, generator=torch.Generator().manual_seed(seed))[: seed % 5] + 1
        cuts = [0, *sorted(places.tolist()), len(x)]
        self._batches = [Batch(x[a:b], y[a:b], b - a) for a, b in itertools.pairwise(cuts)]
        self.length = len(x)

    @property
    def samples(self) -> int:
        return self.length

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from self._batches


def figures(info: DataInfo, out: Tensor, y: Tensor, seed: int, *overrides: str) -> dict[str, float]:
    experiment = toml.load(
        None, [f"task.name={info.task}", "data.name=some.py:Data", "model.name=some.py:Net", *overrides]
    )
    net = nn.Identity()
    return (
        Evaluator(info, build_task(experiment, info, net, CPU), CPU, nullcontext)
        .evaluate(net, Cut(out, y, seed))
        .metrics
    )


def drawn(seed: int, n: int, length: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Logits [n, T, V] and targets of which some do not count, in some sequences most."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(tokens, (n, length), generator=generator)
    left_out = torch.rand(n, length, generator=generator) < torch.rand(n, 1, generator=generator)
    left_out[0, 0] = False
    return 2 * torch.randn(n, length, tokens, generator=generator), y.masked_fill(left_out, -100)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 9), st.sampled_from([2, 5, 40]))
def test_language_is_of_all_tokens_of_the_set(seed: int, n: int, length: int, tokens: int) -> None:
    out, y = drawn(seed, n, length, tokens)
    names = tuple(chr(0x61 + 0x60 * (i % 3) + i) for i in range(tokens))  # characters of one, two and three bytes
    info = DataInfo("d", "language", (length,), tokens, vocabulary=names)
    found = figures(info, out, y, seed)
    assert found["perplexity"] == pytest.approx(float(perplexity(out, y, ignore_index=-100)), rel=1e-4)
    counted = y != -100
    surprise = [-float(out[b, t].log_softmax(0)[y[b, t]]) for b, t in counted.nonzero().tolist()]
    assert found["loss"] == pytest.approx(sum(surprise) / len(surprise), rel=1e-5)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y[counted], out.argmax(-1)[counted]))
    text = "".join(names[token] for token in y[counted])
    assert found["bits_per_byte"] == pytest.approx(sum(surprise) / math.log(2) / len(text.encode()), rel=1e-5)


def test_bits_per_byte_are_told_only_of_tokens_whose_bytes_are_known() -> None:
    out, y = drawn(1, 4, 5, 256)
    of_bytes = figures(DataInfo("d", "language", (5,), 256, vocabulary=tuple(map(chr, range(256)))), out, y, 1)
    assert of_bytes["bits_per_byte"] == pytest.approx(of_bytes["loss"] / math.log(2))
    for vocabulary in ((), tuple(f"word{i}" for i in range(256))):
        assert "bits_per_byte" not in figures(DataInfo("d", "language", (5,), 256, vocabulary=vocabulary), out, y, 1)


def test_a_perplexity_beyond_what_a_softmax_in_float32_holds() -> None:
    out = torch.zeros(2, 3, 4)
    out[..., 0] = 300.0  # exp(-300) is 0 in float32
    found = figures(DataInfo("d", "language", (3,), 4), out, torch.ones(2, 3, dtype=torch.int64), 0)
    assert found["perplexity"] == pytest.approx(math.exp(300), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 9), st.sampled_from([2, 3, 7, 40]), st.booleans())
def test_token_classification_is_scikit_learns(seed: int, n: int, length: int, classes: int, second: bool) -> None:
    out, y = drawn(seed, n, length, classes)
    if second and length != classes:
        out = out.transpose(1, 2)
    info = DataInfo("d", "token_classification", (length,), classes, tuple(map(str, range(classes))))
    found = figures(info, out, y, seed)
    logits = out.transpose(1, 2) if second and length != classes else out
    counted = y != -100
    true, guess = y[counted], logits.argmax(-1)[counted]
    labels = sorted({*true.tolist(), *guess.tolist()})
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(true, guess))
    assert found["f1"] == pytest.approx(sk.f1_score(true, guess, average="macro", labels=labels, zero_division=0))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits[counted], true)), rel=1e-5)
    assert set(found) == {"loss", "accuracy", "f1"}


def test_weights_of_classes_count_among_tokens() -> None:
    out, y = drawn(5, 6, 4, 3)
    info = DataInfo("d", "token_classification", (4,), 3, ("a", "b", "c"))
    found = figures(info, out, y, 3, "loss.name=cross_entropy", "loss.args.class_weights=[1, 5, 0.5]")
    expected = F.cross_entropy(out.transpose(1, 2), y, torch.tensor([1.0, 5.0, 0.5]))
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_logits_are_told_from_what_is_none() -> None:
    y = torch.zeros(2, 5, dtype=torch.int64)
    last, second = torch.randn(2, 5, 7), torch.randn(2, 7, 5)
    assert classes_last(last, y, 7) is last
    assert torch.equal(classes_last(second, y, 7), second.transpose(1, 2))
    assert torch.equal(classes_last(last.reshape(10, 7), y, 7), last)
    for wrong in (last.transpose(0, 1), torch.randn(2, 7), torch.randn(2, 4, 7), torch.randn(2, 5, 6), None):
        assert classes_last(wrong, y, 7) is None
