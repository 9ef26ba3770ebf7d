"""Intervals are Student's over seeds, differences are paired by seed, and one seed has no interval."""

from __future__ import annotations

import math

import pytest
from sweeps import result, runs

from secure_fedhelp.research.sweep.execute import HospitalResult, RunResult
from secure_fedhelp.research.sweep.statistics import difference, level, values

#: AUROC of two hospitals, by contender and seed.
FIGURES = {"fedhelp": [(0.9, 0.7), (0.8, 0.8), (1.0, 0.8)], "local": [(0.6, 0.5), (0.7, 0.5), (0.6, 0.6)]}


def results(seeds: int = 3) -> list[RunResult]:
    found = []
    for run in runs("fedhelp", "local", seeds=seeds):
        pair = FIGURES[run.contender][run.study.seed - 1]
        hospitals = tuple(HospitalResult(n, "small", "m", {"auroc": v}) for n, v in zip("ab", pair, strict=True))
        made = result(run)
        found.append(RunResult(**{**vars(made), "hospitals": hospitals}))
    return found


def by_seed(contender: str, seeds: int = 3) -> dict[int, float]:
    return values(results(seeds), contender, "3", "small", "m", "auroc")


def test_a_seeds_value_is_the_mean_over_its_hospitals() -> None:
    found = level(by_seed("fedhelp"))
    assert found.mean == pytest.approx((0.8 + 0.8 + 0.9) / 3)
    assert found.deviation == pytest.approx(math.sqrt(((0.1 / 3) ** 2 * 2 + (0.2 / 3) ** 2) / 2))


def test_differences_are_paired_and_their_interval_is_students() -> None:
    found = difference(by_seed("fedhelp"), by_seed("local"))
    each = [0.8 - 0.55, 0.8 - 0.6, 0.9 - 0.6]
    assert found is not None
    assert found.mean == pytest.approx(0.25)
    deviation = math.sqrt(sum((v - 0.25) ** 2 for v in each) / 2)
    assert found.deviation == pytest.approx(deviation)
    assert found.half_width == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-5)


def test_one_seed_gives_no_interval() -> None:
    found = level(by_seed("fedhelp", seeds=1))
    assert found.mean == pytest.approx(0.8)
    assert math.isnan(found.half_width)


@pytest.mark.parametrize("figures", [{1: 0.2, 2: 1.0}, {1: 0.0, 2: 1.0}, {1: 0.99, 2: 1.0, 3: 0.7}, {1: 0.5, 2: 0.5}])
def test_an_interval_says_nothing_that_cannot_be(figures: dict[int, float]) -> None:
    """Of two seeds Student's interval of an area under a curve went from -1.3 to 2.6."""
    found = level(figures)
    low, high = found.ends
    assert 0 <= low <= found.mean <= high <= 1
    assert low == max(0.0, found.mean - found.half_width)
    assert high == min(1.0, found.mean + found.half_width)
    less = difference(figures, dict.fromkeys(figures, 1.0))
    assert less is not None
    assert -1 <= less.ends[0] <= less.mean <= less.ends[1] <= 1


def test_nothing_in_common_is_no_difference() -> None:
    assert difference({1: 0.5}, {2: 0.5}) is None
