"""Samples read one by one and stacked to batches: what runs in the DataLoader's workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from torchdeck.core import usercode
from torchdeck.core.data.boxes import as_item, check_item, listed
from torchdeck.core.data.classes import check_class, check_labels, check_map, wrong_token
from torchdeck.core.data.graphs import is_graph, joined
from torchdeck.core.data.infer import as_values
from torchdeck.core.data.items import AS_USUAL, Layout, kind_of, tensors_in
from torchdeck.core.data.probe import kept_random_states, seed_generators
from torchdeck.core.data.seeds import derive
from torchdeck.core.data.source import Samples
from torchdeck.core.data.transforms import as_tensor, to_unit
from torchdeck.core.errors import UserCodeError, UserError, first_line


@dataclass(frozen=True)
class Failure:
    """What went wrong while a sample was read, carried out of a worker as plain text."""

    message: str
    user_code: bool


#: Input, target (None where there is none), and its index in the data.
Item = tuple[Tensor, Tensor | None, int]


#: What a sample is asked for by: (epoch, index), and where it is drawn again, the how manyth time that is.
Key = tuple[int, ...]

_NONE: Mapping[int, str] = {}


class _Seeded(Dataset):
    """Reads samples for (epoch, index); what is drawn at random for one depends on (seed, epoch, index) alone, and the
    generators are put back after a batch of them."""

    def __init__(self, part: Samples, seed: int, name: str) -> None:
        self._part, self._seed = part, seed
        self.name = name

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, key: Key) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        """The samples of a batch, which torch's DataLoader asks for at once; a Failure in place of the first one that
        can't be read, and none after it."""
        found: list[Any] = []
        try:
            with kept_random_states(), usercode.user_errors():
                for key in keys:
                    seed_generators(derive(self._seed, "sample", *key))
                    found.append(self._read(key[1]))
        except Exception as error:
            found.append(self._failure(keys[len(found)][1], error))
        return found

    def _failure(self, index: int, error: Exception) -> Failure:
        if isinstance(error, UserCodeError):
            return Failure(f"Sample {index} of {self.name!r}: {error}", True)
        if isinstance(error, UserError):
            return Failure(str(error), False)
        return Failure(f"Sample {index} of {self.name!r} can't be read: {type(error).__name__}: {error}.", False)

    def _read(self, index: int) -> Any:
        raise NotImplementedError


class Reader(_Seeded):
    """Reads one sample as a pair of tensors and its index."""

    def __init__(
        self,
        part: Samples,
        transform: Callable[[Any], Any],
        target_transform: Callable[[Any], Any],
        seed: int,
        classes: int,
        name: str,
        unit: bool = True,
        unknown: Mapping[int, str] = _NONE,
        layout: Layout = AS_USUAL,
        ignored: int | None = None,
        tokens: int = 0,
        views: int = 1,
        together: Callable[[Any, Any], tuple[Any, Any]] | None = None,
        labels: bool = False,
    ) -> None:
        """``unit``: whether a transform brings pixels of any depth to 0 to 1; ``unknown``: classes that are refused;
        ``layout``: how items are taken apart; ``ignored``: the class of pixels and tokens that don't count;
        ``tokens``: how many tokens the vocabulary has; ``views``: how many of each sample are made, [views, ...]
        where there are several; ``together``: transforms an image and its mask, in place of ``transform``; ``labels``:
        whether targets are labels of 0 and 1."""
        super().__init__(part, seed, name)
        self._unit = unit
        self._transform = transform
        self._target_transform = target_transform
        self._classes = classes
        self._unknown = unknown
        self._layout, self._ignored = layout, ignored
        self._tokens, self._views = tokens, views
        self._together, self._labels = together, labels

    def _read(self, index: int) -> Item:
        x, y = self._layout.split(self._part.dataset[index])
        self._check_depth(x, index)
        if self._together is not None and y is not None:
            x, y = self._with_mask(self._together, x, y, index)
        else:
            views = [self._tensor(self._transform(x), index) for _ in range(self._views)]
            x = views[0] if self._views == 1 else torch.stack(views)
            y = self._target(y, index)
        self._check(x, y, index)
        return x, y, index

    def _with_mask(
        self, together: Callable[[Any, Any], tuple[Any, Any]], x: Any, y: Any, index: int
    ) -> tuple[Tensor, Tensor]:
        try:
            x, y = together(x, self._target_transform(y))
        except UserError as error:
            raise UserError(f"Sample {index} of {self.name!r}: {error}") from None
        return self._tensor(x, index), y

    def _tensor(self, x: Any, index: int) -> Tensor:
        try:
            return as_tensor(x)
        except UserError:
            kind = "None" if x is None else f"a {type(x).__name__}"
            raise UserError(
                f"The input of sample {index} of {self.name!r} is {kind}; a tensor, an array, numbers or an "
                f"image is needed."
            ) from None

    def _check_depth(self, x: Any, index: int) -> None:
        """Image files of 16 bits come as 0 to 1, others as 0 to 255: one range needs ToTensor."""
        if not self._unit and getattr(self._part.dataset, "decodes", False) and isinstance(x, Tensor):
            raise UserError(
                f"Sample {index} of {self.name!r} is an image of 16 bits; add ToTensor to data.transforms, which "
                "brings images of 8 and of 16 bits to the same range."
            )

    def _target(self, y: Any, index: int) -> Tensor | None:
        if y is None:
            return None
        values = as_values(self._target_transform(y))
        if values is None:
            raise UserError(
                f"The target of sample {index} of {self.name!r} is {type(y).__name__}; a class number or numbers "
                f"are needed."
            )
        return values

    def _check(self, x: Tensor, y: Tensor | None, index: int) -> None:
        if self._tokens and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < self._tokens:
            beyond = int(x.min()) if int(x.min()) < 0 else int(x.max())
            raise wrong_token(f"Sample {index} of {self.name!r}", beyond, self._tokens)
        if x.is_complex() or (y is not None and y.is_complex()):
            raise UserError(f"Sample {index} of {self.name!r} holds complex numbers; plain ones are needed.")
        if y is None:
            return
        if self._classes and y.ndim and self._ignored is not None:
            check_map(y, self._classes, self._ignored, f"The target of sample {index} of {self.name!r}")
        if self._labels:
            check_labels(y, f"The target of sample {index} of {self.name!r}")
        elif self._classes and self._ignored is None and y.numel() == 1:
            check_class(y, self._classes, f"ample {index} of {self.name!r}")
        if self._unknown and y.numel() == 1 and int(y) in self._unknown:
            raise UserError(
                f"Sample {index} of {self.name!r} is of the class {self._unknown[int(y)]!r}, which the model was not "
                "trained on."
            )


def collate(items: list[Item | Failure], name: str) -> tuple[Tensor, Tensor | None] | Failure:
    """Samples of the data called ``name`` stacked to a batch, or the first failure."""
    failure = next((i for i in items if isinstance(i, Failure)), None)
    if failure:
        return failure
    read: list[Item] = items  # type: ignore[assignment]
    inputs, targets = [x for x, _, _ in read], [y for _, y, _ in read if y is not None]
    if 0 < len(targets) < len(read):
        lacking = next(index for _, y, index in read if y is None)
        having = next(index for _, y, index in read if y is not None)
        return Failure(f"Sample {lacking} of {name!r} has no target, and sample {having} has one.", False)
    for what, values in (("inputs", inputs), ("targets", targets)):
        shapes = {tuple(value.shape): index for value, (_, _, index) in zip(values, read, strict=False)}
        if len(shapes) > 1:
            (a, at_a), (b, at_b) = sorted(shapes.items())[:2]
            more = "; add a Resize to data.transforms" if values is inputs and len(a) == 3 else ""
            return Failure(
                f"The data have {what} of several sizes, such as {list(a)} and {list(b)} (samples {at_a} and "
                f"{at_b} of {name!r}){more}.",
                False,
            )
    if len({x.dtype for x in inputs}) > 1:  # images of 8 bits among others of 16, which are floats from 0 to 1
        inputs = [to_unit(x) for x in inputs]
    x, y = torch.stack(inputs), torch.stack(targets) if targets else None
    for of, batch in (("Sample", x), ("The target of sample", y)):
        if batch is not None and batch.is_floating_point() and not batch.isfinite().all():
            at = int((~batch.isfinite()).reshape(len(batch), -1).any(1).nonzero()[0])
            return Failure(f"{of} {read[at][2]} of {name!r} holds NaN or infinite values.", False)
    return x, y


@dataclass(frozen=True)
class Boxes:
    """What is known of the items of detection."""

    #: How many classes, the background among them.
    classes: int
    layout: Layout
    #: Whether a collate function of the user's gets the items as they are.
    collated: bool


class ItemReader(_Seeded):
    """Reads items as they are, each with its index."""

    def __init__(self, part: Samples, seed: int, name: str, boxes: Boxes | None = None) -> None:
        """``boxes``: what is known of them, where items are those of detection."""
        super().__init__(part, seed, name)
        self.boxes = boxes

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        """The items of a batch: at once from a data set that reads batches itself (``__getitems__``), whose random
        draws then depend on (seed, epoch, first index)."""
        at_once = getattr(self._part.dataset, "__getitems__", None)
        if at_once is None or self.boxes is not None:
            return super().__getitems__(keys)
        try:
            with usercode.user_errors(), kept_random_states():
                seed_generators(derive(self._seed, "sample", *keys[0]))
                items = at_once([key[1] for key in keys])
        except Exception:  # one by one, so that the sample is told that can't be read
            return super().__getitems__(keys)
        return [(item, key[1]) for item, key in zip(items, keys, strict=True)]

    def _read(self, index: int) -> tuple[Any, int]:
        item = self._part.dataset[index]
        return (item if self.boxes is None else self._with_boxes(item, self.boxes, index)), index

    def _with_boxes(self, item: Any, boxes: Boxes, index: int) -> Any:
        """An item of detection, looked at; made ready where no collate function of the user's gets it."""
        image, target = boxes.layout.split(item)
        if target is not None:
            check_item(image, target, boxes.classes, f"Sample {index} of {self.name!r}")
        return item if boxes.collated else as_item((image, target))


def collate_items(
    items: list[tuple[Any, int] | Failure],
    name: str,
    function: str | Callable[..., Any] | None,
    boxes: bool = False,
) -> Any:
    """Items as a batch by the user's ``function`` (or a reference to it), of graphs as one, or by torch's
    default_collate; or the first failure. ``boxes``: of detection, in lists."""
    failure = next((i for i in items if isinstance(i, Failure)), None)
    if failure:
        return failure
    read: list[tuple[Any, int]] = items  # type: ignore[assignment]
    values = [item for item, _ in read]
    try:
        if function is not None:
            with usercode.user_errors():
                found = usercode.load(function, "data.collate") if isinstance(function, str) else function
                return found(values)
        if boxes:
            return listed(values)
        other_keys = _other_keys(read, name)
        if other_keys is not None:
            return Failure(other_keys, False)
        return joined(values) if is_graph(values[0]) else default_collate(values)
    except UserCodeError as error:
        return Failure(f"data.collate = {function!r}: {error}", True)
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        return Failure(_why_not_stacked(read, name, error), False)


def _other_keys(read: list[tuple[Any, int]], name: str) -> str | None:
    """What is wrong with dicts whose keys differ: torch would leave out what the first one has not."""
    first, at_first = read[0]
    if not isinstance(first, Mapping):
        return None
    for item, at in read[1:]:
        differing = set(first) ^ set(item) if isinstance(item, Mapping) else set()
        if differing:
            key = min(map(str, differing))
            has, lacks = (at_first, at) if key in map(str, first) else (at, at_first)
            return (
                f"Sample {has} of {name!r} has the key {key!r}, and sample {lacks} has not; give all items the same "
                "keys, or give a collate function (data.collate = "
                "'file.py:function')."
            )
    return None


def _why_not_stacked(read: list[tuple[Any, int]], name: str, error: Exception) -> str:
    """Which part of the items differs in shape, and what to do."""
    first, at_first = read[0]
    for item, at in read[1:]:
        if kind_of(item) != kind_of(first):
            return (
                f"The items of {name!r} are of several kinds: sample {at_first} is {kind_of(first)}, sample {at} is "
                f"{kind_of(item)}."
            )
        for a, b in zip(tensors_in(first), tensors_in(item), strict=False):
            if a.shape != b.shape:
                return (
                    f"The items of {name!r} hold tensors of several sizes, such as {list(a.shape)} and "
                    f"{list(b.shape)} (samples {at_first} and {at}); pad them in a collate function of your own "
                    "(data.collate = 'file.py:function')."
                )
    return (
        f"The items of {name!r} can't be stacked to a batch: {first_line(error)}; give a collate function "
        "(data.collate = 'file.py:function')."
    )
