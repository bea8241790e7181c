"""From the experiment's data table to feeds of batches: load, check, split, measure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchdeck.core import usercode
from torchdeck.core.data import samples, transforms
from torchdeck.core.data.batches import Feed
from torchdeck.core.data.classes import check, class_names
from torchdeck.core.data.feeds import FeedMaker, Preparation
from torchdeck.core.data.fingerprint import fingerprint
from torchdeck.core.data.probe import is_random, seeded
from torchdeck.core.data.source import Arrays, DataInfo, Source
from torchdeck.core.data.split import split_parts
from torchdeck.core.data.statistics import measure, moments, tell_collapsed
from torchdeck.core.errors import UserError, count
from torchdeck.core.experiment.schema import Data, Experiment, Transform
from torchdeck.core.machine.distributed import world
from torchdeck.core.text import numbers_in_words


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
    #: A few training samples as the model gets them, on the CPU [N, ...].
    sample: Tensor
    #: Their targets [N, ...].
    sample_targets: Tensor

    def close(self) -> None:
        """End DataLoader workers."""
        for feed in (self.train, self.val, self.test):
            if feed is not None:
                feed.close()


class _Kept:
    """The source that was read last, for the trials of a search, which all train on the same."""

    users = 0
    key = ""
    source: Source | None = None


@contextmanager
def keeping_source() -> Iterator[None]:
    """As long as this lasts, arrays from the catalog that were read last are not read again (from any thread)."""
    _Kept.users += 1
    try:
        yield
    finally:
        _Kept.users -= 1
        if not _Kept.users:
            _Kept.source = None


def load_source(data: Data, mode: str = "RGB") -> Source:
    """The raw data that ``data.name`` points to; ``mode``: that of PIL in which image files are read.

    Raises UserError when they are not there or damaged.
    """
    key = f"{data.name} {data.root} {data.num_classes} {data.resolved()}"
    if _Kept.users and _Kept.source is not None and _Kept.key == key:
        return _Kept.source
    source = _read_source(data, mode)
    if _Kept.users and data.entry() is not None and isinstance(source.train, Arrays):
        _Kept.key, _Kept.source = key, source
    return source


def _read_source(data: Data, mode: str) -> Source:
    entry = data.entry()
    if entry is None:
        return samples.load_user(data.name, data.args, data.num_classes)
    factory = entry.load_factory()
    offered = {
        "name": entry.name,
        "root": data.root,
        "download": data.download,
        "num_classes": data.num_classes,
        "mode": mode,
        **data.resolved(),
    }
    takes = inspect.signature(factory).parameters
    return factory(**{name: value for name, value in offered.items() if name in takes})


def load_data(
    experiment: Experiment, device: torch.device, warn: Callable[[str], None] = lambda text: None
) -> LoadedData:
    """Load, check and split the data, and make the feeds; ``warn`` is told what was guessed, scaled or left out.

    Raises UserError for data that can't be trained on, in one sentence.
    """
    data, trainer = experiment.data, experiment.trainer
    source = load_source(data)
    classes = class_names(source, data)
    check(source, data.name, len(classes))
    for note in source.notes:
        warn(note)
    parts = split_parts(source, data, trainer)
    train_part, train_at = parts["train"]
    if not len(train_at):
        raise UserError(
            f"data.name = {data.name!r} leaves no sample to train on: it has {count(len(source.train), 'sample')} in all.",
            field="data.name",
        )
    _tell_split(source, parts["val"][1], train_at, experiment, warn)

    integer = _whole_numbers(source, experiment, warn)
    chosen = data.transforms if data.transforms is not None else default_transforms(source, integer)
    _refuse_float_transforms(chosen, integer, data.name)
    chosen = _without_random_in_evaluation(chosen, source, train_at, warn)
    chosen = measure(chosen, source, train_at, trainer.seed, warn)
    if not integer and not any(t.name == "Normalize" for t in chosen):
        tell_collapsed(source, warn)
    mean, std = _target_scale(source, train_at, experiment, warn)
    prepared = Preparation(chosen, len(classes), mean, std, integer)
    feeds = FeedMaker(experiment, list(source.parts.values()), prepared, device, warn)
    _refuse_other_forms(source, train_at, chosen)

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

    spread = torch.linspace(0, len(train_at) - 1, min(25, len(train_at))).round().long()
    x, y = feeds.peek(train_part, train_at[spread])
    info = DataInfo(
        name=data.name,
        task=source.task,
        input_shape=tuple(x.shape[1:]),
        outputs=len(classes) or (y.shape[1] if y.ndim > 1 else 1),
        class_names=classes,
        target_mean=tuple(mean.tolist()),
        target_std=tuple(std.tolist()),
        samples={name: len(at) for name, (_, at) in parts.items()},
        place=source.place,
        feature_names=source.feature_names,
        target_names=source.target_names,
        integer=integer,
        raw_shape=_raw_shape(source),
        fingerprint=fingerprint(source),
    )
    known = train_part.targets if source.task == "classification" else None
    return LoadedData(
        info,
        train,
        test if on_test else val,
        test,
        tuple(chosen),
        known[train_at] if known is not None else None,
        x.cpu(),
        y.cpu(),
    )


def _raw_shape(source: Source) -> tuple[int, ...]:
    if not source.image:
        return ()
    return tuple(transforms.as_tensor(samples.first_sample(source.train, source.place)[0]).shape)


def _tell_split(
    source: Source, val_at: Tensor, train_at: Tensor, experiment: Experiment, warn: Callable[[str], None]
) -> None:
    if experiment.trainer.validate_on == "test":
        warn(
            "The test set is evaluated after every epoch and chooses the best checkpoint (trainer.validate_on = 'test'): "
            "its figures are not those of unseen data."
        )
    elif source.val is None and len(val_at) and samples.augments(source.train, train_at):
        warn(
            f"{experiment.data.name!r} changes its samples at random, and validation is cut from them: validation is "
            "augmented, too. A data set that gives (train, val) or takes split='val' has its own."
        )


def _whole_numbers(source: Source, experiment: Experiment, warn: Callable[[str], None]) -> bool:
    """Whether inputs are whole numbers that stay so: token ids, which a model of the user's takes as they are. The
    models of the catalog take floats."""
    sample, _ = samples.first_sample(source.train, source.place)
    if isinstance(sample, Tensor | np.ndarray):
        kind = str(sample.dtype).removeprefix("torch.")
        bytes_of_images = kind == "uint8" and (sample.ndim >= 2 or source.image)
        whole = kind.startswith(("int", "uint")) and not bytes_of_images and not (kind == "uint16" and sample.ndim >= 2)
    else:
        whole = isinstance(sample, list | tuple) and bool(sample) and all(type(v) is int for v in sample)
    if whole and experiment.model.entry() is not None:
        warn(f"The inputs of {experiment.data.name!r} are whole numbers; {experiment.model.name} takes them as floats.")
        return False
    return whole


def _refuse_float_transforms(chosen: tuple[Transform, ...], integer: bool, name: str) -> None:
    wrong = next((t.name for t in chosen if t.name in ("ToTensor", "Normalize")), None)
    if integer and wrong is not None:
        raise UserError(
            f"data.transforms: {wrong} would make floats of the inputs of {name!r}, which are whole numbers and stay so; "
            "leave it out.",
            field="data.transforms",
        )


def default_transforms(source: Source, integer: bool) -> tuple[Transform, ...]:
    """Those of an experiment that names none."""
    images = (Transform(name="ToTensor"), Transform(name="Normalize"))
    if integer:
        return ()
    if isinstance(source.train, Arrays):
        return images if source.image else (Transform(name="Normalize"),)
    sample, _ = samples.first_sample(source.train, source.place)
    floats = isinstance(sample, Tensor) and sample.is_floating_point()
    floats = floats or (isinstance(sample, np.ndarray) and sample.dtype.kind == "f")
    if floats and getattr(source.train.dataset, "samples", None) is None:
        return ()  # the user's Dataset has made its inputs ready
    return images if source.image else ()


def _without_random_in_evaluation(
    chosen: tuple[Transform, ...], source: Source, train_at: Tensor, warn: Callable[[str], None]
) -> tuple[Transform, ...]:
    """Transforms of the user's own that draw random numbers are marked as for training only: found out by trying."""
    marked: list[Transform] = []
    some = sorted({int(train_at[0]), int(train_at[len(train_at) // 2]), int(train_at[-1])})
    for transform in chosen:
        if transforms.is_own(transform) and transform.train_only is None:
            before = [t for t in transforms.evaluation(marked) if t.name != "Normalize"]
            apply = transforms.sample_transform(before)
            step = transforms.sample_transform((transform,))
            if any(_draws(step, apply(samples.sample_at(source.train, index, source.place)[0])) for index in some):
                transform = transform.model_copy(update={"train_only": True})
                warn(
                    f"data.transforms: {transforms.called(transform)} draws random numbers and is run on "
                    "training samples only (train_only = false runs it on all)."
                )
        marked.append(transform)
    return tuple(marked)


def _draws(step: Callable[[Any], Any], x: Any) -> bool:
    with usercode.user_errors():
        return is_random(lambda: step(_copied(x)))


def _copied(x: Any) -> Any:
    """A sample that may be changed in place."""
    if isinstance(x, Tensor):
        return x.clone()
    return x.copy() if hasattr(x, "copy") else x


def _refuse_other_forms(source: Source, train_at: Tensor, chosen: tuple[Transform, ...]) -> None:
    """What is left out of evaluation must not be what gives the inputs their shape, or makes numbers of pictures."""
    left_out = next((t for t in chosen if t.train_only), None)
    if left_out is None:
        return
    known = [t for t in chosen if t.name != "Normalize"]
    run = [t.model_copy(update={"train_only": False}) if t.train_only else t for t in known]
    x, _ = samples.sample_at(source.train, int(train_at[0]), source.place)
    with usercode.user_errors(), seeded(0):
        training, evaluation = (
            transforms.as_tensor(transforms.sample_transform(transforms.evaluation(each))(_copied(x)))
            for each in (run, known)
        )
    forms = (training.shape, training.is_floating_point()), (evaluation.shape, evaluation.is_floating_point())
    if forms[0] != forms[1]:
        name = transforms.called(left_out)
        raise UserError(
            f"data.transforms: {name} is run on training samples only, which with it are {_form(training)} and "
            f"without it {_form(evaluation)}. Set train_only = false in it, or move the part that does not draw random "
            "numbers into a transform of its own.",
            field="data.transforms",
        )


def _form(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} of the shape {list(x.shape)}"


def _target_scale(
    source: Source, train_at: Tensor, experiment: Experiment, warn: Callable[[str], None]
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation that are taken out of the targets: of plain regression with a loss of the catalog, not
    for a loss of the user's, and not of 0 and 1, unless data.scale_target says so.

    Raises UserError for targets that are all the same, from which a loss of the catalog learns nothing.
    """
    targets, name, asked = source.train.targets, experiment.data.name, experiment.data.scale_target
    none = torch.zeros(0, dtype=torch.float64)
    if source.task == "classification":
        return none, none
    if targets is None:
        if asked:
            warn(f"data.scale_target = true: {name!r} does not tell its targets beforehand; they are left as they are.")
        return none, none
    y = targets[train_at].reshape(len(train_at), -1)
    constant = (y == y[0]).all(0)
    own_loss = experiment.loss.name is not None and experiment.loss.entry() is None
    if bool(constant.all()) and not own_loss and len(y) > 1:
        raise UserError(
            f"data.name = {name!r}: every target is {numbers_in_words(y[0].tolist(), 4)}; there is nothing to learn.",
            field="data.name",
        )
    zeros_and_ones = bool(((y == 0) | (y == 1)).all())
    if asked is False or (asked is None and (own_loss or zeros_and_ones)):
        return none, none
    found = moments(y, torch.arange(len(y)))
    mean, std = found.mean, found.std()
    names = source.target_names or tuple(str(i) for i in range(len(mean)))
    told = [
        f"{n} {m:.6g}, always" if same else f"{n} {m:.6g} ± {s:.6g}"
        for n, m, s, same in zip(names, mean.tolist(), std.tolist(), constant.tolist(), strict=False)
    ]
    warn(
        f"Targets are standardised for the training (mean ± standard deviation: {', '.join(told[:4])}"
        f"{', ...' if len(told) > 4 else ''}); metrics, predictions and exports are in their own unit. "
        "data.scale_target = false leaves them as they are."
    )
    return mean, std
