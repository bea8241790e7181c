"""How fast the command answers where torch isn't needed."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time


def answers(rounds: int = 7) -> bool:
    """Seconds until ``--help``, ``catalog`` and ``runs`` have answered, beside a bare Python."""
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for words in (
            ("-c", "pass"),
            ("-m", "torchdeck", "--help"),
            ("-m", "torchdeck", "catalog"),
            ("-m", "torchdeck", "runs"),
        ):
            times = []
            for _ in range(rounds):
                began = time.perf_counter()
                subprocess.run(
                    [sys.executable, *words, *(("--runs", folder) if words[-1] == "runs" else ())],
                    check=True,
                    capture_output=True,
                )
                times.append(time.perf_counter() - began)
            seconds = statistics.median(times)
            good &= seconds < 0.3
            name = "python -c pass" if words[0] == "-c" else f"torchdeck {words[-1]}"
            print(f"{name:<20} {seconds * 1000:5.0f} ms")
    return good
