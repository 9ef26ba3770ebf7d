"""A whole study in one process with plain sums in place of encrypted ones: the very same method code, and fast.

Encryption changes a sum by less than 1e-6 and a result not at all; that a simulation with every lock on gives the same
models is a test's affair (tests/end). The noise that sanitised decryptions carry is in every model of a deployed study,
so it is added here too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.learning.method import Method, Site
from secure_fedhelp.learning.methods import make_method
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.mechanisms import Mechanism, paid
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.sanitise import plan_flooding, sanitise
from secure_fedhelp.study.channel import pack_channels, unpack_mean
from secure_fedhelp.study.plan import StudyPlan


def run_in_process(
    plan: StudyPlan,
    study: StudyData,
    teacher: NDArray[np.float32] | tuple[NDArray[np.float32], ...] | None,
    noise_of: Callable[[str], NoiseSource],
) -> Iterator[tuple[str, Method, float]]:
    """Run the whole study with plaintext sums; yields name, method and epsilon spent of each hospital.

    ``teacher`` is one model's logits on the public set, or those of each of two. The sums carry the noise that
    sanitised decryptions do, since it is in every model of a deployed study.
    """
    methods = {
        name: make_method(Site(plan, name, records, study.public, teacher, noise_of(name)))
        for name, (_, records) in study.hospitals.items()
    }
    cohort = tuple(sorted(methods))
    events: dict[str, list[Mechanism]] = {name: [] for name in methods}
    for number in range(plan.study.rounds):
        total = np.zeros(plan.length_of(number))
        for name, method in methods.items():
            output = method.contribute(number)
            events[name] += paid(output.events)
            total += pack_channels(plan, number, name, output.channels)
        if plan.aggregation.decrypted == "sanitised":
            noise, key = plan_flooding(plan, plan_profile(plan)), hashlib.sha256(plan.hash.encode()).digest()
            total = sanitise(total, noise, key, number.to_bytes(8, "big"))
        means = unpack_mean(plan, number, total, cohort)
        for method in methods.values():
            method.absorb(number, means)
    for name, method in methods.items():
        yield name, method, epsilon(events[name], plan.privacy_of(name).delta)
