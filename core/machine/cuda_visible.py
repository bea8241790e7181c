"""What CUDA_VISIBLE_DEVICES leaves to CUDA, read as CUDA reads it, without torch.

The list ends at its first invalid entry (a negative or too large number, a UUID that no GPU or several begin with); a
device that is named twice makes it empty (docs.nvidia.com/cuda/cuda-c-programming-guide, CUDA Environment Variables).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence


def visible_entries() -> list[str] | None:
    """The entries as they are written, up to the first that is no number and no UUID; None: all GPUs are visible."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return None
    prefix = next((p for p in ("GPU-", "MIG-") if value.startswith(p)), "")
    found: list[str] = []
    for part in value.split(","):
        entry = part if prefix else _ordinal(part)
        if not entry.startswith(prefix) or not entry:
            break
        if entry in found:
            return []
        found.append(entry)
    return found


def _ordinal(part: str) -> str:
    """The number that ``part`` begins with, which is all that CUDA reads of it; empty for none or a negative one."""
    match = re.match(r"[+]?([0-9]+)|-0+(?![0-9])", part.strip())
    return str(int(match.group(1) or 0)) if match else ""


def visible(uuids: Sequence[str], parts: Mapping[str, int]) -> list[int]:
    """The places in ``uuids`` (those of all GPUs, in their order) that CUDA may use, in its order.

    ``parts``: the UUID of each MIG device and the place of the GPU that it is part of. GPUs of which several parts are
    named come once.
    """
    wanted = visible_entries()
    if wanted is None:
        return list(range(len(uuids)))
    known = {**parts} if wanted and wanted[0].startswith("MIG-") else {u: i for i, u in enumerate(uuids) if u}
    found: list[str] = []
    places: list[int] = []
    for entry in wanted:
        if entry.isdigit():
            matches = [(entry, int(entry))] if int(entry) < len(uuids) else []
        elif entry.startswith("MIG-GPU-"):  # MIG-GPU-<UUID>/<GPU instance>/<compute instance>, of drivers before R470
            uuid = entry.removeprefix("MIG-").partition("/")[0]
            matches = [(entry, i) for i, known_uuid in enumerate(uuids) if known_uuid == uuid]
        else:
            matches = [(uuid, i) for uuid, i in known.items() if uuid.startswith(entry)]
        if len(matches) != 1:
            break
        [(uuid, place)] = matches
        if uuid in found:
            return []
        found.append(uuid)
        places.append(place)
    return list(dict.fromkeys(places))
