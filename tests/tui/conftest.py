"""The workbench under Textual's Pilot, with real runs in processes of their own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import kill_below
from textual.pilot import Pilot
from workbench import Open, until

from torchdeck.tui.app import Workbench


@pytest.fixture
def workbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """``async with workbench(raw, size=(120, 35)) as pilot``; runs that are left are killed."""
    monkeypatch.chdir(tmp_path)

    @contextlib.asynccontextmanager
    async def opened(
        raw: dict[str, Any] | None = None, size: tuple[int, int] = (120, 35), **options: Any
    ) -> AsyncIterator[Pilot[int]]:
        app = Workbench(tmp_path / "runs", raw, **options)
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.is_screen_installed("train") and app.train.snapshot is not None)
            yield pilot
        living = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
        assert not [p for p in living if "torchdeck.core.session.preview" in p.cmdline()]

    yield opened
    kill_below(tmp_path)
