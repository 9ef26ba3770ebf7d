"""The privacy curve that a mechanism claims: at most how likely a guess is right, given how likely it is wrong.

Of an event A on the output let x be its probability with a patient in the records and y without (or the other way
round). (epsilon, delta)-differential privacy says y <= e^epsilon x + delta, and the accountant gives a delta for each
epsilon. All these lines together say y <= blow_up(x), with blow_up concave: f-differential privacy (Dong, Roth and Su,
"Gaussian differential privacy", JRSS B 2022), where blow_up(x) = 1 - f(x). What an audit needs is the inverse: the
least x that allows a given y.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.privacy.accountant import privacy_curve
from secure_fedhelp.privacy.mechanisms import Mechanism

Floats = NDArray[np.float64]

#: Points at which the accountant is asked. More change a bound in the third digit only, and fewer make it looser.
_POINTS = 32
#: The curve ends at the epsilon of this delta: events that rare do not decide an audit.
_LEAST_DELTA = 1e-9
#: Of the accountant's interval: a search asks for some ten curves.
_COARSENING = 16


@dataclass(frozen=True, eq=False)
class PrivacyCurve:
    """The inverse of a blow-up that is the least of straight lines: itself the greatest of straight lines.

    ``y`` float64 [knots], ascending from 0 to 1, and the least ``x`` at which each is allowed; straight in between.
    """

    y: Floats
    x: Floats

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> PrivacyCurve:
        """From pairs of epsilon >= 0 and delta, each of which holds for patients added and removed.

        Of each pair also the mirrored line: what holds for A holds for its complement. Mirrored lines of an epsilon
        above 20 matter where y is within 1e-9 of 1 only, and would be lost in rounding.
        """
        epsilons, lost = np.asarray(pairs, dtype=np.float64).T
        grown = np.exp(epsilons)
        small = grown < math.exp(20)
        # x >= slope * y + offset, and x >= 0.
        slopes = np.concatenate([[0.0], 1 / grown, grown[small]])
        offsets = np.concatenate([[0.0], -lost / grown, (1 - lost - grown)[small]])
        knots = _knots(slopes, offsets)
        return cls(knots, (slopes[:, None] * knots + offsets[:, None]).max(axis=0))

    def inverse(self, y: Floats) -> Floats:
        """The least x at which the curve allows each ``y`` in [0, 1]."""
        return np.interp(y, self.y, self.x)


def _knots(slopes: Floats, offsets: Floats) -> Floats:
    """0, 1, and the places between where another line becomes the greatest (Andrew's monotone chain, 1979)."""
    hull: list[tuple[float, float]] = []
    # Of parallel lines the lower one comes first, and is dropped for the higher.
    for line in sorted(zip(slopes.tolist(), offsets.tolist(), strict=True)):
        while hull and (
            hull[-1][0] == line[0] or (len(hull) > 1 and _crossing(hull[-2], line) <= _crossing(*hull[-2:]))
        ):
            hull.pop()
        hull.append(line)
    inside = [y for y in map(_crossing, hull, hull[1:]) if 0 < y < 1]
    return np.asarray([0.0, *inside, 1.0])


def _crossing(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (one[1] - other[1]) / (other[0] - one[0])


@lru_cache(maxsize=256)
def claimed_curve(event: Mechanism) -> PrivacyCurve:
    """The curve that an event of a ledger claims, by the accountant of record."""
    return PrivacyCurve.of(privacy_curve([event], _LEAST_DELTA, _POINTS, _COARSENING))
