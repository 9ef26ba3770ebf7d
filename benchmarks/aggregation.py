"""Time the encrypted sum: one hospital's encryption, the coordinator's adding, one hospital's decryption.

Usage: python benchmarks/aggregation.py [VALUES] [HOSPITALS]. Prints a line a profile. Seconds of one core; the critical
path is one encryption, all the adding, and one decryption.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.packing import SumAccumulator
from secure_fedhelp.secagg.profiles import PROFILES, Profile

T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def measure(profile: Profile, values: int, hospitals: int) -> str:
    """One profile's line: bytes a value, seconds a stage, largest error against the plain sum."""
    rng = np.random.default_rng(0)
    cipher = Cipher(profile, StudyKey.generate(profile))
    names = tuple(f"hospital-{i:02d}" for i in range(hospitals))
    bodies, plain, encrypting = [], np.zeros(values), []
    for _ in names:
        contribution = rng.normal(0, 0.05, values)
        plain += contribution
        seconds, body = timed(lambda c=contribution: cipher.encrypt(c))  # type: ignore[misc]  # bound at once
        encrypting.append(seconds)
        bodies.append(body)
    accumulator = SumAccumulator(profile, values)
    adding = sum(timed(lambda n=n, b=b: accumulator.add(n, b))[0] for n, b in zip(names, bodies, strict=True))  # type: ignore[misc]
    data = accumulator.finish()
    decrypting, total = timed(lambda: cipher.decrypt_sum(data, names, values))
    encrypt = float(np.median(encrypting))
    return (
        f"{profile.name:<10} up {len(bodies[0]) / values:6.2f} B/value  down {len(data) / values:6.2f} B/value  "
        f"encrypt {encrypt:6.3f} s  add {adding:6.3f} s  decrypt {decrypting:6.3f} s  "
        f"critical path {encrypt + adding + decrypting:6.3f} s  largest error {np.abs(total - plain).max():.1e}"
    )


def main() -> None:
    values = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    hospitals = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    print(f"{values} values, {hospitals} hospitals, without transport")
    for profile in PROFILES.values():
        print(measure(profile, values, hospitals))


if __name__ == "__main__":
    main()
