"""Colours of the theme for text that is drawn by hand."""

from __future__ import annotations

from collections.abc import Mapping


def colour(theme: Mapping[str, str], name: str) -> str:
    """A theme's colour as Rich wants it; dim for muted text, nothing where the theme leaves it to the terminal."""
    if name == "text-muted":
        return "dim"
    value = theme.get(name, "")
    return value if value.startswith("#") else ""


def on(theme: Mapping[str, str], name: str) -> str:
    """The same for the ground: `` on #rrggbb``, or nothing."""
    value = colour(theme, name)
    return f" on {value}" if value else ""
