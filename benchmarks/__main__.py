"""``python -m benchmarks [NAME ...]``: all but the longest when none is named; the names are those of BENCHMARKS."""

from __future__ import annotations

import sys

from benchmarks import charts, kill, memory, runs, search, speed, startup, tasks, workbench

BENCHMARKS = {
    "speed": speed.against_others,
    "tasks": tasks.presets,
    "observation": speed.observation,
    "memory": memory.growth,
    "startup": startup.answers,
    "charts": charts.million_points,
    "reader": runs.reader,
    "listing": runs.listing,
    "inspection": runs.inspection,
    "paint": workbench.first_paint,
    "keys": workbench.keys_and_traffic,
    "watching": workbench.training_speed,
    "long": workbench.long_run,
    "kill": kill.loop,
    "trial": search.overhead,
    "digits-search": search.digits,
    "search": search.against_random,
    "search-kill": search.killed,
}

#: Those that take more than some minutes.
LONG = ("kill", "search", "search-kill")


def main() -> int:
    """Run the benchmarks that are named."""
    names = sys.argv[1:] or [n for n in BENCHMARKS if n not in LONG]
    unknown = [n for n in names if n not in BENCHMARKS]
    if unknown:
        print(f"There is no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}.", file=sys.stderr)
        return 2
    results = []
    for name in names:
        print(f"\n== {name}", flush=True)
        results.append(BENCHMARKS[name]())
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
