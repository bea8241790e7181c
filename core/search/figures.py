"""Pictures of a trial for dashboards."""

from __future__ import annotations

from pathlib import Path

from torchdeck.core import files
from torchdeck.core.runs.directory import read_metrics


def curves(run: Path, path: Path) -> bool:
    """Draw the run's loss and its main metric into a PNG file; tells whether there was anything to draw.

    Raises OSError when it can't be written.
    """
    from matplotlib.figure import Figure

    epochs = [record for record in read_metrics(run) if record.get("event") == "epoch"]
    if not epochs:
        return False
    train, val = (epochs[0].get(part, {}) for part in ("train", "val"))
    names = [name for name in ("loss", "accuracy", "rmse") if name in train or name in val]
    if not any(name in val for name in names):  # a detector's loss, say, is there while training only
        names += list(val)[:1]
    if not names:
        return False
    figure = Figure(figsize=(5 * len(names), 3.2), dpi=80)
    for number, name in enumerate(names, 1):
        axes = figure.add_subplot(1, len(names), number)
        for part, style in (("train", "--"), ("val", "-")):
            points = [(e["epoch"], e[part][name]) for e in epochs if isinstance(e.get(part, {}).get(name), int | float)]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=part)
        axes.set_title(name)
        axes.set_xlabel("epoch")
        if axes.lines:
            axes.legend()
    figure.subplots_adjust(left=0.08, right=0.98, top=0.9, bottom=0.16)  # a computed layout draws everything twice
    with files.replacing(path) as file:
        figure.savefig(file, format="png")
    return True
