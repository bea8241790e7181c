"""What a table of the experiment is made of: closed to unknown keys, and where it picks from the catalog, checked
against it."""

from __future__ import annotations

import contextlib
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from torchdeck.core import catalog
from torchdeck.core.errors import UserError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Collected(ValueError):
    """Carries a UserError through pydantic, which gathers ValueErrors and tells of all that is wrong at once."""

    def __init__(self, error: UserError) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """Raises Collected for a UserError: around a validator."""
    try:
        yield
    except UserError as error:
        raise Collected(error) from None


class Section(BaseModel):
    """A table of the experiment: frozen, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, coerce_numbers_to_str=True, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _none_is_a_value(cls, raw: Any) -> Any:
        """TOML has no null: the text "none" clears a field that may be empty."""
        if not isinstance(raw, dict):
            return raw
        empty = {n for n, f in cls.model_fields.items() if types.NoneType in typing.get_args(f.annotation)}
        return {k: None if k in empty and v in ("none", "None", "") else v for k, v in raw.items()}


class Picked(Section):
    """A table that picks something from the catalog by name, with arguments for it."""

    def entry(self) -> catalog.Entry | None:
        """The catalog's entry, or None when the name points to the user's own code."""
        name: str | None = self.name  # type: ignore[attr-defined]
        return None if name is None or catalog.is_user_code(name) else catalog.find(self.kind(), name)

    @classmethod
    def kind(cls) -> str:
        """The kind of catalog entry that is picked here."""
        return cls.__name__.lower()

    def resolved(self) -> dict[str, Any]:
        """The arguments, with the catalog's defaults filled in."""
        entry = self.entry()
        args: dict[str, Any] = self.args  # type: ignore[attr-defined]
        return entry.resolve(args) if entry else dict(args)

    @classmethod
    def picks_itself(cls, raw: dict[str, Any]) -> bool:
        """Whether a table names something that is neither of the catalog nor the user's own."""
        return False

    @model_validator(mode="before")
    @classmethod
    @collected()
    def _check_against_catalog(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        name = raw.get("name", cls.model_fields["name"].default)
        args = raw.get("args", {})
        if name is None and args:
            raise UserError(
                f"{cls.kind()}.args is given without {cls.kind()}.name; say what the arguments are for.",
                field=f"{cls.kind()}.args",
                also=(f"{cls.kind()}.name",),
            )
        if (
            not isinstance(name, str)
            or catalog.is_user_code(name)
            or not isinstance(args, dict)
            or cls.picks_itself(raw)
        ):
            return raw
        entry = catalog.find(cls.kind(), name, where=f"{cls.kind()}.name")
        return raw | {"name": entry.name, "args": entry.check(args, f"{cls.kind()}.args")}


P = TypeVar("P", bound=Picked)


@collected()
def not_own(picked: P) -> P:
    """Raises UserError for a name that points to code of the user's, where that is not supported."""
    name: str | None = picked.name  # type: ignore[attr-defined]
    if name is not None and catalog.is_user_code(name):
        kind = picked.kind()
        article = "an" if kind[0] in "aeiou" else "a"
        raise UserError(f"{kind}.name = {name!r}: {article} {kind} of your own is not supported.", field=f"{kind}.name")
    return picked
