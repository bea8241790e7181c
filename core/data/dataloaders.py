"""Data sets taken out of what they were given in: torch's DataLoaders, and modules that make such (Lightning's
LightningDataModule, or a LightningModule with loaders of its own)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import DataLoader, default_collate

from torchdeck.core import usercode
from torchdeck.core.errors import UserError
from torchdeck.core.machine import distributed

#: What a module's methods give, by part.
_LOADERS = {"train": "train_dataloader", "val": "val_dataloader", "test": "test_dataloader"}


#: Hooks of a LightningDataModule that nobody calls here.
_NOT_CALLED = ("transfer_batch_to_device", "on_before_batch_transfer", "on_after_batch_transfer")


#: Where Lightning's own modules are, which its demos are no part of.
_LIGHTNING = ("lightning.pytorch.core.", "pytorch_lightning.core.")


class _Trainer:
    """What a LightningDataModule finds where its trainer would be."""

    def __init__(self, reference: str) -> None:
        world = distributed.world()
        self.world_size, self.global_rank, self.local_rank = world.size, world.rank, world.local_rank
        self.is_global_zero = world.first
        self._reference = reference

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise UserError(
            f"data.name = {self._reference!r} needs its trainer: it reads self.trainer.{name}, which torchdeck has "
            "not.",
            field="data.name",
        )


def makes_loaders(target: Any) -> bool:
    """Whether an object, or a class, makes DataLoaders as Lightning's modules do."""
    return callable(getattr(target, "train_dataloader", None))


def brings_loaders(target: Any) -> bool:
    """Whether the user's own class, or an object of it, makes a DataLoader for training."""
    kind = target if isinstance(target, type) else type(target)
    return _defines(kind, "train_dataloader")


def loaders_of(module: Any, reference: str) -> dict[str, Any]:
    """The DataLoaders that a module makes, by part.

    Raises UserError where there is none for training, and for hooks that would not be called.
    """
    made: dict[str, Any] = {}
    is_model = callable(getattr(module, "training_step", None))
    unused = [] if is_model else [hook for hook in _NOT_CALLED if _defines(type(module), hook)]
    if unused:
        raise UserError(
            f"data.name = {reference!r}: its {unused[0]} would not be called; do that in the data set or its collate "
            "function, or in on_after_batch_transfer of the LightningModule.",
            field="data.name",
        )
    if not is_model and getattr(module, "trainer", 0) is None:
        module.trainer = _Trainer(reference)
    with usercode.user_errors():
        for hook, args in (("prepare_data", ()), ("setup", ("fit",)), ("setup", ("test",))):
            function = getattr(module, hook, None)
            if callable(function):
                function(*args[: len(inspect.signature(function).parameters)])
        for part, name in _LOADERS.items():
            if _defines(type(module), name):
                made[part] = getattr(module, name)()
    if made.get("train") is None:
        raise UserError(f"data.name = {reference!r} gives no train_dataloader.", field="data.name")
    return {part: loader for part, loader in made.items() if loader is not None}


def _defines(kind: type, name: str) -> bool:
    """Whether a class has the method, and not only Lightning's own, which raises."""
    owner = next((k for k in kind.__mro__ if name in vars(k)), None)
    return owner is not None and not owner.__module__.startswith(_LIGHTNING)


def taken_out(
    made: Mapping[str, Any], reference: str
) -> tuple[dict[str, Any], dict[str, Callable[..., Any]], list[str]]:
    """The data sets of what the user gave by part, the collate functions that their loaders had of their own, and what
    to say of it.

    Raises UserError for a part with several loaders.
    """
    found: dict[str, Any] = {}
    collates: dict[str, Callable[..., Any]] = {}
    for part, given in made.items():
        several = getattr(given, "flattened", given)  # a CombinedLoader of Lightning's holds them so
        if isinstance(several, list | tuple | dict) and any(isinstance(one, DataLoader) for one in _each(several)):
            raise UserError(
                f"data.name = {reference!r} gives {len(several)} DataLoaders for {part}; give one.", field="data.name"
            )
        if not isinstance(given, DataLoader):
            found[part] = given
            continue
        found[part] = given.dataset
        batched = given.batch_size is not None or given.batch_sampler is not None  # else it converts single items
        if batched and given.collate_fn is not None and given.collate_fn is not default_collate:
            collates[part] = given.collate_fn
    if not any(isinstance(given, DataLoader) for given in made.values()):
        return found, {}, []
    used = "data set and collate function of the DataLoader" if collates else "data set of the DataLoader"
    note = (
        f"Of {reference!r} the {used} is used; batch size, order, sampler and workers are those of trainer.batch_size, "
        "data.shuffle, data.sampler and data.workers."
    )
    return found, collates, [note]


def _each(given: Any) -> Any:
    return given.values() if isinstance(given, dict) else given
