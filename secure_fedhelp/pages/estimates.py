"""Charts of estimates with their intervals: over budgets, side by side, and against what they cost. SVG as in charts.

A figure without an interval (one repetition) is a mark alone. Every series has a colour and a shape of mark, so that
one of them is enough: for colour-blind readers and on grey paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from secure_fedhelp.pages.charts import (
    TEXT_HEIGHT,
    WIDTH,
    Level,
    Mark,
    circle,
    cut,
    h_grid,
    level_line,
    picture,
    same_decimals,
    scale,
    spread,
    square,
    text,
    ticks,
    triangle,
    v_grid,
)
from secure_fedhelp.pages.numbers import size

Ends = tuple[float, float]
Scale = Callable[[float], float]


def _diamond(x: float, y: float, style: str) -> Markup:
    """As large as the other marks, unlike that of charts, which is to show below one."""
    return Markup('<path d="M{:.1f} {:.1f}l5.4 5.4-5.4 5.4-5.4-5.4z" class="{}"/>').format(x, y - 5.4, style)


_MARKS: tuple[Mark, ...] = (circle, square, triangle, _diamond)
#: As many as have a colour (``s0`` ... in the page's style); from there on colours come again with other marks.
_COLOURS = 7
_LABEL = 18
#: A name in a forest, and the columns of names and of models.
_NAME, _NAMES, _MODELS = 14, 100, 54
#: Beside the plot: room for leaders, marks and names.
_RIGHT, _LEADERS = 120, 18
#: Of these many series each may have its band; of more the bands are one grey area, and lines need to be paler.
MOST_BANDS = 8
#: Many, so that ends are rounded by little and small differences keep their height.
_Y_TICKS = 10
#: Neighbouring series stand at most this far apart, so that equal values do not hide one another.
_DODGE = 4.0


@dataclass(frozen=True)
class Interval:
    """A value and the interval around it; ``low`` and ``high`` are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def ends(self) -> Ends:
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


@dataclass(frozen=True)
class Series:
    """One method: its name and its number, which gives it a colour and a mark that are the same in every chart.

    The first is what a page is about: it is drawn above all others, and stronger.
    """

    label: str
    number: int
    #: Which of the method's models, in a column of its own where there is one.
    model: str = ""

    @property
    def first(self) -> bool:
        return self.number == 0

    @property
    def style(self) -> str:
        return f"s{self.number % _COLOURS}"

    def mark(self, x: float, y: float) -> Markup:
        # after one turn of the colours the shapes are shifted, so that no two series look the same
        turn, colour = divmod(self.number, _COLOURS)
        shape = _MARKS[(colour + turn) % len(_MARKS)]
        return shape(x, y, f"{self.style} filled")


Trend = tuple[Series, Sequence[Interval | None]]


def trend_chart(
    ident: str,
    title: str,
    description: str,
    categories: Sequence[str],
    trends: Sequence[Trend],
    levels: Sequence[Level],
    ends: Ends,
    axis: str,
) -> Markup:
    """A line for each series over named categories, and a band where it has intervals; nothing is drawn across a
    category that is missing.

    ``ends`` are those of the y axis, for charts that are to be compared; bands are cut there. With more than
    ``MOST_BANDS`` series all but the first are pale.
    """
    right, top, bottom = _RIGHT, 12, 40
    trends = [(series, points) for series, points in trends if any(points)]
    height = max(236, top + bottom + TEXT_HEIGHT * (len(trends) + len(levels)))
    y_ticks = ticks(*ends, _Y_TICKS)
    form = same_decimals(y_ticks)
    left = 14 + 7 * max(len(form(tick)) for tick in y_ticks)
    x_of = scale(0, len(categories) - 1, left + 22, WIDTH - right - 22)
    y_of = _clipped(y_ticks[0], y_ticks[-1], height - bottom, top)
    parts = [h_grid(y_of(tick), left, WIDTH - right, form(tick)) for tick in y_ticks]
    parts += [text(x_of(x), height - bottom + 16, words, "middle") for x, words in enumerate(categories)]
    parts.append(text((left + WIDTH - right) / 2, height - 6, axis, "middle"))
    parts += [level_line(y_of(level.value), left, WIDTH - right) for level in levels]
    apart = min(_DODGE, 0.4 * (WIDTH - right - left - 44) / (len(categories) * max(1, len(trends))))
    pieces = [
        (series, [(x_of(x) + apart * (place - (len(trends) - 1) / 2), found) for x, found in piece])
        for place, (series, points) in enumerate(trends)
        for piece in _pieces(points)
    ]
    parts += [_band(piece, series, y_of) for series, piece in pieces if any(f.low is not None for _, f in piece)]
    # above every band, and the first above every line
    for series, piece in sorted(pieces, key=lambda one: one[0].first):
        places = [(x, y_of(found.value)) for x, found in piece]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        line = Markup('<polyline points="{}" class="{}"/>').format(path, series.style)
        marks = Markup("").join(series.mark(x, y) for x, y in places)
        weight = "first" if series.first else "pale" if len(trends) > MOST_BANDS else "plain"
        parts.append(Markup('<g class="{}">{}{}</g>').format(weight, line, marks))
    parts += _labels(trends, levels, y_of, WIDTH - right, (top, height - bottom))
    return picture(ident, title, description, height, parts)


def forest_chart(
    ident: str,
    title: str,
    description: str,
    rows: Sequence[tuple[Series, Interval | None]],
    ends: Ends,
    axis: str,
    zero: bool = False,
) -> Markup:
    """A row for each series: its name and model, and its value as a mark on its interval. With ``zero`` a line marks no
    difference."""
    models = any(series.model for series, _ in rows)
    left, right, top, row_height = _NAMES + (_MODELS if models else 0), 14, 6, 22
    bottom = top + row_height * len(rows)
    x_ticks = ticks(*ends, 6)
    x_of, form = _clipped(x_ticks[0], x_ticks[-1], left, WIDTH - right), same_decimals(x_ticks)
    parts = [v_grid(x_of(tick), top, bottom, form(tick).replace("-", "−")) for tick in x_ticks]
    parts.append(text((left + WIDTH - right) / 2, bottom + 33, axis, "middle"))
    if zero:
        parts.append(Markup('<line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}" class="zero"/>').format(
            x_of(0), x_of(0), top, bottom))  # fmt: skip
    for number, (series, found) in enumerate(rows):
        y = top + row_height * (number + 0.5)
        parts.append(text(0, y + 4, cut(series.label, _NAME), "start", "name"))
        parts.append(text(_NAMES, y + 4, series.model, "start"))
        if found is None:
            parts.append(text(left + 4, y + 4, "not measured", "start"))
            continue
        low, high = map(x_of, found.ends)
        parts.append(Markup('<line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}" class="{} whisker"/>').format(
            low, high, y, y, series.style))  # fmt: skip
        parts.append(series.mark(x_of(found.value), y))
    return picture(ident, title, description, bottom + 40, parts)


def cost_chart(
    ident: str,
    title: str,
    description: str,
    paths: Sequence[tuple[Series, Sequence[tuple[float, Interval]]]],
    levels: Sequence[Level],
    ends: Ends,
    axis: str,
) -> Markup:
    """Value against bytes on a logarithmic axis: for each series its points in order, marks growing.

    Marks let what lies below shine through, as methods often send the same bytes; those of the first are above all.
    """
    right, top, bottom = _RIGHT, 12, 40
    height = max(236, top + bottom + TEXT_HEIGHT * (len(paths) + len(levels)))
    y_ticks = ticks(*ends, _Y_TICKS)
    form = same_decimals(y_ticks)
    left = 14 + 7 * max(len(form(tick)) for tick in y_ticks)
    powers = _powers([amount for _, points in paths for amount, _ in points])
    across = scale(powers[0], powers[-1], left + 8, WIDTH - right - 8)
    y_of = _clipped(y_ticks[0], y_ticks[-1], height - bottom, top)
    parts = [h_grid(y_of(tick), left, WIDTH - right, form(tick)) for tick in y_ticks]
    parts += [v_grid(across(p), top, height - bottom, size(2**p).replace(".0 ", " ")) for p in powers]
    parts.append(text((left + WIDTH - right) / 2, height - 6, axis, "middle"))
    parts += [level_line(y_of(level.value), left, WIDTH - right) for level in levels]
    for series, points in sorted(paths, key=lambda one: one[0].first):
        for number, (amount, found) in enumerate(points):
            grown = 0.75 + 0.6 * (number / max(1, len(points) - 1))
            parts.append(
                Markup('<g transform="translate({:.1f} {:.1f}) scale({:.2f})" class="{}">{}</g>').format(
                    across(math.log2(amount)),
                    y_of(found.value),
                    grown,
                    "first" if series.first else "faint",
                    series.mark(0, 0),
                )
            )
    trends = [(series, [found for _, found in points]) for series, points in paths]
    parts += _labels(trends, levels, y_of, WIDTH - right, (top, height - bottom))
    return picture(ident, title, description, height, parts)


def _labels(trends: Sequence[Trend], levels: Sequence[Level], y_of: Scale, edge: float, ends: Ends) -> list[Markup]:
    """Right of the plot's edge, as near to each line's end as there is room: its mark and its name.

    Levels look alike, so a leader goes from each to its name; names are in the order of the lines, so none cross.
    """
    x = edge + _LEADERS
    wanted = [y_of(level.value) for level in levels]
    wanted += [y_of([found for found in points if found][-1].value) for _, points in trends]
    places = spread(wanted, TEXT_HEIGHT, *ends)
    parts = []
    for level, y in zip(levels, places, strict=False):
        leader = f"{edge:.1f},{y_of(level.value):.1f} {x - 7:.1f},{y:.1f}"
        parts.append(Markup('<polyline points="{}" class="leader"/>').format(leader))
        parts.append(text(x - 4, y + 4, cut(level.label, _LABEL), "start"))
    for (series, _), y in zip(trends, places[len(levels) :], strict=True):
        style = "name" if series.first else ""
        parts += [series.mark(x, y), text(x + 9, y + 4, cut(series.label, _LABEL - 4), "start", style)]
    return parts


def _band(piece: Sequence[tuple[float, Interval]], series: Series, y_of: Scale) -> Markup:
    """The intervals of neighbouring categories as one area; of a single one as a line."""
    highs = [(x, y_of(found.ends[1])) for x, found in piece]
    lows = [(x, y_of(found.ends[0])) for x, found in piece]
    if len(piece) == 1:
        (x, high), (_, low) = highs[0], lows[0]
        return Markup('<line x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}" class="{} whisker"/>').format(
            x, x, high, low, series.style
        )
    outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*highs, *reversed(lows)))
    return Markup('<polygon points="{}" class="{} band"/>').format(outline, series.style)


def _pieces(points: Sequence[Interval | None]) -> list[list[tuple[int, Interval]]]:
    """Runs of neighbouring categories that have a value."""
    pieces: list[list[tuple[int, Interval]]] = [[]]
    for x, found in enumerate(points):
        if found is not None:
            pieces[-1].append((x, found))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _powers(amounts: Sequence[float]) -> list[int]:
    """At most six powers of two, evenly spaced, that enclose the amounts."""
    low, high = math.floor(math.log2(min(amounts))), math.ceil(math.log2(max(amounts)))
    low, high = (low - 1, high + 1) if high - low < 2 else (low, high)
    step = math.ceil((high - low) / 4)
    return list(range(low, high + step, step))


def _clipped(low: float, high: float, start: float, end: float) -> Scale:
    """Linear, and what lies outside is drawn at the edge."""
    inside = scale(low, high, start, end)
    return lambda value: inside(min(max(value, low), high))
