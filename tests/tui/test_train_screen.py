"""The Train screen as a user works with it: keys in, runs and screen out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from conftest import ROOT
from rich.style import Style
from textual.widgets import Input, OptionList
from workbench import LONG, QUICK, Open, notices, train_of, until

from torchdeck.core.experiment import toml
from torchdeck.core.experiment.fields import Field
from torchdeck.core.home import state_folder
from torchdeck.core.runs.directory import read_info
from torchdeck.core.runs.listing import list_runs
from torchdeck.core.runs.live import live_runs
from torchdeck.core.session.control_server import RemoteControl
from torchdeck.tui.screens.dialogs import Pick, Question, TextDialog
from torchdeck.tui.screens.files import FilePick
from torchdeck.tui.screens.help import Help
from torchdeck.tui.screens.panes import PANES, Panes
from torchdeck.tui.widgets.charts import Charts
from torchdeck.tui.widgets.data_preview import DataPreview
from torchdeck.tui.widgets.form import Form
from torchdeck.tui.widgets.header import Header, ProgressLines
from torchdeck.tui.widgets.log import Log
from torchdeck.tui.widgets.model_tree import ModelTree
from torchdeck.tui.widgets.queue import QueueList
from torchdeck.tui.widgets.vim import walk_nodes


async def test_the_first_minute(workbench: Open) -> None:
    """Open, start with s, watch, and see the result."""
    async with workbench(QUICK) as pilot:
        screen = train_of(pilot)
        assert "idle" in screen.query_one(ProgressLines).plain[0]
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.active)
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "done")
        assert screen.snapshot is not None
        run = screen.snapshot.run
        assert run is not None
        await until(pilot, lambda: read_info(run).status == "done")
        charts = screen.query_one(Charts)
        await until(pilot, lambda: {c.scalar.name for c in charts.charts} >= {"loss", "accuracy"})
        loss = charts.charts[0]
        await until(pilot, lambda: any("⠀" < c <= "⣿" for line in loss.plain for c in line))
        assert "train" in loss.plain[0]
        assert "test accuracy" in screen.query_one(ProgressLines).plain[1]
        assert any("done at step" in line.text for line in screen.snapshot.history.log)
        assert screen.query_one(Log).lines


async def test_control_by_keys(workbench: Open) -> None:
    async with workbench(LONG) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(
            pilot, lambda: screen.snapshot and screen.snapshot.state == "running" and screen.snapshot.history.step
        )
        assert screen.snapshot is not None
        run = screen.snapshot.run
        assert run is not None

        await pilot.press("p")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "paused")
        step = screen.snapshot.history.step
        await pilot.press("e")
        await until(
            pilot, lambda: screen.snapshot and any("evaluated at" in line.text for line in screen.snapshot.history.log)
        )
        await pilot.press("w")
        await until(pilot, lambda: (run / "checkpoints" / "last.pt").exists())
        await pilot.press("t")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        box = pilot.app.screen.query_one(Input)
        box.value = "zero"
        await until(pilot, lambda: "not a number" in str(pilot.app.screen.query_one(".words").render()))
        box.value = "0.0123"
        await pilot.press("enter")
        await until(pilot, lambda: any("learning rate 0.0123" in line.text for line in screen.snapshot.history.log))  # type: ignore[union-attr]
        assert screen.snapshot.history.step - step <= 100  # it is paused all the while
        await pilot.press("p")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "running")

        await pilot.press("x")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "stopped")
        await until(pilot, lambda: read_info(run).status == "stopped")
        stopped = screen.snapshot.history.step

        await pilot.press("r")
        await until(
            pilot,
            lambda: screen.snapshot and screen.snapshot.state == "running" and screen.snapshot.history.step > stopped,
        )
        assert screen.snapshot.run == run
        await pilot.press("X")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state in ("aborted", "stopped"))
        for key in ("p", "w", "e", "t", "x"):
            await pilot.press(key)
            await until(pilot, lambda: "No run is training" in notices(pilot))
            pilot.app.clear_notifications()


async def test_a_run_that_is_done_can_be_prolonged(workbench: Open) -> None:
    async with workbench(QUICK) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "done")
        await pilot.press("r")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        box = pilot.app.screen.query_one(Input)
        assert box.value == "4"
        box.value = "1"
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, TextDialog)  # fewer than it has done: told, and asked again
        box.value = "3"
        await pilot.press("enter")
        await until(
            pilot,
            lambda: screen.snapshot and screen.snapshot.history.epoch and screen.snapshot.history.epoch.epoch == 3,
        )
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "done")


async def test_experiments_wait_in_the_queue_and_start_in_turn(workbench: Open) -> None:
    async with workbench(LONG) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "running")
        assert screen.snapshot is not None
        first = screen.snapshot.run
        screen.form.show({**QUICK, "tracking": {"name": "second"}})
        await pilot.press("s")
        screen.form.show({**QUICK, "tracking": {"name": "third"}})
        await pilot.press("a")
        await until(pilot, lambda: screen.snapshot and len(screen.snapshot.waiting) == 2)
        await pilot.press("7")
        queue = screen.query_one(QueueList)
        await until(pilot, lambda: queue.option_count == 2 and queue.has_focus)
        await pilot.press("j", "K")
        await until(pilot, lambda: [i.title for i in queue.items] == ["third", "second"])
        await pilot.press("d")
        await until(pilot, lambda: [i.title for i in queue.items] == ["second"])
        await pilot.press("enter")
        await until(pilot, lambda: screen.form.raw.get("tracking", {}).get("name") == "second")
        assert first is not None
        RemoteControl(first).stop()  # held: a run that is stopped by hand does not start the next
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "stopped")
        assert len(screen.snapshot.waiting) == 1
        await pilot.press("W")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.run != first and screen.snapshot.state == "done")
        assert screen.snapshot.run is not None
        assert screen.snapshot.run.name.endswith("second")


@pytest.mark.parametrize("size", [(80, 24), (120, 35), (200, 60)])
async def test_every_pane_by_its_number(workbench: Open, size: tuple[int, int]) -> None:
    async with workbench(QUICK, size=size) as pilot:
        screen = train_of(pilot)
        for number, name in enumerate(PANES, 1):
            await pilot.press(str(number))
            await pilot.pause()
            pane = screen.query_one(Panes).pane(name)
            assert pane.display
            assert screen.focused is not None
            assert pane in screen.focused.ancestors
            assert PANES[name] in screen.query_one(Header).plain[0]
        await pilot.press("escape")
        assert screen.query_one(Panes).current == "charts"
        for _ in PANES:
            await pilot.press("tab")
            assert screen.focused is not None


async def test_panes_follow_the_size_of_the_terminal(workbench: Open) -> None:
    async with workbench(QUICK, size=(200, 60)) as pilot:
        panes = train_of(pilot).query_one(Panes)
        assert panes.shown() == list(PANES)
        await pilot.resize_terminal(120, 35)
        await pilot.pause()
        assert panes.shown() == ["experiment", "charts", "log"]
        await pilot.press("5")
        assert panes.shown() == ["charts", "device", "log"]
        await pilot.press("Z")
        assert panes.shown() == ["device"]
        await pilot.press("escape")
        assert panes.shown() == ["charts", "device", "log"]
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert panes.shown() == ["device"]
        await pilot.press("2")
        assert panes.shown() == ["charts", "log"]
        await pilot.resize_terminal(20, 5)
        await pilot.pause()
        await pilot.resize_terminal(200, 60)
        await pilot.pause()
        assert panes.shown() == list(PANES)


async def test_help_tells_the_keys_of_where_you_are(workbench: Open) -> None:
    async with workbench(QUICK) as pilot:
        await pilot.press("2", "question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, Help))
        titles = [title for title, _ in pilot.app.screen.groups]
        assert titles == ["Charts", "Run and panes", "Everywhere"]
        text = {b.tooltip for _, bindings in pilot.app.screen.groups for b in bindings}
        assert "Stop after a checkpoint" in text
        assert "Logarithmic y axis" in text
        await pilot.press("escape")
        assert not isinstance(pilot.app.screen, Help)


async def test_every_binding_has_an_id_and_a_tooltip_and_is_in_the_palette(workbench: Open) -> None:
    async with workbench(QUICK) as pilot:
        screen = train_of(pilot)
        app = pilot.app
        in_palette = {command.title for command in app.get_system_commands(screen)}
        for node in (
            screen,
            app,
            screen.form.lines,
            screen.query_one(Charts),
            screen.query_one(ModelTree),
            screen.query_one(Log),
            screen.query_one(QueueList),
        ):
            for binding in type(node).__dict__.get("BINDINGS", []):
                assert binding.id, binding
                assert binding.tooltip, binding
                if binding.id not in ("app.palette",):
                    assert f"{binding.description} ({binding.id})" in in_palette
        await pilot.press("ctrl+p")
        await until(pilot, lambda: pilot.app.screen is not screen)
        await pilot.press(*"smoothmore")
        await pilot.press("escape", "escape")


async def test_presets_and_files_are_opened_and_saved(workbench: Open, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[trainer]\nepochs = 77\n")
    (tmp_path / "wrong.toml").write_text("[trainer]\nepochs = 0\n")
    async with workbench(QUICK) as pilot:
        screen = train_of(pilot)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, Pick))
        await pilot.press(*"diabetes")
        await pilot.press("enter")
        await until(pilot, lambda: screen.form.raw.get("data", {}).get("name") == "diabetes")

        for name, worked in (("mine.toml", True), ("wrong.toml", False)):
            await pilot.press("o")
            await until(pilot, lambda: isinstance(pilot.app.screen, Pick))
            await pilot.press(*"toml", "enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, FilePick))
            await pilot.press(*name[:2], "enter")
            await until(pilot, lambda: pilot.app.screen is screen)
            if worked:
                await until(pilot, lambda: screen.form.raw == {"trainer": {"epochs": 77}})
            else:
                await until(pilot, lambda: "at least 1" in notices(pilot))
                assert screen.form.raw == {"trainer": {"epochs": 77}}

        await pilot.press("ctrl+s")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextDialog))
        pilot.app.screen.query_one(Input).value = "nowhere/x.toml"
        await pilot.press("enter")
        assert isinstance(pilot.app.screen, TextDialog)
        pilot.app.screen.query_one(Input).value = "saved.toml"
        await pilot.press("enter")
        await until(pilot, lambda: (tmp_path / "saved.toml").exists())
        assert toml.read(tmp_path / "saved.toml") == {"trainer": {"epochs": 77}}


async def test_ones_own_model_and_data_are_picked_from_files(workbench: Open, tmp_path: Path) -> None:
    for name in ("my_net.py", "my_data.py"):
        (tmp_path / name).write_text((ROOT / "examples" / name).read_text())
    async with workbench({"trainer": {"epochs": 1}, "tracking": {"graph": False, "images": False}}) as pilot:
        screen = train_of(pilot)
        for key, file, name in (("data.name", "my_d", "Spirals"), ("model.name", "my_n", "MyNet")):
            screen.form.go_to(key)
            await pilot.press("f")
            await until(pilot, lambda: isinstance(pilot.app.screen, FilePick))
            await pilot.press(*file, "enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, Pick))
            await pilot.press(*name, "enter")
            await until(
                pilot,
                lambda k=key, n=name: str(screen.form.raw.get(k.split(".")[0], {}).get("name", "")).endswith(f":{n}"),
            )
        tree = screen.query_one(ModelTree)
        await until(pilot, lambda: tree.root.data and tree.root.data["type"] == "MyNet")
        await pilot.press("4")
        await until(pilot, lambda: "Spirals" in str(screen.query_one(DataPreview).query_one("#data-text").content))  # type: ignore[attr-defined]
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "done", 90)


async def test_what_was_last_used_is_remembered(workbench: Open) -> None:
    async with workbench() as pilot:
        screen = train_of(pilot)
        assert screen.form.raw["data"]["name"] == "digits"  # the first visit
        item = next(
            f
            for f in __import__("torchdeck.core.experiment.fields", fromlist=["x"]).fields(screen.form.raw)
            if f.key == "trainer.epochs"
        )
        screen.form.set_value(item, "123")
        await pilot.press("2", "y", "right_square_bracket")
        await until(pilot, lambda: (state_folder() / "workbench.json").exists())
        await pilot.press("q")
    async with workbench() as pilot:
        screen = train_of(pilot)
        assert screen.form.raw["trainer"]["epochs"] == 123
        view = screen.query_one(Charts).view
        assert view.log
        assert view.smoothing == 0.8


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"experiment": 3, "view": {"x": "hours", "smoothing": "much"}, "theme": 1}',
        '{"view": {"unknown": 1}, "theme": "gone"}',
    ],
)
async def test_a_memory_that_is_damaged_is_forgotten(workbench: Open, content: str) -> None:
    state_folder().mkdir(parents=True)
    (state_folder() / "workbench.json").write_text(content)
    async with workbench() as pilot:
        assert train_of(pilot).form.raw["data"]["name"] == "digits"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"model": {"name": "gone.py:Net"}}, "there is no file"),
        ({"model": {"name": "raises.py:Net"}}, "ValueError"),
    ],
)
async def test_what_cannot_be_trained_is_told_and_the_app_lives_on(
    workbench: Open, tmp_path: Path, raw: dict[str, object], words: str
) -> None:
    (tmp_path / "raises.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def __init__(self): raise ValueError('no')\n"
    )
    async with workbench(raw) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(pilot, lambda: words in notices(pilot), 90)
        await until(pilot, lambda: screen.snapshot and not screen.snapshot.active)
        assert list_runs(screen.monitor.root)[0] == []
        screen.form.show(QUICK)
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "done", 90)


async def test_wrong_values_are_told_at_the_field_while_typing(workbench: Open) -> None:
    async with workbench(QUICK) as pilot:
        form = train_of(pilot).form
        assert form.go_to("trainer.epochs")
        await pilot.press("enter")
        editor = form.editor
        await until(pilot, lambda: editor.query_one(Input).has_focus)
        assert "Passes over the training set" in editor.words
        assert "Default: 10" in editor.words
        for text, words in (("x", "not a whole number"), ("-3", "at least 1"), ("5", "Passes over")):
            editor.query_one(Input).value = text
            await until(pilot, lambda w=words: w in editor.words)
        editor.query_one(Input).value = "0"
        await pilot.press("enter")
        assert editor.field is not None  # wrong: it stays open
        await pilot.press("escape")
        assert form.raw["trainer"]["epochs"] == 2
        await pilot.press("enter")
        editor.query_one(Input).value = "9"
        await pilot.press("enter")
        await until(pilot, lambda: form.raw["trainer"]["epochs"] == 9)
        assert form.lines.has_focus
        await pilot.press("backspace")
        await until(pilot, lambda: "epochs" not in form.raw["trainer"])


async def test_an_experiment_that_is_wrong_does_not_start(workbench: Open) -> None:
    async with workbench({"trainer": {"epochs": 0}}) as pilot:
        screen = train_of(pilot)
        await pilot.press("2", "s")
        await until(pilot, lambda: "at least 1" in notices(pilot))
        assert screen.snapshot is not None
        assert screen.snapshot.state == "idle"
        assert screen.query_one(Panes).current == "experiment"
        assert _marked(screen.form) == ["epochs"]

        # Data that are wrong are told where the data are shown, whatever the sentence begins with.
        screen.load({"data": {"rot": "/"}}, "another one")
        data = screen.query_one(DataPreview).query_one("#data-text")
        await until(pilot, lambda: "There is no key 'data.rot'" in str(data.content))  # type: ignore[attr-defined]
        screen.load({"search": {"space": {"data.test_share": "2 .. 1"}}}, "another one")
        tree = screen.query_one(ModelTree)
        await until(pilot, lambda: "low = 2 is more than high = 1" in str(tree.root.label))
        assert "low = 2" not in str(data.content)  # type: ignore[attr-defined]
        assert _marked(screen.form) == ["data.test_share"]

        screen.load(QUICK, "another one")
        await until(pilot, lambda: _marked(screen.form) == [])


def _marked(form: Form) -> list[str]:
    """Names of the fields that are marked as wrong, as the form draws them."""
    fields = [node for node in walk_nodes(form.lines.root) if isinstance(node.data, Field)]
    drawn = [(node.data, form.lines.render_label(node, Style(), Style()).plain) for node in fields]
    return [item.path[-1] for item, text in drawn if item is not None and "✗" in text]


async def test_freezing_a_branch_edits_the_experiment(workbench: Open) -> None:
    async with workbench({"data": {"name": "digits"}, "model": {"name": "cnn"}}, size=(200, 60)) as pilot:
        screen = train_of(pilot)
        tree = screen.query_one(ModelTree)
        await until(pilot, lambda: tree.root.data)
        await pilot.press("3", "j")
        assert tree.cursor_node is not None
        branch = tree.cursor_node.data["path"]
        await pilot.press("z")
        await until(pilot, lambda: screen.form.raw["model"].get("freeze") == [f"{branch}.*"])
        await until(
            pilot, lambda: tree.cursor_node and tree.cursor_node.data and tree.cursor_node.data["trainable"] == 0
        )
        await pilot.press("l", "j", "z")  # train the first module in it again
        await until(pilot, lambda: screen.form.raw["model"].get("freeze") not in (None, [f"{branch}.*"]))
        await until(pilot, lambda: tree.root.data and tree.root.data["trainable"] > 0)
        await pilot.press("b")
        largest = max((n for n in _nodes(tree.root.data) if not n["children"]), key=lambda n: n["parameters"])
        assert tree.cursor_node.data["path"] == largest["path"]


def _nodes(node: dict) -> list[dict]:  # type: ignore[type-arg]
    return [node, *(n for child in node["children"] for n in _nodes(child))]


async def test_quitting_asks_what_becomes_of_the_run(workbench: Open) -> None:
    async with workbench(LONG) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "running")
        assert screen.snapshot is not None
        run = screen.snapshot.run
        assert run is not None
        await pilot.press("q")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("escape")
        assert pilot.app.screen is screen
        await pilot.press("q")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("d")
        await until(pilot, lambda: pilot.app.return_code is not None)
        assert "torchdeck attach" in pilot.app.farewell  # type: ignore[attr-defined]
    assert read_info(run).status == "running"
    async with workbench(None) as pilot:  # the next visit attaches to it
        screen = train_of(pilot)
        await until(pilot, lambda: "reattached" in notices(pilot))
        assert screen.snapshot is not None
        assert screen.snapshot.run == run
        await until(pilot, lambda: screen.query_one(Charts).charts)
        await pilot.press("q")
        await until(pilot, lambda: isinstance(pilot.app.screen, Question))
        await pilot.press("x")
        await until(pilot, lambda: pilot.app.return_code is not None)
        assert "--resume" in pilot.app.farewell  # type: ignore[attr-defined]
        await until(pilot, lambda: read_info(run).status == "stopped")


async def test_quitting_at_once_leaves_no_process_that_looks(workbench: Open) -> None:
    """The workbench of the tests makes sure of it."""
    for seconds in (0.0, 0.2, 0.5):
        async with workbench(QUICK):
            await asyncio.sleep(seconds)


async def test_a_look_that_comes_after_quitting_is_let_go(workbench: Open) -> None:
    async with workbench(QUICK) as pilot:
        await pilot.press("s")
        screen = train_of(pilot)
        await until(pilot, lambda: screen.query_one(Charts).charts and screen.snapshot and not screen.snapshot.active)
        seen = screen.snapshot
        await until(pilot, lambda: not live_runs())  # the next visit would attach to it
    assert seen is not None
    async with workbench(None) as pilot:
        screen = train_of(pilot)
        assert not screen.query_one(Charts).charts
        pilot.app.exit()
        screen.post_message(screen.RefreshWanted(seen))  # its charts can't be mounted any more


async def test_a_run_whose_process_was_killed_is_told_and_resumed(workbench: Open) -> None:
    import os
    import signal

    async with workbench(LONG) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "running" and screen.snapshot.pid)
        await pilot.press("w")
        assert screen.snapshot is not None
        run = screen.snapshot.run
        assert run is not None
        await until(pilot, lambda: (run / "checkpoints" / "last.pt").exists())
        assert screen.snapshot.pid is not None
        os.kill(screen.snapshot.pid, signal.SIGKILL)
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "dead")
        assert "r resumes from its last checkpoint" in screen.query_one(ProgressLines).plain[1]
        await pilot.press("r")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "running")
        assert screen.snapshot.run == run


async def test_a_failure_in_mid_run_is_told(workbench: Open, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def __init__(self): super().__init__(4, 3); self.n = 0\n"
        "    def forward(self, x):\n        self.n += 1\n        if self.n > 20: raise RuntimeError('in the middle')\n"
        "        return super().forward(x)\n"
    )
    async with workbench({**LONG, "model": {"name": "net.py:Net"}}) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "failed")
        await until(pilot, lambda: "in the middle" in notices(pilot))
        assert "in the middle" in " ".join(screen.query_one(ProgressLines).plain)


async def test_a_fault_of_the_workbench_itself_leaves_the_run_alone(
    workbench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with workbench(LONG) as pilot:
            screen = train_of(pilot)
            await pilot.press("s")
            await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "running")
            assert screen.snapshot is not None
            run = screen.snapshot.run
            app = pilot.app

            def broken(*args: object) -> None:
                raise ZeroDivisionError("injected")

            monkeypatch.setattr(ProgressLines, "show", broken)
            await until(pilot, lambda: app.failure)  # type: ignore[attr-defined]
    assert "injected" in str(app.failure)  # type: ignore[attr-defined]
    assert "ZeroDivisionError" in next(state_folder().glob("crash-*.log")).read_text()
    assert run is not None
    assert read_info(run).status == "running"


async def test_metrics_are_chosen(workbench: Open) -> None:
    async with workbench(QUICK) as pilot:
        screen = train_of(pilot)
        await pilot.press("s")
        await until(pilot, lambda: screen.snapshot and screen.snapshot.state == "done")
        charts = screen.query_one(Charts)
        await until(pilot, lambda: charts.charts)
        await pilot.press("2", "m")
        await until(pilot, lambda: isinstance(pilot.app.screen, Pick))
        assert pilot.app.screen.query_one(OptionList).option_count > 4
        await pilot.press(*"memory", "space", "enter")
        await until(pilot, lambda: "memory" in charts.picked)


def test_runs_in_the_state_folder_are_json(tmp_path: Path) -> None:
    from torchdeck.tui.memory import Memory

    memory = Memory.load()
    memory.experiment = {"trainer": {"epochs": 3}}
    memory.save()
    assert json.loads((state_folder() / "workbench.json").read_text())["experiment"] == {"trainer": {"epochs": 3}}
    assert (state_folder().stat().st_mode & 0o077) == 0
