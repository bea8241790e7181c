"""Figures of a validation on the test set are marked as such wherever they are shown."""

from __future__ import annotations

import io

import pytest
from conftest import Train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchdeck.core.events import Started
from torchdeck.core.runs.directory import read_info
from torchdeck.core.runs.history import History
from torchdeck.core.session.reporters import PlainReporter
from torchdeck.tui.__main__ import main
from torchdeck.tui.drawing.chart import ChartSource, View, curves_of, scalars
from torchdeck.tui.widgets.header import header_figures


@pytest.mark.parametrize("on", ["test", "validation"])
def test_what_is_of_the_test_set_is_marked_everywhere(
    train: Train, capsys: pytest.CaptureFixture[str], on: str
) -> None:
    run = train(f"trainer.validate_on={on}", "trainer.epochs=2", "tracking.graph=false", "tracking.images=false")
    marked = on == "test"
    started = run.of(Started)[0]
    assert (started.val_samples == started.test_samples) is marked
    assert read_info(run.path).get("validated_on") == on

    history, told = History(), io.StringIO()
    history.take(run.events)
    reporter = PlainReporter(told)
    for event in run.events:
        reporter.report(event)
    scalar = next(s for s in scalars(history) if "val/accuracy" in s.series)
    curves, _ = curves_of([ChartSource("", history)], scalar, View())
    assert f"{started.test_samples} val (the test set)" in told.getvalue() or not marked
    assert ("val (test)" in told.getvalue()) is marked
    assert ("val (test) accuracy" in header_figures(history)) is marked
    assert {one.part for one in curves} == {"train", "val (test)" if marked else "val"}
    texts = EventAccumulator(str(run.path)).Reload().Tags()["tensors"]
    assert ("validation/text_summary" in texts) is marked

    roots = ["--runs", str(run.path.parent)]
    assert main(["show", run.path.name, *roots]) == 0
    shown = capsys.readouterr().out
    assert ("validated   on the test set" in shown) is marked
    assert ("val (test) " in shown) is marked
    assert main(["runs", *roots, "--columns", "watched,best"]) == 0
    table = capsys.readouterr().out
    assert ("accuracy (test)" in table) is marked
    assert ("% (test)" in table) is marked
