"""Sending less over the line than Textual does by itself.

Textual 8.2 sends a changed part of a line together with everything to its left within the same widget (there is a
"TODO: crop to x extents" in its compositor): a chart that grows by one column at its right end is sent whole. Here the
part alone is sent.
"""

from __future__ import annotations

from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate


class SpansUpdate(ChopsUpdate):
    """A partial update that sends the changed spans and nothing beside them."""

    @classmethod
    def of(cls, update: ChopsUpdate) -> SpansUpdate:
        """The same update, thriftier."""
        return cls(update.chops, update.spans, update.chop_ends)

    def render_segments(self, console: Console) -> str:
        """The spans as escape sequences, each at its place."""
        parts: list[str] = []
        for y, start, stop in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=False):
                if strip is None or x >= stop or end <= start:
                    continue
                left = max(start, x)
                parts.append(Control.move_to(left, y).segment.text)
                parts.append(strip.crop(left - x, min(end, stop) - x).render(console))
        return "".join(parts)
