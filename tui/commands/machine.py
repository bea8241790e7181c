"""What this machine has, and what can be picked: catalog, doctor."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from torchdeck.core.errors import UserError
from torchdeck.tui.commands.shared import add_runs, print_json, runs_roots

# --- catalog ---------------------------------------------------------------------------------------------------------


def catalog_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck catalog``."""
    parser.add_argument(
        "kind",
        nargs="?",
        help="data, transform, target_transform, model, loss, optimizer, schedule, sampler, pruner, preset",
    )
    parser.add_argument("name", nargs="?", help="one entry")
    parser.add_argument("--json", action="store_true", help="as JSON")


def catalog(options: argparse.Namespace) -> int:
    """Print what can be picked."""
    from torchdeck.core import catalog as shelves
    from torchdeck.core.experiment import toml

    if options.kind == "preset":
        return _presets(options, toml.presets())
    if options.name:
        chosen = [shelves.find(options.kind, options.name)]
    elif options.kind:
        chosen = list(shelves.entries(options.kind))
    else:
        chosen = [e for kind in shelves.KINDS for e in shelves.entries(kind)]
    if options.json:
        print_json([_entry_json(e) for e in chosen])
        return 0
    last = ""
    for entry in chosen:
        if entry.kind != last:
            print(f"{entry.kind}:")
            last = entry.kind
        print(f"  {entry.name:<22} {entry.summary}")
        if options.name:
            for p in entry.params:
                limits = f", {p.limits()}" if p.low is not None or p.high is not None else ""
                choices = f" ({', '.join(p.choices)})" if p.choices else ""
                default = "required" if p.required else f"default {p.default}"
                print(f"      {p.name:<22} {p.help}{choices}; {p.describe()}{limits}; {default}")
    return 0


def _entry_json(entry: Any) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "summary": entry.summary,
        "params": [{k: v for k, v in vars(p).items() if v not in (None, (), "")} for p in entry.params],
    }


def _presets(options: argparse.Namespace, presets: dict[str, Path]) -> int:
    if options.name:
        if options.name not in presets:
            from torchdeck.core.errors import did_you_mean

            raise UserError(f"There is no preset {options.name!r}; {did_you_mean(options.name, presets)}")
        print(presets[options.name].read_text(encoding="utf-8"), end="")
        return 0
    firsts = {n: p.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for n, p in presets.items()}
    if options.json:
        print_json(firsts)
    else:
        for name, first in firsts.items():
            print(f"  {name:<16} {first}")
    return 0


# --- doctor ----------------------------------------------------------------------------------------------------------


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck doctor``."""
    add_runs(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def doctor(options: argparse.Namespace) -> int:
    """Tell what this machine has, and what is missing."""
    from torchdeck.core.data.roots import DEBIAN_FASHION
    from torchdeck.core.data.roots import data_roots as data_roots
    from torchdeck.core.machine.doctor import complete, examine
    from torchdeck.tui.columns import size

    report = examine((*data_roots(None), DEBIAN_FASHION), runs_roots(options)[0])
    if options.json:
        print_json(report)
        return 0
    for name, version in report["versions"].items():
        print(f"{name:<18}{version}")
    for device in report["devices"]:
        print(f"device            {device['device']}: {device['name']}, {size(device['memory'])}")
    print(f"trains on         {report['chosen']}")
    for root in report["data_roots"]:
        print(f"data root         {root['path']}: {root['state']}")
    print(f"runs              {report['runs']['path']}: {report['runs']['state']}")
    for sentence in report["missing"]:
        print(f"missing           {sentence}")
    return 0 if complete() else 1
