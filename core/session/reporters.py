"""How the headless mode tells what happens: a live display, plain lines, JSON or nothing. All only listen."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import IO

from torchdeck.core.events import (
    CheckpointWritten,
    EpochEnded,
    Evaluated,
    Event,
    Failed,
    Finished,
    LogLine,
    Started,
    StateChanged,
    StepSummary,
    TextWritten,
)
from torchdeck.core.experiment.metric_names import MEASURED, OF_EACH, whole_of
from torchdeck.core.progress import Progress
from torchdeck.core.session.recorder import event_json
from torchdeck.core.text import USUAL, duration, metrics_line, metrics_short, printable_lines


class Reporter:
    """Says nothing but what has gone wrong; the base of the others. ``out`` may vanish: nothing is raised then."""

    def __init__(self) -> None:
        self.run: str | None = None
        self.progress = Progress()

    def report(self, event: Event) -> None:
        """Take one event."""
        self.progress.update(event)
        # A reader that has gone away, or a terminal that was hung up, must not end the training.
        with contextlib.suppress(OSError, ValueError):
            self.handle(event)

    def handle(self, event: Event) -> None:
        """Tell one event."""
        if isinstance(event, Failed):
            say_on_stderr(f"torchdeck: {event.message}")
        elif isinstance(event, LogLine) and event.level != "debug":
            say_on_stderr(f"{event.level}: {event.message}")

    def note(self, text: str) -> None:
        """Tell something that is not an event."""
        with contextlib.suppress(OSError, ValueError):
            say_on_stderr(text)

    def resumable(self, command: str) -> None:
        """Tell how an unfinished run can be resumed."""
        self.note(f"resume with: {command}")

    def close(self) -> None:
        """The run is over."""


def say_on_stderr(text: str) -> None:
    """What is to be said, on stderr."""
    print(printable_lines(text), file=sys.stderr, flush=True)


class JsonReporter(Reporter):
    """One JSON object per event on stdout, nothing else there; what is said goes to stderr."""

    def __init__(self) -> None:
        super().__init__()
        # Whatever else prints in this process (the user's code, C libraries) is sent to stderr.
        sys.stdout.flush()
        self._out = os.fdopen(os.dup(1), "wb", buffering=0)
        os.dup2(2, 1)

    def handle(self, event: Event) -> None:
        """Write one object."""
        if isinstance(event, LogLine):
            super().handle(event)
            return
        record = event.record()
        head = {"event": record.pop("event"), "run": self.run, "epoch": record.pop("epoch"), "step": record.pop("step")}
        self._out.write(event_json(head | record))
        if isinstance(event, Failed):
            say_on_stderr(f"torchdeck: {event.message}")


class PlainReporter(Reporter):
    """Lines for a log file: one an epoch, and one now and then within long epochs."""

    #: Seconds between two lines within an epoch.
    EVERY = 30.0

    def __init__(self, out: IO[str] | None = None) -> None:
        super().__init__()
        self._out = out or sys.stdout
        self._said = time.monotonic()

    def line(self, text: str) -> None:
        """Print one line."""
        print(printable_lines(text), file=self._out, flush=True)

    def handle(self, event: Event) -> None:
        """Print what is worth a line."""
        started = self.progress.started
        match event:
            case Started():
                self.line(f"run      {self.run}")
                self.line(beginning(event))
            case StepSummary() if started and time.monotonic() - self._said >= self.EVERY:
                self._said = time.monotonic()
                self.line(
                    f"step {event.step}/{started.steps}  {metrics_line(event.train, USUAL)}  "
                    f"{event.samples_per_second:,.0f} samples/s  ETA {duration(self.progress.eta(event.time))}"
                )
            case EpochEnded() if started:
                self._said = time.monotonic()
                self.line(
                    f"epoch {event.epoch}/{started.epochs}  train {metrics_short(event.train)}  "
                    f"{started.val_name} {metrics_short(event.val)}"
                    f"{'  best' if event.best else ''}  {event.seconds:.1f} s  ETA "
                    f"{duration(self.progress.eta(event.time))}"
                )
            case Evaluated():
                val = started.val_name if started else "val"
                self.line(f"evaluated at step {event.step}  {val} {metrics_line(event.val)}")
            case TextWritten():
                self.line(event.text)
            case StateChanged():
                self.line(f"{event.state} at step {event.step}")
            case Finished():
                self.line(ending(event))
            case _:
                super().handle(event)


def beginning(event: Started) -> str:
    """A run's first line."""
    place = f" from step {event.step:,}" if event.step else ""
    on_test = " (the test set)" if event.validated_on == "test" else ""
    task = f"task     {event.task}\n" if event.task else ""
    return (
        f"{task}"
        f"samples  {event.train_samples:,} train, {event.val_samples:,} val{on_test}, {event.test_samples:,} test\n"
        f"training {event.parameters:,} parameters on {event.device} ({event.precision}), {event.epochs} epochs,"
        f" {event.steps:,} steps{place}"
    )


def ending(event: Finished) -> str:
    """A run's last line."""
    if event.status != "done":
        return f"{event.status} at step {event.step:,} (epoch {event.epoch}) after {duration(event.seconds)}"
    known = dict.fromkeys(name for figures in MEASURED.values() for name in figures)
    part, metrics = ("test", event.test) if event.test else ("val", event.val)
    # Parts of a loss and the user's own metrics, but not the figures of each class or target.
    others = (name for name in metrics if name not in known and whole_of(name, OF_EACH) is None)
    told = f"  {part} {metrics_line(metrics, (*known, *others))}" if metrics else ""
    return f"done in {duration(event.seconds)}{told}"


class RichReporter(PlainReporter):
    """A live display at the bottom of the terminal, with a line above it for each epoch."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars

        self._console = Console()
        self._bars = Bars(
            TextColumn("{task.description:<6}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            console=self._console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=True,
            redirect_stderr=True,
        )
        self._epoch = self._bars.add_task("epoch", total=None, info="")
        self._step = self._bars.add_task("step", total=None, info="")
        self._bars.start()

    def line(self, text: str) -> None:
        """Print one line above the bars."""
        self._bars.console.print(printable_lines(text), highlight=False, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Tell something that is not an event."""
        with contextlib.suppress(OSError, ValueError):
            self.line(text)

    def handle(self, event: Event) -> None:
        """Move the bars, and print what is worth a line."""
        started = self.progress.started
        if isinstance(event, Started):
            self._bars.update(self._epoch, total=event.epochs, completed=event.epoch, info=event.device)
            self._bars.update(self._step, total=event.epoch_length, completed=event.step % event.epoch_length)
        elif isinstance(event, StepSummary) and started:
            in_epoch = (event.step - 1) % started.epoch_length + 1
            eta = duration(self.progress.eta(event.time))
            # Short enough for 80 columns: a line that is full would wrap with the "^C" that the terminal echoes.
            info = f"{metrics_short(event.train)}  {event.samples_per_second:,.0f}/s  ETA {eta}"
            self._bars.update(self._step, completed=in_epoch, info=info)
            return
        elif isinstance(event, EpochEnded):
            self._bars.update(
                self._epoch,
                completed=event.epoch,
                info=f"{started.val_name if started else 'val'} {metrics_short(event.val)}",
            )
        elif isinstance(event, Finished | Failed):
            self.close()
        if isinstance(event, CheckpointWritten):
            return
        super().handle(event)

    def close(self) -> None:
        """Take the bars away."""
        with contextlib.suppress(OSError, ValueError):
            self._bars.stop()


def choose_reporter(json_lines: bool, quiet: bool, plain: bool) -> Reporter:
    """The reporter that was asked for; without a wish, a live display on a terminal and lines elsewhere."""
    if json_lines:
        return JsonReporter()
    if quiet:
        return Reporter()
    dumb = os.environ.get("TERM", "") in ("", "dumb")
    return PlainReporter() if plain or dumb or not sys.stdout.isatty() else RichReporter()
