"""``torchdeck --batch`` with --trials, --workers or --study: a search."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from torchdeck.core.errors import UserError
from torchdeck.tui.commands.shared import tell_renamed

if TYPE_CHECKING:
    from torchdeck.core.search.study import Study


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a search."""
    parser.add_argument("--trials", type=int, metavar="N", help="search [search.space] with N trials in all")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="number of processes, each with its own GPU or share of the cores"
    )
    parser.add_argument(
        "--study", metavar="STUDY", help="the study to create or continue: its name, directory, or URL#NAME"
    )
    parser.add_argument("--trust-code", action="store_true", help="run the code that a study made elsewhere names")


def wanted(options: argparse.Namespace) -> bool:
    """Whether a search is asked for."""
    return options.trials is not None or options.workers is not None or options.study is not None


def search(options: argparse.Namespace, root: Path) -> int:
    """Search until the study is over; returns the exit code."""
    from torchdeck.core.machine.distributed import world
    from torchdeck.core.search.serve import work

    for name in ("trials", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: it must be at least 1.")
    if world().size > 1:
        raise UserError(
            "A search does not run under torchrun; start workers with --workers, or one torchdeck for each GPU."
        )
    study = _study(options, root)
    if options.trials is not None:
        with study.errors():
            study.set_limits(trials=options.trials)
    how = "json" if options.json else "plain"
    if options.quiet and not options.json:
        how = "quiet"
    return work(study, how, options.workers or 1)


def _study(options: argparse.Namespace, root: Path) -> Study:
    from torchdeck.core.experiment import toml
    from torchdeck.core.search import opening as studies
    from torchdeck.core.search.objectives import with_directions
    from torchdeck.core.search.serve import vouch
    from torchdeck.core.search.storage import in_memory

    if not options.experiment and options.study is not None and options.overrides:
        space_only = all(text.startswith("search.space.") for text in options.overrides)
        see = "; change its space with: torchdeck study edit" if space_only else ""
        raise UserError(f"--set needs an experiment: a study keeps the one that it was made with{see}.")
    if options.experiment or options.study is None:
        source = toml.base_of(options.experiment, options.overrides)
        experiment = toml.load(source, options.overrides)
        tell_renamed(source, options.overrides)
        url, name = _place(options.study)
        if (options.workers or 1) > 1 and in_memory(url or experiment.search.storage):
            raise UserError(
                f"search.storage = {url or experiment.search.storage!r} is in the memory of one process, which "
                "other workers can't reach; choose sqlite or journal, or leave --workers out.",
                field="search.storage",
            )
        study = studies.create(with_directions(experiment), root, url, name)
        # The code that the experiment names is the user's word; what lies in the storage is not.
        vouch(study, study.unvouched_pickle(), options.trust_code)
        return study
    study = studies.open_study(options.study, root)
    vouch(study, study.unvouched(), options.trust_code)
    return study


def _place(given: str | None) -> tuple[str | None, str | None]:
    """The URL and the name of ``--study`` beside an experiment."""
    if given is None:
        return None, None
    if "://" not in given:
        return None, given
    url, _, name = given.partition("#")
    return url, name or None
