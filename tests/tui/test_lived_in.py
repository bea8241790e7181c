"""What was met by living in the workbench: texts from outside, typed halves, panes alone, tables in boxes."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Train
from textual.widgets import Input, RichLog
from workbench import QUICK, Open, notices, train_of, until

from tui.screens.checkpoints import CheckpointsScreen
from tui.screens.console import Console
from tui.screens.panes import Panes
from tui.screens.runs import RunsScreen


async def test_find_goes_to_the_name_itself_first(workbench: Open) -> None:
    async with workbench(QUICK) as pilot:
        form = train_of(pilot).form
        for text, key in (("lr", "optimizer.lr"), ("seed", "trainer.seed")):
            assert form.find(text)
            assert form.current is not None and form.current.key == key
        form.find("lr")
        keys = []
        for _ in range(3):
            form.find_next()
            assert form.current is not None
            keys.append(form.current.key)
        assert len(set(keys)) > 1 and all("lr" in key for key in keys)


@pytest.mark.parametrize("size", [(130, 40), (200, 60)])
async def test_a_pane_alone_has_the_whole_width(workbench: Open, size: tuple[int, int]) -> None:
    async with workbench(QUICK, size=size) as pilot:
        screen = train_of(pilot)
        for name in ("experiment", "model", "data", "device", "queue", "log", "charts"):
            screen.choose(name)
            await pilot.press("Z")
            await pilot.pause()
            pane = screen.query_one(Panes).pane(name)
            assert (pane.size.width, pane.region.height) == (size[0] - 2, screen.query_one(Panes).size.height), name
            await pilot.press("Z")


async def test_a_queues_and_starts_nothing(workbench: Open) -> None:
    async with workbench(QUICK) as pilot:
        screen = train_of(pilot)
        await pilot.press("a")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.waiting)
        assert screen.snapshot is not None and not screen.snapshot.active
        assert "W starts it" in notices(pilot)


async def test_a_filter_keeps_marks(workbench: Open, train: Train) -> None:
    for name in ("one", "two", "three"):
        train("trainer.epochs=1", f"tracking.name={name}")
    async with workbench(QUICK) as pilot:
        await pilot.press("R")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
        screen: Any = pilot.app.screen
        await until(pilot, lambda: len(screen.listed.items) == 3)
        await pilot.press("space", "space")
        marks = list(screen.listed.marks)
        await pilot.press("slash")
        for text in ("name:one", "name:nothing", ""):
            screen.query_one(Input).value = text
            await pilot.pause()
            assert screen.listed.marks == marks
            assert [row.path for row in screen.listed.wanted] == marks


@pytest.mark.parametrize("size", [(80, 24), (150, 40)])
async def test_a_command_is_told_the_width_of_its_box(
    workbench: Open, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.screens.console.sys.executable", "/bin/sh")
    monkeypatch.setattr("tui.screens.console.environment", dict)
    async with workbench(QUICK, size=size) as pilot:
        told: list[str] = []
        real = __import__("asyncio").create_subprocess_exec

        async def start(*words: str, **more: Any) -> Any:
            told.append(more["env"]["COLUMNS"])
            return await real("/bin/true", **more)

        monkeypatch.setattr("tui.screens.console.asyncio.create_subprocess_exec", start)
        console = Console(["runs"])
        pilot.app.push_screen(console)
        await until(pilot, lambda: console.code is not None)
        width = console.query_one(RichLog).scrollable_content_region.width
        assert told == [str(width)] and width > size[0] * 0.85


async def test_the_key_for_figures_is_named_rightly(workbench: Open) -> None:
    import inspect

    key = next(b.key for b in CheckpointsScreen.BINDINGS if getattr(b, "id", "") == "weights.statistics")
    assert f'"{key} reads them"' in inspect.getsource(CheckpointsScreen._tensor_settled)
