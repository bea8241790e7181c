"""The command ``torchdeck``. Arguments are parsed before anything heavy is imported."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from torchdeck.core.errors import UserError
from torchdeck.core.machine import launch
from torchdeck.tui.commands import search
from torchdeck.tui.commands.shared import runs_roots as roots_of
from torchdeck.tui.commands.shared import tell_renamed
from torchdeck.tui.parsers import COMPLETE, command_of, divided, main_parser, verb_parser


def _train(words: list[str]) -> int:
    options = main_parser().parse_args(words)
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
        print("note: [search.space] is not searched here; search it with --trials N", file=sys.stderr)

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


def main(words: list[str] | None = None) -> int:
    """Run the command with these words (default: those of the process) and return its exit code."""
    given = sys.argv[1:] if words is None else words

    def work() -> int:
        if given[:1] == [COMPLETE]:
            from torchdeck.tui.complete import answer

            return answer(given[1:])
        verb, rest = divided(given)
        return _train(rest) if verb is None else command_of(verb)(verb_parser(verb).parse_args(rest))

    if words is None:
        launch.run_process(work)
    return launch.exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
