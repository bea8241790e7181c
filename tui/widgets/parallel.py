"""The hyperparameters in which the listed runs differ, against their result."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.events import Resize

from torchdeck.core.runs.rows import Row
from torchdeck.tui.drawing.colours import colour
from torchdeck.tui.drawing.parallel import axis, draw_parallel
from torchdeck.tui.widgets.lines import Lines

#: Runs that are drawn, at most: more are one grey cloth.
_MOST = 500
#: Texts on one axis.
_KINDS = 12


class Parallel(Lines, can_focus=True):
    """An axis for each, a line for each run; that of the cursor's run is drawn over all others."""

    DEFAULT_CSS = "Parallel { height: 1fr; }"

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._rows: Sequence[Row] = ()
        self._current: Row | None = None

    def show(self, rows: Sequence[Row], current: Row | None) -> None:
        """Draw these runs."""
        self._rows, self._current = rows, current
        self.draw()

    def on_resize(self, event: Resize) -> None:
        """Draw anew."""
        self.draw()

    def draw(self) -> None:
        """Bring it up to date."""
        width, height = self.size.width, self.size.height
        if width < 8 or height < 3:
            return
        theme = self.app.theme_variables
        styles = {
            "axis": colour(theme, "text-muted"),
            "good": f"bold {colour(theme, 'success')}",
            "middle": colour(theme, "warning"),
            "bad": colour(theme, "error"),
            "chosen": f"bold {colour(theme, 'accent')}",
        }
        lines = self._picture(width, height, styles)
        self.set_lines(lines + [Text("")] * (height - len(lines)))

    def _picture(self, width: int, height: int, styles: dict[str, str]) -> list[Text]:
        watched = self._current.watched if self._current else ""
        rows = [row for row in self._rows if row.watched == watched and row.hyperparameters][-_MOST:]
        if len(rows) < 2:
            return [Text("at least two runs with the same metric are needed", style=styles["axis"])]
        keys = sorted(_telling(rows), key=lambda key: not isinstance(rows[-1].hyperparameters.get(key), int | float))
        room = max(1, width // 14 - 1)
        axes = [
            axis(
                key.removeprefix("model.args.").removeprefix("optimizer.").removeprefix("trainer."),
                [row.hyperparameters.get(key) for row in rows],
            )
            for key in keys[:room]
        ]
        result = axis(watched, [row.result for row in rows])
        if not rows[0].higher:  # the best is always on top
            result = type(result)(result.name, result.bottom, result.top, tuple(1 - p for p in result.places))
        chosen = next((i for i, row in enumerate(rows) if self._current and row.path == self._current.path), None)
        return draw_parallel([*axes, result], chosen, width, height, styles)


def _telling(rows: Sequence[Row]) -> list[str]:
    """Keys with two values or more, which are numbers or a few short texts."""
    found = []
    for key in dict.fromkeys(k for row in rows for k in row.hyperparameters):
        values = {value for row in rows if (value := row.hyperparameters.get(key)) is not None}
        texts = [value for value in values if isinstance(value, str)]
        if (
            len(values) > 1
            and len(texts) <= _KINDS
            and all(len(t) <= 24 for t in texts)
            and not key.startswith("tracking.")
        ):
            found.append(key)
    return found
