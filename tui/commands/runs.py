"""Runs: listed, shown, compared, drawn, labelled, deleted."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from torchdeck.core.errors import UserError, count
from torchdeck.core.runs.rows import Row
from torchdeck.core.text import printable
from torchdeck.tui.commands.shared import add_runs, confirmed, find_any, print_json, print_line, runs_roots
from torchdeck.tui.tables import print_table

# --- attach ----------------------------------------------------------------------------------------------------------


def attach_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck attach``."""
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="a run's name or directory (default: the one that is training)"
    )
    add_runs(parser)
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal")


def attach(options: argparse.Namespace) -> int:
    """Open the workbench on a run."""
    from torchdeck.core.runs.live import live_runs
    from torchdeck.tui.app import check_terminal, run_app

    check_terminal()
    if options.run is not None:
        path = find_any(options.run, runs_roots(options))
    else:
        live = live_runs()
        if not live:
            raise UserError("No run is training on this machine; name one: torchdeck attach RUN.")
        path = live[-1].path
    return run_app([path.parent, *runs_roots(options)], None, path, not options.no_mouse)


def runs_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck runs``."""
    parser.add_argument(
        "filter",
        nargs="*",
        metavar="FILTER",
        help="such as: 'val_acc > 0.9' model:cnn tag:paper -status:failed 'size > 1GB' or lr=0.1",
    )
    add_runs(parser)
    parser.add_argument(
        "--sort", default="created", metavar="NAME", help="a field, metric or hyperparameter (default: created)"
    )
    parser.add_argument("-r", "--reverse", action="store_true", help="the greatest first")
    parser.add_argument("--columns", metavar="A,B,...", help="fields, metrics and hyperparameters to show")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON list")
    form.add_argument("--csv", action="store_true", help="as CSV")


def listed(where: list[Path], text: str = "", key: str = "created") -> list[Row]:
    """The runs that a filter lets through, sorted; what can't be read is told on stderr.

    Raises UserError for a filter that is wrong.
    """
    from torchdeck.core.runs.filter import Filter, sort
    from torchdeck.core.runs.listing import RunList

    wanted = Filter(text)
    found = RunList(where)
    rows = found.scan()
    for sentence in found.broken:
        print(f"warning: {printable(sentence)}", file=sys.stderr)
    return sort(wanted.apply(rows), key)


def runs(options: argparse.Namespace) -> int:
    """List the runs, the newest last."""
    from torchdeck.core.runs import rows as as_rows
    from torchdeck.tui.columns import DEFAULT, chosen, filled, on_one_scale

    found = listed(runs_roots(options), " ".join(options.filter), f"{'-' if options.reverse else ''}{options.sort}")
    if options.json:
        print_json([as_rows.row_json(row) | {"name": row.name} for row in found])
        return 0
    names = options.columns.split(",") if options.columns else None
    if options.csv:
        keys = names or [
            "name",
            "path",
            "status",
            "data",
            "model",
            "epoch",
            "epochs",
            "step",
            "watched",
            "result",
            "created",
            "duration",
            "device",
            "size",
            "tags",
            "note",
            *sorted({f"val_{m}" for r in found for m in (r.best or r.last)}),
            *sorted({f"test_{m}" for r in found for m in r.test}),
            *sorted({k for r in found for k in r.hyperparameters}),
        ]
        writer = csv.writer(sys.stdout)
        writer.writerow(keys)
        for row in found:
            writer.writerow([_cell(row, key) for key in keys])
        return 0
    if not found:
        print_line(f"no runs in {', '.join(repr(str(root)) for root in runs_roots(options))}")
        return 0
    columns = chosen(names, found) if names else filled([*chosen(DEFAULT, found)], found)
    columns = on_one_scale(columns, found)
    print_table(
        [c.title for c in columns], [[c.text(row) for c in columns] for row in found], [c.right for c in columns]
    )
    return 0


def _cell(row: Row, key: str) -> Any:
    special = {"path": str(row.path), "watched": row.watched}
    value = special.get(key, row.value(key))
    return " ".join(value) if isinstance(value, tuple) else value


# --- show ------------------------------------------------------------------------------------------------------------


def show_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck show``."""
    parser.add_argument("what", metavar="RUN|CHECKPOINT", help="a run's name or directory, or a checkpoint file")
    add_runs(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def show(options: argparse.Namespace) -> int:
    """Show a run, or what is in a checkpoint."""
    path = Path(options.what).expanduser()
    if path.is_file():
        from torchdeck.tui.commands.checkpoints import show_file

        return show_file(path, options.json)
    from torchdeck.core.runs.directory import read_info, read_metrics

    run = find_any(options.what, runs_roots(options))
    if not (run / "run.json").exists():
        return _show_foreign(run, options.json)
    info = read_info(run)
    epochs = [r for r in read_metrics(info.path) if r.get("event") == "epoch"]
    checkpoints = sorted(p.name for p in (info.path / "checkpoints").glob("*.pt"))
    if options.json:
        print_json(
            {
                **info.values,
                "path": str(info.path),
                "status": info.status,
                "epochs_done": epochs,
                "checkpoints": checkpoints,
            }
        )
        return 0
    print_line(f"{info.path}: {info.status}")
    if info.get("message"):
        for line in str(info.get("message")).splitlines():
            print(f"  {printable(line)}")
    for key in ("data", "model", "device", "precision", "parameters", "seed", "git", "note"):
        if info.get(key) not in (None, "", {}):
            print(f"  {key:<12}{printable(str(info.get(key)))}")
    val = "val"
    if info.get("validated_on") == "test":
        val = "val (test)"
        print_line(
            "  validated   on the test set, which chose the best epoch: its metrics are not those of unseen data"
        )
    for record in epochs[-10:]:
        named = {"train": "train", "val": val}
        parts = [f"{name} {_words(record[part])}" for part, name in named.items() if record.get(part)]
        print_line(f"  epoch {record['epoch']:<6}{'   '.join(parts)}{'   best' if record.get('best') else ''}")
    if isinstance(info.get("test"), dict):
        print_line(f"  test        {_words(info.get('test'))}")
    print_line(f"  checkpoints {', '.join(checkpoints) or 'none'}")
    for line in (info.path / "experiment.toml").read_text(encoding="utf-8").splitlines():
        print(printable(line))
    return 0


def _show_foreign(run: Path, as_json: bool) -> int:
    from torchdeck.core.runs import rows as as_rows
    from torchdeck.core.runs.foreign import foreign_row
    from torchdeck.core.runs.opened import histories

    row = foreign_row(run)
    if as_json:
        print_json(as_rows.row_json(row))
        return 0
    history = histories([run])[0].history
    print_line(f"{run}: TensorBoard events of another tool")
    if row.message:
        print(f"  {row.message}")
    series = {name: history.series(name) for name in history.names()}
    print_table(
        ["scalar", "points", "last step", "last", "least", "greatest"],
        [
            [name, f"{s.count:,}", f"{s.steps[-1]:,.0f}", f"{s.last:.6g}", f"{s.low.min():.6g}", f"{s.high.max():.6g}"]
            for name, s in series.items()
            if s is not None and len(s)
        ],
        [False, *[True] * 5],
    )
    return 0


def _words(metrics: dict[str, Any]) -> str:
    return " ".join(f"{k} {v:.4g}" if isinstance(v, int | float) else f"{k} {v}" for k, v in metrics.items())


# --- diff of runs ----------------------------------------------------------------------------------------------------


# --- plot ------------------------------------------------------------------------------------------------------------


def plot_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck plot``."""
    parser.add_argument("run", nargs="+", metavar="RUN", help="runs' names or directories")
    add_runs(parser)
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="such as val/loss or accuracy; may be given often (default: loss and accuracy)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="a .png or .svg file (default: in the terminal)")
    parser.add_argument("--x", choices=("step", "epoch", "time"), default="step", help="the x axis (default: step)")
    parser.add_argument(
        "--smooth", type=float, default=0.6, metavar="WEIGHT", help="exponential average, 0 to 0.999 (default: 0.6)"
    )
    parser.add_argument("--log", action="store_true", help="logarithmic y axis")


def plot(options: argparse.Namespace) -> int:
    """Draw the curves of runs."""
    from torchdeck.tui.plot import draw

    if not 0 <= options.smooth < 1:
        raise UserError(f"--smooth {options.smooth:g} is out of range; it must be at least 0 and less than 1.")
    paths = [find_any(name, runs_roots(options)) for name in options.run]
    return draw(paths, options.metric, options.output, options.x, options.smooth, options.log)


# --- tensorboard -----------------------------------------------------------------------------------------------------


def tensorboard_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck tensorboard``."""
    add_runs(parser)
    parser.add_argument("--port", type=int, default=6006, help="port on this machine (default: 6006)")


def tensorboard(options: argparse.Namespace) -> int:
    """Start TensorBoard on the runs, for this machine only, and say how to reach it from elsewhere."""
    import getpass
    import socket
    import subprocess

    where = runs_roots(options)
    for root in where:
        if not root.is_dir():
            raise UserError(f"There is no folder {str(root)!r}.")
    words = [sys.executable, "-m", "tensorboard.main", "--host", "localhost", "--port", str(options.port)]
    if len(where) == 1:
        words += ["--logdir", str(where[0])]
    else:
        words += ["--logdir_spec", ",".join(f"{root.name or number}:{root}" for number, root in enumerate(where))]
    with socket.socket() as probe:
        if probe.connect_ex(("localhost", options.port)) == 0:
            raise UserError(f"Port {options.port} is taken; choose another with --port.")
    host = socket.gethostname()
    print(f"http://localhost:{options.port}/")
    print(f"from elsewhere: ssh -L {options.port}:localhost:{options.port} {getpass.getuser()}@{host}", flush=True)
    try:
        return subprocess.call(words)
    except KeyboardInterrupt:
        return 130


# --- label, delete, trash --------------------------------------------------------------------------------------------


def label_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck label``."""
    parser.add_argument("run", nargs="+", metavar="RUN", help="runs' names or directories")
    add_runs(parser)
    parser.add_argument("--title", help="what the run is called in lists; empty: its directory's name")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="add a tag; may be given often")
    parser.add_argument("--untag", action="append", default=[], metavar="TAG", help="remove a tag")
    parser.add_argument("--note", help="anything worth remembering; empty: none")
    parser.add_argument(
        "--archive",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="archive it: lists show it only with archived:yes",
    )


def label(options: argparse.Namespace) -> int:
    """Give runs a title, tags, a note, or put them away."""
    from dataclasses import replace

    from torchdeck.core.runs import labels
    from torchdeck.core.runs.listing import row_at

    for path in [find_any(name, runs_roots(options)) for name in options.run]:
        row, said = row_at(path), labels.read_labels(path)
        if options.title is not None:
            said = replace(said, title=options.title or None)
        if options.tag or options.untag:
            said = replace(
                said, tags=tuple(t for t in dict.fromkeys((*row.tags, *options.tag)) if t not in options.untag)
            )
        if options.note is not None:
            said = replace(said, note=options.note)
        if options.archive is not None:
            said = replace(said, archived=options.archive)
        labels.write(path, said)
    return 0


def delete_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck delete``."""
    parser.add_argument("run", nargs="+", metavar="RUN", help="runs' names or directories")
    add_runs(parser)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def delete(options: argparse.Namespace) -> int:
    """Move runs to the trash."""
    from torchdeck.core.runs import trash
    from torchdeck.core.runs.rows import size_of
    from torchdeck.tui.columns import size

    paths = [find_any(name, runs_roots(options)) for name in options.run]
    total = size(sum(size_of(path) for path in paths))
    if not confirmed(f"Move {count(len(paths), 'run')} ({total}) to the trash?", options.yes):
        raise UserError("Nothing was deleted; say --yes to delete without being asked.")
    for path in paths:
        trash.move_to_trash(path, trash.root_of(path, runs_roots(options)))
        print_line(f"{path} is in the trash")
    return 0


def trash_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck trash``."""
    add_runs(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--restore", metavar="TRASHED RUN", help="restore a run to where it was")
    what.add_argument("--empty", action="store_true", help="delete what is in the trash permanently")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def trash(options: argparse.Namespace) -> int:
    """Show the trash, take a run back, or empty it."""
    from torchdeck.core.runs import trash as bin_
    from torchdeck.tui.columns import size

    found = [(root, one) for root in runs_roots(options) for one in bin_.contents(root)]
    if options.restore:
        matching = [one for _, one in found if one.origin.name.startswith(options.restore)]
        if not matching:
            raise UserError(f"There is no run {options.restore!r} in the trash.")
        bin_.take_from_trash(matching[-1])
        print_line(f"{matching[-1].origin} was restored")
        return 0
    if options.empty:
        if not confirmed(f"Delete {count(len(found), 'run')}permanently?", options.yes):
            raise UserError("Nothing was deleted; say --yes to delete without being asked.")
        print(f"{size(sum(bin_.empty(root) for root in runs_roots(options)))} freed")
        return 0
    if not found:
        print("the trash is empty")
        return 0
    print_table(["run", "size"], [[str(one.origin), size(one.size)] for _, one in found], [False, True])
    return 0
