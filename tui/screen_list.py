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
        "The Runs screen: every run, found, compared, labelled",
        "torchdeck.tui.screens.runs:RunsScreen",
    ),
    "search": ScreenEntry(
        "S",
        "Search",
        "The Search screen: studies, from one key to many workers",
        "torchdeck.tui.screens.search:SearchScreen",
    ),
    "checkpoints": ScreenEntry(
        "C",
        "Checkpoints",
        "The Checkpoints screen: files of weights, looked into and taken further",
        "torchdeck.tui.screens.checkpoints:CheckpointsScreen",
    ),
}
