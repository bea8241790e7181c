"""What the Data pane tells of the first samples, and the model's tree, of tasks beyond one input and one label."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torchdeck.core.data.batches import Batch
from torchdeck.core.data.source import DataInfo
from torchdeck.core.experiment import toml
from torchdeck.core.session.annotated import pictures
from torchdeck.core.session.preview import Previewer
from torchdeck.core.session.samples import shape_in_words, told


def looked_at(preset: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    Previewer(found.update).answer(1, toml.dumps(toml.load(preset, options)))
    assert "error" not in found, found["error"]
    return found


def test_views_and_the_image_of_several_inputs_are_shown() -> None:
    views = looked_at("digits-contrastive")
    assert views["data"]["shape"] == "1×8×8 and 1×8×8"
    assert (views["data"]["pictures"]["height"], views["data"]["pictures"]["width"]) == (8, 16)
    # Both views of a sample go through the net: twice what its layers cost by hand.
    convs = 64 * 9 * (1 * 32 + 32 * 32) + 16 * 9 * (32 * 64 + 64 * 64)
    assert views["model"]["root"]["multiply_adds"] == 2 * (convs + 64 * 128 + 128 * 64)
    assert views["model"]["root"]["output_shape"] == (64,)
    two = looked_at("two-inputs")["data"]
    assert two["shape"] == "1×8×8 and 10"
    assert (two["pictures"]["height"], two["pictures"]["width"]) == (8, 8)
    assert set(two["labels"]) <= {"less", "same", "more"}


def test_texts_and_courses_are_those_of_the_samples() -> None:
    text = looked_at("char-lm", "data.args.characters=20000")["data"]["texts"]
    assert len(text) == 8 and all(len(one) == 64 for one in text)
    assert text[0].startswith("The ")
    course = looked_at("forecast", "data.args.samples=100")["data"]["courses"]
    assert {(len(one["values"]), len(one["target"])) for one in course} == {(48, 12)}


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (torch.zeros(3, 1, 8, 8), "1×8×8"),
        (torch.zeros(3), "one number"),
        ({"input_ids": torch.zeros(3, 7), "mask": torch.zeros(3, 7)}, "input_ids 7 and mask 7"),
        (object(), ""),
    ],
)
def test_the_shape_of_one_input(x: Any, shape: str) -> None:
    assert shape_in_words(Batch(x, None, 3)) == shape


def test_three_images_of_three_channels_are_three_samples() -> None:
    boxes = [{"boxes": torch.zeros(1, 4), "labels": torch.ones(1, dtype=torch.long)}] * 3
    alike, other = [torch.zeros(3, 9, 8)] * 3, [torch.zeros(3, 9, 8), torch.zeros(3, 9, 9), torch.zeros(3, 7, 9)]
    assert shape_in_words(Batch(alike, boxes, 3)) == "3×9×8"
    assert shape_in_words(Batch(other, boxes, 3)) == "of several sizes"
    first = Batch(other, boxes, 3).first(2)
    assert [tuple(image.shape) for image in first.x] == [(3, 9, 8), (3, 9, 9)]
    assert len(first.y) == first.size == 2


def test_what_is_no_sample_of_a_kind_is_not_told_of() -> None:
    info = DataInfo("x", "language", (4,), 3, integer=True, vocabulary=("a", "b"))
    beyond = torch.tensor([[0, 1, 2, 0]])
    assert told(Batch(beyond, None, 1), info)["texts"] is None  # the task says so in a sentence
    pairs = Batch((torch.zeros(2, 5), torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)), None, 2)
    shown = pictures(pairs, info)
    assert shown is not None and shown.shape == (2, 3, 4, 4)
    assert pictures(Batch((torch.zeros(2, 5), torch.zeros(2, 5)), None, 2), info) is None
