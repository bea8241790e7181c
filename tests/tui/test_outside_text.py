"""Names and words from outside are shown as they are: no markup, no command for the terminal, one line where one is
meant."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train
from textual.pilot import Pilot
from workbench import QUICK, Open, train_of, until

from torchdeck.core.runs import labels
from torchdeck.tui.screens.checkpoints import CheckpointsScreen
from torchdeck.tui.screens.dialogs import TextDialog
from torchdeck.tui.screens.runs import RunsScreen
from torchdeck.tui.widgets.data_preview import DataPreview
from torchdeck.tui.widgets.model_tree import ModelTree

HOSTILE = ["[/b]", "[red]x", "[@click=app.quit]x", "a\nb", "\x1b[31mx", "w" * 300, "汉字 ｗｉｄｅ"]

NET = f"""
from torch import nn

NAMES = {HOSTILE!r}

def build(inputs, outputs):
    odd = type("[/b][@click=app.quit]x", (nn.Sequential,), {{}})
    net = odd()
    for name in NAMES:
        net.add_module(name.replace(".", "_"), nn.Linear(inputs, inputs))
    net.add_module("last", nn.Linear(inputs, outputs))
    return net
"""


def table(path: Path) -> Path:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow([*HOSTILE, "target"])
        for row in range(70):
            out.writerow([*((row * 7 + n) % 13 / 3 for n in range(len(HOSTILE))), HOSTILE[row % len(HOSTILE)]])
    return path


def clean(pilot: Pilot[int]) -> str:
    """What the screen shows; nothing in it commands the terminal or hides an action."""
    lines = pilot.app.screen._compositor.render_strips()
    for line in lines:
        assert line.text.isprintable(), repr(line.text)
        for segment in line:
            assert segment.style is None or "app.quit" not in str(segment.style.meta.get("@click")), segment
    return "\n".join(line.text for line in lines)


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "net.py").write_text(NET)
    return {
        **QUICK,
        "data": {"name": "table", "args": {"path": str(table(tmp_path / "t.csv"))}},
        "model": {"name": f"{tmp_path}/net.py:build", "args": {"inputs": len(HOSTILE), "outputs": len(HOSTILE)}},
    }


async def test_names_of_classes_columns_and_modules_and_words_of_an_error(
    workbench: Open, raw: dict[str, Any], tmp_path: Path
) -> None:
    async with workbench(raw, size=(130, 40)) as pilot:
        screen = train_of(pilot)
        model = screen.query_one(ModelTree)
        await until(pilot, lambda: model.summary)
        for size in ((130, 40), (80, 24)):
            await pilot.resize_terminal(*size)
            for name in ("model", "data"):
                screen.choose(name)
                await pilot.press("Z")
                await pilot.pause()
                shown = clean(pilot)
                screen.query_one(DataPreview).scroll_end(animate=False)  # below what is said of the data
                await pilot.pause()
                shown += clean(pilot)
                assert "[/b]" in shown and "[@click" in shown, shown
                await pilot.press("Z")
        data = str(screen.query_one(DataPreview).query_one("#data-text").render())
        counts = [line for line in data.splitlines() if re.search(r"[█▏▎▍▌▋▊▉].* [78]$", line)]
        assert len(counts) == len(HOSTILE), data  # a line each, whatever their names
        screen.choose("model")
        (tmp_path / "net.py").write_text(f"def build(**k):\n    raise ValueError({''.join(HOSTILE)!r})\n")
        await until(pilot, lambda: "ValueError" in str(model.root.label))
        assert "[/b][red]x[@click=app.quit]x" in clean(pilot)


async def test_names_of_runs_files_and_tensors(
    workbench: Open, raw: dict[str, Any], train: Train, tmp_path: Path
) -> None:
    runs = [train("trainer.epochs=1", source="iris").path for _ in range(2)]
    for run, name in zip(runs, HOSTILE[1:3], strict=True):
        labels.write(run, labels.Labels(title=f"{name}{HOSTILE[3]}", tags=tuple(HOSTILE), note="".join(HOSTILE)))
    odd = tmp_path / "[red]x\x1b[31m[@click=app.quit]x.pt"
    torch.save({name: torch.ones(2, 3) for name in HOSTILE}, odd)
    async with workbench(QUICK, size=(130, 40)) as pilot:
        await pilot.press("R")
        await until(pilot, lambda: isinstance(pilot.app.screen, RunsScreen))
        screen: Any = pilot.app.screen
        await until(pilot, lambda: len(screen.listed.items) == 2)
        await pilot.press("space", "space")
        for pane in ("charts", "differences", "parallel", "details"):
            if pane not in screen.PANES:
                raise AssertionError(list(screen.PANES))
            screen.action_pane(pane)
            await pilot.pause()
            assert "[red]x" in clean(pilot), pane
        await pilot.press("1", "N")
        await pilot.pause()
        clean(pilot)
        if isinstance(pilot.app.screen, TextDialog):
            await pilot.press("escape")
        for text in HOSTILE:
            pilot.app.notify(text, title=text)
        await pilot.pause()
        clean(pilot)

        await pilot.press("C")
        await until(pilot, lambda: isinstance(pilot.app.screen, CheckpointsScreen))
        stored: Any = pilot.app.screen
        await until(pilot, lambda: any(f.path == odd for f in stored.files.items))
        assert stored.files.go(odd)
        await until(pilot, lambda: stored.stored is not None and stored.stored.path == odd)
        await pilot.press("tab", "i")
        await until(pilot, lambda: len(stored.figures) == len(HOSTILE))
        await pilot.pause()
        assert "[@click=app.quit]x" in clean(pilot)
