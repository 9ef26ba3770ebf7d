"""Ticks enclose the data, labels do not overlap, and nothing is drawn outside the picture."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.pages import charts, estimates


@given(st.floats(0, 1000), st.floats(0, 1000), st.integers(3, 8))
def test_ticks_enclose_both_ends_and_are_few(one: float, other: float, most: int) -> None:
    low, high = sorted((one, other))
    found = charts.ticks(low, high, most)
    assert 2 <= len(found) <= most
    assert found[0] <= low + 1e-6 * max(1, high - low)
    assert found[-1] >= high - 1e-6 * max(1, high - low)
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.902, 0.961, [0.9, 0.92, 0.94, 0.96, 0.98]), (0, 3, [0, 1, 2, 3]), (0.5, 0.5, None), (0, 8, [0, 2, 4, 6, 8])],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float] | None) -> None:
    found = charts.ticks(low, high, 5)
    assert found == wanted or wanted is None


@given(st.floats(0, 1), st.floats(0.001, 1))
def test_most_of_an_axis_of_estimates_is_filled_so_small_differences_show(low: float, span: float) -> None:
    found = charts.ticks(low, low + span, estimates._Y_TICKS)
    assert span >= 0.6 * (found[-1] - found[0])


@given(st.lists(st.floats(10, 200), min_size=1, max_size=12))
def test_spread_labels_never_overlap_and_stay_inside(wanted: list[float]) -> None:
    places = charts.spread(wanted, 13, 10, 200)
    ordered = sorted(places)
    assert all(b - a >= 13 - 1e-6 for a, b in itertools.pairwise(ordered))
    assert ordered[0] >= 10 - 1e-6
    assert ordered[-1] <= 200 + 1e-6


def test_labels_that_fit_stay_where_they_belong() -> None:
    assert charts.spread([50.0, 20.0, 120.0], 13, 10, 200) == [50.0, 20.0, 120.0]


def numbers(svg: str, attribute: str) -> list[float]:
    return [float(value) for value in re.findall(rf'\b{attribute}="(-?[0-9.]+)"', svg)]


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=30), min_size=1, max_size=25),
    st.lists(st.floats(0, 1), max_size=2),
)
def test_lines_stay_inside_their_picture(values: list[list[float]], levels: list[float]) -> None:
    lines = [
        charts.Line(f"hospital {i}", tuple((float(n + 1), y) for n, y in enumerate(ys)), "both")
        for i, ys in enumerate(values)
    ]
    svg = charts.line_chart("x", "title", "text", lines, [charts.Level("level", v) for v in levels])
    height = float(re.findall(r'viewBox="0 0 360 ([0-9.]+)"', svg)[0])
    for attribute, end in (
        ("cx", 360),
        ("x1", 360),
        ("x2", 360),
        ("x", 360),
        ("cy", height),
        ("y1", height),
        ("y", height),
    ):
        assert all(0 <= value <= end for value in numbers(svg, attribute)), attribute
    for x, y in re.findall(r"([0-9.]+),([0-9.]+)", " ".join(re.findall(r'points="([^"]*)"', svg))):
        assert float(x) <= 360
        assert float(y) <= height


def test_a_higher_value_is_drawn_higher_and_further_right() -> None:
    line = charts.Line("a", ((1.0, 0.2), (2.0, 0.8)), "both")
    svg = charts.line_chart("x", "title", "text", [line], [])
    assert numbers(svg, "cy")[0] > numbers(svg, "cy")[1]
    series = [charts.Series("one", charts.circle, "own"), charts.Series("two", charts.square, "rival")]
    dots = charts.dot_chart("y", "title", "text", series, [charts.Row("a", (0.9, None)), charts.Row("b", (0.6, None))])
    _, first, second = numbers(dots, "cx")  # the first circle is the legend's
    assert first > second


def test_lines_on_one_axis_can_be_compared_and_long_ones_are_not_beads() -> None:
    def ends(count: int, last: int) -> list[float]:
        line = charts.Line("a", tuple((float(n), 1.0) for n in range(1, count + 1)), "both")
        return numbers(charts.line_chart("x", "title", "text", [line], [], last=last), "cx")

    assert len(ends(20, 0)) == 20
    assert len(ends(50, 0)) == 2
    short, full = ends(25, 50), ends(50, 50)
    assert short[0] == full[0]
    assert (short[-1] - short[0]) / (full[-1] - full[0]) == pytest.approx(24 / 49, abs=0.01)


def test_bars_are_as_long_as_their_values_and_unknown_ones_say_so() -> None:
    rows = [charts.Row("a", (100.0, 50.0)), charts.Row("b", (None, 0.0))]
    svg = charts.bar_chart("x", "title", "text", (("up", "s"), ("down", "t")), rows, lambda v: f"{v:g} bytes")
    widths = numbers(svg, "width")[2:]  # after the two of the legend
    assert widths[0] == pytest.approx(2 * widths[1])
    assert widths[2:] == [0.0, 1.0]
    assert "not known" in svg
    assert "100 bytes" in svg


def test_a_long_label_is_cut_and_a_hospital_without_values_says_so() -> None:
    assert charts.cut("a" * 30) == "a" * 16 + "…"
    series = [charts.Series("one", charts.diamond, "shared")]
    rows = [charts.Row("a", (None,)), charts.Row("b", (0.5,))]
    assert "not measured" in charts.dot_chart("x", "title", "text", series, rows)


@given(st.lists(st.lists(st.sampled_from([None, 0, 1]), min_size=1, max_size=60), min_size=1, max_size=20))
def test_a_grid_has_a_cell_for_each_state_inside_the_picture(rows: list[list[int | None]]) -> None:
    series = (("in", "a"), ("out", "b"))
    svg = charts.grid_chart("x", "title", "text", "round", series, [(f"h{i}", row) for i, row in enumerate(rows)])
    height = float(re.findall(r'viewBox="0 0 360 ([0-9.]+)"', svg)[0])
    assert svg.count("<rect") == len(series) + sum(cell is not None for row in rows for cell in row)
    assert svg.count('class="b"') == 1 + sum(cell == 1 for row in rows for cell in row)
    for attribute, end in (("x", 360), ("y", height)):
        assert all(0 <= value <= end for value in numbers(svg, attribute))
