"""Data that a trained model is evaluated on or predicts for: prepared by the very code that prepared its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from torchdeck.core import catalog, usercode
from torchdeck.core.data import samples, transforms
from torchdeck.core.data.batches import Batch, Feed
from torchdeck.core.data.classes import check, class_names, order_of_classes
from torchdeck.core.data.feeds import FeedMaker, Preparation
from torchdeck.core.data.fingerprint import fingerprint
from torchdeck.core.data.infer import Hints
from torchdeck.core.data.load_source import load_source
from torchdeck.core.data.masks import ignored_by
from torchdeck.core.data.source import DataInfo, Part, Source
from torchdeck.core.data.split import split_parts
from torchdeck.core.data.statistics import measure
from torchdeck.core.data.tokenizers import tokenizer_folder
from torchdeck.core.errors import UserCodeError, UserError
from torchdeck.core.experiment.data_schema import Data, Transform
from torchdeck.core.experiment.schema import Experiment

#: Parameters of data sets that are paths.
_PATHS = ("path", "test_path")


class Chained(Feed):
    """Several feeds, one after the other."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds
        self.waiting = lambda seconds: None

    def __len__(self) -> int:
        return sum(map(len, self._feeds))

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(feed.samples for feed in self._feeds)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of all of them."""
        for feed in self._feeds:
            yield from feed.epoch(epoch)

    def close(self) -> None:
        """Let go of what is held."""
        for feed in self._feeds:
            feed.close()


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated: the feed, which part of the data it is, and how many samples of how many."""

    info: DataInfo
    feed: Feed
    #: test, val, train or all.
    split: str
    samples: int
    total: int


def evaluation_feed(
    experiment: Experiment,
    trained: DataInfo,
    own: Data,
    split_name: str | None,
    device: torch.device,
    warn: Callable[[str], None] = lambda text: None,
    given: bool = False,
) -> Evaluation:
    """One part of a data set, prepared for evaluation by a model that was trained on ``trained`` (the data ``own``).
    ``given``: whether the data of the experiment were asked for, rather than those of the training taken.

    ``split_name``: test, val, train or all. None: of the very data of the training, by path and content, the test set
    (the validation set where there is none); of other data everything. Labels are matched by the names of classes.

    Raises UserError for data that the model can't be evaluated on.
    """
    data = as_trained(experiment.data, trained)
    channels = trained.input_shape[0] if len(trained.input_shape) == 3 else 3
    folder = tokenizer_folder(experiment.model)
    hints = Hints(trained.task, experiment.model.name, experiment.loss.name, tokenizer=folder)
    source = load_source(_counted_alike(data, own), hints, "RGBA" if channels == 4 else "RGB")
    for note in source.notes:
        warn(note)
    classes = class_names(source, data)
    check(source, data.name, len(classes), training=False, ignored=ignored_by(experiment))
    if source.task != trained.task:
        raise UserError(
            f"data.name = {data.name!r} is {source.task}, but the model was trained for {trained.task}.",
            field="data.name",
        )
    order = order_of_classes(source, classes, trained, data.name)
    same = _same(experiment.data, own, source, trained, warn, given)
    if same and data.test_share != own.test_share:
        warn(f"The parts are those of the training (data.test_share = {own.test_share:g}).")
    parts = split_parts(source, own if same else data, experiment.trainer)
    if split_name is None and same:
        split_name = "test" if len(parts["test"][1]) else "val"
    elif split_name is None:
        split_name = "all"
    chosen = [parts[split_name]] if split_name != "all" else [(p, torch.arange(len(p))) for p in source.parts.values()]
    count = sum(len(at) for _, at in chosen)
    if not count:
        raise UserError(f"data.name = {data.name!r} has no {split_name} samples.", field="data.name")
    prepared = _preparation(data.transforms or (), source, parts["train"][1], trained, experiment, warn)
    if order is not None:
        prepared = replace(prepared, order=order, names=classes)
    maker = FeedMaker(experiment, list(source.parts.values()), prepared, device, warn)
    part, at = next((part, at) for part, at in chosen if len(at))
    x = maker.peek(part, at[:2]).x
    x = x[0] if prepared.views > 1 else x
    info = DataInfo(
        data.name,
        source.task,
        tuple(x.shape[1:]) if isinstance(x, Tensor) else (),
        trained.outputs,
        trained.class_names,
        trained.target_mean,
        trained.target_std,
        {"evaluated": count},
        source.place,
        trained.feature_names,
        trained.target_names,
        trained.integer,
        target_shape=trained.target_shape,
        plain=source.plain,
        vocabulary=trained.vocabulary,
    )
    feeds = [maker.make(part, at, training=False) for part, at in chosen if len(at)]
    return Evaluation(
        info, feeds[0] if len(feeds) == 1 else Chained(feeds), split_name, count, sum(map(len, source.parts.values()))
    )


def prediction_feed(
    experiment: Experiment,
    trained: DataInfo,
    part: Part,
    image: bool,
    device: torch.device,
    tell: Callable[[str], None],
) -> Feed:
    """The samples of a part without targets, in their order, prepared as for evaluation. ``tell`` is told how images
    were made like those of the training.

    Raises UserError when they don't fit the model.
    """
    data = experiment.data.model_copy(update={"target_transforms": ()})
    experiment = experiment.model_copy(update={"data": data})
    source = Source(part, None, trained.task, image, place="predict's inputs")
    empty = torch.zeros(0, dtype=torch.float64)
    chosen = _fitted(data.transforms or (), source, part, trained, tell)
    maker = FeedMaker(
        experiment, [part], Preparation(chosen, 0, empty, empty, trained.integer), device, lambda text: None
    )
    return maker.make(part, torch.arange(len(part)), training=False, workers=0)


def as_trained(data: Data, trained: DataInfo) -> Data:
    """The data with what a file does not say itself as it was in the training: the task, the columns of a table."""
    if data.name not in ("table", "npz"):
        return data
    known: dict[str, object] = {"task": trained.task}
    if data.name == "table" and trained.target_names:
        known |= {"target": trained.target_names[0], "features": list(trained.feature_names)}
    given = {key: value for key, value in data.args.items() if value not in (None, "auto")}
    return data.model_copy(update={"args": {**data.args, **known, **given}})


def _counted_alike(data: Data, own: Data) -> Data:
    """The data with as many class numbers as in the training, where that is told by nothing but
    ``data.num_classes``."""
    if data.num_classes or data.name != own.name or not (data.name == "npz" or data.entry() is None):
        return data
    return data.model_copy(update={"num_classes": own.num_classes})


def _same(data: Data, own: Data, source: Source, trained: DataInfo, warn: Callable[[str], None], given: bool) -> bool:
    """Whether these are the very data of the training, by path and content."""
    if _place(data) != _place(own):
        return False
    if not trained.fingerprint:
        warn("The checkpoint does not tell the content of its data; the same path is taken for the same data.")
        return True
    if fingerprint(source) == trained.fingerprint:
        return True
    if not given:
        warn(f"The data {data.name!r} have changed since the training: the parts may not be those of then.")
    return not given


def _place(data: Data) -> tuple[object, ...]:
    name, args = data.name, data.resolved()
    if data.entry() is None and (found := data.name.rpartition(":"))[0].endswith(".py"):
        name = f"{Path(found[0]).expanduser().resolve()}:{found[2]}"
    paths = [str(Path(str(args[name])).expanduser().resolve()) for name in _PATHS if args.get(name)]
    others = {name: value for name, value in data.args.items() if name not in (*_PATHS, "task", "target", "features")}
    return (name, data.root, paths, others)


def _preparation(
    chosen: Sequence[Transform],
    source: Source,
    train_at: Tensor,
    trained: DataInfo,
    experiment: Experiment,
    warn: Callable[[str], None],
) -> Preparation:
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (trained.target_mean, trained.target_std))
    targets = catalog.find("task", trained.task).fact("targets")
    fitted: tuple[Transform, ...] = ()
    if source.plain:
        fitted = _fitted(chosen, source, source.train, trained, warn)
        fitted = measure(fitted, source, train_at, experiment.trainer.seed, warn)
    return Preparation(
        fitted,
        len(trained.class_names),
        mean,
        std,
        trained.integer,
        plain=source.plain,
        layout=source.layout,
        targets=targets,
        views=2 if source.plain and trained.task == "contrastive" else 1,
        masks=source.plain and source.image and trained.task == "segmentation",
        ignored=ignored_by(experiment),
    )


def _fitted(
    chosen: Sequence[Transform], source: Source, part: Part, trained: DataInfo, warn: Callable[[str], None]
) -> tuple[Transform, ...]:
    """The transforms, with what makes other images like those of the training put first."""
    if not source.image or len(trained.input_shape) != 3:
        return tuple(chosen)
    streamed = isinstance(part, samples.Samples)
    first = transforms.as_tensor(samples.first_sample(part, source.layout)[0])
    raw_shape = trained.raw_shape if len(trained.raw_shape) == 3 else trained.input_shape
    if first.ndim != 3 or _sized_by_own_code(chosen, source, part, trained):
        return tuple(chosen)
    fitted = transforms.fitted(chosen, first, raw_shape, streamed)
    added = [t.name for t in fitted[: len(fitted) - len(chosen)]]
    if added and _changes(first, raw_shape):
        verb = "is" if len(added) == 1 else "are"
        warn(
            f"The images of {source.place!r} are made like those of the training: {' and '.join(added)} {verb} "
            "put first."
        )
    return fitted


def _changes(image: Tensor, shape: Sequence[int]) -> bool:
    """Whether an image [C, H, W] is another one in this shape; grey in three channels stays what it is in one."""
    grey = image.shape[0] == 3 and shape[0] == 1 and bool((image == image[:1]).all())
    return tuple(image.shape[1:]) != tuple(shape[1:]) or not (grey or image.shape[0] == shape[0])


def _sized_by_own_code(chosen: Sequence[Transform], source: Source, part: Part, trained: DataInfo) -> bool:
    """Whether a transform of the user's gives images the size that the model takes, as it did in the training: tried on
    the first image made larger."""
    run = transforms.evaluation(chosen)
    if not any(transforms.is_own(t) for t in run):
        return False
    image = samples.first_sample(part, source.layout)[0]
    height, width = transforms.as_tensor(image).shape[-2:]
    larger = transforms.make("Resize", size=[height + 3, width + 2])
    apply = transforms.sample_transform([larger, *(t for t in run if t.name != "Normalize")])
    try:
        with usercode.user_errors():
            made = transforms.as_tensor(apply(image))
    except UserCodeError:
        return False  # it takes images of one size
    return tuple(made.shape) == tuple(trained.input_shape)
