"""The Runs screen: found, compared, labelled, deleted, trained again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Train
from textual.pilot import Pilot
from textual.widgets import Input
from torch.utils.tensorboard import SummaryWriter
from workbench import QUICK, Open, asked, notices, train_of, until

from torchdeck.core.experiment import toml
from torchdeck.tui.screens.dialogs import Question, TextDialog
from torchdeck.tui.screens.runs import RunsScreen
from torchdeck.tui.widgets.charts import Charts
from torchdeck.tui.widgets.table import Table
from torchdeck.tui.widgets.tabs import Tabs


async def runs_of(pilot: Pilot[int], count: int) -> RunsScreen:
    """Open the screen, and wait for so many runs."""
    await pilot.press("R")
    await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
    screen: Any = pilot.app.screen
    await until(pilot, lambda: len(screen.listed.items) == count)
    return screen


def shown(screen: RunsScreen) -> list[str]:
    return [row.name for row in screen.listed.items]


async def type_in(pilot: Pilot[int], text: str) -> None:
    pilot.app.screen.query_one(Input).value = text
    await pilot.pause()


@pytest.fixture
def three(train: Train) -> list[Path]:
    return [
        train("trainer.epochs=2", *more).path
        for more in (("optimizer.lr=0.01",), ("optimizer.lr=0.02", "tracking.tags=['paper']"), ("model.name=cnn",))
    ]


async def test_filter_mark_compare(workbench: Open, three: list[Path]) -> None:
    async with workbench(QUICK) as pilot:
        screen = await runs_of(pilot, 3)
        assert shown(screen) == [p.name for p in reversed(three)]
        assert screen.listed.plain[0].split()[:3] == ["status", "run", "best"]
        await until(pilot, lambda: bool(screen.query_one("#runs-charts", Charts).charts))
        await pilot.press("slash")
        await type_in(pilot, "model:mlp")
        assert len(screen.listed.items) == 2
        await type_in(pilot, "val_ac > 2")
        assert "No run has 'val_ac'" in str(screen.query_one("#runs-words").render())
        assert len(screen.listed.items) == 2  # the list stays until the filter is right
        await type_in(pilot, "model:mlp")
        await pilot.press("enter", "space", "space")
        assert len(screen.listed.marked) == 2
        assert "2 marked" in screen.query_one(Tabs).plain[0]
        charts = screen.query_one("#runs-charts", Charts)
        await until(
            pilot,
            lambda: any(c.scalar.name == "val/loss" for c in charts.charts) and all(c.plain for c in charts.charts),
        )
        legend = next(c for c in charts.charts if c.scalar.name == "val/loss").plain[0]
        assert "━━" in legend and "━◆" in legend
        await pilot.press("3")
        table = screen.query_one("#runs-differences", Table)
        await until(pilot, lambda: bool(table.items))
        assert [d.key for d in table.items] == ["optimizer.lr", "best", "status"]
        assert sorted(table.items[0].values) == [0.01, 0.02]
        await pilot.press("1", "4")
        await until(pilot, lambda: any("lr" in line for line in screen.query_one("#runs-parallel").plain))  # type: ignore[attr-defined]
        await pilot.press("1", "5")
        await until(pilot, lambda: any("directory" in line for line in screen.query_one("#runs-details").plain))  # type: ignore[attr-defined]
        await pilot.press("escape", "escape")
        await until(pilot, lambda: len(screen.listed.items) == 3)


async def test_labels_delete_and_take_back(workbench: Open, three: list[Path]) -> None:
    async with workbench(QUICK) as pilot:
        screen = await runs_of(pilot, 3)
        await pilot.press("N")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        await type_in(pilot, "my best")
        await pilot.press("enter")
        await until(pilot, lambda: any("my best" in line for line in screen.listed.plain))
        await pilot.press("j", "t")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        assert pilot.app.screen.query_one(Input).value == "paper"
        await type_in(pilot, "paper final")
        await pilot.press("enter")
        await until(pilot, lambda: any("paper final" in " ".join(row.tags) for row in screen.listed.items))
        await pilot.press("z")
        await until(pilot, lambda: len(screen.listed.items) == 2)
        await pilot.press("slash")
        await type_in(pilot, "archived:yes")
        assert shown(screen) == [three[1].name]
        await type_in(pilot, "")
        await pilot.press("enter", "d")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        doomed = screen.listed.current.path
        await pilot.press("y")
        await until(pilot, lambda: not doomed.exists() and len(screen.listed.items) == 1)
        await pilot.press("U")
        await until(pilot, lambda: doomed.exists() and len(screen.listed.items) == 2)


async def test_rerun_prolong_and_change(workbench: Open, train: Train) -> None:
    run = train("trainer.epochs=2", source="iris").path
    async with workbench(QUICK) as pilot:
        screen = await runs_of(pilot, 1)
        await pilot.press("E")
        await until(pilot, lambda: pilot.app.screen is train_of(pilot))
        assert toml.build(train_of(pilot).form.raw) == toml.build(toml.read(run / "experiment.toml"))
        await pilot.press("R")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("s")
        await until(pilot, lambda: len(screen.listed.items) == 2)
        await until(pilot, lambda: all(row.status == "done" for row in screen.listed.items))
        await pilot.press("G", "r")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        await type_in(pilot, "4")
        await pilot.press("enter")
        await until(pilot, lambda: json.loads((run / "run.json").read_text()).get("epoch") == 4)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is train_of(pilot) and train_of(pilot).monitor.run == run)


async def test_live_deleted_and_broken_runs(workbench: Open, train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=2", source="iris").path
    async with workbench(QUICK, size=(80, 24)) as pilot:
        screen = await runs_of(pilot, 1)
        writer = SummaryWriter(str(tmp_path / "runs" / "other"))
        writer.add_scalar("Loss/train", 1.0, 1)
        writer.flush()
        (tmp_path / "runs" / "half").mkdir()
        (tmp_path / "runs" / "half" / "run.json").write_text('{"lay')
        await until(pilot, lambda: len(screen.listed.items) == 2)
        assert "can't be read" in str(screen.query_one("#runs-words").render())
        assert screen.listed.go(tmp_path / "runs" / "other")
        charts = screen.query_one("#runs-charts", Charts)
        await until(pilot, lambda: [s.name for s in charts.available()] == ["loss"])
        await pilot.press("enter")
        assert "A run of another tool" in notices(pilot)
        for path in sorted((tmp_path / "runs" / "other").iterdir(), reverse=True):
            path.unlink()
        (tmp_path / "runs" / "other").rmdir()
        await until(pilot, lambda: len(screen.listed.items) == 1)
        assert shown(screen) == [run.name]
        await pilot.resize_terminal(40, 10)
        await pilot.pause()
        await pilot.resize_terminal(200, 60)
        await pilot.pause()
        assert pilot.app.is_running


async def test_code_of_others_asks_before_it_is_trained(workbench: Open, train: Train, tmp_path: Path) -> None:
    run = train("trainer.epochs=1", source="iris").path
    told = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(told | {"id": "f" * 32}))
    text = (run / "experiment.toml").read_text().replace('name = "mlp"', 'name = "evil.py:Net"')
    (run / "experiment.toml").write_text(text)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    async with workbench(QUICK) as pilot:
        screen = await runs_of(pilot, 1)
        await pilot.press("s")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        assert "evil.py:Net" in asked(pilot)
        await pilot.press("n")
        await until(pilot, lambda: pilot.app.screen is screen)
        assert not screen.monitor.queue.waiting()
        await pilot.press("E")  # the preview of the Train screen would build the model, too
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("n")
        await until(pilot, lambda: pilot.app.screen is screen)
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is train_of(pilot) and train_of(pilot).monitor.run == run)
        await pilot.press("E")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("n")
        await until(pilot, lambda: pilot.app.screen is train_of(pilot))
        assert train_of(pilot).form.raw.get("model", {}).get("name") != "evil.py:Net"
        assert not (tmp_path / "canary").exists()
