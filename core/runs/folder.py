"""Where a run was started: its user's code and data are found from there, whatever the current folder is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchdeck.core import catalog, usercode
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment

#: Names by which arguments are files or folders, also as the end of a longer name (``test_path``).
_PATHS = ("path", "root", "dir", "file", "folder")

#: References to code are where a model can't do without it; the others may not be needed.
_NEEDED = ("model", "loss", "tracking", "transforms", "target_transforms")


def folder_of(path: Path) -> Path | None:
    """Where the run was started that lies at ``path``, or to which the checkpoint at ``path`` belongs; None where that
    is not known."""
    for place in (path, path.parent, path.parent.parent):
        try:
            folder = json.loads((place / "run.json").read_bytes())["folder"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue
        return Path(folder) if isinstance(folder, str) and folder else None
    return None


def located(experiment: Experiment, folder: Path | None, note: Callable[[str], None]) -> Experiment:
    """The experiment with what it names relative to ``folder`` (where the run was started) named absolutely: code,
    data, weights. What is not there is looked for from the current folder, as ever.

    Raises UserError, naming both folders, for code of the model, its inputs, loss or metrics that is in neither.
    """
    if folder is None or not folder.is_dir() or folder.resolve() == Path.cwd().resolve():
        return experiment
    usercode.look_from(folder.resolve())  # what the code imports lies there, too
    return _Locator(folder.absolute(), note).of(experiment)


class _Locator:
    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self._folder, self._note = folder, note

    def _sampler(self, given: str | None) -> str | None:
        return self._code(given, "data.sampler") if given and ":" in given else given

    def of(self, experiment: Experiment) -> Experiment:
        data, model, loss = experiment.data, experiment.model, experiment.loss
        new_data = data.model_copy(
            update={
                "name": self._code(data.name, "data.name"),
                "args": self._args(data.args, "data.args"),
                "root": self._path(data.root, "data.root"),
                "transforms": None if data.transforms is None else self._transforms(data.transforms, "transforms"),
                "target_transforms": self._transforms(data.target_transforms, "target_transforms"),
                "collate": self._code(data.collate, "data.collate") if data.collate else None,
                "sampler": self._sampler(data.sampler),
                "batch_sampler": self._code(data.batch_sampler, "data.batch_sampler") if data.batch_sampler else None,
            }
        )
        new_model = model.model_copy(
            update={
                "name": self._code(model.name, "model.name"),
                "args": self._args(model.args, "model.args"),
                "weights": self._path(model.weights, "model.weights"),
                "parts": {
                    name: part.model_copy(
                        update={
                            "name": self._code(part.name, f"model.parts.{name}.name"),
                            "args": self._args(part.args, f"model.parts.{name}.args"),
                        }
                    )
                    for name, part in model.parts.items()
                },
            }
        )
        step = experiment.task.step
        new_task = experiment.task.model_copy(update={"step": self._code(step, "task.step") if step else None})
        new_loss = loss.model_copy(update={"name": self._code(loss.name, "loss.name") if loss.name else None})
        optimizers = {
            name: part.model_copy(update={"name": self._code(part.name, f"optimizer.parts.{name}.name")})
            if part.name
            else part
            for name, part in experiment.optimizer.parts.items()
        }
        new_optimizer = experiment.optimizer.model_copy(
            update={"name": self._code(experiment.optimizer.name, "optimizer.name"), "parts": optimizers}
        )
        new_schedule = experiment.schedule.model_copy(
            update={"name": self._code(experiment.schedule.name, "schedule.name")}
        )
        callbacks = tuple(self._code(one, "trainer.callbacks") for one in experiment.trainer.callbacks)
        metrics = tuple(self._code(one, "tracking.metrics") for one in experiment.tracking.metrics)
        tracking = experiment.tracking.model_copy(update={"metrics": metrics})
        return experiment.model_copy(
            update={
                "data": new_data,
                "task": new_task,
                "model": new_model,
                "loss": new_loss,
                "optimizer": new_optimizer,
                "schedule": new_schedule,
                "trainer": experiment.trainer.model_copy(update={"callbacks": callbacks}),
                "tracking": tracking,
            }
        )

    def _transforms(self, transforms: Any, key: str) -> tuple[Any, ...]:
        found = []
        for one in transforms:
            values = {**one.record(), "name": self._code(one.name, key)}
            if isinstance(values.get("function"), str):
                values["function"] = self._code(values["function"], key)
            found.append(type(one).model_validate(values))
        return tuple(found)

    def _args(self, args: dict[str, Any], key: str) -> dict[str, Any]:
        return {
            name: self._path(value, f"{key}.{name}")
            if isinstance(value, str) and name.lower().endswith(_PATHS)
            else value
            for name, value in args.items()
        }

    def _path(self, text: str | None, key: str) -> str | None:
        if not text or Path(text).expanduser().is_absolute():
            return text
        there = self._folder / text
        if there.exists():
            self._told(text, key)
            return str(there)
        if ("/" in text or Path(text).suffix) and not Path(text).exists():
            self._note(f"{key}: {self._neither(text)}")
        return text

    def _code(self, reference: str, key: str) -> str:
        if not catalog.is_user_code(reference):
            return reference
        place, _, name = reference.rpartition(":")
        is_file = place.endswith(".py") or "/" in place
        path = Path(place).expanduser() if is_file else Path(*place.split("."))
        if path.is_absolute():
            return reference
        names = [path] if is_file else [path.with_suffix(".py"), path / "__init__.py"]
        for one in names:
            if (self._folder / one).is_file():
                self._told(place, key)
                return f"{self._folder / one}:{name}"
        if is_file and not path.exists() and key.partition(".")[0] in _NEEDED:
            raise UserError(f"{key} = {reference!r}: {self._neither(place)}")
        return reference

    def _told(self, text: str, key: str) -> None:
        self._note(f"{key}: {text!r} is taken from {str(self._folder)!r}, where the run was started.")

    def _neither(self, text: str) -> str:
        return f"there is no {text!r} in {str(self._folder)!r}, where the run was started, nor in {str(Path.cwd())!r}."
