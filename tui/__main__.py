"""The command ``torchdeck``. Arguments are parsed before anything heavy is imported."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchdeck import __version__
from torchdeck.core.errors import UserError
from torchdeck.core.machine import launch
from torchdeck.tui.commands import search
from torchdeck.tui.commands.shared import add_runs, tell_renamed, with_roots_apart
from torchdeck.tui.commands.shared import runs_roots as roots_of

EXIT_CODES = """exit codes:
  0 done   1 the training failed   2 the input is wrong   130 stopped by Ctrl-C   143 stopped by SIGTERM

signals (--batch):
  SIGINT   checkpoint, stop; twice: at once      SIGTERM  checkpoint, stop
  SIGUSR1  checkpoint, go on                     SIGHUP   go on without the terminal"""

#: Module of ``torchdeck.tui.commands`` and summary of each verb.
VERBS = {
    "attach": ("runs", "open the workbench on a run that goes on, or is over"),
    "runs": ("runs", "list, filter and sort runs, also other tools'"),
    "show": ("runs", "show a run or a checkpoint"),
    "diff": ("checkpoints", "what differs between runs, or between two files of weights"),
    "plot": ("runs", "draw runs' curves, in the terminal or to a .png or .svg file"),
    "tensorboard": ("runs", "start TensorBoard on the runs"),
    "label": ("runs", "give runs a title, tags, a note, or archive them"),
    "delete": ("runs", "move runs to the trash"),
    "trash": ("runs", "show the trash, take a run back, or empty it"),
    "inspect": ("checkpoints", "what is in a file of weights, without running it"),
    "average": ("checkpoints", "the mean of several checkpoints"),
    "prune": ("checkpoints", "which checkpoints could go, and what that would free"),
    "export": ("trained", "write a run's weights or model to a file"),
    "evaluate": ("trained", "evaluate a model on any data set"),
    "predict": ("trained", "predict for images, folders, tables or stdin"),
    "finetune": ("trained", "train a model further on other data"),
    "study": ("study", "studies: list, show, best, importance, export, plot, stop, enqueue, edit"),
    "dashboard": ("dashboard", "start optuna-dashboard on a study"),
    "catalog": ("machine", "what can be picked: data, models, optimizers, ..."),
    "doctor": ("machine", "what this machine has: devices, versions, data"),
}


def _main_parser() -> argparse.ArgumentParser:
    verbs = "\n".join(f"  torchdeck {verb:<12} {text}" for verb, (_, text) in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="torchdeck",
        description="The terminal workbench for people who train PyTorch models.",
        epilog=f"without --batch the workbench opens\n\nverbs (torchdeck VERB --help):\n{verbs}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("experiment", nargs="?", help="a preset (torchdeck catalog preset) or a TOML file")
    parser.add_argument("--batch", action="store_true", help="train without the workbench")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="override one value of the experiment; may be given often",
    )
    add_runs(parser)
    parser.add_argument("--resume", metavar="RUN", help="go on with a run: its name, or its directory")
    parser.add_argument("--dry-run", action="store_true", help="show what would be trained, and train nothing")
    search.add_arguments(parser)
    parser.add_argument("--queue", action="store_true", help="train what waits in the queue below --runs, in turn")
    parser.add_argument("--no-mouse", action="store_true", help="leave the mouse to the terminal (the workbench)")
    parser.add_argument("--json", action="store_true", help="one JSON object per event on stdout")
    parser.add_argument("--quiet", action="store_true", help="tell nothing but errors")
    parser.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    parser.add_argument("--version", action="version", version=f"torchdeck {__version__}")
    return parser


def _train(words: list[str]) -> int:
    parser = _main_parser()
    options = parser.parse_args(words)
    roots = roots_of(options)
    root = roots[0]
    if options.queue:
        from torchdeck.core.session.queue import serve

        return serve(root)
    if search.wanted(options):
        if not options.batch:
            raise UserError(
                "--trials, --workers and --study need --batch; in the workbench search from the Search screen (S)."
            )
        return search.search(options, root)
    if not (options.batch or options.dry_run):
        return _open_workbench(options, roots)
    from torchdeck.core.experiment import toml

    resume: Path | None = None
    if options.resume:
        from torchdeck.core.runs.directory import find_run

        if options.experiment:
            raise UserError("--resume takes the experiment from the run; change it with --set, without naming another.")
        resume = find_run(options.resume, root)
        experiment = toml.build(toml.override(toml.read(resume / "experiment.toml"), options.overrides), str(resume))
        base = toml.said_base(str(resume / "experiment.toml"), options.overrides)
    else:
        from torchdeck.core.runs.listing import requeued

        source = toml.base_of(options.experiment, options.overrides)
        experiment = toml.load(source, options.overrides)
        tell_renamed(source, options.overrides)
        base = toml.said_base(source, options.overrides)
        resume = requeued(root, toml.dumps(experiment.to_share()))
    if options.dry_run:
        from torchdeck.tui.dry_run import show_plan

        return show_plan(experiment, base)
    from torchdeck.core.session import batch, reporters
    from torchdeck.core.session.session import Session

    if experiment.search.space and resume is None and not options.quiet:
        print("note: [search.space] is left alone; search it with --trials N", file=sys.stderr)

    reporter = reporters.choose_reporter(options.json, options.quiet, options.plain)
    return batch.run_batch(Session(experiment, root, resume, base=base), reporter)


def _open_workbench(options: argparse.Namespace, roots: list[Path]) -> int:
    from torchdeck.tui.app import check_terminal, run_app

    check_terminal()
    raw: dict[str, Any] | None = None
    if options.resume:
        raise UserError("--resume needs --batch; in the workbench open the run with A and resume it with r.")
    if options.experiment or options.overrides:
        from torchdeck.core.experiment import toml

        source = toml.base_of(options.experiment, options.overrides)
        toml.load(source, options.overrides)  # raises for what is wrong
        raw = toml.tables(source, options.overrides)
        tell_renamed(source, options.overrides)
    return run_app(roots, raw, None, not options.no_mouse)


def _verb(name: str, words: list[str]) -> int:
    module = importlib.import_module(f"torchdeck.tui.commands.{VERBS[name][0]}")
    parser = argparse.ArgumentParser(prog=f"torchdeck {name}", description=VERBS[name][1], allow_abbrev=False)
    command: Callable[[argparse.Namespace], int] = getattr(module, name)
    getattr(module, f"{name}_arguments")(parser)
    return command(parser.parse_args(words))


def main(words: list[str] | None = None) -> int:
    """Run the command with these words (default: those of the process) and return its exit code."""
    given = sys.argv[1:] if words is None else words

    def work() -> int:
        if given and given[0] in VERBS:
            # Where a verb takes directories as its own arguments, a second folder after --runs is one of those.
            rest = with_roots_apart(given[1:]) if given[0] in ("runs", "tensorboard") else given[1:]
            return _verb(given[0], rest)
        return _train(with_roots_apart(given))

    if words is None:
        launch.run_process(work)
    return launch.exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
