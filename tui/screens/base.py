"""What the parts of the Train screen share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual.screen import Screen

from torchdeck.tui.run_monitor import RunMonitor, Snapshot
from torchdeck.tui.widgets.form import Form


class Workplace(Screen):
    """A screen with a form and a run."""

    monitor: RunMonitor
    #: What was read last; None before the first look.
    snapshot: Snapshot | None = None

    @property
    def form(self) -> Form:
        """The form of the experiment."""
        return self.query_one(Form)

    def choose(self, pane: str) -> None:
        """Show a pane, and focus it."""
        raise NotImplementedError

    def refresh_now(self) -> None:
        """Read what is new without waiting for the next time."""
        raise NotImplementedError

    def attach(self, run: Path) -> None:
        """Follow another run."""
        raise NotImplementedError

    def load(self, raw: dict[str, Any], what: str) -> None:
        """Take an experiment into the form."""
        raise NotImplementedError
