"""How predictions and figures are printed: a column for what there is."""

from __future__ import annotations

import pytest

from torchdeck.core.evaluation.prediction import Prediction
from torchdeck.core.text import main_figures, number
from torchdeck.tui.commands.trained import _print_predictions


def printed(capsys: pytest.CaptureFixture[str], *found: Prediction) -> list[str]:
    _print_predictions(list(found))
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_of_several_labels_each_has_its_probability(capsys: pytest.CaptureFixture[str]) -> None:
    likely = (("red", 0.9), ("dark blue", 0.7), ("green", 0.1))
    head, both, none = printed(
        capsys, Prediction("a", ["red", "dark blue"], top=likely), Prediction("b", [], top=(("red", 0.2),))
    )
    assert head.split() == ["input", "prediction", "probability", "of", "each"]
    assert both.endswith("red, dark blue  red 90.0%  dark blue 70.0%  green 10.0%")
    assert none.startswith("b      none") and none.endswith("red 20.0%")


def test_a_class_has_one_and_numbers_none(capsys: pytest.CaptureFixture[str]) -> None:
    head, one = printed(capsys, Prediction("a", "cat", 0.75, (("cat", 0.75), ("dog", 0.25))))
    assert head.split() == ["input", "prediction", "probability", "then"]
    assert one.split() == ["a", "cat", "75.00%", "dog", "25.0%"]
    assert printed(capsys, Prediction("a", [1.5, 2.0]))[-1].split() == ["a", "1.5", "2"]
    assert printed(capsys, Prediction("a", {"mae": 0.5}))[0].split() == ["input", "prediction"]


def test_shares_of_right_answers_are_percentages() -> None:
    assert [number(0.1546, name) for name in ("top1", "top5", "exact_match", "accuracy", "map")] == [
        *["15.46%"] * 4,
        "0.1546",
    ]


def test_a_segmentation_tells_more_than_the_share_of_right_pixels() -> None:
    measured = {"loss": 1.0, "accuracy": 0.9, "miou": 0.3, "dice": 0.4}
    assert main_figures(measured) == ("loss", "accuracy", "miou")
