"""Learning from what was done before: former runs and studies become trials that don't count."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState, create_trial

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.runs.listing import RunList
from torchdeck.core.runs.rows import Row

if TYPE_CHECKING:
    from torchdeck.core.search.study import Study

#: How the trial of a former run is marked.
_SKIPPED = ("running", "failed", "dead")


def learn(study: Study, places: Sequence[str]) -> int:
    """Add what was found in those directories (runs, studies, folders of them) and fits the space; gives how many did.

    Raises UserError for a directory that holds no run that fits.
    """
    total = 0
    for place in places:
        path = Path(place).expanduser()
        if not path.is_dir():
            raise UserError(f"search.warm_start: there is no directory {place!r}.", field="search.warm_start")
        added = 0
        for row in RunList([path]).scan():
            added += _add(study, row)
        if not added:
            raise UserError(
                f"search.warm_start: no run in {place!r} fits: it needs a value of {study.objectives[0].name} "
                "and values within search.space.",
                field="search.warm_start",
            )
        total += added
    return total


def _add(study: Study, row: Row) -> bool:
    from torchdeck.core.search.study import FORMER

    values = [row.best.get(one.name, row.last.get(one.name, math.nan)) for one in study.objectives]
    if row.status in _SKIPPED or not all(math.isfinite(v) for v in values):
        return False
    try:
        params = study.space.encode(dict(_values(study, row)))
    except UserError:
        return False
    distributions = study.space.distributions()
    if not params or any(name not in params for name in _needed(study, params)):
        return False
    study.optuna.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            params=params,
            distributions={name: distributions[name] for name in params},
            values=values,
            system_attrs={FORMER: True},
            user_attrs={"run": str(row.path)},
        )
    )
    return True


def _values(study: Study, row: Row) -> Iterator[tuple[str, Any]]:
    """The values of the searched fields in a former run."""
    raw = toml.read(row.path / "experiment.toml") if (row.path / "experiment.toml").exists() else {}
    for key, dimension in study.space.dimensions.items():
        if dimension.when and not all(_at(raw, row, k) in v for k, v in dimension.when.items()):
            continue
        value = _at(raw, row, key)
        if value is not None:
            yield key, value


def _at(raw: Mapping[str, Any], row: Row, key: str) -> Any:
    value: Any = raw
    for step in toml.path_of(key):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value if value is not None else row.hyperparameters.get(key)


def _needed(study: Study, params: Mapping[str, Any]) -> list[str]:
    """Parameters that every trial of the space has."""
    return [key if d.length is None else f"{key}.length" for key, d in study.space.dimensions.items() if not d.when]
