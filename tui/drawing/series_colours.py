"""Eight colours for series, told apart on every theme's ground, by people who see no red or green, and in 16 colours.

They were searched for under these constraints, which tests/tui/drawing/test_series_colours.py holds: contrast of 4.5:1
against the ground of each theme (WCAG 2.2, 1.4.3), 40 apart in CIE L*a*b* from one another, 25 as seen with
deuteranopia (Machado et al. 2009, A Physiologically-based Model for Simulation of Color Vision Deficiency), and away
from the colours in which the themes show errors and warnings.
"""

from __future__ import annotations

from textual.theme import Theme

#: The first two are those of training and validation.
ON_DARK = ("#05a4ff", "#b1fc75", "#e275dc", "#4dae99", "#fdd3fe", "#e48a64", "#00fcb8", "#aba304")
ON_LIGHT = ("#0a61c5", "#995002", "#b110a7", "#136e6b", "#0b4b02", "#4f0123", "#0d048f", "#052a4f")

#: Of the sixteen colours that every terminal has, none of the reds and yellows.
NAMES_ON_DARK = (
    "bright_blue",
    "bright_green",
    "bright_magenta",
    "cyan",
    "white",
    "magenta",
    "bright_cyan",
    "green",
)
NAMES_ON_LIGHT = ("blue", "green", "magenta", "bright_black", "black", "bright_blue", "cyan", "bright_magenta")

#: What Rich takes for exactly these where a terminal has no more.
_SIXTEEN = {
    "black": "#000000",
    "green": "#00aa00",
    "blue": "#0000aa",
    "magenta": "#aa00aa",
    "cyan": "#00aaaa",
    "white": "#aaaaaa",
    "bright_black": "#555555",
    "bright_green": "#55ff55",
    "bright_blue": "#5555ff",
    "bright_magenta": "#ff55ff",
    "bright_cyan": "#55ffff",
}

COUNT = len(ON_DARK)


def series_colours(theme: Theme, color_system: str | None) -> tuple[str, ...]:
    """The colours as Rich names them. ``color_system``: Rich's name for what the terminal can show."""
    names = NAMES_ON_DARK if theme.dark else NAMES_ON_LIGHT
    if theme.name.startswith("ansi-"):  # such a theme leaves all colours to the terminal
        return names
    if color_system in ("standard", "windows"):
        return tuple(_SIXTEEN[name] for name in names)
    return ON_DARK if theme.dark else ON_LIGHT
