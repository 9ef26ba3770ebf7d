"""Small charts as inline SVG, for a report that needs no network and no plotting library.

A chart is text in the page: it takes the page's fonts and colours (light, dark and print), can be read aloud (each has
a title and a description), and adds no dependency where Matplotlib would add tens of megabytes and glyphs as outlines.
All charts are 360 units wide, so their 11-unit text stays legible in one column of a phone.

Everything from outside goes through :class:`markupsafe.Markup`, which escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 360
TEXT_HEIGHT = 13
#: Labels longer than this are cut; the full words are in the chart's description and in the tables.
LONGEST_LABEL = 17
#: A line of more points than this has marks at its ends only.
MOST_MARKS = 20

Point = tuple[float, float]
#: Draws one mark at x, y with a CSS class.
Mark = Callable[[float, float, str], Markup]


@dataclass(frozen=True)
class Line:
    """Points (x, y) in units of the data, a label at the line's end, and a CSS class for its colour."""

    label: str
    points: tuple[Point, ...]
    style: str


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line with its label at the right."""

    label: str
    value: float


@dataclass(frozen=True)
class Series:
    """One mark of a dot chart: its name, shape and CSS class."""

    label: str
    mark: Mark
    style: str


@dataclass(frozen=True)
class Row:
    """One hospital in a dot or bar chart: a value for each series, None where there is none."""

    label: str
    values: tuple[float | None, ...]


def circle(x: float, y: float, style: str) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="4" class="{}"/>').format(x, y, style)


def square(x: float, y: float, style: str) -> Markup:
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="8" height="8" class="{}"/>').format(x - 4, y - 4, style)


def diamond(x: float, y: float, style: str) -> Markup:
    """Larger than the other marks: it still shows when one of them lies on it."""
    return Markup('<path d="M{:.1f} {:.1f}l7.5 7.5-7.5 7.5-7.5-7.5z" class="{}"/>').format(x, y - 7.5, style)


def triangle(x: float, y: float, style: str) -> Markup:
    return Markup('<path d="M{:.1f} {:.1f}l5 9h-10z" class="{}"/>').format(x, y - 5.5, style)


def line_chart(
    ident: str,
    title: str,
    description: str,
    lines: Sequence[Line],
    levels: Sequence[Level],
    floor: float | None = None,
    least_span: float = 0.0,
    last: int = 0,
) -> Markup:
    """Lines over rounds; ``floor`` is the lower end of the y axis (default: from the data).

    With ``last`` the x axis goes from round 1 to that round, whatever rounds the lines have. The y axis spans at least
    ``least_span``, so that a difference that means nothing does not look like a cliff.
    """
    right, top, bottom = 104, 12, 36
    # Tall enough for a label at the end of every line.
    height = max(236, top + bottom + TEXT_HEIGHT * (len(lines) + len(levels)))
    values = [y for line in lines for _, y in line.points] + [level.value for level in levels]
    lowest = min([*values, max(values) - least_span]) if floor is None else floor
    y_ticks = ticks(lowest, max(values), 5)
    form = same_decimals(y_ticks)
    left = max(38, 14 + 7 * max(len(form(tick)) for tick in y_ticks))
    rounds: Sequence[float] = range(1, last + 1) or sorted({x for line in lines for x, _ in line.points})
    x_of = scale(rounds[0], rounds[-1], left + 8, WIDTH - right - 8)
    y_of = scale(y_ticks[0], y_ticks[-1], height - bottom, top)
    parts = [h_grid(y_of(tick), left, WIDTH - right, form(tick)) for tick in y_ticks]
    parts += [text(x_of(x), height - bottom + 16, f"{x:g}", "middle") for x in _spaced(rounds, 8)]
    parts.append(text((left + WIDTH - right) / 2, height - 4, "round", "middle"))
    parts += [level_line(y_of(level.value), left, WIDTH - right) for level in levels]
    for line in lines:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        parts.append(Markup('<polyline points="{}" class="{}"/>').format(path, line.style))
        marked = line.points if len(line.points) <= MOST_MARKS else (line.points[0], line.points[-1])
        parts += [circle(x_of(x), y_of(y), f"{line.style} point") for x, y in marked]
    labels = [(level.label, level.value, "") for level in levels]
    labels += [(line.label, line.points[-1][1], line.style) for line in lines]
    places = spread([y_of(value) for _, value, _ in labels], TEXT_HEIGHT, top, height - bottom)
    for (label, _, style), place in zip(labels, places, strict=True):
        parts.append(text(WIDTH - right + 6, place + 4, cut(label), "start", style))
    return picture(ident, title, description, height, parts)


def dot_chart(ident: str, title: str, description: str, series: Sequence[Series], rows: Sequence[Row]) -> Markup:
    """One line a row with a mark for each series, on an axis that ends at 1."""
    legend, row_height, left, right = 24 + 18 * math.ceil(len(series) / 2), 34, 18, 14
    height = legend + row_height * len(rows) + 28
    values = [value for row in rows for value in row.values if value is not None]
    x_ticks = ticks(min(values), 1.0, 6)
    x_of, form = scale(x_ticks[0], x_ticks[-1], left, WIDTH - right), same_decimals(x_ticks)
    parts = []
    for number, one in enumerate(series):
        x, middle = left + 6 + 172 * (number % 2), 12 + 18 * (number // 2)
        parts += [one.mark(x, middle, one.style), text(x + 12, middle + 4, one.label, "start")]
    parts += [v_grid(x_of(tick), legend, height - 24, form(tick)) for tick in x_ticks]
    for number, row in enumerate(rows):
        y = legend + row_height * number + 22
        parts.append(text(left, y - 9, cut(row.label, 40), "start", "name"))
        found = [x_of(value) for value in row.values if value is not None]
        if found:
            parts.append(Markup('<line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}" class="span"/>').format(
                min(found), max(found), y, y))  # fmt: skip
        else:
            parts.append(text(left, y + 4, "not measured", "start"))
        parts += [s.mark(x_of(v), y, s.style) for s, v in zip(series, row.values, strict=True) if v is not None]
    return picture(ident, title, description, height, parts)


def bar_chart(
    ident: str,
    title: str,
    description: str,
    series: Sequence[tuple[str, str]],
    rows: Sequence[Row],
    form: Callable[[float], str],
) -> Markup:
    """Bars for each row, one a series (label, CSS class), with its value at the end of the bar."""
    left, right, legend, bar = 8, 74, 26, 9
    row_height = 22 + (bar + 4) * len(series)
    height = legend + row_height * len(rows)
    largest = max((value for row in rows for value in row.values if value is not None), default=0) or 1
    x_of = scale(0, largest, left, WIDTH - right)
    parts = []
    for number, (label, style) in enumerate(series):
        x = left + 118 * number
        parts.append(Markup('<rect x="{}" y="7" width="12" height="{}" class="{}"/>').format(x, bar, style))
        parts.append(text(x + 17, 15, label, "start"))
    for number, row in enumerate(rows):
        top = legend + row_height * number + 16
        parts.append(text(left, top - 2, cut(row.label, 40), "start", "name"))
        for place, (value, (_, style)) in enumerate(zip(row.values, series, strict=True)):
            y = top + 4 + (bar + 4) * place
            end = left if value is None else max(x_of(value), left + 1)
            words = "not known" if value is None else form(value)
            parts.append(Markup('<rect x="{}" y="{}" width="{:.1f}" height="{}" class="{}"/>').format(
                left, y, end - left, bar, style))  # fmt: skip
            parts.append(text(end + 6, y + bar, words, "start"))
    return picture(ident, title, description, height, parts)


def grid_chart(
    ident: str,
    title: str,
    description: str,
    columns: str,
    series: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, Sequence[int | None]]],
) -> Markup:
    """A cell for each row and column, drawn as the numbered series (label, CSS class) or empty; ``columns`` names the
    columns, which count from 1."""
    left, right, legend, row_height = 100, 8, 28, 20
    many = max((len(cells) for _, cells in rows), default=0) or 1
    step = (WIDTH - left - right) / many
    size = min(step * 0.8, 12.0)
    height = legend + row_height * len(rows) + 30
    parts = []
    for number, (label, style) in enumerate(series):
        x = left + 92.0 * number
        parts += [_cell(x + 5, 12, 10, style), text(x + 15, 16, label, "start")]
    for number, (label, cells) in enumerate(rows):
        middle = legend + row_height * number + row_height / 2
        parts.append(text(0, middle + 4, cut(label, 15), "start", "name"))
        for place, cell in enumerate(cells):
            if cell is not None:
                parts.append(_cell(left + step * (place + 0.5), middle, size, series[cell][1]))
    for column in _spaced(range(many), 10):
        parts.append(text(left + step * (column + 0.5), height - 16, f"{column + 1:g}", "middle"))
    parts.append(text((left + WIDTH - right) / 2, height - 2, columns, "middle"))
    return picture(ident, title, description, height, parts)


def ticks(lowest: float, highest: float, most: int) -> list[float]:
    """At most ``most`` round numbers that enclose both ends: steps of 1, 2 or 5 times a power of ten."""
    width = max(highest - lowest, 1e-6)
    power = 10.0 ** math.floor(math.log10(width / most))
    for step in (power, 2 * power, 5 * power, 10 * power, 20 * power, 50 * power):
        first, last = math.floor(lowest / step + 1e-9), math.ceil(highest / step - 1e-9)
        if last - first + 1 <= most:
            break
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def spread(wanted: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Places as near to ``wanted`` as a greedy pass gets, at least ``gap`` apart, pushed back up at ``bottom``."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = list(wanted)
    previous = top - gap
    for index in order:
        places[index] = previous = max(places[index], previous + gap)
    following = bottom + gap
    for index in reversed(order):
        places[index] = following = min(places[index], following - gap)
    return places


def cut(label: str, longest: int = LONGEST_LABEL) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


def same_decimals(values: Sequence[float]) -> Callable[[float], str]:
    """Prints every tick with as many decimals as the step between two needs."""
    decimals = max(0, -math.floor(math.log10(values[1] - values[0]) + 1e-9))
    return lambda value: f"{value:.{decimals}f}"


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Linear from [low, high] to [start, end]; everything in the middle if there is one value only."""
    if high == low:
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _spaced(values: Sequence[float], most: int) -> list[float]:
    """At most about ``most`` of the values, evenly picked."""
    step = math.ceil(len(values) / most)
    return list(values[::step])


def h_grid(y: float, left: float, right: float, words: str) -> Markup:
    """A horizontal line across the picture, with its value at the left."""
    line = Markup('<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" class="grid"/>').format(left, right, y, y)
    return line + text(left - 6, y + 4, words, "end")


def v_grid(x: float, top: float, bottom: float, words: str) -> Markup:
    """A vertical line across the picture, with its value below."""
    line = Markup('<line x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}" class="grid"/>').format(x, x, top, bottom)
    return line + text(x, bottom + 16, words, "middle")


def level_line(y: float, left: float, right: float) -> Markup:
    """A value that all points are held against."""
    return Markup('<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" class="level"/>').format(left, right, y, y)


def _cell(x: float, y: float, size: float, style: str) -> Markup:
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}"/>').format(
        x - size / 2, y - min(size, 12) / 2, size, min(size, 12), style
    )


def text(x: float, y: float, words: str, anchor: str, style: str = "") -> Markup:
    """Escaped words at a place; ``anchor`` is SVG's ``start``, ``middle`` or ``end``."""
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" class="{}">{}</text>').format(
        x, y, anchor, style, words
    )


def picture(ident: str, title: str, description: str, height: float, parts: Iterable[Markup]) -> Markup:
    """The whole chart, which is read aloud as its title and description."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}-title {}-text">'
        '<title id="{}-title">{}</title><desc id="{}-text">{}</desc>{}</svg>'
    ).format(WIDTH, height, ident, ident, ident, title, ident, description, Markup("").join(parts))
