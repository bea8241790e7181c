"""What differs between runs, or between files of weights."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from torchdeck.core.errors import UserError, count
from torchdeck.core.runs.listing import row_at
from torchdeck.tui.commands.checkpoints import file_of, tell_wrapped
from torchdeck.tui.commands.shared import add_runs, find_any, print_json, runs_roots
from torchdeck.tui.tables import print_table


def diff_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck diff``."""
    parser.add_argument("what", nargs="+", metavar="RUN|FILE", help="two or more runs, or two files of weights")
    add_runs(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def diff(options: argparse.Namespace) -> int:
    """What differs between runs' experiments, or between two files of weights."""
    if len(options.what) < 2:
        raise UserError("diff needs two runs or two files of weights.")
    if any(Path(text).expanduser().is_file() for text in options.what):
        return _diff_files(options)
    return _diff_runs(options.what, runs_roots(options), options.json)


def _diff_files(options: argparse.Namespace) -> int:
    from torchdeck.core.checkpoints.archive import inspect_file
    from torchdeck.core.checkpoints.compare import diff_weights as compare
    from torchdeck.tui.tensor_tree import shape_words

    if len(options.what) != 2:
        raise UserError("diff compares two files of weights at a time.")
    first, second = (inspect_file(file_of(text, options)) for text in options.what)
    found = compare(first.weights(), second.weights())
    tell_wrapped(first, second)
    if options.json:
        print_json([{**vars(c), "change": None if math.isnan(c.change) else c.change} for c in found])
        return 0
    shown = [c for c in found if c.kind != "same"]
    print_table(
        ["tensor", "", "before", "after", "change"],
        [
            [
                c.name,
                c.kind,
                shape_words(c.before),
                shape_words(c.after),
                "" if math.isnan(c.change) else f"{c.change:.4g}",
            ]
            for c in shown
        ],
        [False, False, True, True, True],
    )
    print(f"{len(found) - len(shown)} of {count(len(found), 'tensor')} are the same")
    return 0


def _diff_runs(names: list[str], where: list[Path], as_json: bool) -> int:
    """What differs between the experiments of runs, and their results."""
    from torchdeck.core.runs.compare import run_differences
    from torchdeck.tui.columns import result_text, value_text

    rows = [row_at(find_any(name, where)) for name in names]
    found = run_differences(rows)
    results = {key: [row.value(key) for row in rows] for key in ("status", "last_loss", "epoch", "duration")}
    results |= {f"test_{m}": [row.test.get(m) for row in rows] for m in dict.fromkeys(m for r in rows for m in r.test)}
    if as_json:
        print_json(
            {
                "runs": [row.name for row in rows],
                "differences": {d.key: list(d.values) for d in found},
                "results": results,
            }
        )
        return 0
    best = ["best", *(f"{row.watched_text} {result_text(row)}".strip() for row in rows)]
    lines = [[d.key, *(value_text(d.key, v) if v is not None else "-" for v in d.values)] for d in found]
    lines.append(best)
    lines += [
        [key, *(value_text(key, v) for v in values)]
        for key, values in results.items()
        if any(v is not None for v in values)
    ]
    print_table(["", *(row.name for row in rows)], lines)
    if not found:
        print("their experiments are the same")
    return 0
