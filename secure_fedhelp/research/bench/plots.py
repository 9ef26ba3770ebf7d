"""Charts of results as one HTML file that needs no network: Plotly, its JavaScript inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.research.bench.results import Result
from secure_fedhelp.study.files import write_atomic

#: Colour-blind safe (Okabe and Ito, 2008), in the order of settings.
_COLOURS: Final = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000", "#999999")
_SIDES: Final = (("upload", "one hospital's upload"), ("coordinator", "coordinator"), ("download", "one download"))


def write_bars(path: Path, results: Sequence[Result]) -> None:
    """Critical path by side and bytes a value of each setting at one size; StorageError if it cannot be written."""
    from plotly.subplots import make_subplots

    titles = ("critical path, seconds", "bytes a value")
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    labels = [_label(r) for r in results]
    for place, (side, words) in enumerate(_SIDES):
        _bars(figure, 1, labels, [r.of(side) for r in results], words, _COLOURS[place])
    _bars(figure, 2, labels, [r.up_bytes_per_value for r in results], "up", _COLOURS[3])
    _bars(figure, 2, labels, [r.down_bytes_per_value for r in results], "down", _COLOURS[4])
    figure.update_layout(barmode="stack", height=160 + 34 * len(results), template="plotly_white", margin={"l": 10})
    figure.update_yaxes(autorange="reversed", automargin=True)
    sizes = f"{results[0].values:,} values, {results[0].hospitals} hospitals"
    _write(path, f"One aggregation: {sizes}", figure, results)


def write_curves(path: Path, results: Sequence[Result], values: int, hospitals: int) -> None:
    """Critical path and bytes against hospitals (at ``values``) and against values (at ``hospitals``).

    Measured points are filled and joined by a line, extrapolated ones hollow and dashed. InvalidConfiguration if no
    result lies on either axis, StorageError if the file cannot be written.
    """
    from plotly.subplots import make_subplots

    by_hospitals = [r for r in results if r.values == values]
    by_values = [r for r in results if r.hospitals == hospitals]
    if not by_hospitals and not by_values:
        raise InvalidConfiguration(f"no result has {values} values or {hospitals} hospitals", "Measure a sweep first.")
    path_title, bytes_title = "critical path, seconds", "bytes of one hospital in a round"
    titles = (path_title, path_title, bytes_title, bytes_title)
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, vertical_spacing=0.12)
    # One colour a setting in every chart; the largest cohort has all settings.
    labels = dict.fromkeys(_label(r) for r in sorted(results, key=lambda r: -r.hospitals))
    colours = {label: _COLOURS[place % len(_COLOURS)] for place, label in enumerate(labels)}
    for column, (found, axis) in enumerate(((by_hospitals, _hospitals), (by_values, _values)), start=1):
        for row, height in ((1, _seconds), (2, _bytes)):
            _curves(figure, (row, column), found, axis, height, colours)
    figure.update_xaxes(type="log", title_text=f"hospitals, {values:,} values each", col=1)
    figure.update_xaxes(type="log", title_text=f"values, {hospitals} hospitals", col=2)
    figure.update_yaxes(type="log")
    figure.update_layout(height=900, template="plotly_white", legend={"orientation": "h", "y": -0.08})
    _write(path, "What one aggregation costs as it grows", figure, results)


def _curves(
    figure: Any,
    place: tuple[int, int],
    results: Sequence[Result],
    x: Callable[[Result], float],
    y: Callable[[Result], float],
    colours: Mapping[str, str],
) -> None:
    """One line a setting: solid through what was measured, dashed from there on."""
    import plotly.graph_objects as go

    row, column = place
    for label in (label for label in colours if any(_label(r) == label for r in results)):
        points = sorted((r for r in results if _label(r) == label), key=x)
        measured = [r for r in points if r.figures == "measured"]
        beyond = [r for r in points if r.figures == "extrapolated"]
        drawn = [(measured, "solid", "circle", place == (1, 1))]
        if beyond:
            drawn.append(([*measured[-1:], *beyond], "dash", "circle-open", False))
        for series, dash, symbol, legend in drawn:
            symbols = ["circle" if r.figures == "measured" else symbol for r in series]
            figure.add_trace(
                go.Scatter(
                    x=[x(r) for r in series],
                    y=[y(r) for r in series],
                    name=label,
                    legendgroup=label,
                    showlegend=legend,
                    mode="lines+markers",
                    line={"color": colours[label], "dash": dash},
                    marker={"symbol": symbols, "size": 8},
                    customdata=[r.figures for r in series],
                    hovertemplate="%{x:,} : %{y:.4g} (%{customdata})",
                ),
                row=row,
                col=column,
            )


def _bars(figure: Any, column: int, labels: list[str], values: list[float], name: str, colour: str) -> None:
    import plotly.graph_objects as go

    bar = go.Bar(y=labels, x=values, name=name, orientation="h", marker={"color": colour})
    figure.add_trace(bar, row=1, col=column)


def _write(path: Path, title: str, figure: Any, results: Sequence[Result]) -> None:
    """The page: what it shows, the charts, and every figure once more as a table."""
    loader = PackageLoader("secure_fedhelp.research.bench")
    page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("charts.html")
    # Plotly's own HTML, with its JavaScript inside the page.
    chart = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    extrapolated = any(r.figures == "extrapolated" for r in results)
    text = page.render(title=title, chart=chart, results=results, extrapolated=extrapolated, label=_label)
    write_atomic(path, text.encode())


def _label(result: Result) -> str:
    return result.label + (", gRPC" if result.transport == "grpc" else "")


def _hospitals(result: Result) -> float:
    return result.hospitals


def _values(result: Result) -> float:
    return result.values


def _seconds(result: Result) -> float:
    return result.critical_path_s


def _bytes(result: Result) -> float:
    return result.bytes_moved
