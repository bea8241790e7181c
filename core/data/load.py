"""From the experiment's data table to feeds of batches: load, check, split, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core import catalog, devices, usercode
from core.data import samples, tables, transforms, vision
from core.data.batches import Feed, FeedOptions, ResidentFeed, evaluation_batch_size, resident_device
from core.data.loader import LoaderFeed, Reader, default_workers
from core.data.seeds import derive
from core.data.source import Arrays, DataInfo, Part, Source
from core.data.split import hold_out
from core.data.statistics import measure
from core.distributed import world
from core.errors import UserError, count
from core.experiment import Data, Experiment, Transform


@dataclass(frozen=True)
class LoadedData:
    """Feeds for training, validation and test, and what is known of the data."""

    info: DataInfo
    train: Feed
    #: None when trainer.validation_share is 0.
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


def load_source(data: Data) -> Source:
    """The raw data that ``data.name`` points to.

    Raises UserError when they are not there or damaged.
    """
    key = f"{data.name} {data.root} {data.resolved()}"
    if _Kept.users and _Kept.source is not None and _Kept.key == key:
        return _Kept.source
    source = _read_source(data)
    if _Kept.users and data.entry() is not None and isinstance(source.train, Arrays):
        _Kept.key, _Kept.source = key, source
    return source


def _read_source(data: Data) -> Source:
    entry = data.entry()
    if entry is None:
        return samples.load_user(data.name, data.args, data.num_classes)
    args = data.resolved()
    match entry.fact("family"):
        case "sklearn":
            return tables.load_sklearn(entry.name)
        case "idx":
            return vision.load_idx(entry.name, data.root, data.download, args.get("split", ""))
        case "torchvision":
            return vision.load_torchvision(entry.name, data.root, data.download)
        case "folder":
            return samples.load_image_folder(args["path"])
        case "fake":
            return samples.load_fake(**args)
        case "table":
            return tables.load_table(args["path"], args["target"], args["features"], args["test_path"], args["task"])
        case "npz":
            return tables.load_npz(args["path"], args["x"], args["y"], args["task"])
    raise AssertionError(entry)


def load(experiment: Experiment, device: torch.device, warn: Callable[[str], None] = lambda text: None) -> LoadedData:
    """Load, check and split the data, and make the feeds.

    Raises UserError for data that can't be trained on, in one sentence.
    """
    data, trainer = experiment.data, experiment.trainer
    source = load_source(data)
    classes = _class_names(source, data)
    _check(source, data.name, len(classes))

    n = len(source.train)
    keep, held_out = hold_out(source, torch.arange(n), data.test_share if source.test is None else 0.0,
                            derive(trainer.seed, "test"))  # fmt: skip
    train_at, val_at = hold_out(source, keep, trainer.validation_share, derive(trainer.seed, "validation"))
    if not len(train_at):
        raise UserError(f"data.name = {data.name!r} leaves no sample to train on: it has {count(n, 'sample')} in all.")

    chosen = data.transforms if data.transforms is not None else _default_transforms(source)
    chosen = measure(chosen, source, train_at, trainer.seed)
    mean, std = _target_scale(source, train_at, data.scale_target)

    feeds = _FeedMaker(experiment, source, classes, chosen, (mean, std), device, warn)
    test_part, test_at = (
        (source.train, held_out) if source.test is None else (source.test, torch.arange(len(source.test)))
    )
    train = feeds.make(source.train, train_at, training=True)
    if not len(train):
        raise UserError(f"data.name = {data.name!r} has fewer batches than there are processes ({world().size}).")
    val = feeds.make(source.train, val_at, training=False) if len(val_at) else None
    test = feeds.make(test_part, test_at, training=False) if len(test_at) else None

    x, y = feeds.peek(source.train, train_at[:25])
    info = DataInfo(
        name=data.name,
        task=source.task,
        input_shape=tuple(x.shape[1:]),
        outputs=len(classes) or (y.shape[1] if y.ndim > 1 else 1),
        class_names=classes,
        target_mean=tuple(mean.tolist()),
        target_std=tuple(std.tolist()),
        samples={"train": len(train_at), "val": len(val_at), "test": len(test_at)},
        place=source.place,
        feature_names=source.feature_names,
    )
    known = source.train.targets if source.task == "classification" else None
    return LoadedData(info, train, val, test, tuple(chosen), known[train_at] if known is not None else None,
                      x.cpu(), y.cpu())  # fmt: skip


def evaluation_feed(experiment: Experiment, device: torch.device, split: str | None, trained: DataInfo,
                    warn: Callable[[str], None] = lambda text: None) -> tuple[DataInfo, Feed, str]:  # fmt: skip
    """One part of a data set, prepared for evaluation by a model that was trained on ``trained``: what is known of it,
    the feed, and which part it is (test, val, train or all; None: the test set, or all of other data without one).

    Labels are matched by the names of their classes, where these differ in order from those of the training.

    Raises UserError for data that the model can't be evaluated on.
    """
    data, trainer = experiment.data, experiment.trainer
    source = load_source(data)
    classes = _class_names(source, data)
    _check(source, data.name, len(classes))
    if source.task != trained.task:
        raise UserError(f"data.name = {data.name!r} is {source.task}, but the model was trained for {trained.task}.")
    order = _order_of_classes(classes, trained, data.name)
    same = data.name == trained.name
    if split is None:
        split = "test" if same or source.test is not None else "all"
    n = len(source.train)
    keep, held_out = hold_out(source, torch.arange(n), data.test_share if source.test is None else 0.0,
                            derive(trainer.seed, "test"))  # fmt: skip
    train_at, val_at = hold_out(source, keep, trainer.validation_share, derive(trainer.seed, "validation"))
    part, at = {
        "train": (source.train, train_at), "val": (source.train, val_at), "all": (source.train, torch.arange(n)),
        "test": (source.train, held_out) if source.test is None else (source.test, torch.arange(len(source.test))),
    }[split]  # fmt: skip
    if not len(at):
        raise UserError(f"data.name = {data.name!r} has no {split} samples.")
    chosen = tuple(data.transforms or ())
    if source.image and len(trained.input_shape) == 3:
        first = transforms.as_tensor(samples.first_sample(part, data.name)[0])
        chosen = transforms.fitted(chosen, first, trained.input_shape) if first.ndim == 3 else chosen
        if len(chosen) > len(data.transforms or ()):
            warn(f"The images of {data.name!r} are made like those of the training: {chosen[0].name} is put first.")
    chosen = measure(chosen, source, train_at, trainer.seed)
    scale = (torch.tensor(trained.target_mean), torch.tensor(trained.target_std))
    maker = _FeedMaker(experiment, source, trained.class_names, chosen, scale, device, warn, order)
    x, _ = maker.peek(part, at[:2])
    info = DataInfo(data.name, source.task, tuple(x.shape[1:]), trained.outputs, trained.class_names,
                    samples={"evaluated": len(at)}, place=source.place)  # fmt: skip
    return info, maker.make(part, at, training=False), split


def _order_of_classes(classes: tuple[str, ...], trained: DataInfo, name: str) -> Tensor | None:
    """For each class of the data its number in the training; None where they are the same."""
    if classes == trained.class_names:
        return None
    if set(classes) <= set(trained.class_names):
        return torch.tensor([trained.class_names.index(c) for c in classes])
    if len(classes) <= len(trained.class_names) and all(c.isdigit() for c in classes):
        return None  # numbers without names: they are taken as they are
    unknown = next(c for c in classes if c not in trained.class_names)
    raise UserError(
        f"data.name = {name!r} has the class {unknown!r}, which the model was not trained on; it knows "
        f"{', '.join(trained.class_names[:12])}{' ...' if len(trained.class_names) > 12 else ''}."
    )


def _class_names(source: Source, data: Data) -> tuple[str, ...]:
    if source.task == "regression":
        return ()
    names = source.class_names
    if data.num_classes and data.num_classes > len(names):
        return (*names, *(str(i) for i in range(len(names), data.num_classes)))
    if data.num_classes and data.num_classes < len(names):
        raise UserError(f"data.num_classes = {data.num_classes}, but {data.name!r} has {len(names)} classes.")
    return names


def _check(source: Source, name: str, classes: int) -> None:
    where = f"data.name = {name!r}"
    if source.task == "classification" and classes < 2:
        raise UserError(f"{where} has {count(classes, 'class')}; two or more are needed to learn anything.")
    for part in (source.train, source.test):
        if part is None:
            continue
        if not len(part):
            raise UserError(f"{where} is empty.")
        if isinstance(part, Arrays) and part.x.is_floating_point():
            rows = torch.isfinite(part.x.reshape(len(part), -1)).all(1)
            if not rows.all():
                raise UserError(f"{where}: sample {int((~rows).nonzero()[0])} holds NaN or infinite values.")
        if source.task == "classification" and part.targets is not None:
            y = part.targets
            wrong = (y < 0) | (y >= classes)
            if wrong.any():
                at = int(wrong.nonzero()[0])
                raise UserError(
                    f"{where}: sample {at} has the label {int(y[at])}; with {classes} classes it must be between 0 "
                    f"and {classes - 1}."
                )
            if y.unique().numel() < 2:
                raise UserError(f"{where}: all samples are of one class; two or more are needed to learn anything.")


def _default_transforms(source: Source) -> tuple[Transform, ...]:
    if isinstance(source.train, Arrays):
        return (
            (Transform(name="ToTensor"), Transform(name="Normalize"))
            if source.image
            else (Transform(name="Normalize"),)
        )
    sample, _ = samples.first_sample(source.train, source.place)
    if isinstance(sample, Tensor) and sample.is_floating_point():
        return ()  # the user's Dataset has made its tensors ready
    return (Transform(name="ToTensor"), Transform(name="Normalize")) if source.image else ()


def _target_scale(source: Source, train_at: Tensor, scale: bool) -> tuple[Tensor, Tensor]:
    targets = source.train.targets
    if source.task == "classification" or targets is None or not scale:
        return torch.zeros(0), torch.zeros(0)
    y = targets[train_at].double().reshape(len(train_at), -1)
    std = y.std(0)
    return y.mean(0).float(), torch.where(std > 1e-12, std, torch.ones_like(std)).float()


class _FeedMaker:
    def __init__(self, experiment: Experiment, source: Source, classes: tuple[str, ...], chosen: Sequence[Transform],
                 scale: tuple[Tensor, Tensor], device: torch.device, warn: Callable[[str], None],
                 order: Tensor | None = None) -> None:  # fmt: skip
        self._experiment = experiment
        self._classes = len(classes)
        self._transforms = chosen
        self._device = device
        self._warn = warn
        parts = [p for p in (source.train, source.test) if isinstance(p, Arrays)]
        self._home = resident_device(parts, device, devices.memory_free(device)) if parts else device
        self._moved: dict[int, Arrays] = {}
        self._target_sample, self._target_op = _target_functions(
            experiment.data.target_transforms, self._classes, scale, device, order
        )

    def make(self, part: Part, indices: Tensor, training: bool) -> Feed:
        trainer, data = self._experiment.trainer, self._experiment.data
        pipeline = transforms.split(self._transforms, training, streamed=not isinstance(part, Arrays))
        size = trainer.batch_size
        options = FeedOptions(
            batch_size=size if training else evaluation_batch_size(trainer.eval_batch_size, size),
            device=self._device,
            seed=trainer.seed,
            ops=transforms.batch_transform(pipeline.batch, self._device),
            target_op=self._target_op,
            shuffle=training,
            random=training and transforms.draws(pipeline.batch),
            rank=world().rank if training else 0,
            processes=world().size if training else 1,
        )
        workers = data.workers if data.workers is not None else default_workers(self._device, devices.cores())
        return self._feed(part, indices, options, pipeline, workers)

    def _feed(
        self, part: Part, indices: Tensor, options: FeedOptions, pipeline: transforms.Pipeline, workers: int
    ) -> Feed:
        """Indexed where they live, or read one by one where something needs single samples."""
        if isinstance(part, Arrays) and not pipeline.needs_samples() and self._target_sample is None:
            return ResidentFeed(self._resident(part), indices, options)
        timeout = self._experiment.data.timeout
        return LoaderFeed(self._reader(part, pipeline), indices, options, workers, timeout, self._warn)

    def _resident(self, part: Arrays) -> Arrays:
        """The data on their device; training and validation share one copy."""
        if id(part) not in self._moved:
            self._moved[id(part)] = Arrays(part.x.to(self._home), part.y.to(self._home))
        return self._moved[id(part)]

    def _reader(self, part: Part, pipeline: transforms.Pipeline) -> Reader:
        listed = part if not isinstance(part, Arrays) else samples.Samples(_ArrayItems(part), part.y)
        return Reader(
            listed, transforms.sample_transform(pipeline.sample), self._target_sample or transforms.Composed(()),
            self._experiment.trainer.seed, self._classes, self._experiment.data.name,
        )  # fmt: skip

    def peek(self, part: Part, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Some samples as a batch, read in this process, before any worker is started."""
        pipeline = transforms.split(self._transforms, False, streamed=not isinstance(part, Arrays))
        options = FeedOptions(len(indices), self._device, self._experiment.trainer.seed,
                              transforms.batch_transform(pipeline.batch, self._device), self._target_op, False)  # fmt: skip
        return next(iter(self._feed(part, indices, options, pipeline, workers=0).epoch(0)))


class _ArrayItems(torch.utils.data.Dataset):
    """Tensors read sample by sample, for transforms that need single samples."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._arrays.x[index], self._arrays.y[index]


def _target_functions(
    chosen: Sequence[Transform], classes: int, scale: tuple[Tensor, Tensor], device: torch.device, order: Tensor | None
) -> tuple[Callable[[Any], Any] | None, Callable[[Tensor], Tensor]]:
    """Target transforms: one for single samples (None when not needed) and one for the batch on the device."""
    steps: list[Callable[[Any], Any]] = []
    one_hot = False
    for transform in chosen:
        if catalog.is_user_code(transform.name) or transform.name == "Lambda":
            reference = transform.args().get("function", transform.name)
            steps.append(usercode.load(reference, "data.target_transforms"))
        elif classes:
            one_hot = True
        else:
            raise UserError("data.target_transforms: OneHot needs classes, but this is regression.")
    mean, std = (t.to(device) for t in scale)
    numbers = None if order is None else order.to(device)

    def on_batch(y: Tensor) -> Tensor:
        if numbers is not None and not y.is_floating_point():
            y = numbers[y.long()]
        if one_hot and y.ndim == 1:
            return F.one_hot(y.long(), classes).float()
        if classes:
            return y if y.is_floating_point() else y.long()
        y = y.float()
        if not len(mean):
            return y
        return (y - mean) / std if y.ndim > 1 else (y - mean[0]) / std[0]

    if not steps:
        return None, on_batch

    return transforms.Composed(steps), on_batch
