"""A sweep stops where time or memory ends; what it draws beyond is a line, and everywhere marked as one."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from benches import a_result
from rich.console import Console

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.research.bench import sweep
from secure_fedhelp.research.bench.plots import write_bars, write_curves
from secure_fedhelp.research.bench.results import OURS, PLAINTEXT, Result
from secure_fedhelp.research.bench.settings import Plan, TooLittleMemory
from secure_fedhelp.research.bench.suite import Progress
from secure_fedhelp.research.bench.sweep import SweepPlan, extrapolate, run_sweep
from secure_fedhelp.research.bench.table import print_results

BASE = Plan(values=1000, hospitals=10, profiles=("standard",), transports=("none",), repeats=1)


class Pretended:
    """Stands in for run_suite: costs that are known exactly, and a clock that moves with them."""

    def __init__(self, seconds_per_value: float = 0.001) -> None:
        self.now, self.asked, self._price = 0.0, list[tuple[int, int]](), seconds_per_value

    def run(self, plan: Plan, progress: Progress) -> list[Result]:
        self.asked.append((plan.values, plan.hospitals))
        self.now += self._price * plan.values
        progress("measuring", 0, 1)
        return [
            a_result(
                values=plan.values,
                hospitals=plan.hospitals,
                masks=masks,
                seconds={"upload.encrypt": 1e-6 * plan.values, "coordinator.add": 1e-7 * plan.values * plan.hospitals},
                critical_path_s=1.0,
                coordinator_peak_mib=50 + plan.values / 1e5,
            )
            for masks in plan.masks
        ]

    def clock(self) -> float:
        return self.now


def test_both_axes_are_measured_and_the_size_they_share_only_once() -> None:
    pretended, said = Pretended(), list[str]()
    plan = SweepPlan(BASE, hospitals=(2, 5, 10), values=(100, 1000, 10_000))
    found = run_sweep(plan, lambda what, done, total: said.append(what), pretended.run, pretended.clock)
    assert pretended.asked == [(1000, 2), (1000, 5), (1000, 10), (100, 10), (10_000, 10)]
    assert all(r.figures == "measured" for r in found)
    assert [r.masks for r in found if r.hospitals == 2] == ["none"]  # in a sum of two, masks hide nothing
    assert said[0] == "hospitals 2 (1 of 3): measuring"


def test_a_size_that_would_take_too_long_is_a_line_through_the_last_two() -> None:
    pretended = Pretended()
    plan = SweepPlan(BASE, hospitals=(10,), values=(100, 1000, 10_000, 100_000, 1_000_000), longest_seconds=20)
    found = run_sweep(plan, run=pretended.run, clock=pretended.clock)
    assert pretended.asked == [(1000, 10), (100, 10), (10_000, 10)]
    guessed = [r for r in found if r.figures == "extrapolated"]
    assert [(r.values, r.masks) for r in guessed] == [
        (100_000, "repairing"),
        (100_000, "none"),
        (1_000_000, "repairing"),
        (1_000_000, "none"),
    ]
    for result in guessed:
        # The costs are linear, so the line must give them exactly.
        assert result.seconds["upload.encrypt"] == pytest.approx(1e-6 * result.values)
        assert result.seconds["coordinator.add"] == pytest.approx(1e-6 * result.values)
        assert result.critical_path_s == pytest.approx(2e-6 * result.values)
        assert result.up_bytes_per_value == pytest.approx(7.01)
        assert result.coordinator_peak_mib == pytest.approx(50 + result.values / 1e5)
        assert (result.max_error, result.sanitised_error, result.repeats) == (None, None, 0)


def test_too_little_memory_ends_an_axis_and_not_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def room(plan: Plan) -> None:
        if plan.hospitals > 20:
            raise TooLittleMemory("no")

    monkeypatch.setattr(sweep, "require_room", room)
    pretended = Pretended()
    plan = SweepPlan(BASE, hospitals=(10, 20, 50, 100), values=(1000, 2000))
    found = run_sweep(plan, run=pretended.run, clock=pretended.clock)
    assert [(r.hospitals, r.figures) for r in found if r.masks == "none" and r.values == 1000] == [
        (10, "measured"),
        (20, "measured"),
        (50, "extrapolated"),
        (100, "extrapolated"),
    ]
    assert (2000, 10) in pretended.asked


def test_one_measured_size_makes_no_line() -> None:
    assert extrapolate([a_result()], "values", 10**8) == []
    assert extrapolate([], "values", 10**8) == []


def test_a_falling_line_ends_at_zero() -> None:
    slow, fast = a_result(values=100), a_result(values=200, seconds={"upload.encrypt": 0.1, "coordinator.add": 0.25})
    (found,) = extrapolate([slow, fast], "values", 1000)
    assert found.seconds == {"upload.encrypt": 0.0, "coordinator.add": 0.25}


def some_results() -> list[Result]:
    measured = [
        a_result(values=v, system=s, profile=p, masks=m)
        for v in (1000, 10_000)
        for s, p, m in ((OURS, "standard", "repairing"), (PLAINTEXT, None, None))
    ]
    return measured + extrapolate(measured, "values", 100_000) + [a_result(values=1000, hospitals=20)]


def test_curves_are_in_one_file_that_needs_no_network(tmp_path: Path) -> None:
    write_curves(tmp_path / "sweep.html", some_results(), 1000, 10)
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|img|iframe|link)[^>]*(?:src|href)\s*=", page)
    assert "Hollow marks and dashed lines were not measured" in page
    assert '"dash":"dash"' in page
    assert "circle-open" in page
    assert '<tr class="extrapolated">' in page
    assert "secure-fedhelp standard, masks (repairing)" in page


def test_without_extrapolation_nothing_says_so(tmp_path: Path) -> None:
    measured = [r for r in some_results() if r.figures == "measured"]
    write_curves(tmp_path / "sweep.html", measured, 1000, 10)
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "were not measured" not in page
    assert '"dash":"dash"' not in page
    write_bars(tmp_path / "bars.html", measured[:2])
    bars = (tmp_path / "bars.html").read_text(encoding="utf-8")
    assert "plaintext float32" in bars
    assert "1,000 values, 10 hospitals" in bars


def test_a_setting_has_one_colour_in_all_charts(tmp_path: Path) -> None:
    """Also where an axis begins without it, as masks do not exist for two hospitals."""
    start = a_result(values=1000, hospitals=2, system=PLAINTEXT, profile=None, masks=None)
    write_curves(tmp_path / "sweep.html", [start, *some_results()], 1000, 10)
    page = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    used = re.findall(r'"line":\{"color":"(#\w+)".*?"name":"(.*?)"', page)
    assert {name for _, name in used} == {"plaintext float32", "secure-fedhelp standard, masks (repairing)"}
    assert len(set(used)) == 2
    assert len(used) >= 8


def test_results_off_both_axes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="no result has 7 values"):
        write_curves(tmp_path / "sweep.html", some_results(), 7, 7)


def test_the_table_shows_costs_ratios_and_what_was_not_measured() -> None:
    rival = a_result(system="nvflare-he", profile=None, masks=None, up_bytes_per_value=70.1, critical_path_max_s=9.0)
    rival = rival.model_copy(update={"critical_path_s": 8.0})
    console = Console(width=80, record=True, file=io.StringIO())
    guessed = extrapolate([a_result(values=10), a_result(values=100)], "values", 1000)
    wide = a_result(transport="grpc", seconds={"coordinator.add": 1234.5}, values=10**8, up_bytes_per_value=137.25)
    print_results([a_result(), rival, *guessed, wide], console)
    text = console.export_text()
    assert "standard masked" in text
    assert "1,000,000 values, 10 hospitals" in text
    ratios = next(line for line in text.split("ours divided by")[1].splitlines() if line.strip().startswith("standard"))
    assert ratios.split()[-2:] == ["0.125", "0.1"]
    assert "1.000*" in text
    assert "* extrapolated, not measured" in text
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
