"""The tables of a search: what is searched, how the next trial is chosen, and which are given up."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from torchdeck.core.errors import UserError
from torchdeck.core.experiment.dimension import Dimension, space_of
from torchdeck.core.experiment.section import Picked, Section, Seed, collected, not_own


class Search(Section):
    """What is searched, and for how long: `torchdeck --batch EXPERIMENT --trials N`."""

    name: str | None = None
    """Name of the study; default: made from the data set and the model."""
    space: dict[str, Dimension] = {}
    """The fields that are searched: '1e-4 .. 0.1 log', '32 .. 512 step 32', 'SGD | AdamW', with 'when KEY = VALUE'."""
    objectives: tuple[str, ...] = ("auto",)
    """What is sought, best epoch's validation: accuracy, loss, maximize my_metric, ..., parameters, latency (ms),
    seconds; several: a Pareto front; auto: accuracy, or loss."""
    function: str | None = None
    """An objective of your own: path/to/file.py:objective, called with an Optuna trial and, where it takes it,
    train."""
    trials: Annotated[int, Field(ge=1, le=10**6)] = 50
    """Trials in all, also over several workers and starts."""
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """End after that many minutes; what then runs goes on the next time."""
    patience: Annotated[int, Field(ge=0)] = 0
    """End when the last so many trials were no better; 0: never."""
    failures: Annotated[int, Field(ge=1)] = 5
    """End when so many trials in a row have failed."""
    keep: Annotated[int, Field(ge=0)] = 20
    """Trials whose checkpoints stay on the disk, the best ones; 0: all."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Settings that are tried first, as tables of the searched fields."""
    warm_start: tuple[str, ...] = ()
    """Former runs and studies (directories) that the sampler learns from; they don't count as trials."""
    storage: str = "auto"
    """sqlite, journal (for network disks), or a URL such as postgresql://user@host/db; auto: sqlite, on network disks
    journal."""
    seed: Seed = 0
    """Seed of the sampler."""

    @field_validator("space", mode="before")
    @classmethod
    @collected()
    def _space(cls, raw: Any) -> Any:
        return space_of(raw)

    @field_validator("storage")
    @classmethod
    @collected()
    def _storage(cls, value: str) -> str:
        if value not in ("auto", "sqlite", "journal") and "://" not in value:
            raise UserError(
                f"search.storage = {value!r} is not known; choose from auto, sqlite, journal, or give a URL such as "
                "postgresql://user@host/db.",
                field="search.storage",
            )
        return value


class Sampler(Picked):
    """How a search chooses the next trial."""

    name: str = "TPE"
    """Sampler of Optuna."""
    args: dict[str, Any] = {}
    """Parameters of the sampler."""

    @model_validator(mode="after")
    def _known(self) -> Sampler:
        return not_own(self)


class Pruner(Picked):
    """How a search gives up trials early."""

    name: str = "auto"
    """Pruner of Optuna; auto: median after a fifth of the epochs, none with several objectives."""
    args: dict[str, Any] = {}
    """Parameters of the pruner."""

    @model_validator(mode="after")
    def _known(self) -> Pruner:
        return not_own(self)
