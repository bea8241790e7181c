"""What can be picked, with parameters, kinds, defaults and limits. Reading it imports no torch.

>>> find("optimizer", "sgd").name
'SGD'
"""

from __future__ import annotations

from torchdeck.core.catalog.data import DATA
from torchdeck.core.catalog.entries import Entry, Param
from torchdeck.core.catalog.losses import LOSSES
from torchdeck.core.catalog.models import MODELS
from torchdeck.core.catalog.optimizers import OPTIMIZERS
from torchdeck.core.catalog.schedules import SCHEDULES
from torchdeck.core.catalog.search import PRUNERS, SAMPLERS
from torchdeck.core.catalog.tasks import TASKS
from torchdeck.core.catalog.transforms import TARGET_TRANSFORMS, TRANSFORMS
from torchdeck.core.errors import UserError, did_you_mean

__all__ = ["KINDS", "Entry", "Param", "entries", "find", "is_user_code"]

KINDS: dict[str, tuple[Entry, ...]] = {
    "task": TASKS,
    "data": DATA,
    "transform": TRANSFORMS,
    "target_transform": TARGET_TRANSFORMS,
    "model": MODELS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "sampler": SAMPLERS,
    "pruner": PRUNERS,
}


def is_user_code(name: str) -> bool:
    """Whether a name points to the user's own code: ``path/to/file.py:MyNet`` or ``pkg.module:MyNet``."""
    return ":" in name


def has(kind: str, name: str) -> bool:
    """Whether the catalog has an entry of that name."""
    return any(entry.name.lower() == name.lower() for entry in entries(kind))


def entries(kind: str) -> tuple[Entry, ...]:
    """All entries of one kind.

    Raises UserError for a kind that is not known.
    """
    if kind not in KINDS:
        raise UserError(f"There is no catalog of {kind!r}; {did_you_mean(kind, KINDS)}")
    return KINDS[kind]


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


#: Where torch itself has what is not in the catalog.
_TORCHS = {"optimizer": "torch.optim", "schedule": "torch.optim.lr_scheduler", "loss": "torch.nn"}


def find(kind: str, name: str, where: str | None = None) -> Entry:
    """The entry of that kind and name; case and ``-`` for ``_`` don't matter.

    Raises UserError with the nearest names.
    """
    for entry in entries(kind):
        if _fold(entry.name) == _fold(name):
            return entry
    names = [e.name for e in entries(kind)]
    hint = did_you_mean(name, names)
    others = f", or {_TORCHS[kind]}:Name" if kind in _TORCHS else ""
    own = "" if kind in ("task", "sampler", "pruner") else f" (your own: path/to/file.py:Name{others})"
    raise UserError(f"{where or kind} = {name!r} is not in the catalog; {hint}{own}", field=where)
