"""Texts from other people's files."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text without characters that a terminal would obey, in one line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(printable(line.expandtabs(4)) for line in text.split("\n"))
