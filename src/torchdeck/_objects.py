"""Models, data and losses that are given in Python: what they may be, and how an experiment names them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from torchdeck.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import Dataset

    #: An array, a tensor, or what NumPy can make an array of without a copy (a column of a data frame).
    Array: TypeAlias = Any
    Part: TypeAlias = Dataset[Any] | tuple[Array, Array]
    Model: TypeAlias = nn.Module | Callable[..., nn.Module] | str
    Data: TypeAlias = Part | Callable[..., Any] | tuple[Part, Part] | tuple[Part, Part, Part] | str
    Loss: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | type[nn.Module] | str


def model_of(model: Any) -> Any:
    """A model as an experiment's builder takes it.

    Raises UserError for what is none.
    """
    from torch import nn

    if isinstance(model, nn.Module) or callable(model):
        return model
    raise UserError(
        f"model= is a {type(model).__name__}; give an nn.Module, its class, a function that makes one, or a name "
        f"of the catalog."
    )


def loss_of(loss: Any) -> Any:
    """A loss as an experiment's builder takes it.

    Raises UserError for what is none.
    """
    if callable(loss):
        return loss
    raise UserError(
        f"loss= is a {type(loss).__name__}; give a module or a function of (outputs, targets), or a name of the "
        f"catalog."
    )


def data_of(data: Any) -> Any:
    """Data as an experiment's loader takes them: a Dataset, what makes one, or a tuple of them.

    Raises UserError for what can't be trained on.
    """
    if isinstance(data, tuple | list) and not _is_dataset(data):
        if len(data) == 2 and all(map(_is_array, data)):
            return _from_arrays([data])[0]
        if not 2 <= len(data) <= 3:
            raise UserError(
                f"data= holds {len(data)} parts; give (train, val) or (train, val, test), or one pair (X, y)."
            )
        if all(_is_pair(part) for part in data):
            return tuple(_from_arrays(data))
        return tuple(_from_arrays([part])[0] if _is_pair(part) else _dataset(part) for part in data)
    return data if callable(data) and not _is_dataset(data) else _dataset(data)


def resident(data: Any) -> Any | None:
    """The inputs [N, ...] of data that live in memory as one tensor; None of others."""
    from torch.utils.data import TensorDataset

    first = data[0] if isinstance(data, tuple) else data
    return first.tensors[0] if type(first) is TensorDataset and len(first.tensors) == 2 else None


def name_of(thing: Any) -> str:
    """What an object is called: its class, or its own name where it is a class or a function."""
    thing = thing[0] if isinstance(thing, tuple) else thing
    while isinstance(thing, functools.partial):
        thing = thing.func
    name = getattr(thing, "__name__", None) or type(thing).__name__
    return re.sub(r"\W+", "", name) or "object"


def _dataset(data: Any) -> Any:
    from torch.utils.data import DataLoader

    if isinstance(data, DataLoader):
        raise UserError(
            "data= is a DataLoader; give its data set (loader.dataset): batches are made by trainer.batch_size."
        )
    if _is_array(data) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise UserError(
            f"data= holds a {type(data).__name__}; give a Dataset with __len__ and __getitem__, a pair (X, y), a tuple "
            "(train, val) or (train, val, test) of those, or a name of the catalog."
        )
    return data


def _is_dataset(thing: Any) -> bool:
    from torch.utils.data import Dataset

    return isinstance(thing, Dataset)


def _is_array(thing: Any) -> bool:
    return hasattr(thing, "__array__") and not _is_dataset(thing)


def _is_pair(part: Any) -> bool:
    return isinstance(part, tuple | list) and len(part) == 2 and all(map(_is_array, part))


def _from_arrays(pairs: Sequence[Any]) -> list[Any]:
    """A TensorDataset of each pair, on the same memory; names of classes become their numbers, over all parts.

    Raises UserError for what torch has no tensor of.
    """
    import numpy as np
    from torch.utils.data import TensorDataset

    labels = [np.asarray(y) for _, y in pairs if not _is_tensor(y)]
    named = bool(labels) and all(y.dtype.kind in "USO" and y.ndim == 1 for y in labels)
    classes = np.unique(np.concatenate([y.astype(str) for y in labels])) if named else None
    made = []
    for x, y in pairs:
        inputs = _tensor(x, "X")
        targets = _tensor(y if classes is None else np.searchsorted(classes, np.asarray(y).astype(str)), "y")
        if len(inputs) != len(targets):
            raise UserError(
                f"data=(X, y): X has {len(inputs):,} rows and y {len(targets):,}; both need one row per sample."
            )
        dataset = TensorDataset(inputs, targets)
        if classes is not None:
            dataset.classes = classes.tolist()  # type: ignore[attr-defined]
        made.append(dataset)
    return made


def _is_tensor(thing: Any) -> bool:
    import torch

    return isinstance(thing, torch.Tensor)


def _tensor(values: Any, what: str) -> torch.Tensor:
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        found = values.detach()
    else:
        array = np.asarray(values)
        try:
            found = torch.as_tensor(array)
        except TypeError:
            raise UserError(f"data=(X, y): {what} holds {array.dtype}; an array of numbers is needed.") from None
    if not found.ndim:
        raise UserError(f"data=(X, y): {what} is a single number; it needs one row per sample.")
    return found
