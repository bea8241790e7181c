"""What the workbench remembers between visits: the experiment that was last used, and how charts are looked at."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

from core import files
from core.home import private_folder, state_folder


@dataclass
class Memory:
    """Remembered values; what can't be read is forgotten, and what can't be written is not remembered."""

    #: Raw tables of the experiment, as in a TOML file; None at the first visit.
    experiment: dict[str, Any] | None = None
    theme: str | None = None
    #: Fields of the charts' view.
    view: dict[str, Any] = field(default_factory=dict)

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
                if isinstance(values.get("view"), dict):
                    memory.view = values["view"]
        return memory

    def save(self) -> None:
        """Remember now."""
        with contextlib.suppress(OSError):
            files.write_text(private_folder(state_folder()) / "workbench.json", json.dumps(vars(self), default=str))
