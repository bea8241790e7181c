"""``python -m benchmarks [NAME ...]``: speed, observation, memory, startup, kill; all but kill when none is named."""

from __future__ import annotations

import sys

from benchmarks import kill, memory, speed, startup

BENCHMARKS = {
    "speed": speed.against_others, "observation": speed.observation, "memory": memory.growth, "startup": startup.answers,
    "kill": kill.loop,
}  # fmt: skip


def main() -> int:
    """Run the benchmarks that are named."""
    names = sys.argv[1:] or [n for n in BENCHMARKS if n != "kill"]
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
