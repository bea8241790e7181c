"""Resuming a run, the same on every screen: consent to its code, and how much longer where it is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.app import App

from torchdeck.core.errors import count
from torchdeck.core.experiment import toml
from torchdeck.tui.run_monitor import RunMonitor, going_on
from torchdeck.tui.screens.consent import agreed
from torchdeck.tui.screens.dialogs import TextDialog, more_than


async def resume_run(app: App[Any], monitor: RunMonitor, run: Path, raw: dict[str, Any], done: int | None) -> bool:
    """Go on with a run whose experiment has these tables, now or in the queue; False when the user backs out.

    ``done``: the epochs of a run that is done and is prolonged; None where some are left.

    Raises UserError when it can't go on.
    """
    if not await agreed(app, raw, run):
        return False
    if done is not None:
        text = await app.push_screen_wait(
            TextDialog(
                "Extend the run to how many epochs in all?",
                f"It has trained {count(done, 'epoch')}.",
                str(done * 2 or 10),
                more_than(done),
            )
        )
        if text is None:
            return False
        raw = toml.put(toml.put(raw, ("trainer", "steps"), None), ("trainer", "epochs"), int(text))
    said = going_on(run)
    monitor.add(toml.dumps(toml.build(raw)), run.name, run)
    app.notify(said, timeout=4)
    return True
