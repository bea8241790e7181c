"""What people say of a run afterwards: its title, tags, a note, whether it is put away. In a file of its own, for
run.json belongs to the process that trains."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchdeck.core import files
from torchdeck.core.errors import UserError

FILE = "labels.json"


@dataclass(frozen=True)
class Labels:
    """None: as the experiment has it."""

    title: str | None = None
    tags: tuple[str, ...] | None = None
    note: str | None = None
    archived: bool = False


def read_labels(run: Path) -> Labels:
    """The labels of a run; none where the file is missing or can't be understood."""
    try:
        values: Any = json.loads((run / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return Labels()
    if not isinstance(values, dict):
        return Labels()
    title, tags, note = values.get("title"), values.get("tags"), values.get("note")
    return Labels(
        title if isinstance(title, str) and title else None,
        tuple(map(str, tags)) if isinstance(tags, list) else None,
        note if isinstance(note, str) else None,
        values.get("archived") is True,
    )


def write(run: Path, labels: Labels) -> None:
    """Put them there, whole or not at all.

    Raises UserError when the run can't be written.
    """
    try:
        files.write_text(run / FILE, json.dumps({k: v for k, v in asdict(labels).items() if v not in (None, False)}))
    except OSError as error:
        raise UserError(f"The run {str(run)!r} can't be labelled: {error.strerror}.") from None
