"""What the workbench remembers between visits: the experiment that was last used, and how charts are looked at."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torchdeck.core import files
from torchdeck.core.home import private_folder, state_folder

if TYPE_CHECKING:
    from torchdeck.tui.drawing.chart import View


@dataclass
class Memory:
    """Remembered values; what can't be read is forgotten, and what can't be written is not remembered."""

    #: Raw tables of the experiment, as in a TOML file; None at the first visit.
    experiment: dict[str, Any] | None = None
    theme: str | None = None
    #: Fields of the charts' view.
    view: dict[str, Any] = field(default_factory=dict)
    #: How the list of runs is sorted, and its columns.
    runs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Memory:
        """What was remembered last."""
        memory = cls()
        with contextlib.suppress(OSError, ValueError):
            values = json.loads((state_folder() / "workbench.json").read_text(encoding="utf-8"))
            if isinstance(values, dict):
                if isinstance(values.get("experiment"), dict):
                    memory.experiment = values["experiment"]
                if isinstance(values.get("theme"), str):
                    memory.theme = values["theme"]
                for name in ("view", "runs"):
                    if isinstance(values.get(name), dict):
                        setattr(memory, name, values[name])
        return memory

    def remember_view(self, view: View) -> None:
        """How charts are looked at, but for zoom and cursor, which belong to one run."""
        self.view = {k: v for k, v in asdict(view).items() if k not in ("zoom", "cursor")}

    def chart_view(self, now: View) -> View:
        """The remembered view, with the zoom and cursor of ``now``."""
        try:
            view = replace(now, **self.view)
        except TypeError:
            return now
        good = (
            view.x in ("step", "epoch", "time") and isinstance(view.smoothing, int | float) and 0 <= view.smoothing < 1
        )
        return view if good else now

    def save(self) -> None:
        """Remember now."""
        with contextlib.suppress(OSError):
            files.write_text(private_folder(state_folder()) / "workbench.json", json.dumps(vars(self), default=str))
