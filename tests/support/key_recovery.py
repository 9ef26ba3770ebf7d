"""The linear key-recovery attack on decrypted CKKS sums (Li and Micciancio, "On the Security of Homomorphic Encryption
on Approximate Numbers", EUROCRYPT 2021), to be aimed at whatever the product lets out.

A published sum is (c0, c1) with c0 + c1 s = m modulo q, m being an integer polynomial: the sum's plaintext with all its
noise. Who has the decrypted values encodes them again; if every coefficient rounds to the right integer, m is known and
s = (m - c0) / c1, slot by slot in the transformed (NTT) domain. Then s is ternary, which nothing else ever is, so the
attacker knows it has won. All is done modulo the first prime, which is enough for a ternary secret.

Several releases of one sum are averaged first (the least-squares estimate of the sum from them). Where c1 is zero in a
slot, another sum answers for that slot. Every ciphertext of every sum is tried. Ciphertexts of which a value is
missing, among them a last one with padding, are left out: this attack needs them whole.

numpy and Python's integers throughout: no SEAL, whose encoder and transforms are written here once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.packing import split_sum, unpack_residues
from secure_fedhelp.secagg.profiles import Profile

#: A published sum and its cohort.
Sum = tuple[bytes, tuple[str, ...]]
#: Python integers, so that a product of two residues is exact.
Integers = NDArray[np.object_]


@dataclass(frozen=True)
class Equation:
    """One ciphertext c0 + c1 s = m: the residues in transformed form [N] and the coefficients of m, not yet rounded."""

    c0: Integers
    c1: Integers
    message: NDArray[np.longdouble]


def recovers_key(profile: Profile, sums: Sequence[Sum], released: Sequence[NDArray[Any]], key: StudyKey) -> bool:
    """Whether the attack finds ``key`` from published sums and what was released of each, in the same order.

    ``released[i]`` [L] holds the values of ``sums[i]`` in the sum's own units, NaN where one is not known. A sum may be
    listed several times with different releases.
    """
    found = recover(profile, sums, released)
    return found is not None and bool((found == _secret(profile, key)).all())


def recover(profile: Profile, sums: Sequence[Sum], released: Sequence[NDArray[Any]]) -> Integers | None:
    """A ternary secret (coefficients 0, 1 and -1) that explains a ciphertext, or None. Needs no key."""
    ring = Ring(profile.ring_degree, profile.moduli[0])
    equations = [e for data, cohort, mean in _averaged(sums, released) for e in _equations(profile, data, cohort, mean)]
    return next(
        (s for i in range(len(equations)) if (s := ring.solve(equations[i:] + equations[:i])) is not None), None
    )


def coefficient_deviation(profile: Profile, deviation: float) -> float:
    """Deviation of an encoded coefficient when each value errs by ``deviation``: what the rounding has to overcome."""
    return float(deviation * 2.0**profile.scale_bits * np.sqrt(2 / profile.ring_degree))


class Ring:
    """Polynomials modulo X^N + 1 and a prime, with SEAL's transform: values at the odd powers of its smallest root."""

    def __init__(self, degree: int, prime: int) -> None:
        self.degree, self.prime = degree, prime
        candidates = (pow(g, (prime - 1) // (2 * degree), prime) for g in range(2, 1000))
        root = next(r for r in candidates if pow(r, degree, prime) == prime - 1)
        self.root = min(pow(root, k, prime) for k in range(1, 2 * degree, 2))
        bits = degree.bit_length() - 1
        #: SEAL stores values in bit-reversed order.
        self.order = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(degree)])

    def transform(self, coefficients: Integers) -> Integers:
        twisted = coefficients * self._powers(self.root, self.degree) % self.prime
        values: Integers = self._cyclic(twisted, pow(self.root, 2, self.prime))[self.order]
        return values

    def inverse(self, values: Integers) -> Integers:
        back = pow(self.root, -1, self.prime)
        twisted = self._cyclic(values[self.order], pow(back, 2, self.prime))
        scaled = self._powers(back, self.degree) * pow(self.degree, -1, self.prime)
        coefficients: Integers = twisted * scaled % self.prime
        return coefficients

    def solve(self, equations: Sequence[Equation]) -> Integers | None:
        """The secret by the first equation, and by those that follow in slots where its c1 is zero; None if that is
        no ternary polynomial."""
        secret: Integers = np.full(self.degree, None)
        for equation in equations:
            open_slots = np.flatnonzero((secret == None) & (equation.c1 != 0))  # noqa: E711  elementwise
            if open_slots.size:
                right = self.transform(_integers(np.rint(equation.message)) % self.prime) - equation.c0
                inverses = [pow(c, -1, self.prime) for c in equation.c1[open_slots]]
                secret[open_slots] = right[open_slots] * np.array(inverses, dtype=object) % self.prime
            if not (secret == None).any():  # noqa: E711  elementwise
                break
        else:
            return None
        coefficients = self.inverse(secret)
        coefficients = np.where(coefficients == self.prime - 1, -1, coefficients)
        return coefficients if np.isin(coefficients, (-1, 0, 1)).all() else None

    def _powers(self, base: int, count: int) -> Integers:
        powers = [1]
        for _ in range(count - 1):
            powers.append(powers[-1] * base % self.prime)
        return np.array(powers, dtype=object)

    def _cyclic(self, values: Integers, root: int) -> Integers:
        """sum over k of values[k] root^(j k), for j = 0 to len - 1, by halving (Cooley and Tukey)."""
        half = len(values) // 2
        if not half:
            return values
        square = root * root % self.prime
        even, odd = self._cyclic(values[0::2], square), self._cyclic(values[1::2], square)
        odd = odd * self._powers(root, half) % self.prime
        return np.concatenate([even + odd, even - odd]) % self.prime


def encode(profile: Profile, values: NDArray[Any]) -> NDArray[np.longdouble]:
    """The real coefficients [N] whose rounding is the plaintext of ``values`` [N]; 64-bit mantissa.

    Slot i, two values as one complex number, is the polynomial at zeta^(3^i), zeta = exp(i pi / N).
    """
    degree = profile.ring_degree
    pairs = np.asarray(values, dtype=np.longdouble).reshape(-1, 2)
    slots = pairs[:, 0] + 1j * pairs[:, 1]
    places = np.array([pow(3, i, 2 * degree) for i in range(degree // 2)])
    spectrum = np.zeros(2 * degree, dtype=np.clongdouble)
    spectrum[places], spectrum[-places] = slots, slots.conj()
    coefficients = scipy.fft.fft(spectrum).real[:degree] / degree
    return np.asarray(coefficients * np.longdouble(2.0) ** profile.scale_bits)


def _averaged(sums: Sequence[Sum], released: Sequence[NDArray[Any]]) -> Iterator[tuple[bytes, tuple[str, ...], Any]]:
    groups: dict[Sum, list[NDArray[np.longdouble]]] = {}
    for published, values in zip(sums, released, strict=True):
        groups.setdefault(published, []).append(np.asarray(values, dtype=np.longdouble))
    for (data, cohort), releases in groups.items():
        yield data, cohort, np.mean(releases, axis=0)


def _equations(
    profile: Profile, data: bytes, cohort: tuple[str, ...], values: NDArray[np.longdouble]
) -> Iterator[Equation]:
    """One for each ciphertext of which all values are known."""
    degree = profile.ring_degree
    c0, seeds = split_sum(profile, len(values), cohort, data)
    c1 = np.zeros_like(c0)
    add_expanded(c1, profile, tuple(seeds.values()))
    for i in range(len(values) // degree):
        part = values[i * degree : (i + 1) * degree]
        if np.isfinite(part).all():
            yield Equation(_integers(c0[i, 0]), _integers(c1[i, 0]), encode(profile, part))


def _secret(profile: Profile, key: StudyKey) -> Integers:
    """The key's coefficients, for the comparison at the end."""
    ring = Ring(profile.ring_degree, profile.moduli[0])
    residues = unpack_residues(profile, key.to_bytes()[: profile.ring_degree * profile.residue_bytes])
    coefficients = ring.inverse(_integers(residues.reshape(-1)))
    return np.where(coefficients == ring.prime - 1, -1, coefficients)


def _integers(values: NDArray[Any]) -> Integers:
    return np.array([int(v) for v in values], dtype=object)
