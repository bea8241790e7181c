"""Real terminals: torchdeck in tmux and on ptys."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import kill_below
from terminals import COMMAND, Pty, Tmux, environment


@pytest.fixture
def runs_end(tmp_path: Path) -> Iterator[None]:
    """Runs that a test leaves going are killed."""
    yield
    kill_below(tmp_path)


@pytest.fixture
def tmux(tmp_path: Path, runs_end: None) -> Iterator[Callable[..., Tmux]]:
    """``tmux(*words, size=(120, 35), **env)``: torchdeck with these words in a tmux window."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    made: list[Tmux] = []

    def start(*words: str, size: tuple[int, int] = (120, 35), **env: str) -> Tmux:
        folder = tmp_path / f"tmux{len(made)}"
        folder.mkdir()
        made.append(Tmux(folder, [*COMMAND, *words, "--runs", str(tmp_path / "runs")], *size, environment(**env)))
        return made[-1]

    yield start
    for terminal in made:
        terminal.kill()


@pytest.fixture
def on_pty(tmp_path: Path, runs_end: None) -> Iterator[Callable[..., Pty]]:
    """``on_pty(*words, size=(120, 35), **env)``: torchdeck with these words on a pty."""
    made: list[Pty] = []

    def start(*words: str, size: tuple[int, int] = (120, 35), **env: str) -> Pty:
        made.append(Pty([*COMMAND, *words, "--runs", str(tmp_path / "runs")], tmp_path, *size, environment(**env)))
        return made[-1]

    yield start
    for terminal in made:
        terminal.kill()
