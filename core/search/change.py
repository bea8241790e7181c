"""What may change in a study that has trials, and what may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class SpaceDifference:
    """One thing in which the trials of two experiments are not comparable."""

    #: The dotted key of the experiment.
    key: str
    before: Any
    after: Any
    #: Whether it is the range of a searched field.
    of_space: bool = False

    def __str__(self) -> str:
        return f"{self.key}: {_said(self.before)}, and now {_said(self.after)}"


class StudyExists(UserError):
    """The name is that of a study which searches something else."""

    def __init__(self, study: Study, found: list[SpaceDifference], editable: bool) -> None:
        #: What differs, in words, without what can be done.
        self.difference = f"The study {study.name!r} in {str(study.folder)!r} searches something else:\n" + "\n".join(
            f"  {one}" for one in found
        )
        self.folder: Path = study.folder
        #: A name that no study here has.
        self.free_name = next(
            n for i in range(2, 1000) if not (study.folder.parent / (n := f"{study.name}-{i}")).exists()
        )
        advice = [
            f"Start another one with: --set search.name={self.free_name}",
            f"which learns from the former with: --set search.warm_start={study.folder}",
        ]
        if editable:
            advice.append(f"or change the space of the former with: torchdeck study edit {study.folder}")
        super().__init__("\n".join([self.difference, *advice]), field="search.name")


def refuse_another(study: Study, experiment: Experiment) -> None:
    """Raises StudyExists when the experiment is not the one whose trials are there: what differs, and what can be
    done."""
    found = space_differences(study.experiment, experiment)
    if found:
        raise StudyExists(study, found, _editable(study, experiment, found))


def _editable(study: Study, experiment: Experiment, found: list[SpaceDifference]) -> bool:
    """Whether what differs is the space alone, and in a way that Optuna can change."""
    if not all(one.of_space for one in found):
        return False
    try:
        _refuse_incompatible(study, Space(experiment))
    except UserError:
        return False
    return True


def space_differences(old: Experiment, new: Experiment) -> list[SpaceDifference]:
    """What makes the trials of two experiments incomparable."""
    found = []
    before, after = flat(old), flat(new)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key) and key not in _FREE:
            found.append(SpaceDifference(key, before.get(key), after.get(key)))
    spaces = [{k: d.text for k, d in e.search.space.items()} for e in (old, new)]
    for key in sorted(spaces[0].keys() | spaces[1].keys()):
        if spaces[0].get(key) != spaces[1].get(key):
            found.append(SpaceDifference(f"search.space.{key}", spaces[0].get(key), spaces[1].get(key), of_space=True))
    for name, a, b in (
        ("objectives", [o.text for o in objectives(old)], [o.text for o in objectives(new)]),
        ("function", old.search.function, new.search.function),
    ):
        if a != b:
            found.append(SpaceDifference(f"search.{name}", a, b))
    return found


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
                f"search.space.{key}: the choices of a field, and whether a range is logarithmic or of whole "
                "numbers, can't be changed once there are trials; start a study that learns from this one: --set "
                f"search.warm_start={study.folder}",
                field=f"search.space.{key}",
            ) from None
