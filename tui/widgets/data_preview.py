"""The data set at a glance: shape, classes, how many of each, and samples drawn in half blocks."""

from __future__ import annotations

import base64
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll

from torchdeck.core.text import printable
from torchdeck.tui.drawing.bars import bar
from torchdeck.tui.drawing.sparkline import scale_of, sparkline
from torchdeck.tui.widgets.words import Words

#: From dark to light, where there are no colours.
_SHADES = " ░▒▓█"


class DataPreview(VerticalScroll):
    """Facts and pictures of the data set."""

    BINDINGS = [
        Binding("j", "scroll_down", "Down", show=False, id="data.down", tooltip="Scroll down"),
        Binding("k", "scroll_up", "Up", show=False, id="data.up", tooltip="Scroll up"),
    ]
    DEFAULT_CSS = "DataPreview { height: 1fr; padding: 0 1; scrollbar-size-vertical: 1; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._facts: dict[str, Any] | None = None

    def compose(self) -> ComposeResult:
        """One text."""
        yield Words(id="data-text")

    def say(self, text: str) -> None:
        """Words instead of data."""
        self._facts = None
        self.query_one(Words).update(text)

    def show(self, facts: dict[str, Any]) -> None:
        """Show what torchdeck.core.session.preview tells of the data."""
        self._facts = facts
        self._draw()

    def on_resize(self) -> None:
        """As many pictures side by side as there is room for."""
        self._draw()

    def _draw(self) -> None:
        if self._facts is not None and self.size.width > 4:
            self.query_one(Words).update(draw_data(self._facts, self.size.width - 3, not self.app.no_color))


def draw_data(facts: dict[str, Any], width: int, colour: bool) -> Text:
    """Everything as one text of that width."""
    samples = "  ".join(f"{count:,} {part}" for part, count in facts["samples"].items() if count)
    text = Text(no_wrap=True)
    text.append(printable(facts["name"]), style="bold")
    text.append(f"  {facts['task']}\n{samples}\n")
    shape = [f"shape {printable(facts['shape'])}"] if facts["shape"] else []
    # What contrastive learning gives is an embedding of the model's own width.
    outputs = [] if facts["task"] == "contrastive" else [f"{facts['outputs']} outputs"]
    text.append(f"{', '.join([*shape, *outputs])}\n")
    if facts["transforms"]:
        text.append(f"{printable(', '.join(facts['transforms']))}\n", style="dim")
    text.append(f"from {printable(str(facts['place']))}\n", style="dim")
    for warning in facts["warnings"]:
        text.append(f"{printable(warning)}\n", style="italic")
    if facts["pictures"]:
        text.append("\n")
        _draw_pictures(text, facts["pictures"], facts["labels"], width, colour)
    else:
        _draw_samples(text, facts, width)
    if facts["counts"]:
        text.append("\n")
        _draw_counts(text, facts["counts"], facts["classes"], width)
    return text


def _draw_samples(text: Text, facts: dict[str, Any], width: int) -> None:
    """Texts, courses or rows, with their labels behind them where they have some."""
    labels = [printable(label) for label in facts["labels"]]
    lines: list[str] = []
    if facts["texts"]:
        lines = [printable(one.replace("\n", "⏎")) for one in facts["texts"]]
    elif facts["courses"]:
        lines = [_drawn(one, width) for one in facts["courses"]]
        labels = [] if any(one["target"] for one in facts["courses"]) else labels
    elif facts["rows"]:
        most = max(1, (width - 2 - max(map(cell_len, labels), default=0)) // 8)
        lines = ["".join(f"{v:>8.3g}" for v in row[:most]) for row in facts["rows"]]
    if lines:
        text.append("\n")
    for line, label in zip_longest(lines, labels[: len(lines)], fillvalue=""):
        behind = f"  {label}" if label else ""
        room = max(width - cell_len(behind), 8)
        text.append(f"{set_cell_size(line, room) if cell_len(line) > room else line}{behind}\n")


def _drawn(course: dict[str, list[float]], width: int) -> str:
    """A course of values, and the one that is to be told from it, in shares of the width that are theirs."""
    values, target = course["values"], course["target"]
    scale = scale_of([values, target])
    if not target:
        return sparkline(values, min(len(values), width - 12), scale)
    after = max(1, min(len(target), width * len(target) // (len(values) + len(target))))
    before = max(1, min(len(values), width - after - 3))
    return f"{sparkline(values, before, scale)} → {sparkline(target, after, scale)}"


def _draw_counts(text: Text, counts: list[int], names: list[str], width: int) -> None:
    most = max(counts) or 1
    names = [printable(name) for name in names[:40]]
    longest = min(max(cell_len(n) for n in names), 14)
    for name, count in zip(names, counts, strict=False):
        text.append(
            f"{set_cell_size(name, longest)} {bar(count / most, max(4, min(24, width - longest - 10)))} {count:,}\n"
        )
    if len(counts) > 40:
        text.append(f"and {len(counts) - 40:,} more classes\n")


def _draw_pictures(text: Text, pictures: dict[str, Any], labels: list[str], width: int, colour: bool) -> None:
    pixels = base64.b64decode(pictures["rgb"])
    count, height, across = pictures["count"], pictures["height"], pictures["width"]
    if across > 10 and width < 3 * (across + 1):  # three side by side at half the size tell more than one
        pixels = _halved(pixels, count, height, across)
        height, across = height // 2, across // 2
    side_by_side = max(1, min(count, (width + 1) // (across + 1)))
    rows = 3 if height <= 14 else 2
    if height > 20:
        rows = 1
    for first in range(0, min(count, rows * side_by_side), side_by_side):
        numbers = range(first, min(first + side_by_side, count))
        for y in range(0, height, 2):
            for number in numbers:
                for x in range(across):
                    upper = _pixel(pixels, number, y, x, height, across)
                    lower = _pixel(pixels, number, y + 1, x, height, across) if y + 1 < height else (0, 0, 0)
                    _append_cell(text, upper, lower, colour)
                text.append(" ")
            text.append("\n")
        below = [labels[n] if labels else "" for n in numbers]
        text.append(" ".join(set_cell_size(printable(label), across) for label in below) + "\n", style="dim")


def _halved(pixels: bytes, count: int, height: int, width: int) -> bytes:
    """Pictures of half the size: each pixel is the mean of four."""
    out = bytearray()
    for number in range(count):
        for y in range(0, height // 2 * 2, 2):
            for x in range(0, width // 2 * 2, 2):
                four = [_pixel(pixels, number, y + b, x + a, height, width) for b in (0, 1) for a in (0, 1)]
                out += bytes(sum(p[c] for p in four) // 4 for c in range(3))
    return bytes(out)


def _pixel(pixels: bytes, number: int, y: int, x: int, height: int, width: int) -> tuple[int, int, int]:
    at = ((number * height + y) * width + x) * 3
    return pixels[at], pixels[at + 1], pixels[at + 2]


def _append_cell(text: Text, upper: tuple[int, int, int], lower: tuple[int, int, int], colour: bool) -> None:
    if not colour:
        light = (sum(upper) + sum(lower)) / (6 * 255)
        text.append(_SHADES[min(4, int(light * 5))])
        return
    text.append("▀", style=Style(color=f"#{bytes(upper).hex()}", bgcolor=f"#{bytes(lower).hex()}"))
