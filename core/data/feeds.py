"""From a part of the data to a feed of batches: one preparation for training, evaluation, prediction and preview."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torchdeck.core import usercode
from torchdeck.core.data import samples, transforms
from torchdeck.core.data.batches import Batch, Feed, FeedOptions, ResidentFeed, evaluation_batch_size, resident_device
from torchdeck.core.data.items import AS_USUAL, Layout, map_tensors, to_device
from torchdeck.core.data.loader import LoaderFeed, default_workers
from torchdeck.core.data.main_script import why_no_workers
from torchdeck.core.data.masks import Together, mask_ops
from torchdeck.core.data.reader import Boxes, ItemReader, Reader
from torchdeck.core.data.sampling import planner
from torchdeck.core.data.source import Arrays, Part, Streamed
from torchdeck.core.data.streams import StreamFeed, Window, items_per_epoch, readers_of
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.data_schema import Transform
from torchdeck.core.experiment.schema import Experiment
from torchdeck.core.machine import devices
from torchdeck.core.machine.distributed import world


@dataclass(frozen=True)
class Preparation:
    """How samples become what the model gets."""

    transforms: tuple[Transform, ...]
    #: How many classes; 0 in regression.
    classes: int
    #: Mean and standard deviation of each target, in float64, which are taken out; empty: none are.
    mean: Tensor
    std: Tensor
    #: Whether inputs are whole numbers, which stay so.
    integer: bool = False
    #: For each class of the data its number in the training, -1 for one that it lacked; None where they are the same.
    order: Tensor | None = None
    #: The names of the classes of the data, where these are not those of the training.
    names: tuple[str, ...] = ()
    #: Whether samples are one input and one target, and how they are taken apart (see Source).
    plain: bool = True
    layout: Layout = AS_USUAL
    #: What the targets are (see the catalog of tasks).
    targets: str = "classes"
    #: The class of pixels and tokens that do not count.
    ignored: int = -100
    #: How many tokens the vocabulary has, where inputs are tokens.
    tokens: int = 0
    #: How many views of each sample random transforms make, in training and in evaluation.
    views: int = 1
    #: Whether targets are masks, which move with the images.
    masks: bool = False


class FeedMaker:
    """Makes the feeds of an experiment."""

    def __init__(
        self,
        experiment: Experiment,
        parts: Sequence[Part],
        prepared: Preparation,
        device: torch.device,
        warn: Callable[[str], None],
    ) -> None:
        self._experiment, self._prepared, self._device, self._warn = experiment, prepared, device, warn
        arrays = [p for p in parts if isinstance(p, Arrays)]
        self._home = resident_device(arrays, device, devices.memory_free(device)) if arrays else device
        self._moved: dict[int, Arrays] = {}
        self._target_sample, self._target_op = _target_functions(experiment.data.target_transforms, prepared, device)

    def make(self, part: Part, indices: Tensor, training: bool, workers: int | None = None) -> Feed:
        """The feed of some samples of a part."""
        trainer, data = self._experiment.trainer, self._experiment.data
        draws = training or self._prepared.views > 1
        pipeline = transforms.make_pipelines(self._prepared.transforms, draws, streamed=not isinstance(part, Arrays))
        size = trainer.batch_size
        options = FeedOptions(
            batch_size=size if training else evaluation_batch_size(trainer.eval_batch_size, size),
            device=self._device,
            seed=trainer.seed,
            ops=transforms.batch_transform(pipeline.batch, self._device),
            mask_ops=self._mask_ops(pipeline),
            target_op=self._target_op,
            shuffle=training and data.shuffle,
            random=draws and transforms.draws(pipeline.batch),
            training=training,
            integer=self._prepared.integer,
            plain=self._prepared.plain,
            layout=self._prepared.layout,
            views=self._prepared.views,
            plan=planner(self._experiment, part, indices, self._prepared.classes, self._warn) if training else None,
            rank=world().rank if training else 0,
            processes=world().size if training else 1,
        )
        if workers is None:
            chosen = data.workers
            workers = chosen if chosen is not None else default_workers(self._device, devices.cores())
        if training and isinstance(part, Streamed):
            return self._stream(part, options, pipeline, workers)
        return self._feed(part, indices, options, pipeline, workers)

    def _stream(self, part: Streamed, options: FeedOptions, pipeline: transforms.Pipeline, workers: int) -> Feed:
        data, trainer, window = self._experiment.data, self._experiment.trainer, Window()
        per_step = trainer.batch_size * trainer.accumulate * options.processes
        count = items_per_epoch(part, trainer.steps, per_step, data.name)
        reader, workers = self._reader(samples.Samples(window), pipeline), self._possible(workers, part)
        workers = readers_of(part, workers, options.processes, data.name, self._warn)
        by = data.collate or part.collate
        return StreamFeed(part, window, reader, count, options, workers, data.timeout, self._warn, by)

    def peek(self, part: Part, indices: Tensor, training: bool = False) -> Batch:
        """Some samples as a batch, read in this process, before any worker is started."""
        draws = training or self._prepared.views > 1
        pipeline = transforms.make_pipelines(self._prepared.transforms, draws, streamed=not isinstance(part, Arrays))
        ops = transforms.batch_transform(pipeline.batch, self._device)
        options = FeedOptions(
            len(indices),
            self._device,
            self._experiment.trainer.seed,
            ops,
            self._target_op,
            False,
            draws and transforms.draws(pipeline.batch),
            self._mask_ops(pipeline),
            integer=self._prepared.integer,
            plain=self._prepared.plain,
            layout=self._prepared.layout,
            views=self._prepared.views,
        )
        return next(iter(self._feed(part, indices, options, pipeline, workers=0).epoch(0)))

    def _mask_ops(self, pipeline: transforms.Pipeline) -> list[transforms.BatchOp | None]:
        """What moves masks as their images; nothing where there is nothing that moves pixels."""
        if not self._prepared.masks:
            return []
        ops = mask_ops(pipeline.batch, self._prepared.ignored)
        return ops if any(op is not None for op in ops) else []

    def _feed(
        self, part: Part, indices: Tensor, options: FeedOptions, pipeline: transforms.Pipeline, workers: int
    ) -> Feed:
        """Indexed where they live, or read one by one where something needs single samples."""
        collated = self._experiment.data.collate is not None
        if isinstance(part, Arrays) and not (pipeline.needs_samples() or self._target_sample or collated):
            return ResidentFeed(self._resident(part), indices, options)
        data = self._experiment.data
        reader = self._reader(part, pipeline)
        workers = self._possible(workers, part)
        by = data.collate or (part.collate if isinstance(part, samples.Samples) else None)
        return LoaderFeed(reader, indices, options, workers, data.timeout, self._warn, by)

    def _possible(self, workers: int, part: Part) -> int:
        """How many workers read a part, of those that were asked for or chosen.

        Raises UserError where they were asked for and can't be started.
        """
        read = part if isinstance(part, Arrays) else part.stream.dataset if isinstance(part, Streamed) else part.dataset
        reason = why_no_workers(read) if workers else ""
        if not reason:
            return workers
        if self._experiment.data.workers:
            raise UserError(f"data.workers = {workers}: worker processes {reason}.", field="data.workers")
        self._warn(f"Samples are read without worker processes (data.workers = 0), which {reason}.")
        return 0

    def _resident(self, part: Arrays) -> Arrays:
        """The data on their device; training and validation share one copy."""
        if id(part) not in self._moved:
            self._moved[id(part)] = Arrays(to_device(part.x, self._home), to_device(part.y, self._home))
        return self._moved[id(part)]

    def _reader(self, part: Part, pipeline: transforms.Pipeline) -> Reader | ItemReader:
        listed = part if not isinstance(part, Arrays) else samples.Samples(_ArrayItems(part), part.targets)
        if not self._prepared.plain:
            data, boxes = self._experiment.data, None
            if self._prepared.targets == "boxes":
                collated = data.collate is not None or listed.collate is not None
                boxes = Boxes(self._prepared.classes, self._prepared.layout, collated)
            return ItemReader(listed, self._experiment.trainer.seed, data.name, boxes)
        unit = any(t.name == "ToTensor" or transforms.is_own(t) for t in self._prepared.transforms)
        return Reader(
            listed,
            transforms.sample_transform(pipeline.sample),
            self._target_sample or transforms.Composed(()),
            self._experiment.trainer.seed,
            len(self._prepared.names) or self._prepared.classes,
            self._experiment.data.name,
            unit,
            self._unknown(),
            AS_USUAL if isinstance(part, Arrays) else self._prepared.layout,
            self._prepared.ignored if self._prepared.targets == "class_map" else None,
            self._prepared.tokens,
            self._prepared.views,
            Together(pipeline.sample, self._prepared.ignored) if self._prepared.masks else None,
            self._prepared.targets == "labels",
        )

    def _unknown(self) -> dict[int, str]:
        """The names of the classes that the training lacked, by their numbers in the data."""
        order = self._prepared.order
        numbers = [] if order is None else (order < 0).nonzero().flatten().tolist()
        return {number: self._prepared.names[number] for number in numbers}


class _ArrayItems(torch.utils.data.Dataset):
    """Tensors read sample by sample, for transforms that need single samples."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x, y = (map_tensors(lambda t: t[index], part) for part in (self._arrays.x, self._arrays.y))
        return x, y


def _target_functions(
    chosen: Sequence[Transform], prepared: Preparation, device: torch.device
) -> tuple[Callable[[Any], Any] | None, Callable[[Tensor], Tensor]]:
    """Target transforms: one for single samples (None when not needed) and one for the batch on the device."""
    steps: list[Callable[[Any], Any]] = []
    one_hot, classes = False, prepared.classes
    for transform in chosen:
        if transforms.is_own(transform):
            steps.append(usercode.load(transforms.called(transform), "data.target_transforms"))
        elif classes and prepared.targets == "classes":
            one_hot = True
        else:
            raise UserError(
                "data.target_transforms: OneHot needs a class for each sample, but the targets are "
                f"{prepared.targets}.",
                field="data.target_transforms",
            )
    on_batch = _TargetOp(prepared, device, one_hot)
    if not steps:
        return None, on_batch

    return transforms.Composed(steps), on_batch


class _TargetOp:
    """What is done to the targets of a batch, on the device."""

    def __init__(self, prepared: Preparation, device: torch.device, one_hot: bool) -> None:
        self._ignored = prepared.ignored
        self._kind, self._classes, self._one_hot, self._device = prepared.targets, prepared.classes, one_hot, device
        self._exact = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
        self._mean, self._std = (t.to(self._exact, torch.float64) for t in (prepared.mean, prepared.std))
        self._numbers = None if prepared.order is None else prepared.order.to(device)

    def __call__(self, y: Any) -> Any:
        """The targets [B, ...] as the loss gets them."""
        if not isinstance(y, Tensor) or self._kind == "given":
            return y
        if self._kind == "class_map":
            return self._map_of(y)
        if self._kind == "tokens":
            return y.long()
        if self._kind == "labels":
            return y.float()
        return self._classes_of(y) if self._classes else self._numbers_of(y)

    def _map_of(self, y: Tensor) -> Tensor:
        """Masks and classes of tokens; floats stay as they are, for a loss of the user's."""
        if self._numbers is not None:
            known = (y >= 0) & (y < len(self._numbers)) & (y != self._ignored)
            y = torch.where(known, self._numbers[torch.where(known, y, 0).long()], y.long())
        return y if y.is_floating_point() else y.long()

    def _classes_of(self, y: Tensor) -> Tensor:
        one_each = y.numel() == len(y)
        if self._numbers is not None and one_each:
            y = self._numbers[y.long()].to(y.dtype)
        if self._one_hot and one_each:
            return F.one_hot(y.reshape(-1).long(), self._classes).float()
        return y.long() if one_each and not y.is_floating_point() else y.float()

    def _numbers_of(self, y: Tensor) -> Tensor:
        if not len(self._mean):
            return y.float().to(self._device)
        y = y.to(self._exact, torch.float64)  # beside a large offset float32 would lose what changes
        mean, std = (self._mean, self._std) if y.ndim > 1 else (self._mean[0], self._std[0])
        return ((y - mean) / std).float().to(self._device)
