"""Named CKKS parameter sets with their security, sizes, error and capacity. No loose numbers elsewhere.

A contribution is added and never multiplied, so one prime modulus q is enough: no rescaling, no evaluation keys.
The slots are complex and both parts are used: one ciphertext of ring degree N carries N real values (N/2 slots).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from secure_fedhelp.errors import CapacityExceeded, InvalidPlan
from secure_fedhelp.study.plan import StudyPlan

SEED_BYTES = 64

#: Variance of one coefficient of SEAL's noise: 21 random bits less 21 random bits (sigma 3.24; the standard asks 3.2).
_NOISE_VARIANCE = 10.5
#: An error bound is exceeded with probability at most 2^-64 a value.
_FAILURE_BITS = 64
#: Unit roundoff of float64.
_ROUNDOFF = 2.0**-53

_STANDARD = "HomomorphicEncryption.org Security Standard (2018), ternary secret, sigma 3.2"


@dataclass(frozen=True)
class Profile:
    """One parameter set: ring degree N, one NTT prime q of ``modulus_bits`` bits, scale Delta = 2^``scale_bits``."""

    name: str
    ring_degree: int
    modulus_bits: int
    modulus: int
    scale_bits: int
    security_bits: int
    source: str

    @property
    def residue_bytes(self) -> int:
        """Bytes of one residue modulo q on the wire."""
        return -(-self.modulus_bits // 8)

    def ciphertexts(self, length: int) -> int:
        """Ciphertexts for ``length`` real values, N of them in each."""
        return -(-length // self.ring_degree)

    def body_bytes(self, length: int) -> int:
        """Exact size of one upload's body: a seed and N residues for each ciphertext."""
        return self.ciphertexts(length) * (SEED_BYTES + self.ring_degree * self.residue_bytes)

    def sum_bytes(self, length: int, cohort_size: int) -> int:
        """Exact size of the published sum: one set of residues, and every hospital's seeds."""
        return self.ciphertexts(length) * (cohort_size * SEED_BYTES + self.ring_degree * self.residue_bytes)

    def bytes_per_value(self, length: int) -> float:
        """Upload bytes for each real value, padding of the last ciphertext included."""
        return self.body_bytes(length) / length

    def error_bound(self, cohort_size: int) -> float:
        """Largest absolute error of one value of the decrypted sum of n = ``cohort_size`` hospitals.

        Exceeded with probability at most 2^-64 for each value, whatever the values within the capacity are. A value
        is the real or imaginary part of a slot: sum over k of x_k cos(theta k) (or sin) / Delta, theta an odd multiple
        of pi / N. Three errors enter, and their bounds are added:

        * *Noise.* Symmetric encryption adds one fresh noise e_k to a coefficient, and nothing that depends on the
          secret. e_k is 21 bits less 21 bits: sub-Gaussian with proxy v = 10.5. As the squared cosines (and sines) sum
          to N/2, n hospitals give a sub-Gaussian error with proxy n v N/2, which exceeds t with probability at most
          2 exp(-t^2 / (n v N)); t = sqrt(n v N ln 2^65).
        * *Rounding* of each coefficient to an integer, at most 1/2 away. The worst case, since it depends on the values
          and not on chance: the absolute cosines sum to cot(pi / 2N), so n cot(pi / 2N) / 2.
        * *Floating point* of the transforms: one of size N errs in 2-norm by at most 7 u log2(N) of the vector's
          (Higham, Accuracy and Stability of Numerical Algorithms, theorem 24.2; u = 2^-53), and the vector's 2-norm is
          at most sqrt(N) times the largest slot. Once for all encodings together, once for the decoding.
        """
        degree, scale = self.ring_degree, 2.0**self.scale_bits
        noise = math.sqrt(cohort_size * _NOISE_VARIANCE * degree * math.log(2.0) * (_FAILURE_BITS + 1))
        rounding = cohort_size / (2 * math.tan(math.pi / (2 * degree)))
        transform = 7 * _ROUNDOFF * math.log2(degree) * math.sqrt(degree) * math.sqrt(2) * self.largest_sum
        return (noise + rounding) / scale + 2 * transform

    @property
    def largest_sum(self) -> float:
        """Largest absolute value of the sum, and of one contribution: 2^(bits-2) / (sqrt(2) Delta).

        A coefficient of the encoded polynomial is Delta times an average of N/2 numbers Re(z_j w), |w| = 1, so at most
        Delta times the largest slot; a slot of two values within +-S is at most sqrt(2) S, and both bounds are reached.
        A sum wraps silently when a coefficient passes q/2, and SEAL encodes no coefficient above 2^(bits-2), about q/4.
        The smaller limit is ours, so that whatever may be summed may be encrypted, and the other q/4 is room for noise:
        at most 21.5 a hospital, which leaves even ``compact`` room for a million. 2^-20 of it is kept back for floating
        point.
        """
        return (1 - 2.0**-20) * 2.0 ** (self.modulus_bits - 2 - self.scale_bits) / math.sqrt(2)

    def check_capacity(self, largest_sum: float) -> None:
        """Raise CapacityExceeded if a value of the sum as large as ``largest_sum`` could wrap around modulo q.

        ``largest_sum`` is the channel's bound times the sum of the cohort's weights: a worst case, so that a sum is
        never silently wrong.
        """
        if not largest_sum <= self.largest_sum:  # written so that NaN is refused too
            raise CapacityExceeded(
                f"a sum may reach {largest_sum:g}; profile {self.name!r} holds values up to {self.largest_sum:g}"
            )


#: Each modulus is the prime that SEAL's CoeffModulus.Create(N, [bits]) gives; a test compares them.
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        # Half the bytes a value, errors near 1e-3: fine under the noise of differential privacy.
        Profile("compact", 1024, 27, 134215681, 21, 128, f"{_STANDARD}: 128 bits at N = 1024 up to 27 bits"),
        Profile("standard", 2048, 54, 18014398509404161, 40, 128, f"{_STANDARD}: 128 bits at N = 2048 up to 54 bits"),
        # The same bytes a value as standard, with more padding: for records that must stay closed for decades.
        Profile("strong", 4096, 54, 18014398509309953, 40, 256, f"{_STANDARD}: 256 bits at N = 4096 up to 58 bits"),
    )
}


def profile(name: str) -> Profile:
    """The profile of that name; InvalidPlan if there is none."""
    if name not in PROFILES:
        raise InvalidPlan(f"no aggregation profile {name!r}; there are: {', '.join(sorted(PROFILES))}")
    return PROFILES[name]


def plan_profile(plan: StudyPlan) -> Profile:
    """The profile of a plan; InvalidPlan if there is none that fits."""
    if plan.aggregation.profile is None:
        raise InvalidPlan("required_error: choosing a profile by its error comes with the picker")
    return plan_profile(plan)
