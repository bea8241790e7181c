"""A file of weights as it was found: its tensors, what else it holds, and what it would call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchdeck.core.checkpoints.pickled import brief
from torchdeck.core.checkpoints.tensors import StoredTensor
from torchdeck.core.errors import UserError
from torchdeck.core.text import printable


@dataclass(frozen=True)
class Stored:
    """A file that was looked into."""

    path: Path
    #: torch zip, torch legacy, safetensors, TorchScript, npz ...
    format: str
    size: int
    tensors: tuple[StoredTensor, ...]
    #: What else is inside, by key, in a few words each; of ours also epoch, step, metrics.
    contents: tuple[tuple[str, str], ...] = ()
    #: The experiment as TOML, in a checkpoint of ours.
    experiment: str = ""
    #: What it would call when really unpickled, beside what makes tensors; in words.
    calls: tuple[str, ...] = ()
    #: What of that reaches beyond the file.
    dangerous: tuple[str, ...] = ()
    #: Key under which the model's weights are: "" for the file itself.
    weights_key: str = ""
    #: Mean and standard deviation that were taken out of the targets, in a checkpoint of ours; else empty.
    target_scale: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    @property
    def safe(self) -> bool:
        """Whether unpickling it would make nothing but tensors and plain containers."""
        return not self.calls

    @property
    def numel(self) -> int:
        """Numbers in all tensors; those of tied tensors, which lie in one place, count once."""
        return sum(t.numel for t in self._distinct())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors; those of tied tensors count once."""
        return sum(t.nbytes for t in self._distinct())

    def _distinct(self) -> Iterable[StoredTensor]:
        places = {t.name if t.offset is None else (t.file, t.offset, t.shape, t.dtype): t for t in self.tensors}
        return places.values()

    @property
    def wrapped(self) -> str:
        """The prefix that a wrapper put before every name of the weights, and that ``weights`` takes off."""
        start = f"{self.weights_key}." if self.weights_key else ""
        first = next((t.name[len(start) :] for t in self.tensors if t.name.startswith(start)), "")
        plain = next((t.name for t in self.weights()), "") if first else ""
        return first.removesuffix(plain)

    def weights(self) -> tuple[StoredTensor, ...]:
        """The tensors of the model's state_dict, named as the model names them (without wrappers' prefixes).

        Raises UserError when there is none.
        """
        start = f"{self.weights_key}." if self.weights_key else ""
        found = [replace(t, name=t.name[len(start) :]) for t in self.tensors if t.name.startswith(start)]
        if not found:
            raise UserError(f"{str(self.path)!r} holds no state_dict (names and tensors).")
        return tuple(strip(found))


#: What torch.compile and DistributedDataParallel put before every name (pytorch#101107).
PREFIXES = ("_orig_mod.", "module.")


def strip(tensors: list[StoredTensor], prefixes: Iterable[str] = PREFIXES) -> list[StoredTensor]:
    """Tensors without the prefixes that wrappers put before every name."""
    stripping = True
    while stripping and tensors:
        stripping = False
        for prefix in prefixes:
            if all(t.name.startswith(prefix) and t.name != prefix for t in tensors):
                tensors = [replace(t, name=t.name[len(prefix) :]) for t in tensors]
                stripping = True
    return tensors


def word(part: Any) -> str:
    """A key or name from somebody's file, whatever it is, in one word."""
    return printable(part if isinstance(part, str) else brief(part, 0))


def shape_of(value: Any) -> tuple[int, ...] | None:
    """A shape; None for what can't be one."""
    if (
        isinstance(value, list | tuple)
        and len(value) <= 64
        and all(isinstance(v, int) and 0 <= v < 1 << 62 for v in value)
    ):
        return tuple(value)
    return None
