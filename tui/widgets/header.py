"""The lines on top: the panes by number, and where the run stands."""

from __future__ import annotations

import time

from rich.text import Text

from torchdeck.core.runs.directory import without_time
from torchdeck.core.runs.history import History
from torchdeck.core.text import duration, main_figures, number
from torchdeck.tui.drawing.axes import amount
from torchdeck.tui.drawing.bars import bar
from torchdeck.tui.drawing.colours import colour, on
from torchdeck.tui.drawing.sparkline import scale_of, sparkline
from torchdeck.tui.run_monitor import OVER, Snapshot
from torchdeck.tui.widgets.lines import Lines

#: A sign and a theme colour for each state; the sign tells it without colour.
_SIGNS = {
    "idle": ("○", "text-muted"),
    "starting": ("◌", "warning"),
    "running": ("●", "success"),
    "paused": ("‖", "warning"),
    "stalled": ("◍", "warning"),
    "done": ("✓", "success"),
    "pruned": ("✂", "warning"),
    "stopped": ("■", "warning"),
    "failed": ("✗", "error"),
    "dead": ("✗", "error"),
    "events": ("≈", "text-muted"),
}


class Header(Lines):
    """One line: the name, the panes with their numbers, and a sparkline of the run."""

    DEFAULT_CSS = "Header { height: 1; background: $panel; }"

    def __init__(self, panes: dict[str, str], *, id: str) -> None:
        super().__init__(id=id)
        self._panes = panes
        self._current = ""
        self._spark = ""

    def show(self, current: str, history: History | None = None) -> None:
        """Mark the current pane; draw the watched metric of the run."""
        self._current = current
        if history is not None:
            self._spark = _spark(history)
        theme = self.app.theme_variables
        accent = colour(theme, "primary")
        wide = self.size.width >= 78
        text = Text(no_wrap=True)
        text.append(" torchdeck ", style=f"bold {accent}")
        for key, (name, title) in enumerate(self._panes.items(), 1):
            label = f" {key} {title} " if wide or name == current else f" {key} {title[:5]} "
            text.append(label, style="bold reverse" if name == current else "")
        room = self.size.width - text.cell_len - 1
        if len(self._spark) + 2 < room:
            text.append(" " * (room - len(self._spark)) + self._spark, style=accent)
        self.set_lines([text])


def _spark(history: History) -> str:
    with history.lock:
        for name in ("val/accuracy", "val/loss", "train/loss"):
            series = history.series(name)
            if series is not None and len(series) > 1:
                values = series.mean[:: max(1, len(series) // 400)].tolist()
                return f"{name} {sparkline(values, 12, scale_of([values]))}"
    return ""


class ProgressLines(Lines):
    """Where the run stands: state, epoch and step, bar, rate, time left, and the figures that matter."""

    DEFAULT_CSS = "Progress { height: 2; padding: 0 1; background: $surface; }"

    def show(self, snapshot: Snapshot) -> None:
        """Bring it up to date."""
        self.set_lines(progress_lines(snapshot, self.size.width, self.app.theme_variables))


def progress_lines(snapshot: Snapshot, width: int, theme: dict[str, str]) -> list[Text]:
    """Two lines of at most ``width`` characters."""
    history, state = snapshot.history, snapshot.state
    sign, name = _SIGNS.get(state, ("?", "text"))
    first = Text(no_wrap=True, overflow="ellipsis")
    first.append(f"{sign} {state}", style=f"bold {colour(theme, name)}")
    started = history.started
    if state == "starting" and snapshot.run is None:
        first.append("  importing torch, reading data, building the model")
    elif snapshot.run is not None:
        first.append(f"  {run_name(snapshot.run.name, width)}")
    if state in (*OVER, "idle") or started is None:
        return [first, _ending(snapshot)]
    step, total = history.step, started.steps
    share = step / max(total, 1)
    epoch = max(1, -(-step // started.epoch_length))
    parts = [f"epoch {min(epoch, started.epochs):,}/{started.epochs:,}", f"step {step:,}/{total:,}"]
    speed = history.summary.samples_per_second if history.summary else None
    eta = history.progress.eta(time.time() if state == "running" else _last_time(history))
    tail = f" {share:.0%}"
    if state == "running":
        tail += f"  ETA {duration(eta)}"
    if state == "stalled":
        tail += "  no batch arrives"
    elif speed:
        tail += f"  {amount(speed, 1000, ('', 'k', 'M', 'G'))} samples/s"
    line = f"{'  '.join(parts)}  "
    room = max(8, min(40, width - 2 - len(line) - len(tail)))
    first.append(f"   {header_figures(history)}", style="bold")
    first.truncate(max(width - 2, 1), overflow="ellipsis")
    second = Text(line, no_wrap=True)
    second.append(bar(share, room), style=f"{colour(theme, 'primary')}{on(theme, 'surface-lighten-2')}")
    second.append(tail)
    return [first, second]


def run_name(name: str, width: int) -> str:
    """A run's name; where there is little room, without the time in front."""
    return without_time(name) if width < 110 else name


def _last_time(history: History) -> float:
    return history.log[-1].time if history.log else time.time()


def header_figures(history: History) -> str:
    """The newest figures, and the best."""
    parts = []
    if history.summary is not None and "loss" in history.summary.train:
        parts.append(f"loss {number(history.summary.train['loss'])}")
    measured = history.epoch.val if history.epoch is not None else {}
    for name in ("accuracy", "rmse", "loss", *measured):
        if name in measured:
            val = history.started.val_name if history.started else "val"
            parts.append(f"{val} {name} {_figure(name, measured[name])}")
            if history.best is not None and name in history.best.val:
                parts.append(f"best {_figure(name, history.best.val[name])}")
            break
    return "  ".join(parts)


def _figure(name: str, value: float) -> str:
    return f"{value:.2%}" if name == "accuracy" else number(value)


def _ending(snapshot: Snapshot) -> Text:
    history = snapshot.history
    text = Text(no_wrap=True, overflow="ellipsis")
    match snapshot.state:
        case "idle":
            text.append("s starts the experiment; o opens another; ? shows the keys")
        case "failed":
            text.append(" ".join(history.message.split()))
        case "dead":
            text.append("its process ended unexpectedly; r resumes from its last checkpoint, if it has one")
        case "starting":
            text.append("you can go on typing")
        case "events":
            text.append("another tool is training it; its curves are read as they are written")
        case "done" if history.finished is not None:
            part, metrics = ("test", history.finished.test) if history.finished.test else ("val", history.finished.val)
            names = sorted(main_figures(metrics), key=lambda name: name == "loss")
            told = "  ".join(f"{n} {_figure(n, metrics[n])}" for n in names)
            text.append(f"{part} {told}  " if metrics else "", style="bold")
            text.append(f"in {duration(history.finished.seconds)}")
        case _:
            text.append(f"{header_figures(history)}   r resumes from its last checkpoint")
    return text
