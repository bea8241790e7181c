"""The Search screen on real storages; trials are put there without training them, but where training is what is
tested."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.style import Style
from textual.pilot import Pilot
from textual.widgets import Input
from workbench import Open, notices, train_of, until

from torchdeck.core.experiment import toml
from torchdeck.core.search import opening as studies
from torchdeck.core.search.study import Study, trial_id
from torchdeck.core.search.watch import COMMAND
from torchdeck.tui.screens.dialogs import Pick, Question, TextDialog
from torchdeck.tui.screens.search import SearchScreen
from torchdeck.tui.widgets.field_editor import FieldEditor
from torchdeck.tui.widgets.picture import Picture

RAW: dict[str, Any] = {
    "data": {"name": "digits"},
    "model": {"name": "mlp", "args": {"widths": [8]}},
    "trainer": {"epochs": 3},
    "search": {
        "name": "study",
        "trials": 12,
        "space": {
            "optimizer.lr": "1e-4 .. 0.1 log",
            "model.args.widths": "8 .. 64 log length 1 .. 2",
            "optimizer.name": "SGD | AdamW",
            "optimizer.args.momentum": "0 .. 0.9 when optimizer.name = SGD",
        },
    },
}


def made(root: Path, trials: int = 12, **search: Any) -> Study:
    """A study with trials whose accuracy is best near lr = 0.01."""
    raw = {**RAW, "search": {**RAW["search"], **search}}
    study = studies.create(toml.build(raw), root)
    draw = random.Random(0)
    for number in range(trials):
        study.optuna.sampler.reseed_rng()
        trial = study.optuna.ask()
        study.space.suggest(trial)
        value = 1 - abs(-2 - math.log10(trial.params["optimizer.lr"])) / 3 + draw.random() / 100
        state = TrialState.PRUNED if number % 4 == 3 else TrialState.COMPLETE
        for epoch in range(1, 2 if state == TrialState.PRUNED else 4) if len(study.objectives) == 1 else ():
            trial.report(value * epoch / 3, epoch)
        values = [value, *(float(draw.randint(100, 999)) for _ in study.objectives[1:])]
        study.optuna.tell(trial, values if state == TrialState.COMPLETE else None, state)
    return study


async def search_of(pilot: Pilot[int], count: int) -> SearchScreen:
    """Open the screen, and wait for so many trials."""
    await pilot.press("S")
    await until(pilot, lambda: isinstance(pilot.app.screen, SearchScreen))
    screen: Any = pilot.app.screen
    await until(pilot, lambda: screen.seen is not None and len(screen.listed.items) == count)
    return screen


def picture(screen: SearchScreen) -> str:
    return "\n".join(screen.query_one(Picture).plain)


async def answer(pilot: Pilot[int], text: str) -> None:
    """Type into the line that is asked for, and take it."""
    await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
    pilot.app.screen.query_one(Input).value = text
    await pilot.pause()
    await pilot.press("enter")


@pytest.mark.parametrize("size", [(80, 24), (130, 40)])
async def test_trials_and_pictures(workbench: Open, tmp_path: Path, size: tuple[int, int]) -> None:
    study = made(tmp_path / "runs")
    best = study.best()[0]
    async with workbench(RAW, size=size) as pilot:
        screen = await search_of(pilot, 12)
        assert [row.number for row in screen.listed.items] == list(range(11, -1, -1))
        head = str(screen.query_one("#search-head").render())
        assert "over  12/12 trials  3 pruned" in head
        assert f"(trial {best.number})" in head
        await pilot.press("O")
        assert screen.listed.items[0].number == best.number
        assert screen.listed.items[-1].state == "pruned"
        said = {
            "2": "best so far",
            "3": "pruned ones are dim",
            "5": "lr",
            "6": "the denser, the better accuracy",
            "7": "accuracy",
            "8": "one objective has no Pareto front",
            "9": "share of 9 complete trials",
        }
        for key, words in said.items():
            await pilot.press(key)
            await until(pilot, lambda words=words: words in picture(screen), 10)
            assert screen.focused is screen.query_one(Picture)
        await pilot.press("6", "right", "down")
        await pilot.pause()
        assert "across" in picture(screen)
        await pilot.press("0")
        await pilot.pause()
        facts = "\n".join(screen.query_one("#search-details").plain)  # type: ignore[attr-defined]
        assert "⌕ optimizer.lr" in facts
        if size[0] > 80:
            await pilot.press("4")
            await until(pilot, lambda: "importance for accuracy by fANOVA" in picture(screen))
            assert "lr " in picture(screen)
        await pilot.press("escape", "Z")
        await pilot.pause()
        assert not screen.query_one("#search-below").display


async def test_several_objectives(workbench: Open, tmp_path: Path) -> None:
    study = made(tmp_path / "runs", objectives=["accuracy", "parameters"])
    async with workbench(RAW) as pilot:
        screen = await search_of(pilot, 12)
        front = len(study.best())
        assert f"{front} on the Pareto front" in str(screen.query_one("#search-head").render())
        await pilot.press("8")
        await until(
            pilot, lambda: f"{'1 trial' if front == 1 else f'{front} trials'} on the Pareto front" in picture(screen)
        )
        assert picture(screen).count("★") + picture(screen).count("◉") >= min(2, front)
        trial = study.optuna.ask()
        study.space.suggest(trial)
        study.optuna.tell(trial, [1.1, 1.0])  # better than all others in both
        await until(pilot, lambda: "1 trial on the Pareto front" in picture(screen))
        assert "1 on the Pareto front" in str(screen.query_one("#search-head").render())


async def test_steering(workbench: Open, tmp_path: Path) -> None:
    study = made(tmp_path / "runs", 4)
    running = study.optuna.ask()
    study.space.suggest(running)
    async with workbench(RAW) as pilot:
        screen = await search_of(pilot, 5)
        await pilot.press("g", "p")
        await until(pilot, lambda: study.storage.get_trial(trial_id(running)).system_attrs.get(COMMAND) == "prune")
        await pilot.press("X")
        await until(pilot, lambda: study.storage.get_trial(trial_id(running)).system_attrs.get(COMMAND) == "stop")
        await pilot.press("j", "p")
        await until(pilot, lambda: "Trial 3 is over already" in notices(pilot))
        await pilot.press("x")
        await until(pilot, lambda: study.stopped)

        await pilot.press("a")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        await answer(pilot, "lr=7")
        assert "outside of 0.0001 .. 0.1 log" in str(pilot.app.screen.query_one(".words").render())
        await answer(pilot, "lr=0.01 widths=[16, 16] optimizer=AdamW")
        await until(pilot, lambda: len(study.trials()) == 6)
        assert study.trials()[5].system_attrs["fixed_params"]["model.args.widths[1]"] == 16
        await until(pilot, lambda: len(screen.listed.items) == 6)

        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, Pick))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        await answer(pilot, "1 .. 0.5")
        assert "low = 1 is more than high = 0.5" in str(pilot.app.screen.query_one(".words").render())
        await answer(pilot, "0.01 .. 0.05 log")
        await until(
            pilot, lambda: studies.open_folder(study.folder).space.dimensions["optimizer.lr"].text == "0.01 .. 0.05 log"
        )
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, Pick))
        await pilot.press("enter")
        await answer(pilot, "0.01 .. 0.05")
        await until(pilot, lambda: "can't be changed" in notices(pilot))


async def test_a_trial_becomes_an_experiment(workbench: Open, tmp_path: Path) -> None:
    study = made(tmp_path / "runs", 3)
    async with workbench(RAW) as pilot:
        screen = await search_of(pilot, 3)
        row: Any = screen.current
        await pilot.press("enter")
        await until(pilot, lambda: "not on this machine" in notices(pilot))
        await pilot.press("E")
        await until(pilot, lambda: pilot.app.screen is train_of(pilot))
        raw = train_of(pilot).form.raw
        assert raw["optimizer"]["lr"] == row.fields["optimizer.lr"]
        assert "search" not in raw
        assert toml.build(raw) == study.experiment_of(row.fields)


async def test_fields_are_marked_on_the_form_and_searched(workbench: Open, tmp_path: Path) -> None:
    raw = {k: v for k, v in RAW.items() if k != "search"}
    async with workbench({**raw, "tracking": {"tensorboard": False}}) as pilot:
        train = train_of(pilot)
        await pilot.press("S", "n")
        await until(pilot, lambda: "Nothing is searched yet" in notices(pilot))
        await pilot.press("T")
        await until(pilot, lambda: pilot.app.screen is train)
        train.choose("experiment")
        assert train.form.find("optimizer.lr")
        await pilot.press("m")
        editor = train.query_one(FieldEditor)
        await until(pilot, lambda: editor.has_class("-open"))
        assert editor.query_one(Input).value == "0.0001 .. 0.01 log"
        editor.query_one(Input).value = "0.1 .. 5000"
        await pilot.pause()
        assert "out of range" in editor.words
        editor.query_one(Input).value = "0.01 .. 0.1 log"
        await pilot.press("enter")
        await until(pilot, lambda: train.form.searched == {"optimizer.lr": "0.01 .. 0.1 log"})
        assert "⌕ 0.01 .. 0.1 log" in str(train.form.lines.render_label(train.form.lines.cursor_node, Style(), Style()))
        assert train.form.raw["search"]["space"] == {"optimizer.lr": "0.01 .. 0.1 log"}
        assert train.form.find("trainer.seed")
        await pilot.press("S")
        await until(pilot, lambda: isinstance(pilot.app.screen, SearchScreen))
        screen: Any = pilot.app.screen
        await pilot.press("n")
        await answer(pilot, "mine")
        await answer(pilot, "2")
        await until(pilot, lambda: screen.seen is not None and screen.seen.counts.get("complete") == 2, 90)
        await until(pilot, lambda: "the search is over" in notices(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: pilot.app.screen is train)
        await until(pilot, lambda: train.snapshot is not None and train.snapshot.state == "done")
        assert train.snapshot is not None
        assert str(train.snapshot.run).endswith("mine/mine-0000")  # the cursor stays on its trial
        # Another experiment under the same name: begun anew, learning from the trials that are there.
        train.load(
            {**train.form.raw, "trainer": {"epochs": 3}, "search": {"space": {"optimizer.lr": "0.01 .. 0.09 log"}}},
            "changed",
        )
        await pilot.press("S", "n")
        await answer(pilot, "mine")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("l")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        await pilot.press("escape")
        again = studies.open_folder(tmp_path / "runs" / "mine-2")
        assert len(again.trials()) == 0
        assert 0 < len(again.optuna.get_trials()) <= 2
