"""Mistakes planted on purpose: an alarm that was never heard ringing proves nothing.

Each has the signature of what it stands for, calls the real code, and breaks one thing that the guarantee rests on,
the way it is broken in practice: a wrong argument, a step left out. None is reachable from a study; only a canary
audit's self-test and the tests run them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.audit.canary.black_box import Logits, fedhelp_round
from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.learning.evaluation import predict
from secure_fedhelp.learning.method import Site
from secure_fedhelp.learning.methods.fedhelp import FedHelp
from secure_fedhelp.privacy import training
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.noise import NoiseName, NoiseSource
from secure_fedhelp.privacy.release import PrivateOutput
from secure_fedhelp.privacy.training import NoisyOptimizer, RecordLoss, train_private
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import PrivacySection


def noise_halved(
    model: nn.Module,
    loss_fn: RecordLoss,
    records: Records,
    privacy: PrivacySection,
    nominal_patients: int,
    learning_rate: float,
    noise: NoiseSource,
) -> DpSgd:
    """Noise of half the standard deviation that the event claims."""
    return train_private(model, loss_fn, records, privacy, nominal_patients, learning_rate, _HalfNoise(noise))


def clip_skipped(
    model: nn.Module,
    loss_fn: RecordLoss,
    records: Records,
    privacy: PrivacySection,
    nominal_patients: int,
    learning_rate: float,
    noise: NoiseSource,
) -> DpSgd:
    """Gradients of each record are summed as they are, whatever their norm."""
    with _optimizer(_Unclipped):
        return train_private(model, loss_fn, records, privacy, nominal_patients, learning_rate, noise)


def records_not_patients(
    model: nn.Module,
    loss_fn: RecordLoss,
    records: Records,
    privacy: PrivacySection,
    nominal_patients: int,
    learning_rate: float,
    noise: NoiseSource,
) -> DpSgd:
    """Every record counts as a patient of its own, so who has two is drawn twice."""
    each = Records(records.inputs, records.labels, tuple(f"record-{i}" for i in range(len(records))))
    return train_private(model, loss_fn, each, privacy, nominal_patients, learning_rate, noise)


def private_denominator(
    model: nn.Module,
    loss_fn: RecordLoss,
    records: Records,
    privacy: PrivacySection,
    nominal_patients: int,
    learning_rate: float,
    noise: NoiseSource,
) -> DpSgd:
    """The batch size that a step divides by comes from the true number of patients, not from the plan's."""
    return train_private(model, loss_fn, records, privacy, records.n_patients, learning_rate, noise)


def taught_by_pupil(
    plan: StudyPlan, hospital: str, records: Records, public: PublicSet, teacher: Logits, noise: NoiseSource
) -> PrivateOutput:
    """The hospital's large model, trained on its records without noise, takes the foundation teacher's place.

    It only ever answers public inputs, which looks harmless: but its answers are a function of private records.
    """
    pupil = FedHelp(Site(plan, hospital, records, public, teacher, noise))
    pupil.absorb(0, {name: np.zeros(length) for name, length in plan.lengths(0).items()})
    answers = predict(pupil.personalise(), public.inputs)
    return fedhelp_round(plan, hospital, records, public, answers, noise)


class _HalfNoise:
    """A source whose Gaussians are half as wide as asked."""

    def __init__(self, source: NoiseSource) -> None:
        self._source = source

    @property
    def name(self) -> NoiseName:
        return self._source.name

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
        return self._source.normal(shape, standard_deviation / 2)

    def poisson_mask(self, count: int, rate: float) -> NDArray[np.bool_]:
        return self._source.poisson_mask(count, rate)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return self._source.uniform(count)


class _Unclipped(NoisyOptimizer):
    max_grad_norm: float

    def clip_and_accumulate(self) -> None:
        limit = self.max_grad_norm
        self.max_grad_norm = math.inf
        try:
            super().clip_and_accumulate()
        finally:
            self.max_grad_norm = limit  # the noise is still scaled by it


@contextmanager
def _optimizer(replacement: type[NoisyOptimizer]) -> Iterator[None]:
    """``train_private`` with another optimiser, for one call in this process."""
    original = training.NoisyOptimizer
    training.NoisyOptimizer = replacement  # type: ignore[misc]  # a mistake planted on purpose
    try:
        yield
    finally:
        training.NoisyOptimizer = original  # type: ignore[misc]
