"""Batch transforms do on a batch what torchvision does on one image, and draw by (seed, epoch, batch) alone."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from torchdeck.core.data import transforms as T
from torchdeck.core.experiment.data_schema import Transform


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


IMAGES = torch.randint(0, 256, (6, 3, 12, 10), dtype=torch.uint8, generator=generator())


def apply(transforms: list[Transform], x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    g = generator(seed)
    for op in T.batch_transform(transforms, torch.device("cpu")):
        x = op(x, g)
    return x


@pytest.mark.parametrize(
    ("transforms", "theirs"),
    [
        ([Transform(name="ToTensor")], [v2.ToDtype(torch.float32, scale=True)]),
        (
            [Transform(name="ToTensor"), Transform(name="Normalize", mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])],
            [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.1, 0.2, 0.3], [0.5, 0.6, 0.7])],
        ),
        (
            [Transform(name="ToTensor"), Transform(name="Resize", size=7)],
            [v2.ToDtype(torch.float32, scale=True), v2.Resize(7)],
        ),
        ([Transform(name="Resize", size=[5, 9])], [v2.Resize([5, 9])]),
        ([Transform(name="CenterCrop", size=8)], [v2.CenterCrop(8)]),
        ([Transform(name="CenterCrop", size=14)], [v2.CenterCrop(14)]),
    ],
    ids=lambda v: "" if not isinstance(v, list) else "-".join(getattr(t, "name", type(t).__name__) for t in v),
)
def test_fixed_transforms_are_torchvisions(transforms: list[Transform], theirs: list) -> None:
    expected = v2.Compose(theirs)(IMAGES)
    got = apply(transforms, IMAGES)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(
        got.float(), expected.float(), atol=1.01 if got.dtype == torch.uint8 else 1e-5, rtol=1e-5
    )


def test_normalize_without_totensor_takes_values_as_they_are() -> None:
    table = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    got = apply([Transform(name="Normalize", mean=[2.0, 20.0], std=[1.0, 10.0])], table)
    assert torch.allclose(got, torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_random_crop_cuts_a_place_of_its_own_from_each_padded_image(mode: str) -> None:
    many = IMAGES[:1].expand(200, -1, -1, -1)
    got = T.random_crop(many, (12, 10), 2, mode, generator())
    padded = v2.functional.pad(IMAGES[0], [2], padding_mode=mode)
    places = {padded[:, y : y + 12, x : x + 10].numpy().tobytes(): (y, x) for y in range(5) for x in range(5)}
    found = {places[image.numpy().tobytes()] for image in got}  # a KeyError would be a wrong crop
    assert len(found) == 25


def test_random_flip_mirrors_about_its_share() -> None:
    many = IMAGES[:1].expand(2000, -1, -1, -1)
    got = T.random_flip(many, 0.3, -1, generator())
    flipped = (got == IMAGES[0].flip(-1)).flatten(1).all(1)
    kept = (got == IMAGES[0]).flatten(1).all(1)
    assert (flipped | kept).all()
    assert 0.25 < flipped.float().mean() < 0.35


def test_random_erasing_blanks_one_rectangle_within_its_limits() -> None:
    ones = torch.ones(3000, 2, 20, 20)
    got = T.random_erasing(ones, 0.5, (0.05, 0.2), (0.5, 2.0), 0.0, generator())
    assert torch.equal(got[:, 0], got[:, 1])
    holes = got[:, 0] == 0
    shares = holes.flatten(1).float().mean(1)
    hit = shares > 0
    assert 0.45 < hit.float().mean() < 0.55
    assert shares[hit].min() > 0.03
    assert shares[hit].max() < 0.26
    for hole in holes[hit][:200]:
        rows, columns = hole.any(1), hole.any(0)
        assert hole.sum() == rows.sum() * columns.sum()


def test_the_order_is_as_written_and_splits_at_the_last_samplewise_one() -> None:
    names = ["RandomHorizontalFlip", "RandAugment", "ToTensor", "Normalize", "RandomErasing"]
    pipeline = T.make_pipelines([Transform(name=n) for n in names], training=True)
    assert [t.name for t in pipeline.sample] == names[:2]
    assert [t.name for t in pipeline.batch] == names[2:]
    evaluation = T.make_pipelines([Transform(name=n) for n in names], training=False)
    assert not evaluation.needs_samples()
    assert [t.name for t in evaluation.batch] == ["ToTensor", "Normalize"]
    cropped = T.make_pipelines(
        [Transform(name="RandomCrop", size=8), Transform(name="RandomResizedCrop", size=6)], training=False
    )
    assert [t.name for t in cropped.batch] == ["CenterCrop", "Resize", "CenterCrop"]


def test_transforms_per_sample_give_what_those_per_batch_give() -> None:
    chosen = [Transform(name="ToTensor"), Transform(name="Normalize", mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])]
    one_by_one = torch.stack([T.sample_transform(chosen)(image) for image in IMAGES])
    torch.testing.assert_close(one_by_one, apply(chosen, IMAGES))
