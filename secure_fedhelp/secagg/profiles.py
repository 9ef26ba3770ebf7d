"""Named CKKS parameter sets with their security, sizes, error and capacity. No loose numbers elsewhere.

A contribution is added and not multiplied, so one prime modulus q is enough: no rescaling, no evaluation keys. Profiles
with two primes hold more bits than one NTT prime can (60), for sums that must be exact or multiplied once. The slots
are complex and both parts are used: one ciphertext of ring degree N carries N real values (N/2 slots).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import CapacityExceeded, InvalidPlan

#: One seed for a whole upload: the key that its c1 is expanded from (expansion.py).
SEED_BYTES = 32
#: The second half of a study key (keys.py).
FLOODING_KEY_BYTES = 32

#: Variance of one coefficient of SEAL's noise: 21 random bits less 21 random bits (sigma 3.24; the standard asks 3.2).
NOISE_VARIANCE = 10.5
#: An error bound is exceeded with probability at most 2^-64 a value.
_FAILURE_BITS = 64
#: Unit roundoff of float64.
ROUNDOFF = 2.0**-53

_STANDARD = "HomomorphicEncryption.org Security Standard (2018), ternary secret, sigma 3.2"


@dataclass(frozen=True)
class Profile:
    """One parameter set: ring degree N, q the product of the NTT primes ``moduli``, scale Delta = 2^``scale_bits``.

    ``special`` is the further prime that SEAL's key level asks for as soon as there are two others. Nothing is ever
    encrypted under it, but it counts in the standard's table. ``multiplications`` are how often a sum can be multiplied
    by a public plaintext and rescaled, each time at the price of a prime.
    """

    name: str
    ring_degree: int
    moduli: tuple[int, ...]
    scale_bits: int
    security_bits: int
    source: str
    special: int | None = None
    multiplications: int = 0

    @property
    def modulus(self) -> int:
        """q, the product of the primes."""
        return math.prod(self.moduli)

    @property
    def modulus_bits(self) -> int:
        return self.modulus.bit_length()

    @property
    def key_moduli(self) -> tuple[int, ...]:
        """The primes of SEAL's key level, under which the secret key is kept."""
        return self.moduli if self.special is None else (*self.moduli, self.special)

    def moduli_column(self) -> NDArray[np.uint64]:
        """The primes as an array [primes, 1], to broadcast over residues [count, primes, N]."""
        return np.array(self.moduli, dtype=np.uint64)[:, np.newaxis]

    @property
    def residue_bytes(self) -> int:
        """Bytes of one residue on the wire: as many as the largest prime needs."""
        return -(-max(self.moduli).bit_length() // 8)

    def ciphertexts(self, length: int) -> int:
        """Ciphertexts for ``length`` real values, N of them in each."""
        return -(-length // self.ring_degree)

    def residues_bytes(self, length: int) -> int:
        """Bytes of all c0 residues of an upload, or of a sum: N for each prime of each ciphertext."""
        return self.ciphertexts(length) * len(self.moduli) * self.ring_degree * self.residue_bytes

    def body_bytes(self, length: int) -> int:
        """Exact size of one upload's body: a seed and the residues."""
        return SEED_BYTES + self.residues_bytes(length)

    def sum_bytes(self, length: int, cohort_size: int) -> int:
        """Exact size of the published sum: one set of residues, and every hospital's seed."""
        return self.residues_bytes(length) + cohort_size * SEED_BYTES

    @property
    def key_bytes(self) -> int:
        """Exact size of a study key: the CKKS secret's residues at SEAL's key level, and the flooding key."""
        return len(self.key_moduli) * self.ring_degree * self.residue_bytes + FLOODING_KEY_BYTES

    def error_bound(self, cohort_size: int, largest_sum: float | None = None) -> float:
        """Largest absolute error of one value of the decrypted sum of n = ``cohort_size`` hospitals.

        Exceeded with probability at most 2^-64 for each value, whatever the values within ``largest_sum`` (None: the
        profile's) are. A value is the real or imaginary part of a slot: sum over k of x_k cos(theta k) (or sin) /
        Delta, theta an odd multiple of pi / N. Three errors enter, and their bounds are added:

        * *Noise.* Symmetric encryption adds one fresh noise e_k to a coefficient, and nothing that depends on the
          secret. e_k is 21 bits less 21 bits: sub-Gaussian with proxy v = 10.5. As the squared cosines (and sines) sum
          to N/2, n hospitals give a sub-Gaussian error with proxy n v N/2, which exceeds t with probability at most
          2 exp(-t^2 / (n v N)); t = sqrt(n v N ln 2^65).
        * *Rounding* of each coefficient to an integer, at most 1/2 away. The worst case, since it depends on the values
          and not on chance: the absolute cosines sum to cot(pi / 2N), so n cot(pi / 2N) / 2. Where coefficients pass
          2^53, SEAL's decoder adds another: it turns each into a double word by word, 64 bits each, which two roundings
          of up to 2^10 and one of 2^11 keep within 2^12.
        * *Floating point* of the transforms: one of size N errs in 2-norm by at most 7 u log2(N) of the vector's
          (Higham, Accuracy and Stability of Numerical Algorithms, theorem 24.2; u = 2^-53), and the vector's 2-norm is
          at most sqrt(N) times the largest slot. Once for all encodings together, once for the decoding.
        """
        degree, largest = self.ring_degree, self.largest_sum if largest_sum is None else largest_sum
        noise = math.sqrt(cohort_size * NOISE_VARIANCE * degree * math.log(2.0) * (_FAILURE_BITS + 1))
        rounding = self._worst_case(cohort_size / 2 + (2.0**12 if self._coefficient_bits > 53 else 0.0))
        transform = 7 * ROUNDOFF * math.log2(degree) * math.sqrt(degree) * math.sqrt(2) * largest
        return (noise + rounding) / 2.0**self.scale_bits + 2 * transform

    def product_error_bound(self, cohort_size: int, largest_factor: float) -> float:
        """The same of a sum multiplied by a public plaintext and rescaled, if ``multiplications`` allows it.

        The plaintext holds real factors within +-F, the same for both parts of a slot, at a scale equal to the prime p
        that rescaling drops; the largest product is ``largest_sum``. A slot is z + e for f + d: z within sqrt(2) S, e
        the sum's error E in each part, d the rounding of the factors. Beside f e, z d and e d, rescaling rounds both
        polynomials of the ciphertext to multiples of p, which adds (r0 + r1 s) / Delta with coefficients of r within
        1/2. r0 is taken at its worst. c1 times the plaintext is uniform modulo p, so r1 is uniform and independent of
        the ternary secret s: of s(theta) both parts stay within sqrt(N L), of r1 s then |s(theta)| sqrt(N L / 12),
        L = ln 2^68. All together fail with probability at most 2^-63 a value.
        """
        degree, error = self.ring_degree, self.error_bound(cohort_size)
        factor_error = self._worst_case(0.5) / self.moduli[-1]
        product = largest_factor * error + 2 * self.largest_sum * factor_error + 2 * error * factor_error
        tail = math.log(2.0) * (_FAILURE_BITS + 4)
        secret = math.sqrt(2 * degree * tail)
        rescaling = self._worst_case(0.5) + secret * math.sqrt(degree * tail / 12)
        return product + rescaling / 2.0**self.scale_bits

    def _worst_case(self, coefficient_error: float) -> float:
        """What errors of this size in every coefficient can add up to in a slot."""
        return coefficient_error / math.tan(math.pi / (2 * self.ring_degree))

    @property
    def _coefficient_bits(self) -> int:
        """Bits of the largest coefficient of a sum: two fewer than the primes have that are left at the end."""
        return math.prod(self.moduli[: len(self.moduli) - self.multiplications]).bit_length() - 2

    @property
    def largest_sum(self) -> float:
        """Largest absolute value of the sum, and of one contribution: 2^(bits-2) / (sqrt(2) Delta).

        ``bits`` are those of the primes that are left after all multiplications, and what a factor makes of the sum
        must stay below this too. A coefficient of the encoded polynomial is Delta times an average of N/2 numbers
        Re(z_j w), |w| = 1, so at most Delta times the largest slot; a slot of two values within +-S is at most
        sqrt(2) S, and both bounds are reached. A sum wraps silently when a coefficient passes q/2, and SEAL encodes no
        coefficient above 2^(bits-2), about q/4. The smaller limit is ours, so that whatever may be summed may be
        encrypted, and the other q/4 is room for noise: at most 21.5 a hospital, which leaves even ``compact`` room for
        a million. 2^-20 of it is kept back for floating point.
        """
        return (1 - 2.0**-20) * 2.0 ** (self._coefficient_bits - self.scale_bits) / math.sqrt(2)

    def check_capacity(self, largest_sum: float) -> None:
        """Raise CapacityExceeded if a value of the sum as large as ``largest_sum`` could wrap around modulo q.

        ``largest_sum`` is the channel's bound times the sum of the cohort's weights: a worst case, so that a sum is
        never silently wrong.
        """
        if not largest_sum <= self.largest_sum:  # written so that NaN is refused too
            raise CapacityExceeded(
                f"a sum may reach {largest_sum:g}; profile {self.name!r} holds values up to {self.largest_sum:g}"
            )


def _row(bits: int, degree: int, limit: int) -> str:
    return f"{_STANDARD}: {bits} bits at N = {degree} up to {limit} bits"


#: Two data primes of 40 bits, five whole bytes each, and as much of the 109 bits as is left for SEAL's special prime.
_TWO_PRIMES, _SPECIAL = (1099511390209, 1099511480321), 536813569

#: Each modulus is the prime that SEAL's CoeffModulus.Create(N, bits) gives; a test compares them.
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        # Half the bytes a value, errors near 1e-3: fine under the noise of differential privacy.
        Profile("compact", 1024, (134215681,), 21, 128, _row(128, 1024, 27)),
        Profile("standard", 2048, (18014398509404161,), 40, 128, _row(128, 2048, 54)),
        # Bytes as standard: errors 64 times smaller, sums to +-45 only.
        Profile("fine", 2048, (18014398509404161,), 46, 128, _row(128, 2048, 54)),
        # Bytes as standard, with more padding: for records that must stay closed for decades.
        Profile("strong", 4096, (18014398509309953,), 40, 256, _row(256, 4096, 58)),
        # As exact as transforms in float64 are: noise and rounding vanish beside their error.
        Profile("exact", 4096, _TWO_PRIMES, 64, 128, _row(128, 4096, 109), _SPECIAL),
        # The same primes: one for the sum, one for a multiplication of the sum by something public.
        Profile("deep", 4096, _TWO_PRIMES, 32, 128, _row(128, 4096, 109), _SPECIAL, multiplications=1),
    )
}


def profile(name: str) -> Profile:
    """The profile of that name; InvalidPlan if there is none."""
    if name not in PROFILES:
        raise InvalidPlan(f"no aggregation profile {name!r}; there are: {', '.join(sorted(PROFILES))}")
    return PROFILES[name]
