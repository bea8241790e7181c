"""A study: its folder, its storage, the experiment that is searched, and its trials.

``runs/NAME/`` holds ``study.json`` (name, storage), the storage's file where it has one, a run directory for each trial
(``NAME-0007``), ``best.pt`` (a link to the best trial's best checkpoint), ``artifacts/`` and ``lock``. All else is in
Optuna's storage, so that a worker on another machine needs its URL and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from core import files, toml
from core.errors import UserError, did_you_mean
from core.experiment import Experiment
from core.hyperparameters import flat
from core.runs.directory import check_root, folder_name
from core.runs.trust import known, new_id
from core.search import storage as storages
from core.search.build import build_pruner, build_sampler, check_sampler, pruner_name
from core.search.objectives import Objective, objectives
from core.search.space import Space

FILE = "study.json"
_LAYOUT = 1

#: System attributes: of the study, and of trials that don't count (learned from former runs).
EXPERIMENT, ID, STOP, LIMITS = "torchdeck:experiment", "torchdeck:id", "torchdeck:stop", "torchdeck:limits"
EXHAUSTED, FORMER = "torchdeck:exhausted", "torchdeck:former"

#: Fields that may differ from one start to the next: they don't change what a trial's value means.
_FREE = ("trainer.device", "trainer.checkpoint_steps", "trainer.checkpoint_minutes", "trainer.keep", "trainer.profile",
         "data.root", "data.download", "data.workers", "data.timeout")  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """When a study ends; what is None has no limit."""

    trials: int
    minutes: float | None = None
    patience: int = 0
    failures: int = 5


class Study:
    """A study that is open in this process."""

    def __init__(
        self, folder: Path, url: str, storage: Any, handle: optuna.Study, experiment: Experiment | None = None
    ) -> None:
        """``experiment``: of a study that is being made."""
        self.folder, self.url = folder, url
        self._raw_storage = storage
        self.optuna = handle
        # Samplers that have tried everything ask the study to stop, which Optuna allows within optimize() only.
        handle.stop = self._exhaust  # type: ignore[method-assign]
        self._text = ""
        if experiment is not None:
            self.take(experiment)
        else:
            self.refresh()

    def refresh(self) -> None:
        """Take over what others have changed of the space.

        Raises UserError for a study that was not made by torchdeck.
        """
        text = self.attribute(EXPERIMENT)
        if not isinstance(text, str):
            where = storages.hidden(self.url)
            raise UserError(f"The study {self.name!r} in {where!r} was not made by torchdeck: it has no experiment.")
        if text != self._text:
            self._text = text
            self.take(toml.loads(text, f"the study {self.name!r}"))

    def take(self, experiment: Experiment) -> None:
        """Search this experiment from now on."""
        self.experiment = experiment
        self.space = Space(experiment)
        self.objectives: tuple[Objective, ...] = objectives(experiment)
        self.optuna.pruner = build_pruner(experiment)
        self.pruner_name = pruner_name(self.experiment)
        self.prunes = not isinstance(self.optuna.pruner, optuna.pruners.NopPruner)

    def _exhaust(self) -> None:
        self.set_attribute(EXHAUSTED, True)

    @property
    def exhausted(self) -> bool:
        """Whether every combination was tried, or is being tried."""
        if self.experiment.sampler.name == "grid":  # which would else try again what another worker is at
            return len(self.trials()) >= math.prod(len(values) for values in self.space.grid().values())
        return self.experiment.sampler.name == "brute-force" and bool(self.attribute(EXHAUSTED))

    @property
    def name(self) -> str:
        """Its name."""
        return self.optuna.study_name

    @property
    def storage(self) -> Any:
        """Optuna's storage."""
        return self.optuna._storage

    def attribute(self, key: str) -> Any:
        """One of the study's own attributes; None where it has none."""
        return self.storage.get_study_system_attrs(self.optuna._study_id).get(key)

    def set_attribute(self, key: str, value: Any) -> None:
        """Change one of the study's own attributes."""
        self.storage.set_study_system_attr(self.optuna._study_id, key, value)

    def trials(self) -> list[FrozenTrial]:
        """Its trials, without those that were learned from former runs."""
        return [t for t in self.optuna.get_trials(deepcopy=False) if FORMER not in t.system_attrs]

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Turns what goes wrong in the storage into one sentence."""
        return storages.storage_errors(self.url)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study's lock among all its workers."""
        engine = getattr(self._raw_storage, "engine", None)
        with storages.locked(self.folder), storages.locked_in_database(self.url, self.name, engine):
            yield

    # --- limits ------------------------------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        """When it ends: as its workers were told last."""
        values = self.attribute(LIMITS) or {}
        search = self.experiment.search
        return Limits(values.get("trials", search.trials), values.get("minutes", search.minutes),
                      values.get("patience", search.patience), search.failures)  # fmt: skip

    def set_limits(self, **values: Any) -> None:
        """Change limits: trials, minutes, patience."""
        self.set_attribute(LIMITS, {**(self.attribute(LIMITS) or {}), **values})

    def stop(self) -> None:
        """Have all workers stop after a checkpoint; what runs goes on at the next start."""
        self.set_attribute(STOP, time.time())

    def allow(self) -> None:
        """Let workers work again."""
        if self.attribute(STOP):
            self.set_attribute(STOP, 0)

    @property
    def stopped(self) -> bool:
        """Whether workers are to stop."""
        return bool(self.attribute(STOP))

    # --- trials ------------------------------------------------------------------------------------------------------

    def ask(self) -> optuna.Trial:
        """A trial to run: one that waits, or a new one. The caller holds the lock."""
        self.optuna.sampler = build_sampler(self.experiment, self.space, len(self.optuna.get_trials(deepcopy=False)))
        return self.optuna.ask()

    def unvouched(self) -> str | None:
        """The code that working on this study would run though nobody here vouched for it; None where there is none."""
        from core.evaluation.consent import code_in

        if known(self.attribute(ID)):
            return None
        return code_in(self.experiment) or self.unvouched_pickle()

    def unvouched_pickle(self) -> str | None:
        """The same, of what lies in the storage alone: Optuna's CMA-ES keeps its state as a pickle."""
        if known(self.attribute(ID)) or self.experiment.sampler.name != "CMA-ES":
            return None
        return "the pickle in which CMA-ES keeps its state"

    def experiment_of(self, values: Mapping[str, Any], number: int | None = None) -> Experiment:
        """The experiment of a trial with these values: an ordinary one, which ``torchdeck --batch`` takes."""
        raw = self.space.apply(values).model_dump(mode="json", exclude_unset=True)
        first = self.objectives[0]
        if not first.cost and self.experiment.search.function is None:
            raw = toml.put(raw, ("trainer", "best"), _best(first))
        if number is not None:
            tracking = raw.get("tracking", {})
            tags = [*tracking.get("tags", ()), self.name]
            raw = toml.put(raw, ("tracking", "tags"), list(dict.fromkeys(tags)))
            for name in ("graph", "images"):  # a trace of the model takes longer than a short trial's epoch
                if name not in tracking:
                    raw = toml.put(raw, ("tracking", name), False)
        return toml.build(raw, f"trial {number}")

    def experiment_of_trial(self, fields: Mapping[str, Any], run: str) -> Experiment:
        """The experiment of a trial that is there, from its values; where the user's own function trained it, its run's.

        Raises UserError when that trained none.
        """
        if self.experiment.search.function is None:
            return self.experiment_of(fields)
        file = self.folder / run / "experiment.toml"
        if not run or not file.exists():
            raise UserError("The trial has no run: search.function trained none of torchdeck's.")
        return toml.build(toml.read(file), str(file))

    def enqueue(self, values: Mapping[str, Any]) -> None:
        """Have these values tried next; fields that are left out are sampled.

        Raises UserError when they are outside of the space.
        """
        self.optuna.enqueue_trial(self.space.encode(values), skip_if_exists=True)

    def best(self) -> list[FrozenTrial]:
        """The best trial; with several objectives those of the Pareto front; none before the first is complete."""
        done = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        if not done:
            return []
        if len(self.objectives) > 1:
            return sorted((t for t in self.optuna.best_trials if FORMER not in t.system_attrs), key=lambda t: t.number)
        return [min(done, key=lambda t: (self.rank(t.values[0]), t.number))]

    def rank(self, value: float) -> float:
        """A value of the first objective so that less is better."""
        return -value if self.objectives[0].higher else value

    def run_of(self, number: int) -> Path:
        """The directory of a trial's run, whether it is there or not."""
        return self.folder / f"{folder_name(self.name)}-{number:04d}"


def _best(objective: Objective) -> str:
    from core.runs.names import higher_is_better

    return objective.name if higher_is_better(objective.name) == objective.higher else objective.text


# --- making, opening, joining ----------------------------------------------------------------------------------------


def default_name(experiment: Experiment) -> str:
    """The name of a study that was given none."""
    short = [name.rpartition(":")[2] for name in (experiment.data.name, experiment.model.name)]
    return experiment.search.name or experiment.tracking.name or "-".join(short)


def create(experiment: Experiment, root: Path, url: str | None = None, name: str | None = None) -> Study:
    """The study of that experiment below ``root``: a new one, or the one of that name to go on with.

    Raises UserError when the experiment has nothing to search, or another study has the name.
    """
    name = name or default_name(experiment)
    if not experiment.search.space and experiment.search.function is None:
        raise UserError(
            "Nothing is searched: give [search.space], such as \"optimizer.lr\" = '1e-4 .. 0.1 log', or search.function."
        )
    space, wanted = Space(experiment), objectives(experiment)
    check_sampler(experiment, space, len(wanted) > 1)
    build_pruner(experiment)
    for values in experiment.search.enqueue:
        space.encode(values)
    check_root(root)
    folder = root / folder_name(name)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"The study {str(folder)!r} can't be written: {error.strerror}.") from None
    if (folder / "run.json").exists():
        raise UserError(f"{str(folder)!r} is a run; choose another name for the study: --set search.name=...")
    with storages.locked(folder):
        there = _read(folder) if (folder / FILE).exists() else None
        url = url or (there["storage"] if there else storages.url_of(experiment.search.storage, folder))
        # Two that create Optuna's tables at the same moment both fail.
        with storages.storage_errors(url), storages.locked_in_database(url, name):
            storage = storages.open_storage(url, create=True)
            study = _create(experiment, folder, url, storage, name, wanted)
        _write(folder, study)
    return study


def _create(
    experiment: Experiment, folder: Path, url: str, storage: Any, name: str, wanted: Sequence[Objective]
) -> Study:
    directions = [StudyDirection.MAXIMIZE if one.higher else StudyDirection.MINIMIZE for one in wanted]
    handle = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    attributes = handle._storage.get_study_system_attrs(handle._study_id)
    text = toml.dumps(_without_password(experiment))
    if EXPERIMENT in attributes:
        study = Study(folder, url, storage, handle)
        _refuse_another(study, experiment)
        # How it is searched may change from one start to the next.
        study.take(experiment)
        if attributes[EXPERIMENT] != text:
            study.set_attribute(EXPERIMENT, text)
        return study
    if ID in attributes:  # somebody was killed while making it
        optuna.delete_study(study_name=name, storage=storage)
        handle = optuna.create_study(storage=storage, study_name=name, directions=directions)
    elif handle.get_trials(deepcopy=False):
        where = storages.hidden(url)
        raise UserError(
            f"The storage {where!r} holds a study {name!r} that was not made by torchdeck; choose another name."
        )
    study = Study(folder, url, storage, handle, experiment)
    study.set_attribute(ID, new_id())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is experimental, and what dashboards call the objectives by
        handle.set_metric_names([one.name for one in wanted])
    try:
        from core.search.former import learn

        learn(study, experiment.search.warm_start)
        for values in experiment.search.enqueue:
            study.enqueue(values)
    except UserError:
        optuna.delete_study(study_name=name, storage=storage)
        raise
    study.set_attribute(EXPERIMENT, text)  # the last: with it the study is whole
    return study


def _without_password(experiment: Experiment) -> Experiment:
    """What other machines need to know; each knows its own way to the storage."""
    return experiment.model_copy(update={"search": experiment.search.model_copy(update={"storage": "auto"})})


def open_folder(folder: Path) -> Study:
    """The study in a folder.

    Raises UserError when there is none, or its storage can't be opened.
    """
    values = _read(folder)
    return _open(values["storage"], values["name"], folder)


def join(url: str, name: str | None, root: Path) -> Study:
    """A study in a storage that other workers made; its trials' runs are kept below ``root``.

    Raises UserError when there is none, or which is not clear.
    """
    storage = storages.open_storage(url)
    with storages.storage_errors(url):
        names = sorted(s.study_name for s in storage.get_all_studies())
    if name is None and len(names) != 1:
        given = f"it holds {', '.join(names)}" if names else "it holds none"
        raise UserError(f"Which study of {storages.hidden(url)!r}? {given}; write {storages.hidden(url)}#NAME.")
    name = name or names[0]
    if name not in names:
        raise UserError(f"There is no study {name!r} in {storages.hidden(url)!r}; {did_you_mean(name, names)}")
    check_root(root)
    folder = root / folder_name(name)
    folder.mkdir(exist_ok=True)
    study = _open(url, name, folder)
    if not (folder / FILE).exists():
        _write(folder, study)
    return study


def _open(url: str, name: str, folder: Path) -> Study:
    storage = storages.open_storage(url)
    with storages.storage_errors(url):
        try:
            return Study(folder, url, storage, optuna.load_study(study_name=name, storage=storage))
        except KeyError:
            raise UserError(f"There is no study {name!r} in {storages.hidden(url)!r}.") from None


def find(given: str, root: Path) -> Path | str:
    """The folder of the study that a user means (a path, a name below ``root``), or the URL of a storage.

    Raises UserError when there is none.
    """
    if "://" in given:
        return given
    for path in (Path(given).expanduser(), root / given):
        if (path / FILE).is_file():
            return path
    names = [path.name for path in folders(root)]
    raise UserError(f"There is no study {given!r} in {str(root)!r}; {did_you_mean(given, names)}")


def open_study(given: str, root: Path) -> Study:
    """The study that a user means: its folder, its name below ``root``, or ``URL#NAME``.

    Raises UserError when there is none.
    """
    place = find(given, root)
    if isinstance(place, Path):
        return open_folder(place)
    url, _, name = place.partition("#")
    return join(url, name or None, root)


def folders(root: Path) -> list[Path]:
    """The folders of studies straight below ``root``, by name."""
    try:
        return sorted(path.parent for path in root.glob(f"*/{FILE}") if not path.parent.name.startswith("."))
    except OSError:
        return []


def _read(folder: Path) -> dict[str, str]:
    file = folder / FILE
    try:
        values = json.loads(file.read_bytes())
        name, url, layout = values["name"], values["storage"], values["layout"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{str(file)!r} does not tell of a study.") from None
    if not isinstance(layout, int) or layout > _LAYOUT:
        raise UserError(f"{str(file)!r} was written by a later torchdeck (layout {layout}).")
    if not isinstance(name, str) or not isinstance(url, str):
        raise UserError(f"{str(file)!r} does not tell of a study.")
    for head, file_name in (("sqlite:", storages.SQLITE), ("journal:", storages.JOURNAL)):
        if url == head:  # in the study's own folder, which may have been moved
            return {"name": name, "storage": storages.url_of(head[:-1], folder), "file": file_name}
    return {"name": name, "storage": url}


def _write(folder: Path, study: Study) -> None:
    inside = {storages.url_of(kind, folder): f"{kind}:" for kind in ("sqlite", "journal")}
    values = {"layout": _LAYOUT, "name": study.name, "id": study.attribute(ID), "created": time.time(),
              "storage": inside.get(study.url, study.url)}  # fmt: skip
    if not (folder / FILE).exists():
        try:
            files.write_text(folder / FILE, json.dumps(values, indent=1) + "\n", private=True)  # a URL holds a password
        except OSError as error:
            raise UserError(f"The study {str(folder)!r} can't be written: {error.strerror}.") from None


# --- what may change ---------------------------------------------------------------------------------------------------


def _refuse_another(study: Study, experiment: Experiment) -> None:
    """Raises UserError when the experiment is not the one whose trials are there: what differs, and what can be done."""
    found = differences(study.experiment, experiment)
    if not found:
        return
    taken = {path.name for path in folders(study.folder.parent)}
    free = next(n for i in range(2, 1000) if (n := f"{study.name}-{i}") not in taken)
    raise UserError(
        f"The study {study.name!r} in {str(study.folder)!r} searches something else:\n"
        + "\n".join(f"  {line}" for line in found)
        + f"\nStart another one with: --set search.name={free}\n"
        f"which learns from the former with: --set search.warm_start={study.folder}\n"
        "or change the space of the former with: torchdeck study edit"
    )


def differences(old: Experiment, new: Experiment) -> list[str]:
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
    for name, a, b in (("objectives", [o.text for o in objectives(old)], [o.text for o in objectives(new)]),
                       ("function", old.search.function, new.search.function)):  # fmt: skip
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
    from optuna.distributions import check_distribution_compatibility

    raw = study.experiment.model_dump(mode="json", exclude_unset=True)
    for key, value in changes.items():
        raw = toml.put(raw, ("search", "space", key), value)
    experiment = toml.build(raw)
    space = Space(experiment)
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
    check_sampler(experiment, space, len(study.objectives) > 1)
    study.set_attribute(EXPERIMENT, toml.dumps(_without_password(experiment)))
    study.set_attribute(EXHAUSTED, False)
    study.take(experiment)
