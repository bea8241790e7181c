"""From the experiment's data table to feeds of batches: load, check, split, measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from torchdeck.core import catalog, usercode
from torchdeck.core.data import samples, transforms
from torchdeck.core.data.batches import Batch, Feed
from torchdeck.core.data.chosen_transforms import (
    default_transforms,
    refuse_float_transforms,
    refuse_other_forms,
    without_random_in_evaluation,
)
from torchdeck.core.data.classes import check, class_names
from torchdeck.core.data.dataloaders import brings_loaders
from torchdeck.core.data.feeds import FeedMaker, Preparation
from torchdeck.core.data.fingerprint import fingerprint
from torchdeck.core.data.infer import Hints, evaluates, hints_of
from torchdeck.core.data.items import tensors_in, to_device
from torchdeck.core.data.load_source import load_source
from torchdeck.core.data.masks import ignored_by, refuse_unable
from torchdeck.core.data.source import DataInfo, Part, Source
from torchdeck.core.data.split import split_parts, whole
from torchdeck.core.data.statistics import measure, tell_collapsed
from torchdeck.core.data.target_scale import target_scale, tell_zeros_and_ones
from torchdeck.core.errors import UserError, count
from torchdeck.core.experiment.data_schema import Data, Transform
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine.distributed import world


@dataclass(frozen=True)
class LoadedData:
    """Feeds for training, validation and test, and what is known of the data."""

    info: DataInfo
    train: Feed
    #: None when trainer.validation_share is 0; the test set itself where trainer.validate_on says so.
    val: Feed | None
    test: Feed | None
    #: The transforms with measured values filled in.
    transforms: tuple[Transform, ...]
    #: Classes of the training samples, where they are known without reading each; for class weights.
    train_targets: Tensor | None
    #: A few training samples as the model gets them, on the CPU.
    sample: Batch

    def close(self) -> None:
        """End DataLoader workers."""
        for feed in (self.train, self.val, self.test):
            if feed is not None:
                feed.close()


def load_data(
    experiment: Experiment, device: torch.device, warn: Callable[[str], None] = lambda text: None
) -> LoadedData:
    """Load, check and split the data, and make the feeds; ``warn`` is told what was guessed, scaled or left out.

    Raises UserError for data that can't be trained on, in one sentence.
    """
    data, trainer = experiment.data, experiment.trainer
    hints = hints_of(experiment)
    _refuse_others_data(experiment, hints)
    source = load_source(data, hints)
    _check_task(source, experiment, hints)
    catalog.find("task", source.task).check(experiment.task.args, "task.args")
    classes = class_names(source, data)
    check(source, data.name, len(classes), ignored=ignored_by(experiment))
    if hints.reason:
        warn(f"The task is {hints.task}: {hints.reason}. task.name says otherwise.")
    for note in source.notes:
        warn(note)
    never_evaluated = usercode.makes_own_steps(experiment.task.step) or not evaluates(experiment.model.name)
    parts = whole(source) if never_evaluated else split_parts(source, data, trainer)
    train_part, train_at = parts["train"]
    if not len(train_at):
        raise UserError(
            f"data.name = {data.name!r} leaves no sample to train on: it has "
            f"{count(len(source.train), 'sample')} in all.",
            field="data.name",
        )
    _tell_split(source, parts["val"][1], train_at, experiment, warn)

    prepared = _preparation(source, train_at, experiment, len(classes), warn)
    feeds = FeedMaker(experiment, list(source.parts.values()), prepared, device, warn)
    if source.plain and prepared.views == 1:
        refuse_other_forms(source, train_at, prepared.transforms)

    train = feeds.make(train_part, train_at, training=True)
    if not len(train):
        raise UserError(
            f"data.name = {data.name!r} has fewer batches than there are processes ({world().size}).", field="data.name"
        )
    val, test = (feeds.make(*parts[name], training=False) if len(parts[name][1]) else None for name in ("val", "test"))
    on_test = trainer.validate_on == "test"
    if on_test and test is None:
        raise UserError(
            f"trainer.validate_on = 'test', but data.name = {data.name!r} has no test samples.",
            field="trainer.validate_on",
        )

    # Images of detection may be large, and come in their own sizes.
    some = min(4 if source.task == "detection" else 25, len(train_at))
    spread = torch.linspace(0, len(train_at) - 1, some).round().long()
    sample = feeds.peek(train_part, train_at[spread])
    sample = Batch(*(to_device(part, torch.device("cpu")) for part in sample))
    info = DataInfo(
        name=data.name,
        task=source.task,
        input_shape=_shape_of_input(sample, prepared.views),
        outputs=_outputs(source, classes, sample),
        class_names=classes,
        target_mean=tuple(prepared.mean.tolist()),
        target_std=tuple(prepared.std.tolist()),
        samples={name: train.samples if name == "train" else len(at) for name, (_, at) in parts.items()},
        place=source.place,
        feature_names=source.feature_names,
        target_names=source.target_names,
        integer=prepared.integer,
        raw_shape=_raw_shape(source),
        fingerprint=fingerprint(source),
        target_shape=tuple(sample.y.shape[1:]) if isinstance(sample.y, Tensor) else (),
        plain=source.plain,
        vocabulary=source.vocabulary,
        codec=source.codec,
        input_shapes=() if prepared.plain else tuple(tuple(t.shape[1:]) for t in tensors_in(sample.x)),
    )
    if source.task == "regression" and hints.task == "auto" and data.entry() is None:
        tell_zeros_and_ones(train_part.targets, sample.y, data.name, warn)
    known = train_part.targets if _counted(source, train_part, experiment) else None
    return LoadedData(
        info,
        train,
        test if on_test else val,
        test,
        tuple(prepared.transforms),
        known[train_at] if known is not None else None,
        sample,
    )


def _counted(source: Source, train: Part, experiment: Experiment) -> bool:
    """Whether the classes of all training samples are known and needed; those of pixels for balanced weights alone."""
    if source.task == "classification":
        return train.targets is not None and train.targets.numel() == len(train.targets)
    return source.task == "segmentation" and experiment.loss.args.get("class_weights") == "balanced"


def _refuse_others_data(experiment: Experiment, hints: Hints) -> None:
    """Raises UserError where the data are those of an experiment that names none, and the LightningModule brings its
    own."""
    if hints.task != "lightning" or experiment.data.name != Data.model_fields["name"].default:
        return
    if brings_loaders(usercode.load(hints.model, "model.name")):
        raise UserError(
            f"model.name = {hints.model!r} brings its own data; name it as the data, too: data.name = {hints.model!r}.",
            field="data.name",
        )


def _check_task(source: Source, experiment: Experiment, hints: Hints) -> None:
    """Raises UserError for data whose targets are of another kind than those of the task that was asked for."""
    asked = hints.task
    if asked not in ("auto", source.task):
        raise UserError(
            f"task.name = {asked!r} does not fit data.name = {experiment.data.name!r}, whose targets are those of "
            f"{source.task}.",
            field="task.name",
            also=("data.name",),
        )


def _preparation(
    source: Source, train_at: Tensor, experiment: Experiment, classes: int, warn: Callable[[str], None]
) -> Preparation:
    """How samples become what the model gets; ``warn`` is told what is scaled or guessed."""
    data, none = experiment.data, torch.zeros(0, dtype=torch.float64)
    facts = catalog.find("task", source.task)
    targets = facts.fact("targets")
    if not source.plain:
        given = next((name for name in ("transforms", "target_transforms") if getattr(data, name)), None)
        if given is not None:
            raise UserError(
                f"data.{given}: the items of {data.name!r} are used as they are (task {source.task}"
                f"{', data.collate' if data.collate else ''}); change them in the data set itself.",
                field=f"data.{given}",
            )
        return Preparation((), classes, none, none, plain=False, layout=source.layout, targets=targets)
    integer = _whole_numbers(source, experiment, warn)
    chosen = data.transforms
    if chosen is None:
        chosen = default_transforms(source, integer, bool(facts.fact("normalised")))
        if _is_users(data):
            _tell_default(chosen, warn)
    refuse_float_transforms(chosen, integer, data.name)
    views = 2 if source.task == "contrastive" else 1
    if views == 1:
        chosen = without_random_in_evaluation(chosen, source, train_at, warn)
    elif not (transforms.draws(chosen) or any(map(transforms.is_own, chosen))):
        raise UserError(
            "task.name = 'contrastive' makes two views of each sample by random transforms, and data.transforms has "
            "none; name some (RandomResizedCrop, ColorJitter, ...), or give items that hold the views.",
            field="data.transforms",
        )
    masks = source.task == "segmentation" and source.image
    if masks:
        refuse_unable(chosen)
    chosen = measure(chosen, source, train_at, experiment.trainer.seed, warn)
    if not integer and not any(t.name == "Normalize" for t in chosen):
        tell_collapsed(source, warn)
    mean, std = target_scale(source, train_at, experiment, warn)
    return Preparation(
        chosen,
        classes,
        mean,
        std,
        integer,
        layout=source.layout,
        targets=targets,
        tokens=source.tokens,
        views=views,
        masks=masks,
        ignored=ignored_by(experiment),
    )


def _shape_of_input(sample: Batch, views: int) -> tuple[int, ...]:
    """Of one sample, or of each view of it; () where there are several inputs."""
    x = sample.x[0] if views > 1 else sample.x
    return tuple(x.shape[1:]) if isinstance(x, Tensor) else ()


def _is_users(data: Data) -> bool:
    """Whether samples are the user's own: of their code, or of files that they name."""
    entry = data.entry()
    return entry is None or any(p.name == "path" for p in entry.params)


def _tell_default(chosen: Sequence[Transform], warn: Callable[[str], None]) -> None:
    """What is done to inputs of the user's own unasked is told."""
    if chosen:
        names = " and ".join(t.name for t in chosen)
        warn(f"Inputs go through {names}; data.transforms = [] leaves them as they are.")


def _outputs(source: Source, classes: tuple[str, ...], sample: Batch) -> int:
    """Numbers that a model gives for a sample, a pixel or a token."""
    if classes or source.tokens:
        return len(classes) or source.tokens
    wanted = sample.x if source.task == "reconstruction" else sample.y
    if not isinstance(wanted, Tensor):
        return 1
    return int(wanted[0].numel())


def _raw_shape(source: Source) -> tuple[int, ...]:
    if not (source.image and source.plain):
        return ()
    return tuple(transforms.as_tensor(samples.first_sample(source.train, source.layout)[0]).shape)


def _tell_split(
    source: Source, val_at: Tensor, train_at: Tensor, experiment: Experiment, warn: Callable[[str], None]
) -> None:
    if experiment.trainer.validate_on == "test":
        warn(
            "The test set is evaluated after every epoch and chooses the best checkpoint (trainer.validate_on = "
            "'test'): its figures are not those of unseen data."
        )
    elif source.val is None and not len(val_at) and experiment.trainer.validation_share and len(train_at) < 10:
        warn(f"{experiment.data.name!r} has too few samples to hold some out: nothing is validated.")
    elif source.val is None and len(val_at) and samples.augments(source.train, train_at):
        warn(
            f"{experiment.data.name!r} changes its samples at random, and validation is cut from them: validation is "
            "augmented, too. A data set that gives (train, val) or takes split='val' has its own."
        )


def _whole_numbers(source: Source, experiment: Experiment, warn: Callable[[str], None]) -> bool:
    """Whether inputs are whole numbers that stay so: token ids, which a model of the user's takes as they are. The
    models of the catalog take floats, but for those that are of tokens."""
    sample, _ = samples.first_sample(source.train, source.layout)
    if isinstance(sample, Tensor | np.ndarray):
        kind = str(sample.dtype).removeprefix("torch.")
        bytes_of_images = kind == "uint8" and (sample.ndim >= 2 or source.image)
        whole = kind.startswith(("int", "uint")) and not bytes_of_images and not (kind == "uint16" and sample.ndim >= 2)
    else:
        whole = isinstance(sample, list | tuple) and bool(sample) and all(type(v) is int for v in sample)
    entry = experiment.model.entry()
    if whole and entry is not None and not entry.fact("tokens"):
        warn(f"The inputs of {experiment.data.name!r} are whole numbers; {experiment.model.name} takes them as floats.")
        return False
    return whole
