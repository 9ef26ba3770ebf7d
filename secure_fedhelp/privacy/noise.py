"""Gaussian noise and coins from a cryptographic key stream: AES-256 in counter mode, from ``cryptography``.

Differential privacy is a promise about somebody who tries to tell two worlds apart; noise from a statistical generator
(torch's, numpy's) can be predicted after enough outputs, and predicted noise is no noise. Here a key from the operating
system is expanded by AES-CTR, 53 bits make a uniform number, and the Box-Muller transform makes Gaussians in float64.

What this does not cure: floating-point numbers are a grid with holes, and which of them a sum of value and noise can
hit depends on the value (Mironov, "On significance of the least significant bits for differential privacy", CCS 2012;
for Box-Muller, Jin, McMurtry, Rubinstein, Ohrimenko, "Are we there yet?", IEEE S&P 2022). Who sees a *noisy gradient*
exactly, in float64, may learn more than epsilon says. What leaves here is the sum of many noisy steps, clipped and
rounded to the encoder's grid, and only a sum over hospitals is opened: that blunts known attacks and proves nothing.
Tails end at 8.6 standard deviations (2^-53), which changes delta by less than 1e-16 a draw.
"""

from __future__ import annotations

import math
import os
from typing import Final, Literal, Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from numpy.typing import NDArray

#: What the ledger says about where a release's noise came from.
NoiseName = Literal["system", "seeded-research"]

_BITS: Final = 53
_UNIT: Final = 2.0**-_BITS


class NoiseSource(Protocol):
    """Where a mechanism's randomness comes from."""

    @property
    def name(self) -> NoiseName:
        """How the ledger calls this source."""
        ...

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
        """Independent draws from N(0, standard_deviation^2), float64 of ``shape``."""
        ...

    def poisson_mask(self, count: int, rate: float) -> NDArray[np.bool_]:
        """``count`` independent coins, each true with probability ``rate``: Poisson sampling."""
        ...

    def uniform(self, count: int) -> NDArray[np.float64]:
        """``count`` independent draws, uniform in [0, 1)."""
        ...


class SystemNoise:
    """The source of a deployment: a fresh key from the operating system (``os.urandom``) for every call.

    No state stays behind: a memory dump reveals no past noise, and two processes after a fork share none.
    """

    @property
    def name(self) -> NoiseName:
        return "system"

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
        return _normal(_KeyStream(os.urandom(32)), shape, standard_deviation)

    def poisson_mask(self, count: int, rate: float) -> NDArray[np.bool_]:
        return _coins(_KeyStream(os.urandom(32)), count, rate)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return _uniform(_KeyStream(os.urandom(32)), count)


class SeededNoise:
    """The same stream again from the same seed: for research only, since whoever knows the seed can remove the noise.

    The ledger names it, and the release gate refuses it outside of research mode.
    """

    def __init__(self, seed: bytes) -> None:
        key = Hash(SHA256())
        key.update(b"secure-fedhelp/v1/seeded-noise\0" + seed)
        self._stream = _KeyStream(key.finalize())

    @property
    def name(self) -> NoiseName:
        return "seeded-research"

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
        return _normal(self._stream, shape, standard_deviation)

    def poisson_mask(self, count: int, rate: float) -> NDArray[np.bool_]:
        return _coins(self._stream, count, rate)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return _uniform(self._stream, count)


class _KeyStream:
    """Uniform 53-bit integers from AES-256-CTR under one key, which must never be used for a second stream."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def integers(self, count: int) -> NDArray[np.uint64]:
        """``count`` independent integers, uniform in [0, 2^53)."""
        stream = self._encryptor.update(bytes(8 * count))
        return np.frombuffer(stream, dtype="<u8") >> np.uint64(64 - _BITS)


def _normal(stream: _KeyStream, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
    """Box and Muller (1958): two uniforms make two independent Gaussians; of an odd number the last is dropped.

    In float64 throughout, because single precision would leave 24 bits to a uniform, and so end the tails at 5.8
    standard deviations and make the grid of possible values coarse enough to see. Every line works in place: most of
    the time would go into fetching memory otherwise.
    """
    if not 0 <= standard_deviation < math.inf:
        raise ValueError(f"a standard deviation of {standard_deviation}")
    size = math.prod((shape,) if isinstance(shape, int) else shape)
    half = (size + 1) // 2
    draws = stream.integers(2 * half).astype(np.float64)  # exactly: they have 53 bits
    radius, angle = draws[:half], draws[half:]
    radius += 1.0  # so that the logarithm never sees 0: the radius' uniform lies in (0, 1]
    radius *= _UNIT
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    radius *= standard_deviation
    # Sine and cosine from the tangent t of half the angle, 2t / (1 + t^2) and (1 - t^2) / (1 + t^2): right to the last
    # two bits, and numpy has a fast tangent in float64 where sine and cosine took more than half of a draw's time.
    angle *= math.pi * _UNIT
    np.tan(angle, out=angle)
    square = angle * angle
    radius /= 1.0 + square
    angle *= 2.0
    angle *= radius
    np.subtract(1.0, square, out=square)
    square *= radius
    return np.concatenate([square, angle])[:size].reshape(shape)


def _uniform(stream: _KeyStream, count: int) -> NDArray[np.float64]:
    """Multiples of 2^-53 in [0, 1)."""
    return stream.integers(count).astype(np.float64) * _UNIT


def _coins(stream: _KeyStream, count: int, rate: float) -> NDArray[np.bool_]:
    """True where an integer of 53 bits is below ``rate * 2^53``, rounded down: never more often than ``rate``.

    The accountant is told ``rate``, so rounding up would under-report, if only by 2^-53.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"a sampling rate of {rate}")
    return stream.integers(count) < np.uint64(math.floor(math.ldexp(rate, _BITS)))
