"""Curves of runs on the command line: drawn with characters, or to a PNG or SVG file with Matplotlib."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.style import Style
from rich.text import Text
from textual.strip import Strip

from torchdeck.core import files
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment.metric_names import metric
from torchdeck.core.runs.labels import read_labels as labels_of
from torchdeck.core.runs.opened import histories
from torchdeck.core.text import printable
from torchdeck.tui.drawing.chart import ChartSource, Painter, Scalar, View, curves_of, overlaid, scalars, titled
from torchdeck.tui.drawing.series_colours import COUNT, ON_LIGHT

_COLOURS = {
    "axis": "bright_black",
    "raw": "bright_black",
    "title": "bold",
    "cursor": "bold",
    "odd": "bold red",
    # Of the sixteen that can be read on dark and light grounds alike; red and yellow stand for what is wrong.
    "curve-1": "bright_blue",
    "curve-2": "green",
    "curve-3": "magenta",
    "curve-4": "cyan",
    "curve-5": "bright_magenta",
    "curve-6": "bright_black",
    "curve-7": "blue",
    "curve-8": "default",
}


def draw(paths: Sequence[Path], wanted: Sequence[str], output: str | None, x: str, smoothing: float, log: bool) -> int:
    """Draw these runs' curves; ``wanted`` names metrics such as val/loss or accuracy.

    Raises UserError when a run can't be read, has no such metric, or the file can't be written.
    """
    sources = [ChartSource(labels_of(one.path).title or one.path.name, one.history) for one in histories(list(paths))]
    charts = _chosen(sources, wanted)
    view = View(x=x, smoothing=smoothing, log=log)
    if output is not None:
        _to_file(sources, charts, view, Path(output).expanduser())
        print(output)
        return 0
    console = Console(highlight=False)
    width = shutil.get_terminal_size((100, 40)).columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    for scalar in charts:
        bare = console.color_system is None or console.no_color
        painter = Painter(scalar, lambda name: Style.parse(_COLOURS[name]), patterned=bare)
        found, _ = curves_of(sources, scalar, view)
        for line in painter.picture(found, view, 0.0, width, 18):
            console.print(Text(Strip(line).text) if console.color_system is None else _text(line), soft_wrap=True)
        if len(sources) > 1:
            for number, one in enumerate(found, 1):
                console.print(
                    Text(f"  {number} {printable(one.label)}"),
                    style=_COLOURS[f"curve-{(number - 1) % COUNT + 1}"],
                    soft_wrap=True,
                )
    return 0


def _text(line: Strip) -> Text:
    return Text.assemble(*((segment.text, segment.style or "") for segment in line))


def _chosen(sources: Sequence[ChartSource], wanted: Sequence[str]) -> list[Scalar]:
    found = scalars(sources[0].history) if len(sources) == 1 else overlaid(sources)
    if not found:
        raise UserError("There is nothing to draw: no scalars yet.")
    if not wanted:
        usual = [s for s in found if s.name.rpartition("/")[2] in ("loss", "accuracy", "rmse")]
        return usual or found[:4]
    chosen = []
    for name in wanted:
        part, what = metric(name)
        matching = [
            s
            for s in found
            if name in (s.name, s.name.replace("/", "_"))
            or s.name == f"{part}/{what}"
            or (not part and s.name.rpartition("/")[2] == what)
        ]
        if not matching and len(sources) == 1:  # one part of a scalar
            every = [n for s in found for n in s.series]
            matching = [Scalar(n, (n,)) for n in every if n == f"{part}/{what}"]
        if not matching:
            raise UserError(f"There is no metric {name!r}; {did_you_mean(name, [s.name for s in found])}")
        chosen += [s for s in matching if s not in chosen]
    return chosen


def _to_file(sources: Sequence[ChartSource], charts: Sequence[Scalar], view: View, path: Path) -> None:
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise UserError(f"-o {str(path)!r}: name a .png, .svg or .pdf file.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(2, len(charts))
    rows = -(-len(charts) // columns)
    figure = Figure(figsize=(6.4 * columns, 4 * rows), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    for number, scalar in enumerate(charts, 1):
        axes = figure.add_subplot(rows, columns, number)
        curves = curves_of(sources, scalar, view)[0]
        for one in curves:
            colour = ON_LIGHT[one.colour % COUNT]
            label = one.label or one.name
            if one.dense and view.smoothing > 0:
                axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(
                one.x, one.smooth, color=colour, label=label, marker="o" if len(one.x) < 30 else None, markersize=3
            )
            for where, _ in one.odd[:200]:
                axes.axvline(where, color="red", alpha=0.3, linewidth=1)
        axes.set_title(titled(scalar, curves))
        axes.set_xlabel({"step": "step", "epoch": "epoch", "time": "seconds of training"}[view.x])
        axes.grid(alpha=0.3)
        if view.log and all(np.nanmin(line.get_ydata(), initial=np.inf) > 0 for line in axes.lines):
            axes.set_yscale("log")
        if axes.lines:
            axes.legend(fontsize="small")
    try:
        with files.replacing(path) as file:
            figure.savefig(file, format=kind)
    except OSError as error:
        raise UserError(f"{str(path)!r} can't be written: {error.strerror}.") from None
