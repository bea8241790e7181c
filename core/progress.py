"""Where a run stands, its rate and when it will be over."""

from __future__ import annotations

from torchdeck.core.events import (
    EpochEnded,
    Event,
    Started,
    StateChanged,
    StepSummary,
)


class Progress:
    """Where the run stands, its rate and when it will be over; counted from the steps done here, so right after a
    resume, too."""

    def __init__(self) -> None:
        self.started: Started | None = None
        self.step = 0
        self._since = 0.0
        self._paused_at: float | None = None

    def update(self, event: Event) -> None:
        """Take one event."""
        if isinstance(event, Started):
            self.started, self.step, self._since = event, event.step, event.time
        elif isinstance(event, StepSummary | EpochEnded):
            self.step = event.step
        elif isinstance(event, StateChanged) and event.state == "paused":
            self._paused_at = event.time
        elif isinstance(event, StateChanged) and event.state == "running" and self._paused_at is not None:
            self._since += event.time - self._paused_at  # a pause says nothing of the rate
            self._paused_at = None

    def eta(self, now: float) -> float | None:
        """Seconds until the last step at the mean rate so far, validation included; None before the first steps."""
        if self.started is None or self.step <= self.started.step:
            return None
        rate = (self.step - self.started.step) / max(now - self._since, 1e-9)
        return max(0.0, self.started.steps - self.step) / rate
