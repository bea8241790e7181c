"""Which files and folders hold TensorBoard's events; to look for them needs no NumPy."""

from __future__ import annotations

import os
from pathlib import Path

#: Folders that Keras and others write the parts of one run to.
PARTS = {
    "train": "train",
    "training": "train",
    "validation": "val",
    "val": "val",
    "valid": "val",
    "eval": "val",
    "test": "test",
}


def event_files(folder: Path) -> list[str]:
    """Names of the event files in a folder, the oldest first.

    Raises OSError when it can't be read.
    """
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if ".tfevents." in e.name and e.is_file()]
    return sorted(names, key=_begun)


def _begun(name: str) -> tuple[float, str]:
    stamp = name.partition(".tfevents.")[2].partition(".")[0]
    return (float(stamp) if stamp.isdigit() else 0.0, name)


def parts_of(path: Path) -> dict[str, str]:
    """The folders of a run that hold events, and the part that each stands for: ``""`` for the run's own.

    Raises OSError when it can't be read.
    """
    found = {"": ""} if event_files(path) else {}
    if not found:
        for entry in sorted(path.iterdir()):
            if entry.name in PARTS and entry.is_dir() and event_files(entry):
                found[entry.name] = PARTS[entry.name]
    return found
