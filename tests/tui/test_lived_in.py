"""What was met by living in the workbench: texts from outside, typed halves, panes alone, tables in boxes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train
from textual.widgets import Input, RichLog
from workbench import QUICK, Open, notices, train_of, until

from torchdeck.core.runs.directory import read_info
from torchdeck.core.runs.listing import list_runs
from torchdeck.tui.screens.checkpoints import CheckpointsScreen
from torchdeck.tui.screens.console import Console
from torchdeck.tui.screens.panes import Panes
from torchdeck.tui.screens.runs import RunsScreen
from torchdeck.tui.widgets.data_preview import DataPreview
from torchdeck.tui.widgets.facts import Facts
from torchdeck.tui.widgets.model_tree import ModelTree


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
    monkeypatch.setattr("torchdeck.tui.screens.console.environment", dict)
    async with workbench(QUICK, size=size) as pilot:
        told: list[str] = []
        real = __import__("asyncio").create_subprocess_exec

        async def start(*words: str, **more: Any) -> Any:
            told.append(more["env"]["COLUMNS"])
            return await real("/bin/true", **more)

        monkeypatch.setattr("torchdeck.tui.screens.console.asyncio.create_subprocess_exec", start)
        console = Console(["runs"])
        pilot.app.push_screen(console)
        await until(pilot, lambda: console.code is not None)
        width = console.query_one(RichLog).scrollable_content_region.width
        assert told == [str(width)] and width > size[0] * 0.85


async def test_the_key_for_figures_is_named_rightly(
    workbench: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchdeck.tui.screens.checkpoints._AT_ONCE", 1)
    torch.save({f"part.{n}": torch.ones(2) for n in range(3)}, tmp_path / "some.pt")
    async with workbench(QUICK) as pilot:
        await pilot.press("C")
        await until(pilot, lambda: isinstance(pilot.app.screen, CheckpointsScreen))
        screen: Any = pilot.app.screen
        await until(pilot, lambda: screen.stored is not None)
        await pilot.press("tab", "g", "j")
        facts = screen.query_one(Facts)
        await until(pilot, lambda: "reads them" in "\n".join(facts.plain))
        key = re.search(r"(\S+) reads them", "\n".join(facts.plain))
        assert key is not None and not screen.figures
        await pilot.press(key[1])
        await until(pilot, lambda: len(screen.figures) == 3)


DATA = """
import torch
from torch.utils.data import TensorDataset

def build():
    return TensorDataset(torch.arange(40.0).reshape(20, 2), torch.arange(20) % 2)
"""
NET = """
from torch import nn
from own_parts import layer

def build():
    return nn.Sequential(layer(), nn.ReLU(), nn.Linear(7, 2))
"""
PARTS = """
from torch import nn

def layer():
    return nn.Linear(2, 7)
"""


async def test_an_error_stands_in_its_pane_and_a_mended_file_is_looked_at(workbench: Open, tmp_path: Path) -> None:
    files = {"data.py": DATA, "net.py": NET, "own_parts.py": PARTS}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    raw = {
        **QUICK,
        "data": {"name": f"{tmp_path}/data.py:build"},
        "model": {"name": f"{tmp_path}/net.py:build"},
    }
    async with workbench(raw, size=(130, 40)) as pilot:
        screen = train_of(pilot)
        model, data = screen.query_one(ModelTree), screen.query_one(DataPreview)

        def words() -> str:
            return str(data.query_one("#data-text").render())

        screen.choose("data")
        await until(pilot, lambda: model.summary is not None and "train" in words())

        def broken(name: str, sentence: str) -> None:
            wrong = files[name].replace("    return", f"    raise OSError({sentence!r})\n    return")
            (tmp_path / name).write_text(wrong)

        broken("data.py", "no disk")
        await until(pilot, lambda: "no disk" in words())
        assert "train" not in words() and str(model.root.label) == "the model can't be built without the data"
        broken("own_parts.py", "no layer")
        (tmp_path / "data.py").write_text(DATA)
        await until(pilot, lambda: "no layer" in str(model.root.label))
        assert "train" in words() and "no disk" not in words()
        (tmp_path / "own_parts.py").write_text(PARTS)
        await until(pilot, lambda: model.summary is not None)


async def test_a_run_without_checkpoint_begins_anew(workbench: Open, train: Train, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,y\n" + "".join(f"{n}.5,{n % 2}\n" for n in range(40)))
    run = train("data.name=table", f"data.args.path={table}", source="iris").path
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(lines[0])
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "status": "failed", "message": "killed"}))
    async with workbench(QUICK) as pilot:
        screen = train_of(pilot)
        await pilot.press("R")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
        listed: Any = pilot.app.screen
        await until(pilot, lambda: len(listed.listed.items) == 1)
        table.rename(tmp_path / "gone.csv")
        await pilot.press("r")
        await until(pilot, lambda: "it starts over in its directory" in notices(pilot))
        await until(pilot, lambda: "t.csv" in notices(pilot))  # what it was trained on is gone: told, and kept
        (tmp_path / "gone.csv").rename(table)
        pilot.app.clear_notifications()
        pilot.app.open_screen("train")  # type: ignore[attr-defined]
        screen.attach(run)
        await until(pilot, lambda: screen.snapshot and screen.snapshot.run == run and screen.snapshot.state == "failed")
        await pilot.press("r")
        await until(pilot, lambda: "it starts over in its directory" in notices(pilot))
        await until(pilot, lambda: read_info(run).status == "done")
        assert [info.path for info in list_runs(run.parent)[0]] == [run]
        await until(pilot, lambda: "begins anew" in "\n".join(line.text for line in screen.snapshot.history.log))  # type: ignore[union-attr]


async def test_files_that_are_watched_do_not_hinder_leaving(workbench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchdeck.tui.screens.train._FILES_EVERY", 0.0005)
    async with workbench(QUICK) as pilot:  # Textual ends the screens behind the one shown when no screen is shown
        for key, screen in (("C", CheckpointsScreen), ("R", RunsScreen)):
            await pilot.press(key)
            await until(pilot, lambda wanted=screen: isinstance(pilot.app.screen, wanted))
