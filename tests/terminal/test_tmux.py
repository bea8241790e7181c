"""The workbench in tmux, by keyboard alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import Train
from terminals import COMMAND, Tmux, environment, until

from torchdeck.core.runs.directory import read_info, read_metrics
from torchdeck.core.runs.listing import list_runs

Start = Callable[..., Tmux]
LONG = ("digits", "--set", "trainer.epochs=3000", "--set", "tracking.graph=false", "--set", "tracking.images=false")


def accuracy(screen: str) -> float:
    found = re.findall(r"accuracy\s+(?:━━ )?(?:train )?(\d+\.\d+)%", screen)
    return float(found[0]) if found else 0.0


def app_pid(terminal: Tmux) -> int:
    """The workbench below the shell of the window."""
    shell = psutil.Process(terminal.pane_pid())
    return next(
        p.pid
        for p in [shell, *shell.children(recursive=True)]
        if "torchdeck" in p.cmdline() and "--batch" not in p.cmdline()
    )


def test_start_pick_train_stop_resume(tmux: Start, tmp_path: Path) -> None:
    terminal = tmux()
    terminal.until("idle", "1 Experiment")
    terminal.keys("o")
    terminal.until("Open an experiment")
    terminal.type("digits")
    terminal.keys("Enter")
    terminal.until("digits is loaded")
    terminal.keys("/")
    terminal.until("Find a field")
    terminal.type("epochs")
    terminal.keys("Enter", "Enter")
    terminal.until("Passes over the training set")
    terminal.keys("C-u")
    terminal.type("3000")
    terminal.keys("Enter")
    terminal.gone("esc Back")
    terminal.keys("s")
    terminal.until("running", "val accuracy", "⣀")
    first = accuracy(terminal.screen())
    until(lambda: accuracy(terminal.screen()) > max(first, 90.0), 60, terminal.screen)
    terminal.keys("x")
    terminal.until("■ stopped")
    until(lambda: list_runs(tmp_path / "runs")[0][0].status == "stopped")
    [info] = list_runs(tmp_path / "runs")[0]
    step = info.get("step", 0)
    terminal.keys("r")
    terminal.until("● running")
    until(lambda: read_info(info.path).get("step", 0) > step)
    terminal.keys("x")
    terminal.until("■ stopped")
    steps = [r["step"] for r in read_metrics(info.path) if r["event"] == "step"]
    assert steps == sorted(set(steps))
    terminal.keys("q")
    terminal.until("exit code 0")


@pytest.mark.parametrize("size", [(80, 24), (200, 60)])
def test_charts_progress_and_log_are_visible(tmux: Start, size: tuple[int, int]) -> None:
    terminal = tmux(*LONG, size=size)
    terminal.until("idle")
    terminal.keys("s")
    terminal.until("running", "loss", "accuracy", "val", "ETA", "epoch", "train", "┤")
    lines = terminal.screen().splitlines()
    assert all(len(line) <= size[0] for line in lines)
    for width, height in ((20, 5), (40, 10), (100, 30), size):
        terminal.resize(width, height)
    terminal.until("running", "loss", "accuracy", "ETA")


def test_a_terminal_of_20_by_5(tmux: Start) -> None:
    terminal = tmux(*LONG, size=(20, 5))
    terminal.until("idle")
    terminal.keys("s")
    terminal.until("● running")
    terminal.keys("2", "1", "3", "5", "6", "7", "?", "Escape", "x")
    terminal.until("■ stopped")
    terminal.keys("q")
    until(lambda: "idle" not in terminal.screen() and "stopped" not in terminal.screen(), 20, terminal.screen)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "xterm"}])
def test_colours_of_the_terminal(tmux: Start, env: dict[str, str]) -> None:
    """Nothing is sent that the terminal can't show, and everything is told without colour, too."""
    terminal = tmux(*LONG, **env)
    terminal.until("idle")
    terminal.keys("s")
    line = "╍◆" if "NO_COLOR" in env else "━◆"  # patterns tell curves apart where colours can't
    terminal.until("● running", "loss", f"{line} val")
    sent = terminal.coloured()
    if "NO_COLOR" in env:
        colours = re.findall(r"38;2;(\d+);(\d+);(\d+)|48;2;(\d+);(\d+);(\d+)", sent)
        assert all(len({part for part in colour if part}) == 1 for colour in colours)  # shades of grey
        assert not re.search(r"\x1b\[(?:[\d;]*;)?(?:3|4|9|10)[1-6](?:;|m)", sent)
    else:
        assert not re.search(r"[34]8;[25];", sent)  # sixteen colours


def test_sigterm_leaves_the_run_going(tmux: Start, tmp_path: Path) -> None:
    terminal = tmux(*LONG)
    terminal.until("idle")
    terminal.keys("s")
    terminal.until("● running")
    os.kill(app_pid(terminal), signal.SIGTERM)
    terminal.until("exit code 143")
    [info] = list_runs(tmp_path / "runs")[0]
    assert info.status == "running"


@pytest.mark.parametrize("how", ["hang-up", "SIGKILL"])
def test_a_terminal_that_is_lost_leaves_the_run_going_and_the_next_attaches(
    tmux: Start, tmp_path: Path, how: str
) -> None:
    terminal = tmux(*LONG)
    terminal.until("idle")
    terminal.keys("s")
    terminal.until("● running")
    pid = app_pid(terminal)
    if how == "hang-up":
        terminal.kill()
    else:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    [info] = list_runs(tmp_path / "runs")[0]
    assert info.status == "running"
    step = info.get("step", 0)
    until(lambda: read_info(info.path).get("step", 0) > step)
    again = tmux()
    again.until("reattached", "running", "ETA", "loss")
    again.keys("p")
    again.until("paused")
    again.keys("p")
    again.until("running")
    again.keys("x")
    again.until("■ stopped")
    until(lambda: read_info(info.path).status == "stopped")


def test_a_batch_run_is_attached_to(tmux: Start, tmp_path: Path) -> None:
    batch = subprocess.Popen(
        [*COMMAND, "--batch", *LONG, "--quiet", "--runs", str(tmp_path / "runs")],
        env=environment(),
        cwd=tmp_path,
    )
    try:
        until(lambda: any(i.status == "running" for i in list_runs(tmp_path / "runs")[0]))
        [info] = list_runs(tmp_path / "runs")[0]
        terminal = tmux("attach", info.name)
        terminal.until("running", "loss", info.name[-8:])
        terminal.keys("x")
        terminal.until("■ stopped")
        assert batch.wait(30) == 130
    finally:
        batch.kill()


@pytest.mark.parametrize(
    ("words", "env", "told"),
    [
        ((), {"TERM": "dumb"}, ("TERM=dumb", "--batch")),
        (("attach",), {}, ("No run is training",)),
        (("attach", "gone"), {}, ("no run 'gone'",)),
        (("nopreset",), {}, ("no preset or file",)),
        (("--set", "trainer.epochs=0"), {}, ("at least 1",)),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmux: Start, words: tuple[str, ...], env: dict[str, str], told: tuple[str, ...]
) -> None:
    terminal = tmux(*words, size=(200, 20), **env)
    text = terminal.until("exit code 2")
    assert all(word in text for word in told)
    assert "Traceback" not in text


def test_without_a_terminal(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND], capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 2
    assert "--batch" in done.stderr
    assert "Traceback" not in done.stderr


def test_last_weeks_runs_are_found_compared_and_looked_into(tmux: Start, train: Train, tmp_path: Path) -> None:
    for rate in (0.01, 0.02):
        train("trainer.epochs=3", f"optimizer.lr={rate}")
    terminal = tmux(size=(80, 24))
    terminal.until("idle")
    terminal.keys("R")
    terminal.until("R Runs", "2 runs", "digits-mlp", "✓ done")
    terminal.keys("/")
    terminal.type("val_acc > 0.5")
    terminal.keys("Enter", "Space", "Space")
    terminal.until("2 marked", "val/loss", "━◆")
    terminal.keys("3")
    terminal.until("optimizer.lr", "0.01", "0.02")
    terminal.keys("C")
    terminal.until("C Checkpoints", "4 files", "last)", "model")
    terminal.keys("Tab", "j")
    terminal.until("module")
    terminal.keys("x")
    terminal.until("Export as")
    terminal.keys("Enter")
    terminal.until("Write to")
    terminal.keys("Enter")
    terminal.until("$ torchdeck export", "are identical", "done; esc closes")
    assert [p.suffix for p in tmp_path.rglob("*.pth")] == [".pth"]
    terminal.keys("Enter")
    terminal.gone("done; esc closes")
    terminal.keys("?")
    terminal.until("Checkpoints", "Fold")
    terminal.keys("q")
    terminal.gone("Scroll")
    terminal.keys("T")
    terminal.until("1 Experiment")
    terminal.keys("q")
    terminal.until("exit code 0")
