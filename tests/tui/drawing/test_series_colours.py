"""The colours of series, measured against every theme: by contrast, by distance, and as seen without red and green."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from rich.color import Color as RichColor
from rich.color import ColorSystem
from textual.app import App
from textual.color import Color, rgb_to_lab
from textual.theme import Theme

from torchdeck.tui.drawing.series_colours import NAMES_ON_DARK, NAMES_ON_LIGHT, series_colours

THEMES = {name: theme for name, theme in App().available_themes.items() if not name.startswith("ansi-")}

#: Deuteranopia, of linear RGB (Machado et al. 2009, table 1, severity 1.0).
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)


def linear(colour: Color) -> np.ndarray:
    rgb = np.array(colour.normalized)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour: Color) -> float:
    """Relative luminance (WCAG 2.2)."""
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def contrast(a: Color, b: Color) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def without_red_and_green(colour: Color) -> Color:
    seen = np.clip(_DEUTERANOPIA @ linear(colour), 0, 1)
    rgb = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    return Color(*(int(v) for v in np.rint(rgb * 255)))


def apart(a: Color, b: Color) -> float:
    one, other = rgb_to_lab(a), rgb_to_lab(b)
    return float(np.linalg.norm(np.subtract((one.L, one.a, one.b), (other.L, other.a, other.b))))


@pytest.mark.parametrize("theme", THEMES.values(), ids=list(THEMES))
def test_they_are_read_on_the_ground_and_stand_for_nothing_else(theme: Theme) -> None:
    told = theme.to_color_system().generate()
    for text in series_colours(theme, "truecolor"):
        colour = Color.parse(text)
        assert contrast(colour, Color.parse(told["background"])) >= 4.5, text
        for meaning in ("error", "warning"):
            assert apart(colour, Color.parse(told[meaning])) > 17, (text, meaning)


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_they_are_told_apart_by_everybody(theme: str) -> None:
    colours = [Color.parse(text) for text in series_colours(THEMES[theme], "truecolor")]
    assert len(colours) == 8
    for a, b in combinations(colours, 2):
        assert apart(a, b) > 40, (a.hex, b.hex)
        assert apart(without_red_and_green(a), without_red_and_green(b)) > 25, (a.hex, b.hex)


@pytest.mark.parametrize(
    ("system", "number"), [(ColorSystem.STANDARD, 8), (ColorSystem.EIGHT_BIT, 8)], ids=["16 colours", "256 colours"]
)
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light"])
def test_they_stay_apart_where_the_terminal_has_fewer_colours(theme: str, system: ColorSystem, number: int) -> None:
    name = "standard" if system is ColorSystem.STANDARD else "256"
    shown = [RichColor.parse(text).downgrade(system).number for text in series_colours(THEMES[theme], name)]
    assert len(set(shown)) == number
    if system is ColorSystem.STANDARD:
        assert not set(shown) & {1, 3, 9, 11}  # red and yellow, plain and bright
        names = NAMES_ON_DARK if theme == "textual-dark" else NAMES_ON_LIGHT
        assert shown == [RichColor.parse(one).number for one in names]


@pytest.mark.parametrize("theme", ["ansi-dark", "ansi-light"])
def test_a_theme_of_the_terminals_own_colours_has_names(theme: str) -> None:
    colours = series_colours(App().available_themes[theme], "truecolor")
    assert all(RichColor.parse(one).number is not None for one in colours)
