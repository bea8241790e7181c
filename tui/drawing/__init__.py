"""Drawing with characters: braille curves, axes, bars and sparklines. Nothing here knows a widget."""
