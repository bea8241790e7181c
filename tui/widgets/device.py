"""The device pane: what is trained on and why, and what the machine does now."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from torchdeck.core.machine.nvidia import Gpu
from torchdeck.core.machine.readings import Reading
from torchdeck.tui.drawing.axes import reading as read_value
from torchdeck.tui.drawing.bars import bar, standing
from torchdeck.tui.drawing.colours import colour
from torchdeck.tui.drawing.sparkline import sparkline
from torchdeck.tui.widgets.lines import Lines

_HISTORY = 60

#: Up to which share something is loaded so much, by the theme's name for its colour.
_LOADS = ((0.6, "success"), (0.9, "warning"), (1.0, "error"))
#: A style for each of these names.
Tones = Mapping[str, str]


class Device(Lines, can_focus=True):
    """Readings, with a short history of each."""

    DEFAULT_CSS = "Device { height: 1fr; padding: 0 1; overflow-y: auto; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._cpu: deque[float] = deque(maxlen=_HISTORY)
        self._memory: deque[float] = deque(maxlen=_HISTORY)
        self._gpus: dict[int, deque[float]] = {}
        self._chosen: dict[str, Any] | None = None
        self._reading: Reading | None = None

    def show_chosen(self, chosen: dict[str, Any]) -> None:
        """The device that the experiment would be trained on: device, name, why, precision."""
        self._chosen = chosen
        self.draw()

    def show(self, reading: Reading) -> None:
        """A new reading."""
        self._reading = reading
        self._cpu.append(reading.cpu)
        self._memory.append(reading.memory_used / max(reading.memory_total, 1) * 100)
        for gpu in reading.gpus:
            if gpu.utilization is not None:
                self._gpus.setdefault(gpu.index, deque(maxlen=_HISTORY)).append(gpu.utilization)
        self.draw()

    def on_resize(self) -> None:
        """Bars are as long as there is room."""
        self.draw()

    def draw(self) -> None:
        """Bring it up to date."""
        width = max(self.size.width, 20)
        lines = [] if self._chosen is None else _chosen_lines(self._chosen)
        if self._reading is not None:
            own = self._reading.process.pid if self._reading.process else None
            tones = {name: colour(self.app.theme_variables, name) for _, name in _LOADS}
            for gpu in self._reading.gpus:
                lines += gpu_lines(gpu, list(self._gpus.get(gpu.index, ())), width, own, tones)
            lines += machine_lines(self._reading, list(self._cpu), list(self._memory), width, tones)
        self.set_lines(lines)


def _chosen_lines(chosen: dict[str, Any]) -> list[Text]:
    text = Text(no_wrap=True)
    text.append(f"{chosen['device']}", style="bold")
    text.append(f"  {chosen['precision']}  {chosen['name']}")
    return [text, Text(f"because: {chosen['why']}", style="dim", no_wrap=True)]


def _meter(name: str, share: float, history: list[float], width: int, words: str, tones: Tones) -> Text:
    """``cpu  ████▌     45 %  ⡠⠊⠉``."""
    text = Text(f"{name:<7}", no_wrap=True)
    room = max(4, min(20, width - 9 - len(words) - 14))
    load = next((name for limit, name in _LOADS if share <= limit), _LOADS[-1][1])
    text.append(bar(share, room), style=tones.get(load, ""))
    text.append(f" {words}")
    spark = sparkline(history, max(0, min(12, width - text.cell_len - 2)), (0, 100))
    text.append(f"  {spark}" if spark else "", style="dim")
    return text


def gpu_lines(gpu: Gpu, history: list[float], width: int, own: int | None, tones: Tones) -> list[Text]:
    """One GPU in lines."""
    head = Text(f"gpu {gpu.index}  {gpu.name}{'  MIG' if gpu.mig else ''}", style="bold", no_wrap=True)
    if gpu.visible is False:
        head.append("  hidden by CUDA_VISIBLE_DEVICES", style="dim")
    lines = [head]
    if gpu.utilization is not None:
        lines.append(_meter("load", gpu.utilization / 100, history, width, f"{gpu.utilization}%", tones))
    else:
        lines.append(Text("load   n/a", no_wrap=True))
    mine = next((p.memory for p in gpu.processes if p.pid == own and p.memory), None)
    this_run = f", this run {read_value(mine, 'bytes')}" if mine else ""
    total = "n/a" if gpu.memory_total is None else read_value(gpu.memory_total, "bytes")
    if gpu.memory_used is not None and gpu.memory_total:
        shared = " (the machine's)" if gpu.unified else ""
        words = f"{read_value(gpu.memory_used, 'bytes')}/{total}{shared}{this_run}"
        lines.append(_meter("memory", gpu.memory_used / gpu.memory_total, [], width, words, tones))
    else:
        lines.append(
            Text(f"memory n/a of {total}{this_run}" if gpu.memory_total else f"memory n/a{this_run}", no_wrap=True)
        )
    temperature = "n/a" if gpu.temperature is None else f"{gpu.temperature}"
    power = "n/a" if gpu.power is None else f"{gpu.power:.0f}"
    facts = [f"{temperature} °C", f"{power}{f'/{gpu.power_limit:.0f}' if gpu.power_limit else ''} W"]
    if gpu.throttles:
        facts.append("slowed by " + ", ".join(gpu.throttles))
    lines.append(Text("       " + "  ".join(facts), no_wrap=True))
    for process in gpu.processes[:8]:
        memory = read_value(process.memory, "bytes") if process.memory else "?"
        who = f"{process.name or 'unknown'}{f' ({process.user})' if process.user else ''}"
        lines.append(
            Text(f"  {process.pid:>8} {memory:>7}  {who}{'  this run' if process.pid == own else ''}", no_wrap=True)
        )
    lines += [Text(f"  {note}", style="dim", no_wrap=True) for note in gpu.notes]
    return lines


def machine_lines(reading: Reading, cpu: list[float], memory: list[float], width: int, tones: Tones) -> list[Text]:
    """Cores, memory, the run's process and the disk in lines."""
    lines = []
    if not reading.gpus:
        lines.append(Text(f"no GPU: {reading.gpu_why}", style="dim", no_wrap=True))
    lines.append(_meter("cpu", reading.cpu / 100, cpu, width, f"{reading.cpu:3.0f}%", tones))
    if len(reading.cores) > 1:
        cores = standing([load / 100 for load in reading.cores], max(8, min(len(reading.cores), width - 9)))
        lines.append(Text(f"cores  {cores}  {len(reading.cores)}", no_wrap=True))
    used, total = read_value(reading.memory_used, "bytes"), read_value(reading.memory_total, "bytes")
    limit = " (container)" if reading.container else ""
    lines.append(
        _meter(
            "memory", reading.memory_used / max(reading.memory_total, 1), memory, width, f"{used}/{total}{limit}", tones
        )
    )
    if reading.process is not None:
        p = reading.process
        lines.append(
            Text(
                f"run    pid {p.pid}  {read_value(p.memory, 'bytes')}  {p.threads} threads  {p.cpu:.0f}%", no_wrap=True
            )
        )
    if reading.others is not None and reading.others >= 1:
        lines.append(Text(f"others {reading.others:.0f}% of a core is taken by other users", no_wrap=True))
    if reading.disk_total:
        lines.append(Text(f"disk   {read_value(reading.disk_free, 'bytes')} free for runs", no_wrap=True))
    return lines
