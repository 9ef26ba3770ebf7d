"""Progressive Fourier aggregation (PRR, MICCAI 2021 and IEEE TMI 2022): only low frequencies of weights are shared.

A weight is read as a matrix and transformed; coefficients inside a centred box M_L are averaged over the cohort, the
others stay the hospital's own. So a hospital uploads nothing but the box. Of a real matrix F(-u, -v) is the conjugate
of F(u, v), and the box holds with each coefficient its conjugate, so half the box says it all and the inverse is real.

``complex`` *(ours)* averages the coefficients themselves, which is linear in the weights:

    W'_k = W_k + P_L(mean_j W_j - W_k),    P_L = Re IFFT2 M_L FFT2

``amplitude`` (MICCAI) averages |F| and keeps the own phase. ``phase`` (TMI) averages |F| and the phase, both as plain
numbers, the phase in (-pi, pi]: two phases a hair apart on both sides of pi average to 0, the opposite direction.
Hence the default.

What travels is the difference to a *base* that everybody knows *(ours)*, because small values need small bounds. The
transform is orthonormal and each pair is sent as sqrt(2) times its real and imaginary part: the values sent are the
coordinates of P_L(W_k - base) in an orthonormal basis, so neither its norm nor white noise in it grows on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import UnsupportedModel

Vector = NDArray[np.float64]
Coefficients = NDArray[np.complex128]
Aggregation = Literal["complex", "amplitude", "phase"]
#: ``spectrum``: only its box is shared. ``plain``: shared as it is. ``local``: never leaves.
Kind = Literal["spectrum", "plain", "local"]


@dataclass(frozen=True)
class Part:
    """One parameter of a model: its shape, and how it is aggregated."""

    shape: tuple[int, ...]
    kind: Kind

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def band(round_number: int, rounds: int, start: float, end: float) -> float:
    """L of a training round (from 0): ``start`` in the first, ``end`` in the last, a straight line between them."""
    return start + (end - start) * round_number / max(rounds - 1, 1)


class Fourier:
    """The aggregation of models with these parameters, as flat vectors in their order; UnsupportedModel for weights
    that are neither linear nor of a two-dimensional convolution."""

    def __init__(self, parts: Sequence[Part], aggregation: Aggregation) -> None:
        self.parts, self.aggregation = tuple(parts), aggregation
        for part in self.parts:
            if part.kind == "spectrum" and len(part.shape) not in (2, 4):
                raise UnsupportedModel(f"a weight of shape {part.shape} has no place in a spectrum of matrices")

    def length(self, width: float) -> int:
        """Values that one upload has with a band of ``width`` (L)."""
        return sum(_length(part, width, self.aggregation) for part in self.parts)

    def pack(self, own: Vector, base: Vector, width: float) -> Vector:
        """What a hospital with the parameters ``own`` sends: [length(width)]."""
        said = [np.zeros(0)]
        for part, place in self._places():
            if part.kind == "plain":
                said.append(own[place] - base[place])
            elif part.kind == "spectrum":
                box = Box.of(matrix_shape(part.shape), width)
                mine, common = (box.of_weight(vector[place].reshape(part.shape)) for vector in (own, base))
                said.append(_encode(mine, common, box.alone, self.aggregation))
        return np.concatenate(said)

    def recombine(self, own: Vector, base: Vector, mean: Vector, width: float) -> Vector:
        """The parameters ``own`` with what the cohort said together in place of what is shared.

        With ``own`` the base itself it is the next base: what is shared moves, the rest stays.
        """
        new, start = own.copy(), 0
        for part, place in self._places():
            heard = mean[start : start + _length(part, width, self.aggregation)]
            start += len(heard)
            if part.kind == "plain":
                new[place] = base[place] + heard
            elif part.kind == "spectrum":
                box = Box.of(matrix_shape(part.shape), width)
                weight, common = own[place].reshape(part.shape), base[place].reshape(part.shape)
                shared = _decode(heard, box.of_weight(weight), box.of_weight(common), box.alone, self.aggregation)
                new[place] = box.put(weight, shared).ravel()
        return new

    def _places(self) -> Iterator[tuple[Part, slice]]:
        start = 0
        for part in self.parts:
            yield part, slice(start, start + part.size)
            start += part.size


@dataclass(frozen=True, eq=False)
class Box:
    """M_L of a matrix: places of the coefficients in it, each pair of conjugates once.

    ``first`` are indices into the flattened transform, ``second`` those of their conjugates; ``alone`` marks
    coefficients that are their own conjugate, and so real.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]

    @property
    def alone(self) -> NDArray[np.bool_]:
        return np.asarray(self.first == self.second)

    @classmethod
    def of(cls, shape: tuple[int, int], width: float) -> Box:
        """All frequencies (u, v) with u at most floor(rows L / 2) and v at most floor(columns L / 2) from 0."""
        rows, columns = shape
        u, v = (np.fft.fftfreq(n, 1 / n).round().astype(np.int64) for n in shape)
        u, v = u[np.abs(u) <= half_width(rows, width)], v[np.abs(v) <= half_width(columns, width)]
        here = (u[:, None] % rows) * columns + v[None, :] % columns
        conjugate = (-u[:, None] % rows) * columns + -v[None, :] % columns
        chosen = here <= conjugate
        return cls(here[chosen], conjugate[chosen])

    def of_weight(self, weight: Vector) -> Coefficients:
        """The box's coefficients of a weight, one of each pair."""
        found = np.fft.fft2(to_matrix(weight), norm="ortho").ravel()[self.first]
        # Rounding leaves imaginary parts of either sign, which would make the phase of a negative number pi or -pi.
        found[self.alone] = found[self.alone].real
        return np.asarray(found)

    def put(self, weight: Vector, coefficients: Coefficients) -> Vector:
        """``weight`` with these coefficients in the box and its own outside."""
        matrix = to_matrix(weight)
        spectrum = np.fft.fft2(matrix, norm="ortho").ravel()
        spectrum[self.first] = coefficients
        spectrum[self.second] = coefficients.conj()
        spectrum[self.first[self.alone]] = coefficients[self.alone].real
        return from_matrix(np.fft.ifft2(spectrum.reshape(matrix.shape), norm="ortho").real, weight.shape)


def half_width(size: int, width: float) -> int:
    """floor(n L / 2)."""
    return math.floor(size * width / 2)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """(Co, Ci) stays; (Co, Ci, a, b) is read as (Ci a) x (b Co)."""
    if len(shape) == 2:
        return shape[0], shape[1]
    return shape[1] * shape[2], shape[3] * shape[0]


def to_matrix(weight: Vector) -> Vector:
    return weight if weight.ndim == 2 else weight.transpose(1, 2, 3, 0).reshape(matrix_shape(weight.shape))


def from_matrix(matrix: Vector, shape: tuple[int, ...]) -> Vector:
    if len(shape) == 2:
        return matrix
    return matrix.reshape(*shape[1:], shape[0]).transpose(3, 0, 1, 2)


def _length(part: Part, width: float, aggregation: Aggregation) -> int:
    """Values of one part in an upload. A box of m coefficients, s of them real, holds (m + s) / 2 of which none is
    another's conjugate: m real numbers, (m + s) / 2 amplitudes, and as many phases."""
    if part.kind != "spectrum":
        return part.size if part.kind == "plain" else 0
    box, alone = 1, 1
    for size in matrix_shape(part.shape):
        half = half_width(size, width)
        box *= min(2 * half + 1, size)
        alone *= 2 if 2 * half == size else 1  # beside 0, the highest frequency of an even size is its own negative
    return {"complex": box, "amplitude": (box + alone) // 2, "phase": box + alone}[aggregation]


def _encode(own: Coefficients, base: Coefficients, alone: NDArray[np.bool_], aggregation: Aggregation) -> Vector:
    if aggregation == "complex":
        moved = (own - base) * np.where(alone, 1.0, math.sqrt(2))
        return np.concatenate([moved.real, moved.imag[~alone]])
    amplitudes = np.abs(own) - np.abs(base)
    if aggregation == "amplitude":
        return amplitudes
    # In turns, so that any bound from 1 on holds them.
    return np.concatenate([amplitudes, (np.angle(own) - np.angle(base)) / (2 * math.pi)])


def _decode(
    mean: Vector, own: Coefficients, base: Coefficients, alone: NDArray[np.bool_], aggregation: Aggregation
) -> Coefficients:
    """The coefficients that the cohort has together; ``own`` gives the phase where only amplitudes were said."""
    first, rest = mean[: len(own)], mean[len(own) :]
    if aggregation == "complex":
        moved = first.astype(np.complex128)
        moved[~alone] += 1j * rest
        return np.asarray(base + moved / np.where(alone, 1.0, math.sqrt(2)))
    amplitudes = np.maximum(np.abs(base) + first, 0.0)
    phases = np.angle(own) if aggregation == "amplitude" else np.angle(base) + 2 * math.pi * rest
    return np.asarray(amplitudes * np.exp(1j * phases))
