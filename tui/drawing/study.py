"""Pictures of a study as lines of text. Each takes a look, a size and styles; the same are drawn on the screen and by
``torchdeck study plot``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.text import Text

from torchdeck.core.experiment.dimension import Dimension, choice_label
from torchdeck.core.search.rows import TrialRow, short, shown
from torchdeck.core.search.snapshot import StudySnapshot
from torchdeck.core.text import SHARES, number
from torchdeck.tui.drawing.bars import bar
from torchdeck.tui.drawing.parallel import Axis
from torchdeck.tui.drawing.parallel import draw_parallel as parallel_picture
from torchdeck.tui.drawing.plane import SHADES, Layer, Scale, draw_plane, plane_size

Styles = Mapping[str, str]

#: Names of the styles that are asked for.
STYLES = ("axis", "title", "point", "pruned", "best", "line", "chosen", "bad", "middle", "good")


def _done(snapshot: StudySnapshot) -> list[TrialRow]:
    return [
        row for row in snapshot.rows if row.state == "complete" and row.values and all(map(math.isfinite, row.values))
    ]


def _unit(name: str) -> str:
    if name in SHARES:
        return "percent"
    return "count" if name == "parameters" else "number"


def _value_scale(snapshot: StudySnapshot, values: Sequence[float], place: int = 0) -> Scale:
    """The axis of an objective; trials that are far off don't press all others together."""
    objective = snapshot.objectives[place]
    good = np.array([v for v in values if math.isfinite(v)] or [0.0, 1.0])
    low, high = float(good.min()), float(good.max())
    if len(good) >= 8:
        first, third = np.quantile(good, [0.25, 0.75])
        reach = 3 * (third - first) or abs(third) * 0.1 or 1.0
        low, high = (
            (max(low, float(first - reach)), high) if objective.higher else (low, min(high, float(third + reach)))
        )
    return Scale(objective.name, low, high, unit=_unit(objective.name))


def _inside(scale: Scale, values: Any) -> Any:
    """What lies beyond the axis is drawn at its end."""
    return np.clip(values, scale.low, scale.high)


def _too_few(words: str, styles: Styles) -> list[Text]:
    return [Text(words, style=styles["axis"])]


# --- over the trials
# ---------------------------------------------------------------------------------------------------


def history(snapshot: StudySnapshot, chosen: int | None, width: int, height: int, styles: Styles) -> list[Text]:
    """Value of each trial, and the best so far."""
    rows = [row for row in snapshot.rows if row.values and math.isfinite(row.value) and not row.former]
    done = [row for row in rows if row.state == "complete"]
    if not done:
        return _too_few("no trial is complete yet", styles)
    y = _value_scale(snapshot, [row.value for row in rows])
    x = Scale("trial", 0, max(snapshot.limits.trials - 1, rows[-1].number, 1), unit="count")
    layers = [_points(y, [r for r in rows if r.state == "pruned"], "pruned", "×")]
    best, steps = math.nan, []
    for row in sorted(done, key=lambda row: row.number):
        best = row.value if math.isnan(best) or snapshot.better(row.value, best) else best
        steps.append((row.number, best))
    at, top = np.array([s[0] for s in steps], dtype=float), np.array([s[1] for s in steps])
    line = np.repeat(at, 2)[1:], np.repeat(top, 2)[:-1]
    layers += [_points(y, done, "point", "•"), Layer(line[0], _inside(y, line[1]), "line", line=True)]
    layers.append(_points(y, [r for r in rows if r.number in snapshot.best], "best", "★"))
    layers.append(_points(y, [r for r in rows if r.number == chosen], "chosen", "◉"))
    name = snapshot.objectives[0].name
    title = f"{name} of each trial, best so far {number(best, name)}; × pruned"
    return draw_plane(x, y, layers, width, height, styles, title)


def _points(y: Scale, rows: Sequence[TrialRow], style: str, mark: str) -> Layer:
    return Layer(np.array([float(r.number) for r in rows]), _inside(y, np.array([r.value for r in rows])), style, mark)


def intermediate(snapshot: StudySnapshot, chosen: int | None, width: int, height: int, styles: Styles) -> list[Text]:
    """The value of each trial at each epoch; pruned ones are dim."""
    rows = [row for row in snapshot.rows if row.curve]
    if not rows:
        return _too_few("no trial has reported a value yet", styles)
    y = _value_scale(snapshot, [v for row in rows for _, v in row.curve])
    x = Scale("epoch", 0, max(row.curve[-1][0] for row in rows), unit="count")
    order = sorted(rows, key=lambda r: (r.number == chosen, r.number in snapshot.best, r.state != "pruned"))
    layers = []
    for row in order:
        if row.number == chosen:
            style = "chosen"
        elif row.number in snapshot.best:
            style = "best"
        else:
            style = "pruned" if row.state == "pruned" else "point"
        steps, values = (np.array(part, dtype=float) for part in zip(*row.curve, strict=True))
        layers.append(Layer(steps, _inside(y, values), style, line=len(steps) > 1))
    name = snapshot.objectives[0].name
    title = f"{name} over the epochs of {len(rows)} trials; pruned ones are dim"
    return draw_plane(x, y, layers, width, height, styles, title)


def distribution(snapshot: StudySnapshot, chosen: int | None, width: int, height: int, styles: Styles) -> list[Text]:
    """The share of trials that are no better than a value: the empirical distribution function."""
    values = sorted(row.value for row in _done(snapshot) if not row.former)
    if len(values) < 2:
        return _too_few("at least two complete trials are needed", styles)
    name = snapshot.objectives[0].name
    x = Scale(name, values[0], values[-1], unit=_unit(name))
    at = np.repeat(np.array(values), 2)
    share = np.concatenate([[0.0], np.repeat(np.arange(1, len(values) + 1) / len(values), 2)[:-1]])
    layers = [Layer(at, share, "line", line=True)]
    row = snapshot.row(chosen) if chosen is not None else None
    if row is not None and row.values:
        layers.append(Layer(np.array([row.value, row.value]), np.array([0.0, 1.0]), "chosen", "│"))
        layers.append(
            Layer(
                np.array([row.value]),
                np.array([np.searchsorted(values, row.value, "right") / len(values)]),
                "chosen",
                "◉",
            )
        )
    return draw_plane(
        x,
        Scale("share", 0, 1, unit="percent"),
        layers,
        width,
        height,
        styles,
        f"share of {len(values)} complete trials whose {name} is at most so much",
    )


def pareto(snapshot: StudySnapshot, chosen: int | None, width: int, height: int, styles: Styles) -> list[Text]:
    """The first objective against another; the front is joined."""
    rows = _done(snapshot)
    if len(snapshot.objectives) < 2:
        return _too_few("one objective has no Pareto front; search.objectives names several", styles)
    if not rows:
        return _too_few("no trial is complete yet", styles)
    a, b = snapshot.objectives[:2]
    x, y = (_value_scale(snapshot, [row.values[i] for row in rows], i) for i in (1, 0))

    def layer(some: Sequence[TrialRow], style: str, mark: str, line: bool = False) -> Layer:
        some = sorted(some, key=lambda row: row.values[1])
        across, up = (np.array([row.values[i] for row in some], dtype=float) for i in (1, 0))
        return Layer(_inside(x, across), _inside(y, up), style, mark, line)

    front = [row for row in rows if row.number in snapshot.best]
    layers = [
        layer(rows, "point", "•"),
        layer(front, "line", "", line=True),
        layer(front, "best", "★"),
        layer([row for row in rows if row.number == chosen], "chosen", "◉"),
    ]
    trials = "1 trial" if len(front) == 1 else f"{len(front)} trials"
    return draw_plane(x, y, layers, width, height, styles, f"{a.text} against {b.text}: {trials} on the Pareto front")


# --- over the parameters
# -------------------------------------------------------------------------------------------------


def parameters(snapshot: StudySnapshot) -> list[str]:
    """The parameters that trials have, by Optuna's names, in the order of the space."""
    there = {name for row in snapshot.rows for name in row.params}
    order = []
    for key, dimension in snapshot.dimensions.items():
        most = dimension.length[1] if dimension.length is not None else 0
        order += [key, f"{key}.length", *(f"{key}[{i}]" for i in range(most))]
    return [*(name for name in order if name in there), *sorted(there - set(order))]


def _dimension(snapshot: StudySnapshot, name: str) -> Dimension | None:
    return snapshot.dimensions.get(name) or snapshot.dimensions.get(name.partition("[")[0])


def _param_scale(snapshot: StudySnapshot, name: str, rows: Sequence[TrialRow]) -> Scale:
    dimension = _dimension(snapshot, name)
    values = [row.params[name] for row in rows if name in row.params]
    if dimension is not None and dimension.choices is not None:
        return Scale(short(name), kinds=tuple(str(choice_label(c)) for c in dimension.choices))
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)] or [0.0, 1.0]
    log = dimension.log if dimension is not None else False
    unit = "count" if all(isinstance(v, int) for v in numbers) else "number"
    return Scale(short(name), min(numbers), max(numbers), log and min(numbers) > 0, unit=unit)


def slices(
    snapshot: StudySnapshot, chosen: int | None, width: int, height: int, styles: Styles, first: int = 0
) -> list[Text]:
    """The value against each parameter, side by side from the ``first`` on; later trials are brighter."""
    rows = _done(snapshot)
    names = parameters(snapshot)
    if not rows or not names:
        return _too_few("no trial is complete yet", styles)
    across = max(1, min(len(names), width // 34))
    down = max(1, min(-(-len(names) // across), height // 9))
    shown_names = [names[(first + i) % len(names)] for i in range(min(len(names), across * down))]
    y = _value_scale(snapshot, [row.value for row in rows])
    blocks = []
    for name in shown_names:
        x = _param_scale(snapshot, name, rows)
        with_it = [row for row in rows if name in row.params]

        def layer(some: Sequence[TrialRow], style: str, mark: str, x: Scale = x, name: str = name) -> Layer:
            return Layer(
                x.place([_plain(row.params[name]) for row in some]),
                _inside(y, np.array([r.value for r in some])),
                style,
                mark,
            )

        middle = with_it[len(with_it) // 2].number if with_it else 0
        layers = [
            layer([r for r in with_it if r.number < middle], "pruned", "•"),
            layer([r for r in with_it if r.number >= middle], "point", "•"),
            layer([r for r in with_it if r.number in snapshot.best], "best", "★"),
            layer([r for r in with_it if r.number == chosen], "chosen", "◉"),
        ]
        blocks.append(draw_plane(x, y, layers, width // across - 1, height // down, styles, short(name)))
    return _tiled(blocks, across, width // across)


def _tiled(blocks: Sequence[list[Text]], across: int, width: int) -> list[Text]:
    lines = []
    for start in range(0, len(blocks), across):
        for parts in zip(*blocks[start : start + across], strict=False):
            line = Text(no_wrap=True)
            for part in parts:
                part = part.copy()
                part.pad_right(max(0, width - part.cell_len))
                line.append_text(part)
            lines.append(line)
    return lines


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, bool) or value is None else value


def contour(
    snapshot: StudySnapshot,
    chosen: int | None,
    width: int,
    height: int,
    styles: Styles,
    pair: tuple[str, str] | None = None,
) -> list[Text]:
    """Two parameters, and between the trials the value that those nearby suggest (inverse distance weighting,
    Shepard 1968)."""
    names = parameters(snapshot)
    if pair is None or pair[0] not in names or pair[1] not in names:
        pair = (names[0], names[1]) if len(names) > 1 else None
    if pair is None:
        return _too_few("at least two searched parameters are needed", styles)
    rows = [row for row in _done(snapshot) if all(name in row.params for name in pair)]
    if len(rows) < 3:
        return _too_few("at least three complete trials are needed", styles)
    x, y = (_param_scale(snapshot, name, rows) for name in pair)
    _, columns, lines = plane_size(y, width, height)
    at = np.stack(
        [x.place([_plain(r.params[pair[0]]) for r in rows]), y.place([_plain(r.params[pair[1]]) for r in rows])], axis=1
    )
    values = np.array([row.value for row in rows])
    good = [bool(np.isfinite(place).all()) for place in at]
    at, values, rows = at[good], values[good], [row for row, there in zip(rows, good, strict=True) if there]
    if len(rows) < 3 or columns < 6 or lines < 2:
        return _too_few("at least three complete trials are needed", styles)
    spans = np.array([x.ends[1] - x.ends[0], y.ends[1] - y.ends[0]])
    grid = np.stack(
        np.meshgrid(
            x.ends[0] + (np.arange(columns) + 0.5) / columns * spans[0],
            y.ends[1] - (np.arange(lines) + 0.5) / lines * spans[1],
        ),
        axis=-1,
    )
    distance = (((grid[:, :, None, :] - at[None, None]) / spans) ** 2).sum(axis=-1) + 1e-4
    weights = distance**-2
    surface = (weights * _ranks(values, snapshot)).sum(axis=-1) / weights.sum(axis=-1)
    levels = np.clip((surface * len(SHADES)).astype(np.int8), 0, len(SHADES) - 1)
    layers = [
        Layer(at[:, 0], at[:, 1], "point", "·"),
        Layer(
            at[[r.number in snapshot.best for r in rows], 0],
            at[[r.number in snapshot.best for r in rows], 1],
            "best",
            "★",
        ),
        Layer(at[[r.number == chosen for r in rows], 0], at[[r.number == chosen for r in rows], 1], "chosen", "◉"),
    ]
    title = f"{short(pair[0])} across, {short(pair[1])} up: the denser, the better {snapshot.objectives[0].name}"
    return draw_plane(x, y, layers, width, height, styles, title, (levels, ("bad", "bad", "middle", "good", "good")))


def _ranks(values: Any, snapshot: StudySnapshot) -> Any:
    """0 for the worst, 1 for the best: by rank, so that one that is far off does not make all others alike."""
    order = np.argsort(np.argsort(values if snapshot.objectives[0].higher else -values))
    return order / max(len(values) - 1, 1)


def parallel_coordinates(
    snapshot: StudySnapshot, chosen: int | None, width: int, height: int, styles: Styles
) -> list[Text]:
    """An axis for each parameter, the value on the right (the best on top), a line for each trial."""
    rows = _done(snapshot)
    if len(rows) < 2:
        return _too_few("at least two complete trials are needed", styles)
    axes = []
    for name in parameters(snapshot)[: max(1, width // 14 - 1)]:
        scale = _param_scale(snapshot, name, rows)
        places = scale.place([_plain(row.params.get(name)) for row in rows])
        low, high = scale.ends if not scale.kinds else (0.0, max(len(scale.kinds) - 1.0, 1.0))
        ends = (scale.kinds[-1], scale.kinds[0]) if scale.kinds else (shown(scale.high), shown(scale.low))
        axes.append(Axis(short(name), *ends, tuple(((places - low) / (high - low)).tolist())))
    objective = snapshot.objectives[0]
    scale = _value_scale(snapshot, [row.value for row in rows])
    places = (_inside(scale, np.array([row.value for row in rows])) - scale.low) / ((scale.high - scale.low) or 1.0)
    ends = (number(scale.high, objective.name), number(scale.low, objective.name))
    axes.append(
        Axis(
            objective.name,
            *(ends if objective.higher else ends[::-1]),
            tuple((places if objective.higher else 1 - places).tolist()),
        )
    )
    place = next((i for i, row in enumerate(rows) if row.number == chosen), None)
    return parallel_picture(axes, place, width, height, dict(styles))


def importance(found: Mapping[str, float], name: str, width: int, height: int, styles: Styles) -> list[Text]:
    """A bar for each parameter."""
    room = min(max([len(short(key)) for key in found] + [8]), width // 3)
    lines = [Text(name, style=styles["title"], no_wrap=True)]
    for key, share in list(found.items())[: max(height - 1, 1)]:
        line = Text(f"{short(key)[:room]:>{room}} ", no_wrap=True)
        line.append(bar(share / (max(found.values()) or 1.0), max(width - room - 9, 4)), style=styles["line"])
        line.append(f" {share:>6.1%}", style=styles["axis"])
        lines.append(line)
    return lines


Draw = Callable[[StudySnapshot, int | None, int, int, Styles], list[Text]]

#: Pictures by name: what draws them, and their title.
PICTURES: dict[str, tuple[Draw, str]] = {
    "history": (history, "History"),
    "slices": (slices, "Slices"),
    "contour": (contour, "Contour"),
    "parallel": (parallel_coordinates, "Parallel"),
    "pareto": (pareto, "Pareto"),
    "intermediate": (intermediate, "Curves"),
    "edf": (distribution, "Distribution"),
}
