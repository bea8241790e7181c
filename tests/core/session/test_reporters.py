"""What the headless mode tells: rates and ETA are right after a resume, too, and a lost terminal harms nothing."""

from __future__ import annotations

import io

import pytest

from torchdeck.core.events import EpochEnded, Failed, Finished, Started, StateChanged, StepSummary
from torchdeck.core.progress import Progress
from torchdeck.core.session.reporters import PlainReporter, ending
from torchdeck.core.text import duration, main_figures


def started(step: int = 0, time: float = 0.0) -> Started:
    return Started(
        epoch=step // 100,
        step=step,
        epochs=20,
        steps=2000,
        epoch_length=100,
        device="cpu",
        precision="fp32",
        parameters=10,
        train_samples=100,
        val_samples=10,
        test_samples=10,
        time=time,
    )


def summary(step: int, time: float) -> StepSummary:
    return StepSummary(
        epoch=step // 100 + 1,
        step=step,
        train={"loss": 1.0},
        losses=(1.0,),
        learning_rate=0.1,
        gradient_norm=None,
        samples_per_second=1.0,
        data_wait=0.0,
        memory=0,
        time=time,
    )


def test_eta_counts_the_steps_done_here() -> None:
    progress = Progress()
    assert progress.eta(0.0) is None
    progress.update(started(step=1000, time=50.0))
    assert progress.eta(51.0) is None
    progress.update(summary(1010, 51.0))  # ten steps a second, 990 to go
    assert progress.eta(51.0) == pytest.approx(99.0)


def test_a_pause_says_nothing_of_the_rate() -> None:
    progress = Progress()
    progress.update(started())
    progress.update(summary(10, 1.0))
    progress.update(StateChanged(epoch=1, step=10, state="paused", time=1.0))
    progress.update(StateChanged(epoch=1, step=10, state="running", time=1001.0))
    progress.update(summary(20, 1002.0))
    assert progress.eta(1002.0) == pytest.approx(198.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0 s"), (59, "59 s"), (61, "1:01"), (3723, "1:02:03")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    reporter = PlainReporter(Gone())
    reporter.report(started())
    reporter.report(EpochEnded(epoch=1, step=100, train={"loss": 1}, val={}, learning_rate=0.1, seconds=1, best=True))
    assert reporter.progress.step == 100


def test_plain_lines() -> None:
    out = io.StringIO()
    reporter = PlainReporter(out)
    reporter.run = "runs/x"
    reporter.report(started(step=100))
    reporter.report(
        EpochEnded(
            epoch=2,
            step=200,
            train={"loss": 0.5, "accuracy": 0.9},
            val={"loss": 0.6, "accuracy": 0.8},
            learning_rate=0.1,
            seconds=1,
            best=True,
        )
    )
    reporter.report(Finished(epoch=2, step=200, status="done", test={"loss": 0.1, "accuracy": 0.99}, seconds=75))
    lines = out.getvalue().splitlines()
    assert lines[0] == "run      runs/x"
    assert lines[1] == "samples  100 train, 10 val, 10 test"
    assert "from step 100" in lines[2]
    assert lines[3].startswith("epoch 2/20  train 0.5000 90.00%  val 0.6000 80.00%  best")
    assert lines[4] == "done in 1:15  test loss 0.1000  accuracy 99.00%"


def test_the_last_line_tells_what_was_measured_but_not_for_each_class() -> None:
    figures = {"own_score": 2.5, "kl": 3.25, "mae_step1": 9, "iou_cat": 0.5, "loss": 0.1, "my_iou": 0.25}
    done = Finished(epoch=2, step=200, status="done", test=figures, seconds=75)
    assert ending(done) == "done in 1:15  test loss 0.1000  own_score 2.5000  kl 3.2500  my_iou 0.2500"
    assert ending(Finished(epoch=2, step=200, status="done", seconds=75)) == "done in 1:15"


def test_failures_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    PlainReporter(io.StringIO()).report(Failed(epoch=1, step=3, message="It broke."))
    assert capsys.readouterr().err == "torchdeck: It broke.\n"


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"f1": 0.5, "accuracy": 0.9, "loss": 0.1}, ("loss", "accuracy")),
        ({"loss": 0.1, "perplexity": 3.0, "bits_per_byte": 2.0, "more": 1.0}, ("loss", "perplexity", "bits_per_byte")),
        ({"map": 0.4, "map50": 0.8, "map75": 0.3, "map_cat": 0.1}, ("map", "map50", "map75")),
        ({}, ()),
    ],
)
def test_figures_that_are_told_first(metrics: dict[str, float], told: tuple[str, ...]) -> None:
    assert main_figures(metrics) == told
