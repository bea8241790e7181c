"""The data sets that the user's code gives: one, a tuple of them, a dict by name, or loaders, told apart by part."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from torchdeck.core import usercode
from torchdeck.core.data.dataloaders import loaders_of, makes_loaders
from torchdeck.core.data.probe import equal, seeded
from torchdeck.core.data.streams import is_stream
from torchdeck.core.errors import UserCodeError, UserError

#: What a tuple of data sets holds, in this order, and what the parts of a dict (a DatasetDict of Hugging Face) are
#: called.
_PARTS = ("train", "val", "test")
_CALLED = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev", "eval"), "test": ("test",)}


def parts_of(reference: str, args: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The data sets that a reference gives, by part, and what to say of them."""
    target = usercode.load(reference, "data.name")
    told_apart = _told_apart(target, reference)
    if told_apart is not None:
        return told_apart
    if makes_loaders(target):
        module = usercode.call(target, args, "data") if isinstance(target, type) else target
        return loaders_of(module, reference), []
    if isinstance(target, Dataset | DataLoader):
        return {"train": target}, []
    if callable(target):
        return _make(target, args, reference)
    if is_stream(target) or (hasattr(target, "__len__") and hasattr(target, "__getitem__")):
        return {"train": target}, []
    raise UserError(f"data.name = {reference!r} is a {type(target).__name__}, not a Dataset class.", field="data.name")


def _make(target: Any, args: dict[str, Any], reference: str) -> tuple[dict[str, Any], list[str]]:
    """The parts that the user's class or function gives, and what to say of them."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    if "train" in parameters and "train" not in args:
        return {
            name: usercode.call(target, {**args, "train": name == "train"}, "data") for name in ("train", "test")
        }, []
    if "split" in parameters and "split" not in args:
        return _splits(target, args, reference)
    if inspect.isgeneratorfunction(target):
        usercode.call(target, args, "data")  # wrong arguments are told at once
        return {"train": Generated(target, args)}, []
    made = usercode.call(target, args, "data")
    if makes_loaders(made):
        return loaders_of(made, reference), []
    return _told_apart(made, reference) or ({"train": made}, [])


def _told_apart(made: Any, reference: str) -> tuple[dict[str, Any], list[str]] | None:
    """The parts of a tuple or a dict of data sets; None where it is none."""
    if _are_arrays(made):
        told = f"{reference!r} gives two arrays of one length, which are taken as inputs and targets."
        return {"train": TensorDataset(*map(torch.as_tensor, made))}, [told]
    if isinstance(made, tuple | list) and 2 <= len(made) <= 3:
        if all(map(_are_arrays, made)):
            made = [TensorDataset(*map(torch.as_tensor, part)) for part in made]
        return dict(zip(_PARTS, made, strict=False)), []
    if not isinstance(made, dict) or 0 in made:
        return None
    found = {part: next((name for name in names if name in made), None) for part, names in _CALLED.items()}
    if found["train"] is None:
        raise UserError(
            f"data.name = {reference!r} gives a {type(made).__name__} with the keys "
            f"{', '.join(map(repr, made)) or '(none)'}; give data sets as 'train', and 'val' and 'test' where there "
            "are such.",
            field="data.name",
        )
    unused = [name for name in made if name not in found.values()]
    notes = [f"{reference!r} gives {', '.join(map(repr, unused))}, too: not used."] if unused else []
    return {part: made[name] for part, name in found.items() if name is not None}, notes


def _are_arrays(made: Any) -> bool:
    """Whether it is the inputs and the targets, and not a training and a validation set."""
    if not (isinstance(made, tuple) and len(made) == 2 and all(isinstance(p, Tensor | np.ndarray) for p in made)):
        return False
    x, y = made
    return x.ndim > 0 and y.ndim > 0 and len(x) == len(y) and x.shape[1:] != y.shape[1:]


class Generated(IterableDataset):
    """A stream made by a generator function, which is called anew for each pass."""

    def __init__(self, function: Callable[..., Iterator[Any]], args: Mapping[str, Any]) -> None:
        self._function, self._args = function, dict(args)

    def __iter__(self) -> Iterator[Any]:
        return self._function(**self._args)


def _splits(target: Any, args: dict[str, Any], reference: str) -> tuple[dict[str, Any], list[str]]:
    made = {"train": usercode.call(target, {**args, "split": "train"}, "data")}
    notes = []
    for part, names in (("test", ("test",)), ("val", ("val", "valid", "validation"))):
        reasons: list[str] = []
        for name in names:
            try:
                made[part] = usercode.call(target, {**args, "split": name}, "data")
                break
            except UserCodeError as error:
                if not _no_such_split(error.__cause__, name):
                    raise
                reasons.append(f"{type(error.__cause__).__name__}: {error.__cause__}")
        if part not in made:
            notes.append(f"{reference!r} gives no split {names[0]!r} ({reasons[0]}).")
    for other in ("test", "train"):
        # A class that knows two splits may give one of them for any other name.
        if "val" in made and other in made and _alike(made["val"], made[other]):
            del made["val"]
            notes.append(
                f"{reference!r}: split='val' gives the same samples as {other!r}; validation is cut from the "
                "training set instead."
            )
    return made, notes


def _no_such_split(error: BaseException | None, name: str) -> bool:
    """Whether a data set raised this because it has no split of that name, rather than while it read one.

    Each library words it in its own way, with a plain ValueError most often.
    """
    if isinstance(error, KeyError):
        return error.args == (name,)
    if isinstance(error, ValueError):
        return name in str(error) or "split" in str(error).lower()
    return isinstance(error, AssertionError | NotImplementedError)


def _alike(one: Any, other: Any) -> bool:
    """Whether two data sets give the same samples, also where they change them at random."""
    with usercode.user_errors():
        if len(one) != len(other) or not len(one):
            return False
        return all(equal(_drawn(one, i), _drawn(other, i)) for i in {0, len(one) // 2, len(one) - 1})


def _drawn(dataset: Any, index: int) -> Any:
    with seeded(0):
        return dataset[index]
