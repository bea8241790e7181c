"""Where data sets are looked for. Imports no torch, so that ``torchdeck doctor`` and ``catalog`` answer at once."""

from __future__ import annotations

import os
from pathlib import Path

#: Debian's package dataset-fashion-mnist.
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def data_roots(root: str | None) -> list[Path]:
    """The folders to look in, in order; the last is where downloads go.

    ``root`` (data.root) alone where it is given; else $TORCHDECK_DATA, ./data and the user's cache.
    """
    if root:
        return [Path(root).expanduser()]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    asked = os.environ.get("TORCHDECK_DATA")
    return [*([Path(asked).expanduser()] if asked else []), Path("data"), cache / "torchdeck" / "data"]
