"""The charts: what is drawn of a run, and the keys to look at it."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from textual.app import App, ComposeResult

from torchdeck.core.events import EpochEnded, Event, Finished, Started, StepSummary
from torchdeck.core.runs.history import History
from torchdeck.tui.drawing.chart import ChartSource, Scalar, scalars
from torchdeck.tui.drawing.series_colours import series_colours
from torchdeck.tui.widgets.chart import Chart
from torchdeck.tui.widgets.charts import Charts


def history(losses: list[float], epoch_length: int = 10, over: bool = True, every: int = 20) -> History:
    """A run with these losses, one a step, and a validation at each epoch's end."""
    made = History()
    n = len(losses)
    events: list[Event] = [
        Started(
            epoch=0,
            step=0,
            epochs=n // epoch_length,
            steps=n,
            epoch_length=epoch_length,
            device="cpu",
            precision="fp32",
            parameters=1,
            train_samples=1,
            val_samples=1,
            test_samples=0,
            time=0.0,
        )
    ]
    for at in range(0, n, every):
        part = tuple(losses[at : at + every])
        events.append(
            StepSummary(
                epoch=1,
                step=at + len(part),
                train={"loss": part[-1], "accuracy": 0.5},
                losses=part,
                learning_rate=0.1,
                gradient_norm=1.0,
                samples_per_second=100.0,
                data_wait=0.0,
                memory=1,
                time=at / 10,
            )
        )
        if (at + every) % epoch_length == 0:
            events.append(
                EpochEnded(
                    epoch=(at + every) // epoch_length,
                    step=at + every,
                    train={},
                    val={"loss": part[-1] + 0.1},
                    learning_rate=0.1,
                    seconds=1.0,
                    best=True,
                    time=at / 10,
                )
            )
    if over:
        events.append(Finished(epoch=1, step=n, status="done", time=n / 10))
    made.take(events)
    return made


class Stage(App[None]):
    """Nothing but the pane of charts."""

    def compose(self) -> ComposeResult:
        yield Charts(id="charts")


async def drawn(pilot: Any, shown: History) -> Charts:
    charts: Charts = pilot.app.query_one(Charts)
    charts.show(shown)
    await pilot.pause()
    await pilot.pause()
    charts.focus()
    await pilot.pause()
    return charts


async def test_loss_comes_first_with_both_series_and_axes() -> None:
    async with Stage().run_test(size=(120, 30)) as pilot:
        charts = await drawn(pilot, history([1 / (i + 1) for i in range(400)], 40))
        assert [c.scalar.name for c in charts.charts][:2] == ["loss", "accuracy"]
        lines = charts.charts[0].plain
        assert "train" in lines[0]
        assert "val" in lines[0]
        assert "◆" in "".join(lines[1:-1])  # the points of the validation, told apart without colour
        assert "0" in lines[-1]
        assert "400" in lines[-1]
        assert any("┤" in line for line in lines)


async def test_a_spike_of_one_step_in_fifty_thousand_is_visible() -> None:
    losses = [0.5] * 50_000
    losses[31_415] = 30.0
    async with Stage().run_test(size=(100, 24)) as pilot:
        charts = await drawn(pilot, history(losses, 5000))
        lines = charts.charts[0].plain
        assert any("⠀" < c <= "⣿" for c in lines[1])
        await pilot.press("i")  # leave outliers out of the range
        await pilot.pause()
        window = charts.charts[0].window
        assert window is not None
        assert window.y1 < 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_what_is_no_number_is_marked(value: float) -> None:
    losses = [1.0] * 100
    losses[50] = value
    async with Stage().run_test(size=(80, 20)) as pilot:
        charts = await drawn(pilot, history(losses))
        mark = "×" if math.isnan(value) else "∞"
        assert mark in "".join(charts.charts[0].plain)
        for key in ("y", "u", "u", "right_square_bracket", "plus", "left", "minus", "0", "enter", "i"):
            await pilot.press(key)
        assert charts.charts


@pytest.mark.parametrize("losses", [[math.nan] * 40, [0.0] * 40, [1e300] * 40, [-5.0] * 40, [1e-300] * 40, [1.0] * 20])
async def test_odd_series_are_drawn_in_every_way(losses: list[float]) -> None:
    async with Stage().run_test(size=(60, 16)) as pilot:
        charts = await drawn(pilot, history(losses))
        for key in ("y", "i", "u", "left", "plus", "y", "minus", "u"):
            await pilot.press(key)
            assert charts.charts[0].plain


async def test_the_cursor_reads_all_charts_at_one_step() -> None:
    async with Stage().run_test(size=(120, 30)) as pilot:
        charts = await drawn(pilot, history([float(i) for i in range(1, 401)], 40))
        await pilot.press("left_square_bracket", "left_square_bracket", "left_square_bracket")  # no smoothing
        assert charts.view.smoothing == 0
        await pilot.press(*["left"] * 5)
        step = charts.view.cursor
        assert step is not None
        for chart in charts.charts:
            assert f"step {step:,.0f}" in chart.plain[-1]
        assert f"{step:.4f}" in charts.charts[0].plain[0]  # the loss at step n is n
        await pilot.press("escape")
        assert charts.view.cursor is None


async def test_zoom_pan_and_back() -> None:
    async with Stage().run_test(size=(120, 30)) as pilot:
        charts = await drawn(pilot, history([1.0] * 400, 40))

        def width() -> float:
            window = charts.charts[0].window
            assert window is not None
            return window.x1 - window.x0

        whole = width()
        await pilot.press("plus")
        assert width() == pytest.approx(whole / 2)
        low = charts.charts[0].window.x0  # type: ignore[union-attr]
        await pilot.press("full_stop")
        assert charts.charts[0].window.x0 > low  # type: ignore[union-attr]
        await pilot.press("minus", "minus", "minus")
        await pilot.press("0")
        assert width() == whole
        for _ in range(40):
            await pilot.press("plus")
        assert width() > 0


async def test_units_of_x() -> None:
    async with Stage().run_test(size=(100, 24)) as pilot:
        charts = await drawn(pilot, history([1.0] * 400, 40))
        ends = []
        for _ in range(3):
            window = charts.charts[0].window
            assert window is not None
            ends.append(window.x1)
            await pilot.press("u")
        assert ends == [pytest.approx(400, abs=1), pytest.approx(10, abs=0.1), pytest.approx(38, abs=3)]


async def test_one_chart_alone_and_the_next() -> None:
    async with Stage().run_test(size=(120, 40)) as pilot:
        charts = await drawn(pilot, history([1.0] * 400, 40))
        assert len(charts.charts) > 2
        await pilot.press("j", "enter")
        await pilot.pause()
        assert [c.scalar.name for c in charts.charts] == ["accuracy"]
        await pilot.press("j")
        await pilot.pause()
        assert [c.scalar.name for c in charts.charts] == ["learning_rate"]
        await pilot.press("escape")
        await pilot.pause()
        assert len(charts.charts) > 2


async def test_a_million_points() -> None:
    """The limits themselves (0.5 s, 0.1 s) are measured in benchmarks; this is the order of magnitude."""
    made = history((np.exp(-np.arange(1_000_000) / 3e5) + 0.1).tolist(), 100_000)
    async with Stage().run_test(size=(120, 35)) as pilot:
        begun = time.perf_counter()
        charts = await drawn(pilot, made)
        for key in ("right_square_bracket", "y", "plus", "left", "u"):
            await pilot.press(key)
        assert time.perf_counter() - begun < 10
        assert charts.charts[0].plain


async def test_only_what_has_changed_is_sent() -> None:
    """The axis of a run that goes on grows in jumps, so a new point changes a few cells only."""
    async with Stage().run_test(size=(120, 30)) as pilot:
        losses = [1 / (1 + i / 100) for i in range(2000)]
        made = history(losses, 400, over=False)
        charts = await drawn(pilot, made)
        chart = charts.charts[0]
        before = list(chart.plain)
        last = made.series("train/loss")
        assert last is not None
        event = StepSummary(
            epoch=5,
            step=2001,
            train={"loss": 0.05},
            losses=(0.05,),
            learning_rate=0.1,
            gradient_norm=None,
            samples_per_second=1.0,
            data_wait=0.0,
            memory=1,
            time=201.0,
        )
        made.take([event])
        charts.show(made)
        changed = sum(a != b for x, y in zip(before, chart.plain, strict=True) for a, b in zip(x, y, strict=False))
        assert changed < 40
        assert chart.plain[-1] == before[-1]


def test_scalars_are_grouped_and_have_units() -> None:
    found = {s.name: s for s in scalars(history([1.0] * 40))}
    assert found["loss"].series == ("train/loss", "val/loss")
    assert found["samples_per_second"].unit == "rate"
    assert Scalar("accuracy", ()).unit == "percent"


@pytest.mark.parametrize("size", [(8, 3), (20, 5), (13, 4)])
async def test_there_may_be_no_room(size: tuple[int, int]) -> None:
    async with Stage().run_test(size=size) as pilot:
        charts = await drawn(pilot, history([1.0] * 100))
        assert all(isinstance(c, Chart) for c in charts.charts)


def _of_curves(chart: Chart) -> dict[str, bool]:
    """The colours in the chart's plane, and whether each is dimmed."""
    found = {}
    for y in range(1, chart.size.height - 1):
        for text, style, _ in chart.render_line(y):
            if style is not None and style.color is not None and any("⠀" < c <= "⣿" for c in text):
                found[style.color.name] = bool(style.dim)
    return found


async def test_the_run_that_is_looked_at_lies_on_top_and_the_others_are_dimmed() -> None:
    runs = [history([value] * 400, 40) for value in (1.0, 1.0, 3.0)]  # the second curve lies where the first does
    async with Stage().run_test(size=(120, 30)) as pilot:
        charts = await drawn(pilot, runs[0])
        colours = series_colours(pilot.app.current_theme, pilot.app.console.color_system)
        for on_top in (0, 1):
            sources = [ChartSource(str(n), h, dimmed=n != on_top) for n, h in enumerate(runs)]
            charts.overlay(sources)
            await pilot.pause()
            await pilot.pause()
            chart = next(c for c in charts.charts if c.scalar.name == "train/loss")
            assert _of_curves(chart) == {colours[on_top]: False, colours[2]: True}


async def test_the_legend_of_many_runs_stands_beside_the_chart() -> None:
    runs = [history([float(n)] * 400, 40) for n in range(1, 10)]
    async with Stage().run_test(size=(120, 9)) as pilot:
        charts = await drawn(pilot, runs[0])
        for count in (4, 5, 9):
            charts.overlay([ChartSource(f"run {n}", h) for n, h in enumerate(runs[:count])])
            await pilot.pause()
            await pilot.pause()
            chart = next(c for c in charts.charts if c.scalar.name == "train/loss")
            title, *lines = chart.plain
            assert ("run 3" in title) is (count < 5)
            shown = [n for n in range(count) if any(f"run {n} {n + 1}.0000" in line for line in lines)]
            assert len(shown) == {4: 0, 5: 5, 9: len(lines) - 2}[count]
            assert any(f"and {count - len(shown)} more" in line for line in lines) is (count == 9)
            assert len({len(line) for line in lines[: len(shown)]}) <= 1


async def test_lines_are_solid_where_colours_tell_them_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rising = history([float(i) for i in range(400)], 40)
    for bare in (False, True):
        if bare:
            monkeypatch.setenv("NO_COLOR", "1")
        async with Stage().run_test(size=(120, 30)) as pilot:
            charts = await drawn(pilot, rising)
            charts.overlay([ChartSource("a", history([float(i) for i in range(400)], 40)), ChartSource("b", rising)])
            await pilot.pause()
            await pilot.pause()
            legend = charts.charts[0].plain[0]
            assert "━━ a" in legend
            assert ("╍◆ b" in legend) is bare
            assert ("━◆ b" in legend) is not bare
