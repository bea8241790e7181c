"""A process of a search that goes on: ``python -m torchdeck.core.search.serve FOLDER``, its keeper or one of its
workers."""

from __future__ import annotations

import argparse
from pathlib import Path

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.references import references
from torchdeck.core.machine import launch
from torchdeck.core.search.opening import open_folder
from torchdeck.core.search.report import TrialReporter
from torchdeck.core.search.study import Study
from torchdeck.core.session.batch import Signals
from torchdeck.core.usercode.objects import is_object, known_objects


def work(study: Study, how: str, workers: int = 1, began: float | None = None) -> int:
    """Search until the study is over; returns the exit code.

    ``how``: what is told, as ``plain``, ``json`` or ``quiet``; ``workers``: so many processes; ``began``: when the
    search was started (Unix time), where another process did that.
    """
    if began is None:  # a worker that takes a dead one's place must not undo a stop
        with study.errors():
            study.allow()
    reporter = TrialReporter(study, how)
    reporter.begin()
    code, failure = search(study, reporter, None, workers, began)
    with study.errors():
        reporter.end(failure)
    return code


def search(
    study: Study, reporter: TrialReporter, signals: Signals | None, workers: int = 1, began: float | None = None
) -> tuple[int, str | None]:
    """Search until the study is over; gives the exit code, and why it ended before its time (None: it did not).

    Raises UserError where it trains objects that this process does not have: its trials would all fail.
    """
    missing = next(
        (name for name in references(study.experiment) if is_object(name) and name not in known_objects()), None
    )
    if missing is not None:
        raise UserError(
            f"The study {study.name!r} trains {missing!r}, an object of the Python process that made it, and no "
            "file can bring it back; search on in Python: torchdeck.search(...) with the objects given again."
        )
    if workers > 1:
        from torchdeck.core.search.workers import Workers

        several = Workers(study, workers, reporter.told, reporter.note, study.unvouched() is not None)
        return several.work(signals), several.failure
    from torchdeck.core.search.worker import Worker

    one = Worker(study, reporter.told, reporter.note, began)
    return one.work(signals), one.failure


def vouch(study: Study, code: str | None, trusted: bool) -> None:
    """Let a study run the code that it names where the user trusts it.

    Raises UserError when it would run code that nobody vouched for.
    """
    if code is not None and not trusted:
        raise UserError(
            f"The study {study.name!r} was not made here and would run the code {code!r}; if you trust it, say "
            f"--trust-code."
        )


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m torchdeck.core.search.serve", allow_abbrev=False)
    parser.add_argument("folder", help="the directory of the study")
    parser.add_argument("--workers", type=int, default=1, help="so many processes")
    parser.add_argument("--worker", type=float, metavar="BEGAN", help="this is one of them, and the search began then")
    parser.add_argument("--trust-code", action="store_true", help="run the code that a study made elsewhere names")
    options = parser.parse_args()
    study = open_folder(Path(options.folder))
    vouch(study, study.unvouched(), options.trust_code)
    return work(study, "plain" if options.worker is None else "quiet", options.workers, options.worker)


if __name__ == "__main__":
    launch.run_process(_main)
