"""The question before code of others runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.app import App

from torchdeck.core.experiment import toml
from torchdeck.core.runs.consent import code_named
from torchdeck.tui.screens.dialogs import Answer, Question


async def agreed(app: App[Any], raw: dict[str, Any], path: Path) -> bool:
    """Whether the experiment of a run or checkpoint may be used: code that it names is its author's, so that the user
    is asked, unless the run was made here. To build a model, or only to look at it, runs its code.

    Raises UserError when the experiment is wrong.
    """
    code = code_named(toml.build(raw), path)
    if code is None:
        return True
    name = path.parent.parent.name if path.is_file() and path.parent.name == "checkpoints" else path.name
    return await trusted(app, name, code)


async def trusted(app: App[Any], name: str, code: str) -> bool:
    """Whether the user trusts the code that a run, a checkpoint or a study of others names."""
    answer = await app.push_screen_wait(
        Question(
            f"{name} was not made here and would run the code {code!r}. Do you trust it?",
            [Answer("n", "no", "No, don't run it"), Answer("y", "yes", "Yes, run it")],
        )
    )
    if answer != "yes":
        app.notify(f"{name} is left alone: its code was not run.", timeout=4)
    return bool(answer == "yes")
