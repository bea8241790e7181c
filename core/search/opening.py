"""Studies made, opened and joined: ``study.json`` in the study's folder tells where its storage is."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection

from torchdeck.core import files
from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.experiment.space import Space
from torchdeck.core.runs.directory import check_root, folder_name
from torchdeck.core.runs.trust import new_id
from torchdeck.core.search import storage as storages
from torchdeck.core.search.build import build_pruner, check_sampler
from torchdeck.core.search.change import refuse_another
from torchdeck.core.search.folders import FILE, folders
from torchdeck.core.search.objectives import Objective, objectives
from torchdeck.core.search.study import EXPERIMENT, ID, Study
from torchdeck.core.usercode.imports import clash

_LAYOUT = 1


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
            "Nothing is searched: give [search.space], such as \"optimizer.lr\" = '1e-4 .. 0.1 log', or "
            "search.function."
        )
    space, wanted = Space(experiment), objectives(experiment)
    check_sampler(experiment, space, len(wanted) > 1)
    build_pruner(experiment)
    _refuse_clashing_code(experiment)
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
    with storages.locked_study(folder):
        there = _read(folder) if (folder / FILE).exists() else None
        url = url or (there["storage"] if there else storages.url_of(experiment.search.storage, folder))
        # Two that create Optuna's tables at the same moment both fail.
        with storages.storage_errors(url), storages.locked_in_database(url, name):
            storage = storages.open_storage(url, create=True)
            study = _create(experiment, folder, url, storage, name, wanted)
        _write(folder, study)
    return study


def _refuse_clashing_code(experiment: Experiment) -> None:
    """Trials of one process share its modules: of two code bases with equal names the first trial's would be used."""
    for key, dimension in experiment.search.space.items():
        sentence = clash(choice for choice in dimension.choices or () if isinstance(choice, str))
        if sentence is not None:
            raise UserError(f"search.space.{key}: {sentence}", field=f"search.space.{key}")


def _create(
    experiment: Experiment, folder: Path, url: str, storage: Any, name: str, wanted: Sequence[Objective]
) -> Study:
    directions = [StudyDirection.MAXIMIZE if one.higher else StudyDirection.MINIMIZE for one in wanted]
    handle = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    attributes = handle._storage.get_study_system_attrs(handle._study_id)
    text = toml.dumps(experiment.to_share())
    if EXPERIMENT in attributes:
        study = Study(folder, url, storage, handle)
        refuse_another(study, experiment)
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
        from torchdeck.core.search.former import learn

        learn(study, experiment.search.warm_start)
        for values in experiment.search.enqueue:
            study.enqueue(values)
    except UserError:
        optuna.delete_study(study_name=name, storage=storage)
        raise
    study.set_attribute(EXPERIMENT, text)  # the last: with it the study is whole
    return study


def open_folder(folder: Path) -> Study:
    """The study in a folder.

    Raises UserError when there is none, or its storage can't be opened.
    """
    values = _read(folder)
    return _open(values["storage"], values["name"], folder)


def join_study(url: str, name: str | None, root: Path) -> Study:
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


def find_study(given: str, root: Path) -> Path | str:
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
    place = find_study(given, root)
    if isinstance(place, Path):
        return open_folder(place)
    url, _, name = place.partition("#")
    return join_study(url, name or None, root)


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
    values = {
        "layout": _LAYOUT,
        "name": study.name,
        "id": study.attribute(ID),
        "created": time.time(),
        "storage": inside.get(study.url, study.url),
    }
    if not (folder / FILE).exists():
        try:
            files.write_text(folder / FILE, json.dumps(values, indent=1) + "\n", private=True)  # a URL holds a password
        except OSError as error:
            raise UserError(f"The study {str(folder)!r} can't be written: {error.strerror}.") from None
