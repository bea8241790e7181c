"""Training speed: ours, the physical limit, the tutorial's loop, Lightning; and what observing costs."""

from __future__ import annotations

import shutil
import statistics

from benchmarks import loops


def against_others(rounds: int = 5) -> bool:
    """Medians of ratios; the loops take turns, so that a slow minute hits them all."""
    root = loops.torchvision_folder()
    good = True
    try:
        for model, batch_size, steps, slow_steps in (("mlp", 64, 800, 250), ("cnn", 256, 40, 15)):
            times: dict[str, list[float]] = {}
            for _ in range(rounds):
                found = {
                    "fixed batch": loops.apart(loops.fixed_batch, model, batch_size, steps),
                    "torchdeck": loops.apart(loops.torchdeck, model, batch_size, steps),
                    "tutorial": loops.apart(loops.tutorial, model, batch_size, slow_steps, root),
                    "lightning": loops.apart(loops.lightning, model, batch_size, slow_steps, root),
                }
                for name, value in found.items():
                    if value is not None:
                        times.setdefault(name, []).append(value)
            print(f"{model}, batch size {batch_size}")
            for name, values in times.items():
                print(f"  {name:<12} {statistics.median(values):>10,.0f} samples/s")
            limits = {"fixed batch": 0.95, "tutorial": 4.0 if model == "mlp" else 1.0}
            for name in times:
                if name == "torchdeck":
                    continue
                ratio = statistics.median(a / b for a, b in zip(times["torchdeck"], times[name], strict=True))
                limit = limits.get(name)
                verdict = "" if limit is None else f" (limit {limit:g}: {'met' if ratio >= limit else 'MISSED'})"
                good &= limit is None or ratio >= limit
                print(f"  torchdeck / {name}: {ratio:.2f}{verdict}", flush=True)
    finally:
        shutil.rmtree(root)
    return good


def observation(rounds: int = 7) -> bool:
    """The same training with everything observed and with next to nothing."""
    quiet = ("tracking.tensorboard=false", "tracking.every_steps=100")
    ratios = []
    for number in range(rounds):
        speeds = {}
        for observed in (True, False) if number % 2 else (False, True):
            speeds[observed] = loops.apart(loops.torchdeck, "mlp", 64, 800, *(() if observed else quiet))
        ratios.append(speeds[True] / speeds[False])
    cost = 1 - statistics.median(ratios)
    print(f"observing costs {cost:.1%} of a step at batch size 64 (limit 2%: {'met' if cost <= 0.02 else 'MISSED'})")
    return cost <= 0.02
