"""An experiment that goes on from a checkpoint's weights with other data."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torchdeck.core.checkpoints.archive import inspect_file
from torchdeck.core.checkpoints.load import refuse_dangerous
from torchdeck.core.errors import UserError
from torchdeck.core.experiment import toml
from torchdeck.core.experiment.renamed import current_tables
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.runs.directory import without_time
from torchdeck.core.runs.folder import folder_of, located

#: What the last layers learn at is the optimizer's lr; the body, which knows something already, learns more slowly.
BACKBONE_LR_FACTOR = 0.1


def experiment_from(
    path: Path,
    data: dict[str, Any] | None,
    freeze: Sequence[str] = (),
    backbone_lr_factor: float | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Raw tables of an experiment: the checkpoint's, with its weights to begin with, other data, and a body that learns
    slowly or not at all. A file that is no checkpoint of ours gives weights only, and the model must be named.

    Raises UserError when the file can't be read, or is dangerous.
    """
    stored = inspect_file(path)
    refuse_dangerous(stored)
    stored.weights()  # raises where there are none
    raw: dict[str, Any] = {}
    if stored.experiment:
        try:
            raw = current_tables(tomllib.loads(stored.experiment))
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"The experiment in {str(path)!r} is not valid TOML: {error}.") from None
        raw = _located(raw, path, note)
    if data is not None:
        before = raw.get("data", {})
        kept = {key: before[key] for key in ("transforms", "root") if key in before}
        # Mean and std that were measured on other data are measured anew.
        raw["data"] = {**kept, **data}
    raw["model"] = {**raw.get("model", {}), "weights": str(path.absolute()), "freeze": list(freeze)}
    optimizer = raw.get("optimizer", {})
    raw["optimizer"] = {
        **optimizer,
        "backbone_lr_factor": BACKBONE_LR_FACTOR if backbone_lr_factor is None else backbone_lr_factor,
    }
    if data is not None:
        run = path.parent.parent.name if path.parent.name == "checkpoints" else path.stem
        name = str(raw.get("tracking", {}).get("name") or without_time(run))
        raw["tracking"] = {**raw.get("tracking", {}), "name": f"finetune-{name}"[:60]}
    return raw


def _located(raw: dict[str, Any], path: Path, note: Callable[[str], None]) -> dict[str, Any]:
    """The tables with code and data where the checkpoint's run was started."""
    experiment = toml.build(raw, f"the experiment in {str(path)!r}")
    found = located(experiment, folder_of(path), note)
    return raw if found is experiment else found.model_dump(mode="json", exclude_defaults=True)


def fitted_to(path: Path, experiment: Experiment) -> Experiment:
    """The experiment with transforms that make other images like those the checkpoint was trained on: as many channels,
    the same size. Without a checkpoint of ours, and for tables, it stays as it is.

    Raises UserError when checkpoint or data can't be read.
    """
    from torchdeck.core.checkpoints.read import load_checkpoint
    from torchdeck.core.data import samples, transforms
    from torchdeck.core.data.infer import hints_of
    from torchdeck.core.data.load_source import load_source

    if not inspect_file(path).experiment:
        return experiment
    trained = load_checkpoint(path, "finetune")["data"]
    shape = trained.get("raw_shape") or trained["input_shape"]
    source = load_source(experiment.data, hints_of(experiment))
    if not (source.image and source.plain) or len(shape) != 3:
        return experiment
    image = transforms.as_tensor(samples.first_sample(source.train, source.layout)[0])
    chosen = experiment.data.transforms or (transforms.make("ToTensor"), transforms.make("Normalize"))
    streamed = isinstance(source.train, samples.Samples)
    fitted = transforms.fitted(chosen, image, shape, streamed) if image.ndim == 3 else chosen
    if len(fitted) == len(chosen):
        return experiment
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"transforms": fitted})})
