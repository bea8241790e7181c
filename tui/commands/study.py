"""``torchdeck study``: studies listed, shown, exported, steered."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from torchdeck.core import jsons
from torchdeck.core.errors import UserError
from torchdeck.tui.commands.shared import add_runs, opened_study, print_json, runs_roots, study_snapshot
from torchdeck.tui.commands.study_plot import NAMES, plot_study
from torchdeck.tui.tables import print_table

if TYPE_CHECKING:
    from torchdeck.core.search.snapshot import StudySnapshot
    from torchdeck.core.search.study import Study

_VERBS: dict[str, str] = {
    "list": "the studies below --runs",
    "show": "a study's trials",
    "best": "the best trial's experiment as TOML, which torchdeck --batch takes",
    "importance": "which searched fields matter",
    "export": "all trials as CSV or JSON",
    "plot": ", ".join(NAMES),
    "stop": "stop all workers after a checkpoint, or one trial",
    "prune": "prune a running trial",
    "enqueue": "try these settings next",
    "edit": "change the search space and keep the trials",
}


def study_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``torchdeck study``."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    made = {}
    for name, words in _VERBS.items():
        made[name] = verb = verbs.add_parser(name, help=words, description=words, allow_abbrev=False)
        if name != "list":
            verb.add_argument("study", metavar="STUDY", help="its name, its directory, or URL#NAME")
        add_runs(verb)
        if name in ("list", "show", "importance", "best"):
            verb.add_argument("--json", action="store_true", help="as JSON")
    made["show"].add_argument("--sort", choices=("number", "value"), default="number", help="in what order")
    made["best"].add_argument("--trial", type=int, metavar="N", help="of this trial instead of the best one")
    made["importance"].add_argument(
        "--by", choices=("fanova", "ped-anova", "mdi"), default="fanova", help="the evaluator"
    )
    made["importance"].add_argument("--objective", metavar="NAME", help="of which objective (default: the first)")
    form = made["export"].add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="as CSV (the default)")
    form.add_argument("--json", action="store_true", help="as JSON")
    made["export"].add_argument("-o", "--output", metavar="FILE", help="into this file")
    made["plot"].add_argument(
        "kind", nargs="*", metavar="PICTURE", help=f"{_VERBS['plot']} (default: history and slices)"
    )
    made["plot"].add_argument("-o", "--output", metavar="FILE", help="into a .png, .svg or .pdf file, of one PICTURE")
    made["plot"].add_argument("--params", metavar="A,B", help="of a contour: which two parameters")
    made["stop"].add_argument("--trial", type=int, metavar="N", help="only this trial; its value so far counts")
    made["prune"].add_argument("trial", type=int, metavar="N", help="the trial's number")
    made["enqueue"].add_argument(
        "settings", nargs="+", metavar="KEY=VALUE", help="such as optimizer.lr=0.01; what is left out is sampled"
    )
    made["edit"].add_argument(
        "settings", nargs="+", metavar="KEY=RANGE", help="such as 'optimizer.lr=1e-4 .. 0.01 log'; KEY= takes it out"
    )


def study(options: argparse.Namespace) -> int:
    """One of the verbs."""
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list,
        "show": _show,
        "best": _best,
        "importance": _importance,
        "export": _export,
        "plot": plot_study,
        "stop": _stop,
        "prune": _prune,
        "enqueue": _enqueue,
        "edit": _edit,
    }
    return commands[options.verb](options)


# --- list, show ------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    from torchdeck.core.search.folders import folders
    from torchdeck.core.search.opening import open_folder
    from torchdeck.core.search.snapshot import StudyPoller
    from torchdeck.core.text import number

    looks = []
    for root in runs_roots(options):
        for folder in folders(root):
            try:
                looks.append(StudyPoller(open_folder(folder)).poll())
            except UserError as error:
                print(f"warning: {error}", file=sys.stderr)
    looks.sort(key=lambda snapshot: snapshot.begun)
    if options.json:
        print_json([_summary(snapshot) for snapshot in looks])
        return 0
    if not looks:
        print(f"no studies in {', '.join(repr(str(root)) for root in runs_roots(options))}")
        return 0
    rows = []
    for snapshot in looks:
        best = snapshot.row(snapshot.best[0]) if snapshot.best else None
        told = number(best.value, snapshot.objectives[0].name) if best else "-"
        rows.append(
            [
                snapshot.name,
                f"{_over(snapshot)}/{snapshot.limits.trials}",
                ", ".join(o.text for o in snapshot.objectives),
                told,
                str(snapshot.working or ""),
                snapshot.sampler,
                snapshot.pruner,
                str(snapshot.folder),
            ]
        )
    print_table(["study", "trials", "seeks", "best", "running", "sampler", "pruner", "directory"], rows)
    return 0


def _over(snapshot: StudySnapshot) -> int:
    return sum(n for state, n in snapshot.counts.items() if state not in ("waiting", "running"))


def _summary(snapshot: StudySnapshot) -> dict[str, Any]:
    best = snapshot.row(snapshot.best[0]) if snapshot.best else None
    return {
        "name": snapshot.name,
        "directory": str(snapshot.folder),
        "objectives": [o.text for o in snapshot.objectives],
        "trials": snapshot.limits.trials,
        "states": dict(snapshot.counts),
        "running": snapshot.working,
        "best": list(snapshot.best),
        "best_value": best.value if best else None,
        "sampler": snapshot.sampler,
        "pruner": snapshot.pruner,
        "space": {key: d.text for key, d in snapshot.dimensions.items()},
    }


def _show(options: argparse.Namespace) -> int:
    from torchdeck.core.search.report import as_json
    from torchdeck.core.search.rows import short, shown
    from torchdeck.core.text import duration, number
    from torchdeck.tui.drawing.sparkline import scale_of, sparkline

    opened, snapshot = study_snapshot(options)
    found = list(snapshot.rows)
    if options.sort == "value":
        turn = -1 if snapshot.objectives[0].higher else 1
        found.sort(key=lambda row: (not row.values, row.state != "complete", turn * row.value if row.values else 0))
    if options.json:
        print_json(_summary(snapshot) | {"list": [as_json(row, opened) for row in found]})
        return 0
    states = ", ".join(f"{n} {state}" for state, n in snapshot.counts.items())
    print(
        f"{snapshot.name}: {', '.join(o.text for o in snapshot.objectives)}; {states or 'no trials yet'}; "
        f"{snapshot.limits.trials} in all; {snapshot.folder}"
    )
    keys = snapshot.keys
    scale = scale_of([v for _, v in row.curve] for row in found)
    rows = []
    for row in found:
        mark = "<" if row.former else " "
        if row.number in snapshot.best:
            mark = "*"
        values = [
            number(row.values[i], o.name) if i < len(row.values) else "-" for i, o in enumerate(snapshot.objectives)
        ]
        took = row.seconds()
        rows.append(
            [
                f"{row.number}{mark}",
                row.state,
                *values,
                duration(took) if took is not None else "-",
                sparkline([v for _, v in row.curve], 10, scale),
                *(shown(row.fields[k]) if k in row.fields else "-" for k in keys),
                row.reason,
            ]
        )
    titles = ["trial", "state", *(o.name for o in snapshot.objectives), "time", "curve", *(short(k) for k in keys), ""]
    print_table(titles, rows, [True, False, *(True for _ in snapshot.objectives), True])
    return 0


# --- best, importance, export
# ------------------------------------------------------------------------------------------


def _best(options: argparse.Namespace) -> int:
    from torchdeck.core.experiment import toml
    from torchdeck.core.search.rows import settings, trial_row
    from torchdeck.core.text import number

    opened, snapshot = study_snapshot(options)
    wanted = options.trial
    if wanted is None and snapshot.best:
        wanted = snapshot.best[0]
    if wanted is None:
        raise UserError(f"No trial of {snapshot.name!r} is complete yet.")
    row = snapshot.row(wanted)
    if row is None:
        raise UserError(f"There is no trial {wanted} in {snapshot.name!r}.")
    if options.json:
        print_json(
            {
                "trial": row.number,
                "fields": dict(row.fields),
                "params": dict(row.params),
                "values": list(row.values),
                "run": row.run,
            }
        )
        return 0
    if opened.experiment.search.function is not None and not row.run:
        # The function trained no run of torchdeck's: its parameters are all that there is to take over.
        text = tomli_w.dumps({key: value for key, value in row.fields.items() if value is not None})
    else:
        text = toml.dumps(opened.experiment_of_trial(row.fields, row.run))
    told = ", ".join(f"{o.name} {number(v, o.name)}" for o, v in zip(snapshot.objectives, row.values, strict=False))
    print(f"# Trial {row.number} of the study {snapshot.name}: {told or row.state}")
    trial = next(t for t in opened.optuna.get_trials(deepcopy=False) if t.number == wanted)
    print(f"# {settings(trial_row(trial, opened))}")
    if len(snapshot.best) > 1 and options.trial is None:
        print(
            f"# The Pareto front has {len(snapshot.best)} trials, this is the first: "
            f"{', '.join(map(str, snapshot.best))}"
        )
    print(text, end="")
    return 0


def _importance(options: argparse.Namespace) -> int:
    from torchdeck.core.search.importance import importances

    found = importances(opened_study(options), options.by, options.objective)
    if options.json:
        print_json(found)
        return 0
    from torchdeck.tui.drawing.bars import bar

    room = max(len(key) for key in found)
    for key, share in found.items():
        print(f"{key:<{room}} {share:>6.1%} {bar(share, 40).rstrip()}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from torchdeck.core import files
    from torchdeck.core.search.report import as_json

    opened, snapshot = study_snapshot(options)
    found = [as_json(row, opened) for row in snapshot.rows]

    def write(out: Any) -> None:
        if options.json:
            out.write(f"{jsons.dumps(found, 1)}\n")
            return
        params = list(dict.fromkeys(name for row in snapshot.rows for name in row.params))
        names = [o.name for o in snapshot.objectives]
        attributes = list(
            dict.fromkeys(name for row in snapshot.rows for name in row.attributes if name not in ("run", "reason"))
        )
        writer = csv.writer(out)
        writer.writerow(
            [
                "number",
                "state",
                *names,
                "started",
                "ended",
                "seconds",
                *params,
                "run",
                "reason",
                "former",
                *(f"attribute_{name}" for name in attributes),
            ]
        )
        for one in found:
            writer.writerow(
                [
                    one["number"],
                    one["state"],
                    *(one["values"].get(n) for n in names),
                    one["started"],
                    one["ended"],
                    one["seconds"],
                    *(one["params"].get(p) for p in params),
                    one["run"],
                    one["reason"],
                    one["former"],
                    *(one["attributes"].get(a) for a in attributes),
                ]
            )

    if options.output is None:
        write(sys.stdout)
        return 0
    try:
        with files.replacing(Path(options.output).expanduser(), "w") as out:
            write(out)
    except OSError as error:
        raise UserError(f"{options.output!r} can't be written: {error.strerror}.") from None
    print(options.output)
    return 0


# --- steering --------------------------------------------------------------------------------------------------------


def _stop(options: argparse.Namespace) -> int:
    from torchdeck.core.search.watch import ask_of

    opened = opened_study(options)
    with opened.errors():
        if options.trial is not None:
            ask_of(opened, options.trial, "stop")
            print(f"trial {options.trial} is asked to stop; its value so far counts")
            return 0
        opened.stop()
    print(
        f"the workers of {opened.name} are asked to stop after a checkpoint; continue with: torchdeck --batch "
        f"--study {opened.folder}"
    )
    return 0


def _prune(options: argparse.Namespace) -> int:
    from torchdeck.core.search.watch import ask_of

    opened = opened_study(options)
    with opened.errors():
        ask_of(opened, options.trial, "prune")
    print(f"trial {options.trial} is asked to stop as pruned")
    return 0


def _enqueue(options: argparse.Namespace) -> int:
    opened = opened_study(options)
    values = settings_of(opened, options.settings)
    with opened.errors(), opened.locked():
        opened.enqueue(values)
    print(f"waits in {opened.name}: {' '.join(options.settings)}")
    return 0


def settings_of(opened: Study, words: list[str]) -> dict[str, Any]:
    """Values by key from ``key=value`` texts; a key may be cut to its end where that is clear (``lr=0.01``).

    Raises UserError for anything else.
    """
    from torchdeck.core.experiment import toml
    from torchdeck.core.search.rows import short

    values = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign:
            raise UserError(f"{word!r} is not of the form KEY=VALUE.")
        matching = [k for k in opened.space.dimensions if key in (k, short(k))]
        values[matching[0] if len(matching) == 1 else key] = toml.parse_value(text.strip())
    opened.space.encode(values)
    return values


def _edit(options: argparse.Namespace) -> int:
    from torchdeck.core.search.change import edit

    opened = opened_study(options)
    changes: dict[str, Any] = {}
    for word in options.settings:
        key, sign, text = word.partition("=")
        if not sign:
            raise UserError(f"{word!r} is not of the form KEY=RANGE.")
        changes[key.strip()] = text.strip() or None
    with opened.errors(), opened.locked():
        edit(opened, changes)
    for key, dimension in opened.space.dimensions.items():
        print(f"{key}  {dimension.text}")
    return 0
