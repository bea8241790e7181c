"""Keys of an experiment that were called something else: files that have the old ones go on being read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchdeck.core.errors import UserError

RENAMED = {"trainer.best": "trainer.monitor", "optimizer.body_lr": "optimizer.backbone_lr_factor"}


def current_key(key: str) -> str:
    """What a key is called today."""
    return RENAMED.get(key, key)


def current_tables(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Raw tables of an experiment under the names that their keys have today, in the space of a search as well.

    Raises UserError where both names of a key are given.
    """
    result = dict(raw)
    for old, new in RENAMED.items():
        section, _, key = old.partition(".")
        table = result.get(section)
        if isinstance(table, Mapping) and key in table:
            result[section] = _with_name(table, key, new.partition(".")[2], f"{old} is called {new} now")
    search = result.get("search")
    space = search.get("space") if isinstance(search, Mapping) else None
    if isinstance(search, Mapping) and isinstance(space, Mapping):
        for old, new in RENAMED.items():
            if old in space:
                space = _with_name(space, old, new, f"{old} is called {new} now")
        result["search"] = {**search, "space": space}
    return result


def old_keys(raw: Mapping[str, Any], overrides: tuple[str, ...] = ()) -> list[str]:
    """A sentence for each key of raw tables, or of ``key.path=value`` texts, that has another name today."""
    given = {text.partition("=")[0].strip().removeprefix("search.space.") for text in overrides}
    for section, table in raw.items():
        given |= {f"{section}.{key}" for key in table} if isinstance(table, Mapping) else set()
    space = raw.get("search", {})
    given |= set(space.get("space", {})) if isinstance(space, Mapping) else set()
    return [f"{old} is called {new} now." for old, new in RENAMED.items() if old in given]


def _with_name(table: Mapping[str, Any], old: str, new: str, told: str) -> dict[str, Any]:
    if new in table:
        raise UserError(f"{told}, and both are given; leave the old one out.")
    return {(new if key == old else key): value for key, value in table.items()}
