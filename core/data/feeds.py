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
from torchdeck.core.data.loader import LoaderFeed, default_workers
from torchdeck.core.data.main_script import why_no_workers
from torchdeck.core.data.reader import Reader
from torchdeck.core.data.source import Arrays, Part
from torchdeck.core.errors import UserError
from torchdeck.core.experiment.schema import Experiment, Transform
from torchdeck.core.machine import devices
from torchdeck.core.machine.distributed import world


@dataclass(frozen=True)
class Preparation:
    """How samples become what the model gets."""

    transforms: Sequence[Transform]
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
        pipeline = transforms.make_pipelines(self._prepared.transforms, training, streamed=not isinstance(part, Arrays))
        size = trainer.batch_size
        options = FeedOptions(
            batch_size=size if training else evaluation_batch_size(trainer.eval_batch_size, size),
            device=self._device,
            seed=trainer.seed,
            ops=transforms.batch_transform(pipeline.batch, self._device),
            target_op=self._target_op,
            shuffle=training and data.shuffle,
            random=training and transforms.draws(pipeline.batch),
            training=training,
            integer=self._prepared.integer,
            rank=world().rank if training else 0,
            processes=world().size if training else 1,
        )
        if workers is None:
            chosen = data.workers
            workers = chosen if chosen is not None else default_workers(self._device, devices.cores())
        return self._feed(part, indices, options, pipeline, workers)

    def peek(self, part: Part, indices: Tensor, training: bool = False) -> Batch:
        """Some samples as a batch, read in this process, before any worker is started."""
        pipeline = transforms.make_pipelines(self._prepared.transforms, training, streamed=not isinstance(part, Arrays))
        ops = transforms.batch_transform(pipeline.batch, self._device)
        options = FeedOptions(
            len(indices),
            self._device,
            self._experiment.trainer.seed,
            ops,
            self._target_op,
            False,
            training and transforms.draws(pipeline.batch),
            integer=self._prepared.integer,
        )
        return next(iter(self._feed(part, indices, options, pipeline, workers=0).epoch(0)))

    def _feed(
        self, part: Part, indices: Tensor, options: FeedOptions, pipeline: transforms.Pipeline, workers: int
    ) -> Feed:
        """Indexed where they live, or read one by one where something needs single samples."""
        if isinstance(part, Arrays) and not pipeline.needs_samples() and self._target_sample is None:
            return ResidentFeed(self._resident(part), indices, options)
        timeout = self._experiment.data.timeout
        reader = self._reader(part, pipeline)
        return LoaderFeed(reader, indices, options, self._possible(workers, part), timeout, self._warn)

    def _possible(self, workers: int, part: Part) -> int:
        """How many workers read a part, of those that were asked for or chosen.

        Raises UserError where they were asked for and can't be started.
        """
        read = part if isinstance(part, Arrays) else part.dataset
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
            self._moved[id(part)] = Arrays(part.x.to(self._home), part.y.to(self._home))
        return self._moved[id(part)]

    def _reader(self, part: Part, pipeline: transforms.Pipeline) -> Reader:
        listed = part if not isinstance(part, Arrays) else samples.Samples(_ArrayItems(part), part.y)
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

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._arrays.x[index], self._arrays.y[index]


def _target_functions(
    chosen: Sequence[Transform], prepared: Preparation, device: torch.device
) -> tuple[Callable[[Any], Any] | None, Callable[[Tensor], Tensor]]:
    """Target transforms: one for single samples (None when not needed) and one for the batch on the device."""
    steps: list[Callable[[Any], Any]] = []
    one_hot, classes = False, prepared.classes
    for transform in chosen:
        if transforms.is_own(transform):
            steps.append(usercode.load(transforms.called(transform), "data.target_transforms"))
        elif classes:
            one_hot = True
        else:
            raise UserError(
                "data.target_transforms: OneHot needs classes, but this is regression.", field="data.target_transforms"
            )
    exact = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
    mean, std = (t.to(exact, torch.float64) for t in (prepared.mean, prepared.std))
    numbers = None if prepared.order is None else prepared.order.to(device)

    def on_batch(y: Tensor) -> Tensor:
        if numbers is not None and not y.is_floating_point():
            y = numbers[y.long()]
        if one_hot and y.ndim == 1:
            return F.one_hot(y.long(), classes).float()
        if classes:
            return y.float() if y.is_floating_point() else y.long()
        if not len(mean):
            return y.float().to(device)
        y = y.to(exact, torch.float64)  # beside a large offset float32 would lose what changes
        return ((y - mean) / std if y.ndim > 1 else (y - mean[0]) / std[0]).float().to(device)

    if not steps:
        return None, on_batch

    return transforms.Composed(steps), on_batch
