"""NT-Xent, retrieval and nearest neighbours against computations written out with NumPy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from torchdeck.core.errors import UserError
from torchdeck.core.tasks.contrastive import Neighbours, Retrieval
from torchdeck.core.tasks.contrastive_losses import NTXent, Triplet


def drawn(seed: int, n: int, width: int, views: int) -> tuple[torch.Tensor, ...]:
    """Embeddings of views that are more or less near each other."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(n, width, generator=generator)
    return tuple(middle + (seed % 3) * torch.randn(n, width, generator=generator) for _ in range(views))


def cosines(views: tuple[torch.Tensor, ...]) -> np.ndarray:
    both = np.concatenate([view.double().numpy() for view in views[:2]])
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    return both @ both.T


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.1, 0.5, 2.0]))
def test_nt_xent_is_equation_1_of_the_paper(seed: int, n: int, temperature: float) -> None:
    views = drawn(seed, n, 5, 2)
    cosine = cosines(views) / temperature
    each = []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum(math.exp(cosine[i, k]) for k in range(2 * n) if k != i)
        each.append(-math.log(math.exp(cosine[i, j]) / others))
    assert float(NTXent(temperature)(views, None)) == pytest.approx(np.mean(each), rel=1e-4, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_retrieval_is_a_share_of_the_views_of_all_batches(seed: int, sizes: list[int]) -> None:
    metric, found, among, nearer = Retrieval(), [], [], []
    for number, n in enumerate(sizes):
        views = drawn(seed + number, n, 4, 3)
        metric.update(views, None)
        cosine = cosines(views)
        for i in range(2 * n) if n > 1 else ():
            ranked = sorted((k for k in range(2 * n) if k != i), key=lambda k: -cosine[i, k])
            found.append(ranked[0] == (i + n) % (2 * n))
            if 2 * n - 1 > 5:
                among.append((i + n) % (2 * n) in ranked[:5])
        anchor, positive, negative = (view.double().numpy() for view in views)
        nearer += (np.linalg.norm(anchor - positive, axis=1) < np.linalg.norm(anchor - negative, axis=1)).tolist()
    told = metric.compute()
    expected = {"triplet_accuracy": np.mean(nearer)}
    expected |= {"top1": np.mean(found)} if found else {}
    expected |= {"top5": np.mean(among)} if among else {}
    assert told == pytest.approx(expected)


def test_embeddings_that_are_all_the_same_or_no_numbers_find_nothing() -> None:
    for value in (1.0, math.nan):
        metric = Retrieval()
        metric.update((torch.full((4, 3), value), torch.full((4, 3), value)), None)
        assert metric.compute() == {"top1": 0.0, "top5": 0.0}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60))
def test_neighbours_are_scikit_learns_leaving_one_out(seed: int, n: int) -> None:
    first, second = drawn(seed, n, 6, 2)
    labels = torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed))
    metric = Neighbours()
    for part in torch.arange(n).split(7):
        metric.update((first[part], second[part]), labels[part])
    nearest = NearestNeighbors(n_neighbors=1, metric="cosine").fit(first.numpy())
    at = nearest.kneighbors(return_distance=False)[:, 0]  # of the fitted samples, itself left out
    expected = np.mean(labels.numpy()[at] == labels.numpy())
    assert metric.compute() == {"neighbour_accuracy": pytest.approx(expected)}


def test_each_loss_names_the_other_where_views_are_too_few_or_too_many() -> None:
    views = drawn(0, 4, 3, 3)
    expected = torch.nn.TripletMarginLoss(margin=0.3)(*views)
    assert torch.equal(Triplet(0.3, 2.0)(views, None), expected)
    with pytest.raises(UserError, match="'triplet'"):
        NTXent(0.5)(views, None)
    with pytest.raises(UserError, match="'nt_xent'"):
        Triplet(1.0, 2.0)(views[:2], None)
