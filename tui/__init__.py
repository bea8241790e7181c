"""The terminal of torchdeck.

Our own ``core`` and ``tui`` come before a project's of the same name, also when PYTHONPATH names that project.
"""

import sys
from pathlib import Path

_HOME = str(Path(__file__).resolve().parent.parent)


def _rivals_come_after() -> None:
    for place, entry in enumerate(sys.path):
        if entry == _HOME:
            return
        folder = Path(entry or ".")
        if any((folder / name).exists() for name in ("core", "core.py", "tui", "tui.py")):
            sys.path.insert(place, _HOME)
            return


_rivals_come_after()
