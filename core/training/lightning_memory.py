"""What of a LightningModule is no weight and changes all the same: what its hooks collect, the states of its metrics,
which of its layers are frozen. A checkpoint keeps it, so that a run goes on exactly, also in mid-epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchdeck.core.training.own_schedules import is_plain

#: What nn.Module itself keeps.
_OF_TORCH = frozenset(vars(nn.Module()))


class Memory:
    """The plain attributes (numbers, texts, tensors, and lists and dicts of these) of a module and of those in it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        #: What is as it was when the module was made need not be kept.
        self._before = {
            key: (value, value._version if isinstance(value, Tensor) else 0) for key, value in _plain(module).items()
        }

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps. It shares the live tensors."""
        return {
            "attributes": {key: value for key, value in _plain(self._module).items() if self._changed(key, value)},
            "frozen": [name for name, p in self._module.named_parameters() if not p.requires_grad],
            "evaluating": [name for name, m in self._module.named_modules() if not m.training],
        }

    def _changed(self, key: str, value: Any) -> bool:
        if key not in self._before:
            return True
        before, version = self._before[key]
        if isinstance(value, Tensor):
            return value is not before or value._version != version
        if isinstance(value, list | dict):
            return bool(value) or bool(before)
        return type(value) is not type(before) or value != before

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to where a checkpoint was."""
        modules = dict(self._module.named_modules())
        for key, value in state["attributes"].items():
            owner, _, name = key.rpartition(".")
            if owner in modules:
                setattr(modules[owner], name, _like(getattr(modules[owner], name, None), value))
        frozen, evaluating = set(state["frozen"]), set(state["evaluating"])
        for name, parameter in self._module.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for name, module in modules.items():
            module.training = name not in evaluating


def _plain(module: nn.Module) -> dict[str, Any]:
    """What is plain, by the dotted name; the top module's private attributes are Lightning's."""
    found: dict[str, Any] = {}
    for owner, inner in module.named_modules():
        for name, value in vars(inner).items():
            if name in _OF_TORCH or (not owner and name.startswith("_")):
                continue
            if _is_kept(value):
                found[f"{owner}.{name}"] = value
    return found


def _is_kept(value: Any) -> bool:
    if isinstance(value, Tensor):
        return type(value) is Tensor and not value.requires_grad
    return type(value) in (bool, int, float, str, list, dict, tuple, type(None)) and is_plain(value)


def _like(now: Any, kept: Any) -> Any:
    """What a checkpoint kept, on the device where it was."""
    return kept.to(now.device) if isinstance(now, Tensor) and isinstance(kept, torch.Tensor) else kept
