"""The verbs: runs, show, export, catalog, doctor. None imports torch unless it must."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from core.errors import UserError


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


# --- attach ----------------------------------------------------------------------------------------------------------


def attach_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck attach``."""
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="a run's name or directory (default: the one that goes on)"
    )
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where runs are kept (default: runs)")
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")


def attach(options: argparse.Namespace) -> int:
    """Open the workbench on a run."""
    from core.runs.directory import find
    from core.runs.live import live_runs
    from tui.app import check_terminal, run

    check_terminal()
    root = Path(options.runs).expanduser()
    if options.run is not None:
        path = find(options.run, root)
    else:
        live = live_runs()
        if not live:
            raise UserError("No run is going on on this machine; name one: torchdeck attach RUN.")
        path = live[-1].path
    return run(path.parent, None, path, not options.no_mouse)


# --- runs ------------------------------------------------------------------------------------------------------------


def runs_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck runs``."""
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where runs are kept (default: runs)")
    parser.add_argument("--json", action="store_true", help="as a JSON list")


def runs(options: argparse.Namespace) -> int:
    """List the runs, the newest last."""
    from core.runs.listing import list_runs

    root = Path(options.runs).expanduser()
    found, broken = list_runs(root)
    for sentence in broken:
        print(f"warning: {sentence}", file=sys.stderr)
    if options.json:
        _print_json([{**run.values, "path": str(run.path), "status": run.status} for run in found])
        return 0
    if not found:
        print(f"no runs in {str(root)!r}")
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("run", "status", "data", "model"):
        table.add_column(column, no_wrap=True)
    for column in ("epoch", "val", "test"):
        table.add_column(column, justify="right", no_wrap=True)
    for run in found:
        epochs = f"{run.get('epoch', 0)}/{run.get('epochs', '?')}"
        cells = (run.name, run.status, run.get("data", "-"), str(run.get("model", "-")).rpartition(":")[2], epochs,
                 _main_metric(run.get("val")), _main_metric(run.get("test")))  # fmt: skip
        table.add_row(*(Text(_harmless(cell)) for cell in cells))
    console = Console(highlight=False)
    if not sys.stdout.isatty():
        console.width = 200
    console.print(table)
    return 0


def _harmless(value: Any) -> str:
    """Text from somebody's file without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def _main_metric(metrics: Any) -> str:
    if not isinstance(metrics, dict):
        return "-"
    for name in ("accuracy", "rmse", "loss"):
        value = metrics.get(name)
        if isinstance(value, int | float):
            return f"{value:.2%}" if name == "accuracy" else f"{name} {value:.4g}"
    return "-"


# --- show ------------------------------------------------------------------------------------------------------------


def show_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck show``."""
    parser.add_argument("what", metavar="RUN|CHECKPOINT", help="a run's name or directory, or a checkpoint file")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where runs are kept (default: runs)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def show(options: argparse.Namespace) -> int:
    """Show a run, or what is in a checkpoint."""
    path = Path(options.what).expanduser()
    if path.is_file():
        return _show_checkpoint(path, options.json)
    from core.runs.directory import find, read_info, read_metrics

    info = read_info(find(options.what, Path(options.runs).expanduser()))
    epochs = [r for r in read_metrics(info.path) if r.get("event") == "epoch"]
    checkpoints = sorted(p.name for p in (info.path / "checkpoints").glob("*.pt"))
    if options.json:
        _print_json({**info.values, "path": str(info.path), "status": info.status, "epochs_done": epochs,
                     "checkpoints": checkpoints})  # fmt: skip
        return 0
    print(f"{info.path}: {info.status}")
    if info.get("message"):
        for line in str(info.get("message")).splitlines():
            print(f"  {_harmless(line)}")
    for key in ("data", "model", "device", "precision", "parameters", "seed", "git", "note"):
        if info.get(key) not in (None, "", {}):
            print(f"  {key:<12}{_harmless(info.get(key))}")
    for record in epochs[-10:]:
        parts = [f"{part} {_words(record[part])}" for part in ("train", "val") if record.get(part)]
        print(f"  epoch {record['epoch']:<6}{'   '.join(parts)}{'   best' if record.get('best') else ''}")
    if isinstance(info.get("test"), dict):
        print(f"  test        {_words(info.get('test'))}")
    print(f"  checkpoints {', '.join(checkpoints) or 'none'}")
    for line in (info.path / "experiment.toml").read_text(encoding="utf-8").splitlines():
        print(_harmless(line))
    return 0


def _words(metrics: dict[str, Any]) -> str:
    return " ".join(f"{k} {v:.4g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in metrics.items())


def _show_checkpoint(path: Path, as_json: bool) -> int:
    from core.checkpoints.read import load_file, weights_in
    from tui.dry_run import size

    if path.suffix == ".safetensors":
        from core.checkpoints.read import load_weights

        state: Any = None
        weights = load_weights(path, "show")
    else:
        state = load_file(path, "show")
        weights = weights_in(state, path, "show")
    ours = isinstance(state, dict) and "torchdeck" in state
    facts = {"epoch": state["epoch"], "step": state["step"], "best": state["best"]} if ours else {}
    if as_json:
        tensors = {
            n: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")} for n, t in weights.items()
        }
        _print_json({"path": str(path), **facts, "tensors": tensors})
        return 0
    print(
        f"{path}: {size(path.stat().st_size)}, {len(weights)} tensors, {sum(t.numel() for t in weights.values()):,} numbers"
    )
    for key, value in facts.items():
        print(f"  {key:<8}{_harmless(value)}")
    for name, tensor in weights.items():
        shape, kind = "x".join(map(str, tensor.shape)) or "scalar", str(tensor.dtype).removeprefix("torch.")
        print(f"  {_harmless(name):<40} {shape:>16}  {kind}")
    if ours:
        for line in str(state["experiment"]).splitlines():
            print(_harmless(line))
    return 0


# --- export ----------------------------------------------------------------------------------------------------------


def export_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck export``."""
    parser.add_argument("run", metavar="RUN", help="a run's name or directory")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where runs are kept (default: runs)")
    parser.add_argument("--format", choices=("state_dict", "safetensors", "model"), default="state_dict",
                        help="state_dict (.pth), safetensors, or model: the whole module, pickled (.pth)")  # fmt: skip
    parser.add_argument("--checkpoint", default="best", metavar="best|last|FILE", help="which one (default: best)")
    parser.add_argument("-o", "--output", metavar="FILE", help="default: named after the run, in this folder")


def export(options: argparse.Namespace) -> int:
    """Write a run's weights or model to a file."""
    from core.runs.directory import find

    run = find(options.run, Path(options.runs).expanduser())
    from core.checkpoints.export import export as write
    from tui.dry_run import size

    suffix = "safetensors" if options.format == "safetensors" else "pth"
    output = Path(options.output or f"{run.name}.{suffix}").expanduser()
    write(run, options.checkpoint, options.format, output)
    print(f"{output} ({size(output.stat().st_size)})")
    return 0


# --- catalog ---------------------------------------------------------------------------------------------------------


def catalog_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck catalog``."""
    parser.add_argument(
        "kind", nargs="?", help="data, transform, target_transform, model, loss, optimizer, schedule, preset"
    )
    parser.add_argument("name", nargs="?", help="one entry")
    parser.add_argument("--json", action="store_true", help="as JSON")


def catalog(options: argparse.Namespace) -> int:
    """Print what can be picked."""
    from core import catalog as shelves
    from core import toml

    if options.kind == "preset":
        return _presets(options, toml.presets())
    if options.name:
        chosen = [shelves.find(options.kind, options.name)]
    elif options.kind:
        chosen = list(shelves.entries(options.kind))
    else:
        chosen = [e for kind in shelves.KINDS for e in shelves.entries(kind)]
    if options.json:
        _print_json([_entry_json(e) for e in chosen])
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
        "kind": entry.kind, "name": entry.name, "summary": entry.summary,
        "params": [{k: v for k, v in vars(p).items() if v not in (None, (), "")} for p in entry.params],
    }  # fmt: skip


def _presets(options: argparse.Namespace, presets: dict[str, Path]) -> int:
    if options.name:
        if options.name not in presets:
            from core.errors import did_you_mean

            raise UserError(f"There is no preset {options.name!r}; {did_you_mean(options.name, presets)}")
        print(presets[options.name].read_text(encoding="utf-8"), end="")
        return 0
    firsts = {n: p.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for n, p in presets.items()}
    if options.json:
        _print_json(firsts)
    else:
        for name, first in firsts.items():
            print(f"  {name:<16} {first}")
    return 0


# --- doctor ----------------------------------------------------------------------------------------------------------


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck doctor``."""
    parser.add_argument("--runs", default="runs", metavar="DIR", help="where runs are kept (default: runs)")
    parser.add_argument("--json", action="store_true", help="as JSON")


def doctor(options: argparse.Namespace) -> int:
    """Tell what this machine has, and what is missing."""
    from core.doctor import examine
    from tui.dry_run import size

    report = examine(Path(options.runs).expanduser())
    if options.json:
        _print_json(report)
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
    return 1 if any(s.startswith("torch") for s in report["missing"]) else 0
