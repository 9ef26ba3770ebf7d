"""The sanitised release: Gaussian noise on a decrypted sum, so that what is computed from it may leave the key holders.

A decrypted CKKS sum is the true sum plus the ciphertexts' noise, and that noise is as secret as the key: from one sum
and its exact decryption the key follows by a division (Li and Micciancio, EUROCRYPT 2021). So each sum is flooded
right after decryption and the exact one is thrown away. Models, metrics and logits are then computed from the flooded
sum alone, and whatever they reveal, the flooded sum has revealed already.

What is claimed. Compare the real epoch with an ideal one, in which the same noise is added to the sums of the encoded
messages, never to a decryption; there a release says nothing about the key that the messages do not say. One release
is N(x + e, sigma^2 I) in the one and N(x, sigma^2 I) in the other, e being the error of that decryption; their
Kullback-Leibler divergence is |e|^2 / (2 sigma^2) with |e| the Euclidean norm over *all* values, not the largest. By
the chain rule the divergences of an epoch add up, also if what is encrypted later depends on what was released
before, and rounding can only lower them. sigma is chosen so that their sum is

    rho = E^2 / (2 sigma^2) = 2^-s / 24,     that is     sigma = sqrt(12) 2^(s/2) E,

E bounding the norm of all errors of the epoch together (:func:`error_norm`). This is the Gaussian mechanism of Li,
Micciancio, Schultz and Sorrell for (c, s)-bit IND-CPA^D security (CRYPTO 2022, ePrint 2022/816): OpenFHE writes it as
sigma = sqrt(12 tau) 2^(s/2) t (CKKS_NOISE_FLOODING.md), which is the same if t is the norm of one decryption's whole
error and tau the number of decryptions. (That document estimates t as the error of one coefficient or slot, smaller by
the root of how many there are; the divergence above asks for the whole.) In plain words:

* An adversary who reaches a goal (the key, say) with probability p in the ideal epoch and q in the real one has
  q (ln(q / p) - 1) <= rho, because restricting attention to one event never raises a divergence. Hence q < 2^-s, or
  q < 3 p: releases add at most 2^-s, or a factor of three.
* The two epochs differ by at most sqrt(rho / 2) = 2^(-s/2) / 7 in statistical distance (Pinsker). For s = 30 that is
  2^-17.8, which is why the line above, and not this one, is the claim. Whoever wants 2^-30 here plans s = 55.

Both hold for adversaries of any power who hold no key, except with probability 2^-64 (the bound on E).

What is not claimed. That p is small is the computational part: RLWE at the profile's row of the security standard's
table, and AES-256 and HKDF as pseudorandom functions, for the noise comes from a key. Nothing holds against a key
holder, who has the key; nor if one sum is decrypted and released in two ways (a hospital that releases an unflooded
sum breaks it for all); nor if the epoch has more decryptions, larger cohorts or longer vectors than were planned. It
is no differential privacy for patients either: that is spent before encryption (privacy/). And that an attack fails
at some smaller noise proves nothing: between that and this sigma lie lattice attacks that use releases as hints.

Why the noise is common. It is a function of a secret that all key holders of the epoch share and of what is
sanitised. So every hospital gets the same values and models stay equal; and one sum is released once, however many
hospitals release it, where independent noise could be averaged away.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from secure_fedhelp.errors import NotReleasable
from secure_fedhelp.secagg.profiles import NOISE_VARIANCE, ROUNDOFF, Profile
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.plan import StudyPlan

KEY_BYTES = 32
SOURCE = (
    "Gaussian noise flooding: Li, Micciancio, Schultz, Sorrell, CRYPTO 2022 (ePrint 2022/816); "
    "KL divergence 2^-security_bits / 24 over all decryptions of one key epoch"
)

#: Natural logarithm of 2^64: bounds that hold with high probability fail with probability at most 2^-64.
_TAIL = 64 * math.log(2.0)
#: In standard deviations: P(|z| > 9.16) = 2^-64.
_LARGEST_DRAW = -NormalDist().inv_cdf(2.0**-65)
#: Noise may reach this part of the largest sum. Beyond it a release would say little of most values, and the range
#: check of :func:`sanitise` could not hold a sum to twice ``largest_sum``, which :func:`error_norm` relies on.
_LARGEST_FRACTION = 0.5


@dataclass(frozen=True)
class Flooding:
    """The noise of one key epoch, and what it was derived from. Everything here is public."""

    profile: str
    #: The largest cohort of a round.
    cohort_size: int
    #: Values in a sum, at most: with fewer there is less error to hide.
    length: int
    #: Sums decrypted under one key, at most.
    decryptions: int
    security_bits: int
    #: The largest absolute value that a sum of the plan can have.
    largest_sum: float
    #: Standard deviation of the noise on each value of a sum.
    sigma: float
    #: Released values are whole multiples of this power of two.
    grid: float

    def as_dict(self) -> dict[str, str | int | float]:
        """The record to be written beside results: all of it, and the source."""
        return {**asdict(self), "source": SOURCE}

    def error_bound(self) -> float:
        """Largest error that the release adds to one value of a sum; exceeded with probability at most 2^-64 a value.

        The rounding to the grid is off by half of it; the other half covers the rounding of the addition.
        """
        return _LARGEST_DRAW * self.sigma + self.grid


def flooding(
    profile: Profile,
    length: int,
    cohort_size: int,
    decryptions: int,
    security_bits: int,
    largest_sum: float | None = None,
) -> Flooding:
    """The noise for an epoch of ``decryptions`` sums of ``length`` values from up to ``cohort_size`` hospitals.

    ``largest_sum`` is the largest absolute value a sum can have by the plan (bounds times weights), by default all the
    profile holds. It matters where floating point is coarser than the noise: profiles with a scale beyond 2^50. Sums
    only: a sum that was multiplied before it was decrypted (profile ``deep``) has other errors and is not covered.
    sigma is rounded up to eleven binary digits, so that hospitals with different mathematical libraries agree on it.

    Raises NotReleasable if the noise may pass half of ``largest_sum``, CapacityExceeded if the profile does not hold
    such sums.
    """
    if min(length, cohort_size, decryptions, security_bits) < 1:
        raise ValueError("length, cohort size, decryptions and security bits count from one")
    largest = profile.largest_sum if largest_sum is None else largest_sum
    profile.check_capacity(largest)
    needed = math.sqrt(12 * 2.0**security_bits) * error_norm(profile, length, cohort_size, decryptions, largest)
    # The largest power of two up to sigma. Rounding to it hides the low bits of the floating-point sum, whose holes
    # betray what was added (Mironov, CCS 2012), and adds at most a twelfth of the noise's variance.
    grid = 2.0 ** (math.frexp(needed)[1] - 1)
    sigma = math.ceil(1024 * needed / grid) / 1024 * grid
    found = Flooding(profile.name, cohort_size, length, decryptions, security_bits, largest, sigma, grid)
    if found.error_bound() > _LARGEST_FRACTION * largest:
        raise NotReleasable(
            f"decrypted sums of profile {profile.name!r} cannot be sanitised: {security_bits} bits for {decryptions} "
            f"sums of {length} values from {cohort_size} hospitals take noise of deviation {sigma:.3g}, up to "
            f"{found.error_bound():.3g} on a value, and a sum reaches {largest:.3g}",
            "Choose a profile with a larger scale, a shorter key epoch or fewer flooding_bits; or set decrypted to "
            '"closed", and nothing computed from a sum may leave a hospital.',
        )
    return found


def plan_flooding(plan: StudyPlan, profile: Profile) -> Flooding:
    """The noise a plan asks for: every hospital in every round of an epoch, and sums as large as the bounds allow.

    Raises as :func:`flooding`.
    """
    largest = plan.largest_sum
    decryptions = min(plan.study.rounds, plan.aggregation.key_epoch_rounds)
    bits = plan.aggregation.flooding_bits
    return flooding(profile, plan.largest_length, len(plan.hospitals), decryptions, bits, largest)


def error_norm(profile: Profile, length: int, cohort_size: int, decryptions: int, largest_sum: float) -> float:
    """E: bound on the Euclidean norm of the errors of all values of all decryptions of an epoch, in units of values.

    Exceeded with probability at most 2^-64. There are K = decryptions * ciphertexts * N coefficients. Two parts:

    * *Noise.* A coefficient's error is the sum of n fresh noises, sub-Gaussian with proxy v = 10.5 n. The sum of K
      squares, over v, has a moment generating function below that of chi-square with K degrees of freedom, so it
      passes K + 2 sqrt(K t) + 2 t with probability at most e^-t (Laurent and Massart 2000, lemma 1). Decoding maps the
      N coefficients to N values by sqrt(N/2) / Delta times an orthogonal matrix: rows cos(theta k) and sin(theta k).
    * *Floating point* of the decoding, at most 7 u log2(N) of the norm of the slots (as in ``profiles``), which with
      the conjugate half is sqrt(2 K) times the largest value: twice ``largest_sum``, since :func:`sanitise` releases
      no sum that is larger. Two u more: for the conversion of the coefficients, and for adding the noise. Composing a
      modulus of several words errs by u 2^64 a coefficient besides, because SEAL subtracts word by word, and what
      cancels in the end was rounded before.

    The rounding of encoded messages is no part of it: it depends on the messages alone, in both epochs alike. Nor is
    a constant that somebody adds to the published sum on purpose.
    """
    degree, scale = profile.ring_degree, 2.0**profile.scale_bits
    coefficients = decryptions * profile.ciphertexts(length) * degree
    squares = coefficients + 2 * math.sqrt(coefficients * _TAIL) + 2 * _TAIL
    noise = math.sqrt(degree / 2 * cohort_size * NOISE_VARIANCE * squares) / scale
    slots = math.sqrt(2 * coefficients) * 2 * largest_sum
    transform = (7 * (degree.bit_length() - 1) + 2) * ROUNDOFF * slots
    composing = ROUNDOFF * 2.0**64 * math.sqrt(degree / 2 * coefficients) / scale if profile.modulus_bits > 64 else 0.0
    return noise + transform + composing


def sanitise(total: Vector, flooding: Flooding, key: bytes, context: bytes) -> Vector:
    """A decrypted sum of at most ``flooding.length`` values, with noise and rounded to the grid: it may be released.

    The same for everybody who holds the epoch's flooding ``key`` (32 bytes). ``context`` names what was summed: study,
    round, and the hash that each hospital of the cohort signed of its ciphertexts. It must not depend on what
    the coordinator may choose after that, such as a constant added to the published sum: then all versions of a sum
    carry one noise, and differ by what the coordinator knows already. Another context gives independent noise; another
    sum of other ciphertexts under one context would give away the difference of the two.

    Raises NotReleasable if a value is then larger than the plan allows. The check comes after the noise, so that
    passing or failing it says no more than the release; nothing else may look at ``total``.
    """
    if total.ndim != 1 or len(total) > flooding.length:
        raise ValueError(f"a sum of shape {total.shape}, planned were at most {flooding.length} values")
    noise = flooding.sigma * _gaussians(_noise_key(flooding, key, context), len(total))
    released: Vector = np.rint((total + noise) / flooding.grid) * flooding.grid + 0.0  # + 0.0: no negative zeros
    largest, limit = float(np.abs(released).max()), flooding.largest_sum + flooding.error_bound()
    if not largest <= limit:  # written so that NaN is refused too
        raise NotReleasable(
            f"the sanitised sum reaches {largest:.3g}, by the plan at most {limit:.3g}",
            "Somebody sent no honest ciphertext, or another key: keep the transcript and tell the other hospitals.",
        )
    return released


def _noise_key(flooding: Flooding, key: bytes, context: bytes) -> bytes:
    """A key for this release alone. The parameters are part of it: one stream at two deviations would show itself."""
    if len(key) != KEY_BYTES or not context:
        raise ValueError(f"a flooding key of {len(key)} bytes, a context of {len(context)}")
    info = b"secure-fedhelp/v1/flooding\0" + canonical_bytes(asdict(flooding)) + b"\0" + context
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)


def _gaussians(key: bytes, count: int) -> Vector:
    """``count`` standard Gaussians from AES-256-CTR under a key that is used once, by inversion.

    128 bits a draw: a sign, and 127 bits that make a probability in (0, 1/2), so that every cell of the grid holds its
    probability to 13 figures, out to 13 deviations. The 53 bits of a plain float64 are not enough: the tail would end
    at 8.3 deviations, which a sum of 10^7 values reaches about once in 10^9 epochs, and then shows what was added.
    """
    from scipy.special import ndtri  # here: whoever only reads a plan, the coordinator too, needs no scipy

    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(16 * count))
    high, low = np.frombuffer(stream, dtype="<u8").reshape(-1, 2).T
    tail = (high & np.uint64(2**63 - 1)).astype(np.float64)
    tail += (low + 0.5) * 2.0**-64
    draws: Vector = ndtri(tail * 2.0**-64)
    return np.where(high >> np.uint64(63), -draws, draws)
