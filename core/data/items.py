"""What an item of a data set is made of: its inputs and its target, whatever it looks like.

The same holds for a batch, which a collate function makes of items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from torchdeck.core.errors import UserError, did_you_mean
from torchdeck.core.experiment.data_schema import Data

#: Keys under which dicts are used to hold the target.
TARGET_KEYS = ("target", "targets", "label", "labels", "y", "cls", "mask", "masks")


class Taken(NamedTuple):
    """An item or a batch that was taken apart already."""

    x: Any
    y: Any


@dataclass(frozen=True)
class Layout:
    """Which parts of an item are the inputs, and which is the target; nothing given: as items usually are.

    A pair is (input, target); of a longer tuple the last is the target; of a dict or a dataclass what is called label,
    target, y and the like; an object with ``x`` and ``y`` (a graph) is the input itself and its ``y`` the target.
    Anything else is an input without a target.
    """

    inputs: tuple[str | int, ...] = ()
    target: str | int | None = None
    #: What the items are of, for messages.
    where: str = "the data"

    def split(self, item: Any) -> tuple[Any, Any]:
        """(inputs, target) of an item or a batch: inputs a tensor, a tuple (by position), a dict (by name) or whatever
        the item is; the target None where there is none.

        Raises UserError for a key or position that it has not.
        """
        if isinstance(item, Taken):
            return item.x, item.y
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            item = {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
        if isinstance(item, Mapping):
            return self._of_mapping(item)
        if isinstance(item, tuple | list):
            return self._of_sequence(item)
        if self.inputs or self.target is not None:
            return self._of_object(item)
        if not isinstance(item, Tensor) and hasattr(item, "x") and hasattr(item, "y"):
            return item, item.y
        return item, None

    def target_of(self, keys: Iterable[Any]) -> str | int | None:
        """Which of the keys of a dict is the target; None where there is none."""
        if self.target is not None:
            return self.target
        known = set(keys)
        return next((key for key in TARGET_KEYS if key in known and key not in self.inputs), None)

    def _of_mapping(self, item: Mapping[Any, Any]) -> tuple[Any, Any]:
        target = self.target_of(item)
        names = self.inputs or tuple(key for key in item if key != target and not _is_note(key))
        for key, field in [(name, "data.inputs") for name in names] + [(target, "data.target")]:
            if key is not None and key not in item:
                raise UserError(
                    f"{field} = {key!r}: an item of {self.where!r} has no such key; {did_you_mean(str(key), item)}",
                    field=field,
                )
        inputs = item[names[0]] if len(names) == 1 else {name: item[name] for name in names}
        return inputs, None if target is None else item[target]

    def _of_sequence(self, item: Sequence[Any]) -> tuple[Any, Any]:
        if len(item) == 2 and not self.inputs and self.target is None:
            return item[0], item[1]
        positions = [*self.inputs] if self.target is None else [*self.inputs, self.target]
        for position in positions:
            if not isinstance(position, int) or not -len(item) <= position < len(item):
                field = "data.target" if position == self.target else "data.inputs"
                raise UserError(
                    f"{field} = {position!r}: an item of {self.where!r} is a {type(item).__name__} of {len(item)}; "
                    f"give positions from 0 to {len(item) - 1}.",
                    field=field,
                )
        if not positions and len(item) == 1:
            return item[0], None
        last = len(item) - 1
        target = self.target if isinstance(self.target, int) else last
        inputs = [int(at) for at in self.inputs] or [at for at in range(len(item)) if at != target % len(item)]
        if self.target is None and last in inputs:
            return _one_or_all(item, inputs), None
        return _one_or_all(item, inputs), item[target]

    def _of_object(self, item: Any) -> tuple[Any, Any]:
        for name, field in [(name, "data.inputs") for name in self.inputs] + [(self.target, "data.target")]:
            if name is not None and not hasattr(item, str(name)):
                raise UserError(
                    f"{field} = {name!r}: an item of {self.where!r} is a {type(item).__name__} without it.", field=field
                )
        inputs = {str(name): getattr(item, str(name)) for name in self.inputs}
        found = next(iter(inputs.values())) if len(inputs) == 1 else inputs
        target = None if self.target is None else getattr(item, str(self.target))
        return (found if self.inputs else item), target


def _is_note(key: Any) -> bool:
    """Whether a key tells where an item is from (WebDataset's ``__key__`` and ``__url__``), and is no input."""
    return isinstance(key, str) and key.startswith("__") and key.endswith("__")


#: Items that are taken apart as they usually are.
AS_USUAL = Layout()


def layout_of(data: Data) -> Layout:
    """How the items of these data are to be taken apart."""
    return Layout(data.inputs, data.target, data.name)


def _one_or_all(item: Sequence[Any], at: Sequence[int]) -> Any:
    return item[at[0]] if len(at) == 1 else tuple(item[i] for i in at)


def kind_of(item: Any) -> str:
    """What an item is, in words: keys of a dict, how many a tuple has."""
    if isinstance(item, Mapping):
        return f"a dict of {', '.join(map(str, item)) or 'nothing'}"
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {len(item)}"
    return f"a {type(item).__name__}"


def map_tensors(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """``tree``, any nesting of tuples, lists and dicts, with every tensor changed; other leaves that have ``to`` (a
    batch of graphs, a packed sequence, a BatchEncoding) are left as they are."""
    if isinstance(tree, Tensor):
        return change(tree)
    return pytree.tree_map_only(Tensor, change, tree)


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors of a nesting, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def to_device(tree: Any, device: torch.device) -> Any:
    """Any nesting on a device; float64 stays on the CPU where the device has none (mps)."""
    if isinstance(tree, Tensor):
        return _moved(tree, device)
    return pytree.tree_map(lambda leaf: _leaf_on(leaf, device), tree)


def _leaf_on(leaf: Any, device: torch.device) -> Any:
    if isinstance(leaf, Tensor):
        return _moved(leaf, device)
    return leaf.to(device) if hasattr(leaf, "to") else leaf


def _moved(t: Tensor, device: torch.device) -> Tensor:
    return t if device.type == "mps" and t.dtype == torch.float64 else t.to(device, non_blocking=True)


def shapes(tree: Any) -> Any:
    """The nesting with the shape of each tensor in place of it, batch dimension included: plain lists and dicts; many
    texts as their number."""
    if isinstance(tree, Tensor):
        return list(tree.shape)
    if isinstance(tree, Mapping):
        return {str(key): shapes(value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        if len(tree) > 2 and all(isinstance(value, str | bytes | None) for value in tree):
            return f"{len(tree)} texts"
        return [shapes(value) for value in tree]
    return type(tree).__name__
