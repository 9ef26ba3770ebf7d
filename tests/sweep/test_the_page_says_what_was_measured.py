"""A sweep's page shows every figure with its uncertainty, names what is missing, and lets no name become markup."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from html_pages import Page, require_only_text, require_readable_aloud, require_self_contained
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t
from sweeps import STUDY, Counting, runs
from sweeps import figure as auroc
from sweeps import measured as result
from sweeps import result as finished

from secure_fedhelp.pages import estimates
from secure_fedhelp.research.sweep.execute import HospitalResult, RunResult
from secure_fedhelp.research.sweep.page import render
from secure_fedhelp.research.sweep.runs import FREE, Run, expand
from secure_fedhelp.research.sweep.sweep import sweep


def page(asked: Sequence[Run], results: Sequence[RunResult] | None = None) -> Page:
    made = require_self_contained(render(asked, [result(run) for run in asked] if results is None else results))
    require_readable_aloud(made)
    return made


ASKED = runs("fedhelp", "fedavg", "local-dp", "local", "pooled", epsilons=(1.0, 3.0, math.inf), seeds=3)


@pytest.fixture(scope="module")
def whole() -> Page:
    return page(ASKED)


# -- figures -----------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> str:
    """By the formula, apart from the project's code: mean ± t(0.975, n - 1) s / sqrt(n)."""
    mean, half = statistics.mean(values), t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


def test_every_level_is_in_the_table_with_students_interval(whole: Page) -> None:
    rows = {(row[0], row[1]): row[2:] for row in whole.tables["levels"][1:]}
    assert len(rows) == 2 * 2 * 3 + 3 + 2
    for epsilon in (1.0, 3.0, math.inf):
        mine = [run for run in ASKED if run.contender == "fedhelp" and run.epsilon == epsilon]
        for model in ("shared", "personal"):
            wanted = [interval([auroc(run, tier, model) for run in mine]) for tier in ("large", "small")]
            assert rows[f"fedhelp {model}", f"{epsilon:g}"] == [*wanted, "3"]
    assert rows["pooled", "–"][2] == "3"


def test_gains_are_paired_by_seed_against_the_right_rival(whole: Page) -> None:
    rows = {tuple(row[:3]): row[3:] for row in whole.tables["differences"][1:]}

    def of(contender: str, model: str) -> dict[int, float]:
        chosen = [run for run in ASKED if run.contender == contender and (run.epsilon == 3 or contender in FREE)]
        return {run.study.seed: auroc(run, "small", model) for run in chosen}

    for model, rival in (("shared", "local-dp"), ("personal", "local")):
        for other in (rival, "fedavg"):
            mine, theirs = of("fedhelp", model), of(other, model if other == "fedavg" else other)
            wanted = statistics.mean(mine[seed] - theirs[seed] for seed in mine)
            assert rows[f"fedhelp {model}", "3", other][0].split()[0] == f"{wanted:+.3f}".replace("-", "−")
            assert rows[f"fedhelp {model}", "3", other][1] == "3"
    assert not [key for key in rows if key[0].startswith("fedavg") and key[2] == "fedavg"], "not less itself"


def test_the_rival_from_the_public_warm_start_is_held_against_it_where_it_was_run() -> None:
    """A hospital has the public set without any study, so what it gains over nothing is not all the study's."""
    asked = runs("fedhelp", "local", "local-warm", seeds=2)
    made = page(asked, [result(run) for run in asked])
    rows = {tuple(row[:3]) for row in made.tables["differences"][1:]}
    assert {("fedhelp personal", "3", over) for over in ("local", "local-warm")} <= rows
    assert "less local training from the public warm start" in made.text
    usual = runs("fedhelp", "local", seeds=2)
    assert "warm start" not in page(usual, [result(run) for run in usual]).text


def test_what_had_other_patients_is_not_compared() -> None:
    """A gain over a rival at other hospitals would be a gain of other patients."""
    asked = runs("fedhelp", "small-alone", "no-logits", "fedavg", "local", seeds=2)
    rows = page(asked, [result(run) for run in asked]).tables["differences"][1:]
    compared = {(row[0].split()[0], row[2]) for row in rows}
    assert {("fedhelp", "local"), ("no-logits", "local"), ("no-logits", "fedavg"), ("fedhelp", "fedavg")} <= compared
    assert not {("small-alone", "local"), ("small-alone", "fedavg")} & compared


def test_bytes_calibration_and_other_figures_have_their_tables(whole: Page) -> None:
    assert whole.tables["bytes"][1][:3] == ["fedhelp", "1", "8.8 KiB"]
    assert len(whole.tables["bytes"]) == 1 + 2 * 3, "rivals send nothing"
    assert len(whole.tables["calibrations"]) == len(whole.tables["levels"])
    assert "Balanced accuracy." in whole.text
    assert len(whole.tables["other-1"]) == len(whole.tables["levels"])


def test_dice_judges_where_there_are_masks_and_macro_f1_is_shown() -> None:
    asked = runs("fedhelp", seeds=2)
    made = page(asked, [result(run, ("auroc", "macro_f1", "dice")) for run in asked])
    assert "Dice against epsilon" in made.text
    assert {"other-1", "other-2"} <= set(made.tables)
    assert "Macro-F1." in made.text
    assert "these results have no calibration error" in made.text


def test_inf_is_the_rightmost_budget_and_panels_share_a_scale() -> None:
    text = render(ASKED, [result(run) for run in ASKED])
    charts = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    panels = [chart for chart in charts if "chart-utility-" in chart]
    assert len(panels) == 4
    ticks = [re.findall(r'text-anchor="end"[^>]*>([0-9.]+)<', chart) for chart in panels]
    assert ticks[0] == ticks[1] == ticks[2] == ticks[3]
    for chart in panels:
        at = {name: float(x) for x, name in re.findall(r'<text x="([0-9.]+)"[^>]*>(1|3|inf)<', chart)}
        assert at["1"] < at["3"] < at["inf"]
        assert chart.count(" band") == (3 if "shared" in chart else 2), "a band a line"
        assert chart.count('class="level"') == 2, "local and pooled"


def charts_of(text: str, kind: str) -> list[str]:
    return [chart for chart in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if f"chart-{kind}-" in chart]


def shifted(asked: Sequence[Run], by: dict[str, float]) -> list[RunResult]:
    """Every figure as it is, and at the small hospitals lower by what each contender is given."""
    found = []
    for run in asked:
        made = result(run, ("auroc",))
        hospitals = [
            replace(h, metrics={"auroc": h.metrics["auroc"] - (by.get(run.contender, 0.0) if h.tier == "small" else 0)})
            for h in made.hospitals
        ]
        found.append(replace(made, hospitals=tuple(hospitals)))
    return found


def test_a_rival_far_below_at_one_tier_does_not_flatten_the_other_and_the_page_says_so() -> None:
    text = render(ASKED, shifted(ASKED, {"local-dp": 0.4}))
    ticks = [
        [float(tick) for tick in re.findall(r'text-anchor="end"[^>]*>([0-9.]+)<', chart)]
        for chart in charts_of(text, "utility")
    ]
    large, small = ticks[:2], ticks[2:]
    assert large[0] == large[1], "side by side"
    assert small[0] == small[1], "side by side"
    assert max(large[0]) - min(large[0]) < 0.5 * (max(small[0]) - min(small[0]))
    assert text.count("charts have another scale") == 4
    assert "charts have another scale" not in render(ASKED, shifted(ASKED, {}))


def test_what_spends_no_epsilon_is_told_apart_by_its_value_and_a_leader_from_its_line() -> None:
    text = render(ASKED, [result(run) for run in ASKED])
    for chart, tier in zip(charts_of(text, "utility"), ("large", "large", "small", "small"), strict=True):
        lines = re.findall(r'y1="([0-9.]+)" y2="\1" class="level"', chart)
        leaders = re.findall(r'<polyline points="[0-9.]+,([0-9.]+) [0-9.]+,([0-9.]+)" class="leader"', chart)
        assert [start for start, _ in leaders] == lines
        for name, (_, end) in zip(("local", "pooled"), leaders, strict=True):
            value = statistics.mean(auroc(run, tier, name) for run in ASKED if run.contender == name)
            (y,) = re.findall(rf'y="([0-9.]+)"[^>]*>{name} {value:.3f}<', chart)
            assert float(y) == pytest.approx(float(end) + 4, abs=0.11), "the leader ends at its name"
        ends = [float(end) for _, end in sorted(leaders, key=lambda leader: float(leader[0]))]
        assert ends == sorted(ends), "leaders that cross lead astray"


MANY = ("fedhelp", "fedavg", "fedprox", "ditto", "prr", "proxyfl", "pfednet", "no-logits", "local-dp", "local")


@pytest.mark.parametrize("many", [False, True], ids=["eight", "nine"])
def test_bands_that_would_hide_one_another_are_left_out_and_the_page_says_so(many: bool) -> None:
    """Nine lines are the shared models' of all of MANY but local, which is a level."""
    asked = runs(*(MANY if many else MANY[:-2]), epsilons=(1.0, 3.0), seeds=3)
    text = render(asked, [result(run) for run in asked])
    shared = charts_of(text, "utility")[0]
    assert shared.count(" band") == (1 if many else 8)
    assert ("The band is that of fedhelp: 9 would hide one another" in text) == many
    assert shared.count('class="pale"') == (8 if many else 0)
    if many:
        assert 'class="s0 band"' in shared
        every = [row for row in Page(text).tables["levels"][1:] if row[1]]
        assert all("[" in row[2] for row in every), "the table has every interval"


def test_what_a_sweep_is_about_is_drawn_above_all_others() -> None:
    text = render(ASKED, [result(run) for run in ASKED])
    for chart in charts_of(text, "utility"):
        assert chart.count('<g class="first">') == 1
        first = chart.index('<g class="first">')
        assert first > chart.rindex('<g class="plain">')
        assert first > chart.rindex(" band")
        assert 'class="s0"' in chart[first:]


def test_a_long_name_does_not_hide_which_model_a_row_is_of() -> None:
    name = "a-variant-with-a-long-name"
    study = STUDY.model_copy(update={"variants": {name: STUDY.variants["no-logits"]}})
    asked = expand(study, [name, "local", "local-dp"], [1.0, 3.0], 2, False, None)
    gains = charts_of(render(asked, [result(run) for run in asked]), "gain")
    assert gains
    for chart in gains:
        rows = re.findall(r'<text x="0.0" y="([0-9.]+)"[^>]*>([^<]*)<', chart)
        models = dict(re.findall(r'<text x="100.0" y="([0-9.]+)"[^>]*>([^<]*)<', chart))
        assert [(cut, models[y]) for y, cut in rows] == [("a-variant-wit…", "shared"), ("a-variant-wit…", "personal")]


def test_few_rows_are_shown_at_once_and_many_are_behind_one_click() -> None:
    few = runs("fedhelp", "local", "local-dp", seeds=2)
    closed = [[tag for tag in page(asked).of("details") if "open" not in tag] for asked in (few, ASKED)]
    assert closed[0] == [{}], "only the list of runs"
    assert {"class": "values"} in [dict(tag) for tag in closed[1]]


# -- what the page admits ----------------------------------------------------------------------------------------------


def test_one_seed_has_no_bands_and_the_page_says_why() -> None:
    asked = runs("fedhelp", "fedavg", "local-dp", epsilons=(1.0, 3.0), seeds=1)
    made = page(asked)
    assert "One seed was run. A single value has no spread" in made.text
    assert "95 %" not in made.text
    assert not any("[" in cell for row in made.tables["levels"] for cell in row)
    text = render(asked, [result(run) for run in asked])
    assert "<polyline" in text
    assert "<polygon" not in text


def test_plain_results_are_under_a_banner_and_encrypted_ones_are_not() -> None:
    plain, locked = (runs("fedhelp", seeds=2, encrypted=encrypted) for encrypted in (False, True))
    assert "Encryption: none. 2 of 2 results" in page(plain).text
    made = page(locked)
    assert "Encryption: none" not in made.text
    assert "ckks, masks repairing (2 runs)" in made.text


def test_what_is_missing_is_named_and_an_empty_sweep_draws_nothing() -> None:
    asked = runs("fedhelp", "local-dp", epsilons=(1.0, 3.0), seeds=2)
    made = page(asked, [result(run) for run in asked[1:]])
    assert made.tables["missing-runs"][1:] == [["fedhelp", "1", "1", asked[0].id]]
    assert "1 of 8 runs is missing" in made.text
    nothing = page(asked, [])
    assert "0 of 8 runs finished" in nothing.text
    assert nothing.of("svg") == []
    assert len(nothing.tables["missing-runs"]) == 9


def test_a_study_without_small_hospitals_says_so_and_blames_no_seed() -> None:
    asked = runs("fedhelp", "local-dp", "local", seeds=2)
    models = {"fedhelp": ("shared", "personal")}
    results = [
        finished(
            run,
            hospitals=tuple(
                HospitalResult("large-1", "large", model, {"auroc": 0.5})
                for model in models.get(run.contender, (run.contender,))
            ),
        )
        for run in asked
    ]
    made = page(asked, results)
    assert "The study has no small hospitals" in made.text
    assert "No seed has both" not in made.text


def test_what_has_no_rival_and_no_method_says_so_instead_of_an_empty_chart() -> None:
    alone = page(runs("fedhelp", seeds=2))
    assert "No seed has both a method and local-dp nor local at this epsilon" in alone.text
    assert alone.tables["differences"][1][3] == "–"
    rivals = page(runs("local", "public", seeds=2))
    assert "No method was run" in rivals.text
    assert "No shared model was measured at small hospitals" in rivals.text
    assert "no method has a result at small hospitals" in rivals.text


def test_the_page_states_where_its_figures_come_from(whole: Page) -> None:
    for words in ("breast-cancer", "1, 2, 3", "ε = 1, 3, inf", "torch 2", f"{len(ASKED) * 0.1:.1f} s in all"):
        assert words in whole.text, words
    assert len(whole.tables["every"]) == 1 + len(ASKED)
    for row, run in zip(whole.tables["every"][1:], ASKED, strict=True):
        assert row[4] == run.encryption
        assert row[6] == f"{run.id} {run.id}{run.id}"


def test_a_finished_sweep_gets_its_page_when_it_is_started_again(tmp_path: Path) -> None:
    asked = runs("fedhelp", seeds=2)
    sweep(asked, tmp_path, Counting())
    (tmp_path / "report.html").unlink()
    again = Counting()
    sweep(asked, tmp_path, again)
    assert again.done == []
    assert "2 of 2 runs finished" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).text


# -- what others may have written --------------------------------------------------------------------------------------

HOSTILE = '</style><script>alert(1)</script><img src=x onerror="a()">'


def test_names_and_results_of_others_are_text() -> None:
    study = STUDY.model_copy(
        update={"name": HOSTILE, "dataset": HOSTILE, "variants": {HOSTILE: STUDY.variants["no-logits"]}}
    )
    asked = expand(study, [HOSTILE, "fedavg"], [1.0, 3.0], 2, False, None)
    kinds = [(tier, model) for tier in ("small", HOSTILE) for model in ("shared", "personal")]
    metrics = {"auroc": 0.5, "ece": 0.1, HOSTILE: 0.5}
    hospitals = tuple(HospitalResult(HOSTILE, tier, model, metrics) for tier, model in kinds)
    said = dict.fromkeys(("versions", "plan_sha256", "encryption"), HOSTILE)
    spoilt = [finished(run, hospitals=hospitals, **said) for run in asked[:-1]]
    text = render(asked, spoilt)
    made_page = Page(text)
    require_only_text(made_page, HOSTILE)
    assert "<script" not in text


# -- charts ------------------------------------------------------------------------------------------------------------

INTERVALS = st.builds(
    lambda value, half: estimates.Interval(value, value - half, value + half), st.floats(0, 1), st.floats(0, 1)
)
LONG = st.text("abcdefgh-", min_size=1, max_size=40)


def numbers(svg: str, attribute: str) -> list[float]:
    return [float(value) for value in re.findall(rf'\b{attribute}="(-?[0-9.]+)"', svg)]


def require_inside(svg: str) -> None:
    (height,) = map(float, re.findall(r'viewBox="0 0 360 ([0-9.]+)"', svg))
    for attribute, end in (
        ("cx", 360),
        ("x1", 360),
        ("x2", 360),
        ("x", 360),
        ("y1", height),
        ("y2", height),
        ("y", height),
    ):
        assert all(0 <= value <= end for value in numbers(svg, attribute) if "translate" not in svg), attribute
    for points in re.findall(r'points="([^"]*)"', svg):
        for x, y in (pair.split(",") for pair in points.split()):
            assert 0 <= float(x) <= 360
            assert 0 <= float(y) <= height


@given(st.lists(st.tuples(LONG, st.lists(st.none() | INTERVALS, min_size=4, max_size=4)), min_size=1, max_size=12))
def test_trends_stay_inside_and_never_cross_a_gap(drawn: list[tuple[str, list[estimates.Interval | None]]]) -> None:
    trends = [(estimates.Series(name, i), points) for i, (name, points) in enumerate(drawn)]
    svg = str(estimates.trend_chart("x", "title", "text", ["1", "3", "8", "inf"], trends, [], (0.0, 1.0), "epsilon"))
    require_inside(svg)
    pieces = sum(
        1 for _, points in drawn for there, _ in itertools.groupby(points, key=lambda found: found is not None) if there
    )
    assert svg.count("<polyline") == pieces


@given(st.lists(st.tuples(LONG, st.none() | INTERVALS), min_size=1, max_size=20))
def test_a_forest_has_a_row_for_each_and_says_what_is_not_measured(
    drawn: list[tuple[str, estimates.Interval | None]],
) -> None:
    rows = [(estimates.Series(name, i), found) for i, (name, found) in enumerate(drawn)]
    svg = str(estimates.forest_chart("x", "title", "text", rows, (-1.0, 1.0), "axis", zero=True))
    require_inside(svg)
    assert svg.count("not measured") == sum(found is None for _, found in drawn)
    assert svg.count("whisker") == sum(found is not None for _, found in drawn)


def test_more_bytes_are_further_right_by_their_logarithm_and_more_is_higher() -> None:
    points = [(1024.0 * 4**n, estimates.Interval(0.5 + 0.1 * n)) for n in range(3)]
    svg = str(estimates.cost_chart("x", "t", "d", [(estimates.Series("a", 0), points)], [], (0.4, 0.8), "bytes"))
    places = [(float(x), float(y)) for x, y in re.findall(r"translate\(([0-9.]+) ([0-9.]+)\)", svg)]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(places)]
    assert steps[0][0] == pytest.approx(steps[1][0], abs=0.11)
    assert steps[0][0] > 0
    assert all(up < 0 for _, up in steps)


@given(st.lists(st.floats(1, 1e12), min_size=1, max_size=9))
def test_the_axis_of_bytes_encloses_all_and_has_few_ticks(amounts: list[float]) -> None:
    powers = estimates._powers(amounts)
    assert 2 <= len(powers) <= 6
    assert 2.0 ** powers[0] <= min(amounts)
    assert max(amounts) <= 2.0 ** powers[-1]


def test_no_two_of_28_series_look_the_same() -> None:
    looks = {(s.style, re.sub(r"[0-9.]+", "", str(s.mark(0, 0)))) for s in (estimates.Series("", n) for n in range(28))}
    assert len(looks) == 28
