"""A trial as one row: what tables, charts, exports and lines show of it. Plain values; Optuna's own stay where they
are."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from torchdeck.core.search.study import Study

#: Optuna's states in our words.
STATES = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class TrialRow:
    """One trial; times are seconds since 1970, ``values`` those of the objectives (one pruned: its last)."""

    number: int
    #: running, waiting, complete, pruned, failed.
    state: str
    values: tuple[float, ...]
    #: By parameter, as Optuna has them; lists item by item.
    params: Mapping[str, Any] = field(default_factory=dict)
    #: By searched field, as an experiment takes them.
    fields: Mapping[str, Any] = field(default_factory=dict)
    #: Value at each epoch (or step) that was reported.
    curve: tuple[tuple[int, float], ...] = ()
    started: float | None = None
    ended: float | None = None
    reason: str = ""
    #: Name of its run's directory; empty before it has one.
    run: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    #: Whether it was learned from a former run, and does not count.
    former: bool = False

    @property
    def value(self) -> float:
        """Of the first objective; NaN where there is none."""
        return self.values[0] if self.values else math.nan

    def seconds(self, now: float | None = None) -> float | None:
        """How long it took, or takes so far."""
        if self.started is None or self.state == "waiting":
            return None
        return (self.ended or (now or time.time())) - self.started


def trial_row(trial: FrozenTrial, study: Study) -> TrialRow:
    """The row of one trial."""
    from torchdeck.core.search.study import FORMER

    values = tuple(float(v) for v in trial.values) if trial.values is not None else ()
    params = trial.params or trial.system_attrs.get("fixed_params", {})
    attributes = {k: v for k, v in trial.user_attrs.items() if isinstance(v, bool | int | float | str)}
    return TrialRow(
        number=trial.number,
        state=STATES[trial.state],
        values=values,
        params=params,
        fields=study.space.values_of(params),
        curve=tuple(sorted((int(k), float(v)) for k, v in trial.intermediate_values.items())),
        started=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        reason=str(attributes.get("reason", "")),
        run=str(attributes.get("run", "")),
        attributes=attributes,
        former=FORMER in trial.system_attrs,
    )


def shown(value: Any) -> str:
    """A parameter's value in a few figures."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)


def short(key: str) -> str:
    """A key without what is plain from the rest."""
    for head in ("model.args.", "optimizer.args.", "trainer."):
        if key.startswith(head):
            return key.removeprefix(head)
    return (
        key.removeprefix("optimizer.")
        if key.startswith("optimizer.") and key != "optimizer.name"
        else key.removesuffix(".name")
    )


def settings(row: TrialRow) -> str:
    """Its values on one line: ``lr=0.003 widths=[64, 32]``."""
    return " ".join(f"{short(key)}={shown(value)}" for key, value in row.fields.items())
