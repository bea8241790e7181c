"""Streams of WebDataset, and streams that give batches, made to what is needed here: items in an order that seeds alone
decide, the same in each worker and process."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from torchdeck.core.data.stream_items import set_epoch

#: Stages of WebDataset's pipelines that share shards out among processes, or refuse several.
_BY_PROCESS = ("single_node_only", "split_by_node")


def adapted(
    stream: Any, reference: str, part: str, notes: list[str], convert: Callable[[Any], Any] | None = None
) -> Any:
    """A stream as it is, or one of the items of its batches, or with a seeded order; what was changed is told.
    ``convert``: what a loader without a batch size does to each of its batches; None where there was no such loader.
    """
    made = stream
    if _is_pipeline(made):
        made, changed = _seeded(made)
        if changed:
            notes.append(
                f"{reference!r} ({part}): what WebDataset shuffles or draws by the clock is drawn by trainer.seed, and "
                "its shards are not shared out among processes: the batches are."
            )
    if convert is not None or gives_batches(stream):
        made = Unbatched(made, convert)
        notes.append(
            f"The stream {reference!r} ({part}) gives batches, which are taken apart: trainer.batch_size says how many "
            "samples a batch has."
        )
    return made


def gives_batches(stream: Any) -> bool:
    """Whether a stream is known to give batches: a pipeline of WebDataset with ``batched``, or a DataLoader in one."""
    if not _is_pipeline(stream):
        return False
    found = False
    for stage in stream.pipeline:
        name = getattr(getattr(stage, "f", stage), "__name__", "")
        if isinstance(stage, DataLoader):
            found = stage.batch_size is not None or gives_batches(stage.dataset)
        elif name in ("_batched", "_listed"):
            found = True
        elif name in ("_unbatched", "_unlisted"):
            found = False
    return found


def shuffles_in_buffer(stream: Any) -> bool:
    """Whether a stream of Hugging Face's ``datasets`` shuffles items in a buffer, which is not in its state_dict: it
    would begin to fill another one."""
    stages = [getattr(stream, "_ex_iterable", None)]
    while stages:
        stage = stages.pop()
        if type(stage).__name__ == "BufferShuffledExamplesIterable":
            return True
        stages += [getattr(stage, "ex_iterable", None)] if hasattr(stage, "ex_iterable") else []
        stages += getattr(stage, "ex_iterables", [])
    return False


class Unbatched(IterableDataset):
    """The items of a stream of batches: lists of items, or tensors, arrays and lists in tuples, lists and dicts, of
    which the first, the second and so on make an item."""

    def __init__(self, batches: Any, convert: Callable[[Any], Any] | None = None) -> None:
        self._batches, self._convert = batches, convert

    def set_epoch(self, epoch: int) -> None:
        """Tell the stream which epoch it is."""
        set_epoch(self._batches, epoch)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches if self._convert is None else map(self._convert, self._batches):
            if isinstance(batch, list) and all(isinstance(item, tuple | Mapping) for item in batch):
                yield from batch
                continue
            batch = tuple(batch) if isinstance(batch, list) else batch
            for number in range(_count(batch)):
                yield _item(batch, number)


def _count(batch: Any) -> int:
    if isinstance(batch, Mapping):
        return _count(next(iter(batch.values())))
    return _count(batch[0]) if isinstance(batch, tuple) else len(batch)


def _item(batch: Any, number: int) -> Any:
    if isinstance(batch, Mapping):
        return {key: _item(column, number) for key, column in batch.items()}
    return tuple(_item(column, number) for column in batch) if isinstance(batch, tuple) else batch[number]


def _is_pipeline(stream: Any) -> bool:
    """Whether a stream is one of WebDataset's, told without importing it."""
    of = any(kind.__module__.split(".")[0] == "webdataset" for kind in type(stream).__mro__)
    return of and isinstance(getattr(stream, "pipeline", None), list)


class _Drawn(random.Random):
    """Random numbers of Python's own generator, which is seeded here."""

    def randint(self, a: int, b: int) -> int:
        """As ``random.randint``."""
        return random.randint(a, b)

    def random(self) -> float:
        """As ``random.random``."""
        return random.random()


def _none() -> int:
    return 0


def _seeded(stream: Any) -> tuple[Any, bool]:
    """A copy of a pipeline whose stages draw from Python's generator, and whether anything had to be changed."""
    made, changed = copy.copy(stream), False
    made.pipeline = []
    for stage in stream.pipeline:
        name = getattr(getattr(stage, "f", stage), "__name__", "")
        if name in _BY_PROCESS:
            changed = changed or name == "split_by_node"
            continue
        if isinstance(getattr(stage, "epoch", None), int):
            stage = copy.copy(stage)  # which Epochs sets
        if name == "_shuffle" and stage.kw.get("rng") is None:
            changed = changed or stage.args[:1] != (False,)
            stage = copy.copy(stage)
            stage.kw = {**stage.kw, "seed": None, "rng": _Drawn()}
        if hasattr(stage, "deterministic") and hasattr(stage, "worker_seed"):
            changed = changed or not stage.deterministic
            stage.deterministic, stage.worker_seed = True, _none
        made.pipeline.append(stage)
    if not hasattr(stream, "__len__"):
        return Epochs(made), changed
    made.__class__ = type(stream).__mro__[1]  # with_length makes a class of its own, which no worker can be sent
    return SizedEpochs(made, len(stream)), changed


class Epochs(IterableDataset):
    """A pipeline of WebDataset whose stages count the epochs as they are here."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline, self._epoch = pipeline, 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch is begun next."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        for stage in self._pipeline.pipeline:
            if isinstance(getattr(stage, "epoch", None), int):
                stage.epoch = self._epoch - 1  # it counts up when it begins
        return iter(self._pipeline)


class SizedEpochs(Epochs):
    """One that tells its length."""

    def __init__(self, pipeline: Any, length: int) -> None:
        super().__init__(pipeline)
        self._length = length

    def __len__(self) -> int:
        return self._length
