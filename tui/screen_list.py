"""The screens of the workbench. Each is imported when it is first gone to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScreenEntry:
    """A screen: made with (monitor, memory, roots of runs), it has ``recolour()``, and shows the Tabs."""

    key: str
    title: str
    #: What the palette and the help say.
    tooltip: str
    #: Its class, as ``module:name``.
    factory: str


#: By name, in the order of the tabs.
SCREENS: dict[str, ScreenEntry] = {
    "train": ScreenEntry("T", "Train", "The Train screen", "torchdeck.tui.screens.train:TrainScreen"),
    "runs": ScreenEntry(
        "R",
        "Runs",
        "The Runs screen: find, compare and label runs",
        "torchdeck.tui.screens.runs:RunsScreen",
    ),
    "search": ScreenEntry(
        "S",
        "Search",
        "The Search screen: hyperparameter searches",
        "torchdeck.tui.screens.search:SearchScreen",
    ),
    "checkpoints": ScreenEntry(
        "C",
        "Checkpoints",
        "The Checkpoints screen: inspect, evaluate, export and fine-tune weights",
        "torchdeck.tui.screens.checkpoints:CheckpointsScreen",
    ),
}
