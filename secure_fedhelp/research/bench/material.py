"""A cohort's keys, contributions and bodies, made once and shared by all settings of a profile."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import NotReleasable
from secure_fedhelp.research.bench.settings import LARGEST_CONTRIBUTIONS, contribution_bound
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.profiles import Profile
from secure_fedhelp.secagg.sanitise import Flooding, flooding
from secure_fedhelp.secagg.workers import CipherPool

Vector = NDArray[np.float64]

#: Standard deviation of a value, and how a sanitised release is planned (as in a plan of ten rounds by default).
DEVIATION = 0.05
_DECRYPTIONS, _FLOODING_BITS = 10, 30


def draw_contributions(values: int, hospitals: int, bound: float) -> list[Vector]:
    """Contributions within +-bound; hospital number i has the one of number i modulo how many there are."""
    rng = np.random.default_rng(0)
    count = min(hospitals, LARGEST_CONTRIBUTIONS)
    return [np.clip(rng.normal(0, DEVIATION, values), -bound, bound) for _ in range(count)]


def true_sum(contributions: list[Vector], hospitals: int) -> Vector:
    total = np.zeros_like(contributions[0])
    for number in range(hospitals):
        total += contributions[number % len(contributions)]
    return total


def hospital_names(hospitals: int) -> tuple[str, ...]:
    """Sorted, as a cohort is."""
    return tuple(f"hospital-{number:03d}" for number in range(hospitals))


@dataclass
class Material:
    """Everything of one profile at one size. A context manager: the cipher has processes of its own.

    The body of hospital i is ``bodies[i % len(bodies)]``, a real ciphertext; only the first hospital's is made anew in
    each measured round.
    """

    profile: Profile
    values: int
    hospitals: int

    def __post_init__(self) -> None:
        self.names = hospital_names(self.hospitals)
        self.bound = contribution_bound(self.profile, self.hospitals)
        self.contributions = draw_contributions(self.values, self.hospitals, self.bound)
        self.truth = true_sum(self.contributions, self.hospitals)
        self.key = StudyKey.generate(self.profile)
        self.cipher = CipherPool(self.profile, self.key)
        self.bodies = [self.cipher.encrypt(contribution) for contribution in self.contributions]
        self.flooding = self._flooding()

    def _flooding(self) -> Flooding | None:
        """The noise of a sanitised release; None if the profile leaves no room for it."""
        try:
            return flooding(
                self.profile,
                self.values,
                self.hospitals,
                _DECRYPTIONS,
                _FLOODING_BITS,
                largest_sum=self.bound * self.hospitals,
            )
        except NotReleasable:
            return None

    def body(self, number: int) -> bytes:
        """The body of hospital ``number``, without masks."""
        return self.bodies[number % len(self.bodies)]

    def __enter__(self) -> Material:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cipher.close()
        self.key.wipe()
