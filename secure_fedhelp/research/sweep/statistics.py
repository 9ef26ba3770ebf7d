"""What the runs of a sweep say together: a contender's level, and two contenders' difference, over seeds.

A seed's value is the mean over a tier's hospitals, all judged on one test set, so seeds are the sample: Student's t at
95 %, and differences paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.research.sweep.execute import RunResult
from secure_fedhelp.research.sweep.runs import FREE
from secure_fedhelp.research.sweep.store import tier_means


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds, standard deviation, and the half width of the 95 % interval of the mean (NaN for one seed)."""

    mean: float
    deviation: float
    half_width: float
    #: What a value can be at all. A mean is within these, so an interval that is cut there covers it as often.
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def ends(self) -> tuple[float, float]:
        """Of the interval, which says nothing that cannot be; NaN for one seed."""
        if math.isnan(self.half_width):
            return math.nan, math.nan
        low, high = self.bounds
        return max(low, self.mean - self.half_width), min(high, self.mean + self.half_width)


def level_words(found: Estimate) -> str:
    """Mean ± standard deviation; of one seed the mean alone."""
    return f"{found.mean:.3f}" + ("" if math.isnan(found.deviation) else f" ± {found.deviation:.3f}")


def difference_words(found: Estimate) -> str:
    """Mean and interval, with signs."""
    if math.isnan(found.half_width):
        return f"{found.mean:+.3f} (one seed)"
    low, high = found.ends
    return f"{found.mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def judged_by(results: Sequence[RunResult]) -> str:
    """The metric that a study is judged by: Dice where there are masks, else the area under the curve."""
    return next((m for m in ("dice", "auroc") for r in results for h in r.hospitals if m in h.metrics), "auroc")


def values(
    results: Sequence[RunResult], contender: str, epsilon: str, tier: str, model: str, metric: str
) -> dict[int, float]:
    """A contender's figure by seed. Rivals that spend nothing have the same at every epsilon."""
    found = {}
    for result in results:
        if result.contender == contender and (result.epsilon == epsilon or contender in FREE):
            mean = tier_means(result, tier, model).get(metric)
            if mean is not None:
                found[result.seed] = mean
    return found


#: Every metric is a share, and so the difference of two is between -1 and 1.
_SHARE, _DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)


def level(found: dict[int, float]) -> Estimate:
    return estimate(_array(found, sorted(found)), _SHARE)


def difference(one: dict[int, float], two: dict[int, float]) -> Estimate | None:
    """One minus the other over the seeds that both have; None if there are none."""
    seeds = sorted(one.keys() & two.keys())
    return estimate(_array(one, seeds) - _array(two, seeds), _DIFFERENCE) if seeds else None


def _array(found: dict[int, float], seeds: Sequence[int]) -> NDArray[np.float64]:
    return np.asarray([found[seed] for seed in seeds])


def estimate(values: NDArray[np.float64], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """Of one value a seed, each within ``bounds``; Student's t at 95 %."""
    if len(values) < 2:
        return Estimate(float(values.mean()), float("nan"), float("nan"), bounds)
    from scipy.stats import t

    deviation = float(values.std(ddof=1))
    half_width = float(t.ppf(0.975, len(values) - 1)) * deviation / len(values) ** 0.5
    return Estimate(float(values.mean()), deviation, half_width, bounds)
