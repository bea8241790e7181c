"""The process that trains what waits in a queue: ``python -m torchdeck.core.session.serve RUNS``."""

from __future__ import annotations

import sys
from pathlib import Path

from torchdeck.core.machine import launch
from torchdeck.core.session.queue import serve

if __name__ == "__main__":
    launch.run_process(lambda: serve(Path(sys.argv[1])))
