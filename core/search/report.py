"""What a search says as it goes on: a line for each trial that is over, or a JSON object."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from optuna.trial import FrozenTrial

from torchdeck.core import jsons
from torchdeck.core.search.rows import TrialRow, settings, trial_row
from torchdeck.core.search.study import Study
from torchdeck.core.session.reporters import say_on_stderr
from torchdeck.core.text import duration, number


class TrialReporter:
    """Lines on stdout; ``form``: plain, json or quiet. Notes go to stderr."""

    def __init__(self, study: Study, form: str) -> None:
        self._study, self._form = study, form
        self._best: tuple[int, ...] = ()

    def begin(self) -> None:
        """The study's first lines."""
        study = self._study
        if self._form != "plain":
            return
        there = study.trials()
        done = sum(t.state.is_finished() for t in there)
        goes_on = f"; goes on after {done}" if done else ""
        self._print(f"study    {study.folder}")
        self._print(
            f"seeks    {', '.join(one.text for one in study.objectives)}, {study.limits.trials} trials in all{goes_on}"
        )
        for key, dimension in study.space.dimensions.items():
            self._print(f"search   {key}  {dimension.text}")
        self._print(f"by       {study.experiment.sampler.name}, pruner {study.pruner_name}")

    def told(self, trial: FrozenTrial) -> None:
        """A trial is over."""
        if self._form == "quiet":
            return
        row = trial_row(trial, self._study)
        best = tuple(t.number for t in self._study.best())
        if self._form == "json":
            self._print(jsons.dumps(as_json(row, self._study) | {"event": "trial", "best": list(best)}))
            return
        sign = "*" if trial.number in best else " "
        values = " ".join(number(v, o.name) for v, o in zip(row.values, self._study.objectives, strict=False)) or "-"
        reason = f"  {row.reason.splitlines()[0]}" if row.reason else ""
        self._print(
            f"trial {row.number:>4} {sign} {row.state:<8}  {values:>9}  {duration(row.seconds()):>5}  "
            f"{settings(row)}{reason}"
        )

    def note(self, text: str) -> None:
        """Something beside the trials."""
        with contextlib.suppress(OSError, ValueError):
            say_on_stderr(text)

    def end(self, failure: str | None) -> None:
        """The study is over, or this start of it."""
        best = self._study.best()
        if self._form == "plain":
            for trial in best:
                row = trial_row(trial, self._study)
                told = " ".join(
                    f"{o.name} {number(v, o.name)}" for v, o in zip(row.values, self._study.objectives, strict=True)
                )
                self._print(f"best     trial {row.number}: {told}  {settings(row)}")
            if len(best) == 1 and self._study.run_of(best[0].number).exists():
                self._print(f"         {self._study.run_of(best[0].number)}")
            waiting = sum(t.state.name in ("WAITING", "RUNNING") for t in self._study.trials())
            if waiting:
                self.note(
                    f"{waiting} trials wait or run elsewhere; continue with: torchdeck --batch --study "
                    f"{self._study.folder}"
                )
        if failure is not None:
            say_on_stderr(f"torchdeck: {failure}")

    def _print(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stdout, flush=True)


def as_json(row: TrialRow, study: Study) -> dict[str, Any]:
    """A trial as strict JSON has it."""
    plain = jsons.strict
    return {
        "number": row.number,
        "state": row.state,
        "values": {o.name: plain(v) for o, v in zip(study.objectives, row.values, strict=False)},
        "params": {k: plain(v) for k, v in row.params.items()},
        "fields": dict(row.fields),
        "intermediate": [[step, plain(v)] for step, v in row.curve],
        "started": row.started,
        "ended": row.ended,
        "seconds": row.seconds() if row.ended else None,
        "reason": row.reason or None,
        "run": str(study.folder / row.run) if row.run else None,
        "attributes": {k: plain(v) for k, v in row.attributes.items()},
        "former": row.former,
    }
