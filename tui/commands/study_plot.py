"""``torchdeck study plot``: the Search screen's pictures in the terminal, Optuna's own in files."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.tui.commands.shared import study_snapshot

if TYPE_CHECKING:
    from torchdeck.core.search.snapshot import StudySnapshot
    from torchdeck.core.search.study import Study

#: The pictures of a study; they are drawn by ``torchdeck.tui.drawing.study``.
NAMES = ("history", "importance", "slices", "contour", "parallel", "pareto", "intermediate", "edf")

_STYLES = {
    "axis": "bright_black",
    "title": "bold",
    "point": "blue",
    "pruned": "bright_black",
    "best": "bold green",
    "line": "green",
    "chosen": "bold magenta",
    "bad": "red",
    "middle": "yellow",
    "good": "green",
}


def plot_study(options: argparse.Namespace) -> int:
    """Draw a study in the terminal, or to a file."""
    kinds = options.kind or ["history", "slices"]
    for kind in kinds:
        if kind not in NAMES:
            raise UserError(f"There is no picture {kind!r} of a study; {did_you_mean(kind, NAMES)}")
    opened, snapshot = study_snapshot(options)
    pair = _two_parameters(options.params, snapshot) if options.params else None
    if options.output is not None:
        if len(kinds) != 1:
            raise UserError("-o takes one picture; name the PICTURE.")
        _plot_to_file(opened, kinds[0], Path(options.output).expanduser(), pair)
        print(options.output)
        return 0
    _print_plots(opened, snapshot, kinds, pair)
    return 0


def _two_parameters(text: str, snapshot: StudySnapshot) -> tuple[str, str]:
    """The two parameters that were named.

    Raises UserError when one of them is not searched, or there are not two.
    """
    from torchdeck.tui.drawing.study import parameters

    names = text.split(",")
    for name in names:
        if name not in parameters(snapshot):
            raise UserError(f"--params: there is no parameter {name!r}; {did_you_mean(name, parameters(snapshot))}")
    if len(names) != 2:
        raise UserError("--params takes two parameters, with a comma between them.")
    return names[0], names[1]


def _print_plots(opened: Study, snapshot: StudySnapshot, kinds: list[str], pair: tuple[str, str] | None) -> None:
    from rich.console import Console

    from torchdeck.tui.drawing.study import PICTURES, contour, importance

    console = Console(highlight=False)
    width = shutil.get_terminal_size((100, 40)).columns if sys.stdout.isatty() or os.environ.get("COLUMNS") else 100
    for kind in kinds:
        if kind == "importance":
            from torchdeck.core.search.importance import importances

            lines = importance(importances(opened), "importance (fANOVA)", width, 20, _STYLES)
        elif kind == "contour":
            lines = contour(snapshot, None, width, 20, _STYLES, pair)
        else:
            lines = PICTURES[kind][0](snapshot, None, width, 20, _STYLES)
        for line in lines:
            console.print(line, soft_wrap=True)


def _plot_to_file(opened: Study, kind: str, path: Path, pair: Any) -> None:
    """With Optuna's own pictures."""
    import warnings

    from torchdeck.core import files

    form = path.suffix.lower().lstrip(".")
    if form not in ("png", "svg", "pdf"):
        raise UserError(f"-o {str(path)!r}: name a .png, .svg or .pdf file.")
    import matplotlib

    matplotlib.use("Agg")
    import optuna.visualization.matplotlib as pictures

    name = {
        "history": "optimization_history",
        "slices": "slice",
        "contour": "contour",
        "parallel": "parallel_coordinate",
        "pareto": "pareto_front",
        "intermediate": "intermediate_values",
        "edf": "edf",
        "importance": "param_importances",
    }[kind]
    several = len(opened.objectives) > 1 and kind not in ("pareto", "intermediate")
    options: dict[str, Any] = (
        {"target": lambda t: t.values[0], "target_name": opened.objectives[0].name} if several else {}
    )
    if kind == "contour" and pair:
        options["params"] = list(pair)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            axes = getattr(pictures, f"plot_{name}")(opened.optuna, **options)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{kind} can't be drawn: {str(error).splitlines()[0]}") from None
        first = axes if hasattr(axes, "figure") else axes.flat[0]
        try:
            with files.replacing(path) as file:
                first.figure.savefig(file, format=form, dpi=120, bbox_inches="tight")
        except OSError as error:
            raise UserError(f"{str(path)!r} can't be written: {error.strerror}.") from None
