"""What may change in a study that has trials, and what may not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.hyperparameters import flat
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.experiment.space import Space
from torchdeck.core.search.build import check_sampler
from torchdeck.core.search.objectives import objectives
from torchdeck.core.search.study import EXHAUSTED, EXPERIMENT, Study

#: Fields that may differ from one start to the next: they don't change what a trial's value means.
_FREE = (
    "trainer.device",
    "trainer.checkpoint_steps",
    "trainer.checkpoint_minutes",
    "trainer.keep",
    "trainer.profile",
    "data.root",
    "data.download",
    "data.workers",
    "data.timeout",
)


def refuse_another(study: Study, experiment: Experiment) -> None:
    """Raises UserError when the experiment is not the one whose trials are there: what differs, and what can be done."""
    found = space_differences(study.experiment, experiment)
    if not found:
        return
    free = next(n for i in range(2, 1000) if not (study.folder.parent / (n := f"{study.name}-{i}")).exists())
    raise UserError(
        f"The study {study.name!r} in {str(study.folder)!r} searches something else:\n"
        + "\n".join(f"  {line}" for line in found)
        + f"\nStart another one with: --set search.name={free}\n"
        f"which learns from the former with: --set search.warm_start={study.folder}"
        + (
            f"\nor change the space of the former with: torchdeck study edit {study.folder}"
            if _editable(study, experiment)
            else ""
        )
    )


def _editable(study: Study, experiment: Experiment) -> bool:
    """Whether what differs is the space alone, and in a way that Optuna can change."""
    if any(not line.startswith("search.space.") for line in space_differences(study.experiment, experiment)):
        return False
    try:
        _refuse_incompatible(study, Space(experiment))
    except UserError:
        return False
    return True


def space_differences(old: Experiment, new: Experiment) -> list[str]:
    """What makes the trials of two experiments incomparable, a line each."""
    lines = []
    before, after = flat(old), flat(new)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key) and key not in _FREE:
            lines.append(f"{key}: {_said(before.get(key))}, and now {_said(after.get(key))}")
    spaces = [{k: d.text for k, d in e.search.space.items()} for e in (old, new)]
    for key in sorted(spaces[0].keys() | spaces[1].keys()):
        if spaces[0].get(key) != spaces[1].get(key):
            lines.append(f"search.space.{key}: {_said(spaces[0].get(key))}, and now {_said(spaces[1].get(key))}")
    for name, a, b in (
        ("objectives", [o.text for o in objectives(old)], [o.text for o in objectives(new)]),
        ("function", old.search.function, new.search.function),
    ):
        if a != b:
            lines.append(f"search.{name}: {_said(a)}, and now {_said(b)}")
    return lines


def _said(value: Any) -> str:
    if value is None:
        return "not given"
    return ", ".join(value) if isinstance(value, list) else str(value)


def edit(study: Study, changes: Mapping[str, Any]) -> None:
    """Change dimensions of the space (None takes one out) and go on with the trials that are there.

    Raises UserError for what Optuna can't change in a study: the choices of a field, whether a range is logarithmic.
    """
    raw = study.experiment.model_dump(mode="json", exclude_unset=True)
    for key, value in changes.items():
        raw = toml.put(raw, ("search", "space", key), value)
    experiment = toml.build(raw)
    space = Space(experiment)
    _refuse_incompatible(study, space)
    check_sampler(experiment, space, len(study.objectives) > 1)
    study.set_attribute(EXPERIMENT, toml.dumps(experiment.to_share()))
    study.set_attribute(EXHAUSTED, False)
    study.take(experiment)


def _refuse_incompatible(study: Study, space: Space) -> None:
    from optuna.distributions import check_distribution_compatibility

    used: dict[str, Any] = {}
    for trial in study.optuna.get_trials(deepcopy=False):
        used |= trial.distributions
    for name, distribution in space.distributions().items():
        if name not in used:
            continue
        try:
            check_distribution_compatibility(used[name], distribution)
        except ValueError:
            key = next(k for k in space.dimensions if name == k or name.startswith((f"{k}[", f"{k}.length")))
            raise UserError(
                f"search.space.{key}: the choices of a field, and whether a range is logarithmic or of whole numbers, can't be changed "
                f"once there are trials; start a study that learns from this one: --set search.warm_start={study.folder}"
            ) from None
