"""What a hospital could have done without the study: the rivals that a result must be measured against.

Same architectures, same private steps and noise, and where they are warm-started the same public set; only the other
hospitals are missing. Each function gives the trained model, which stays where it is; whoever asked judges it.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.learning.models import Surrogate
from secure_fedhelp.learning.steps import fresh_model, home_steps, public_steps, warm_model
from secure_fedhelp.learning.task import Task, class_frequencies
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.privacy.training import train_private
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import LocalRival, Tier

_HOME, _POOLED = 7, 8
_WARM: dict[Tier, LocalRival] = {"large": "large-warm", "small": "small-warm"}
POOLED_EPOCHS = 20


def local_only(
    plan: StudyPlan,
    hospital: str,
    records: Records,
    noise: NoiseSource,
    public: PublicSet | None = None,
    teacher_logits: NDArray[np.floating] | None = None,
) -> nn.Module:
    """DP-SGD on own records alone with the study's whole budget: as many rounds of as many private steps.

    With ``public`` it is warm-started and takes the same public steps between: the harder rival. Its learning
    rate is the plan's for this rival: alone, noise is larger, and the study's steps may be too long.
    """
    if public is None:
        plan = _with_prior(plan, ())  # the public frequencies are not its own, and its own have a price
    teacher = _float64(teacher_logits)
    small, task, tier = plan.model.small, Task.of(plan), plan.hospital(hospital).tier
    rates = plan.learning.local_learning_rates
    rate = rates.get(tier, plan.learning.private_learning_rate)
    if public is not None:
        rate = rates.get(_WARM[tier], rate)
    model = fresh_model(plan, small) if public is None else warm_model(plan, small, public, teacher)
    for number in range(plan.training_rounds):
        if public is not None:
            public_steps(model, plan, number, public, teacher, None)
        train_private(
            Surrogate(model),
            task.losses,
            records,
            plan.privacy_of(hospital),
            plan.hospital(hospital).nominal_patients,
            rate,
            noise,
        )
    return model


def local_non_private(
    plan: StudyPlan,
    hospital: str,
    records: Records,
    public: PublicSet | None = None,
    teacher_logits: NDArray[np.floating] | None = None,
) -> nn.Module:
    """The hospital's own alternative: its own records, no noise, nothing shared; a large one uses the large network.

    With ``public`` it starts from the public warm start, and a small hospital then takes the same steps at home as its
    personal model in the study; a large one those of its pupil. From nothing a small one takes as many as a large one:
    fewer would leave a model from scratch half trained; and where the study's losses are adjusted to the public class
    frequencies, these are to its own, which it may count for a model that never leaves.
    """
    learning, tier = plan.learning, plan.hospital(hospital).tier
    architecture = plan.model.of(tier)
    steps, rate = plan.training_rounds * learning.pupil_steps, learning.pupil_learning_rate
    if public is None:
        plan = _with_prior(plan, class_frequencies(records.labels, len(plan.data.classes)))
        model = fresh_model(plan, architecture)
    else:
        model = warm_model(plan, architecture, public, _float64(teacher_logits))
        if tier == "small":
            steps, rate = learning.personal_steps, learning.personal_learning_rate
    home_steps(model, records, steps, rate, plan, _rng(plan, _HOME, hospital))
    return model


def public_only(plan: StudyPlan, public: PublicSet, teacher_logits: NDArray[np.floating] | None) -> nn.Module:
    """No private record at all: the public steps of warm start and rounds, with the teacher if there is one.

    In one go: a study begins its public steps anew in every round because the model has moved; here nothing moves it.
    """
    rounds_steps = plan.training_rounds * plan.learning.public_steps
    return warm_model(plan, plan.model.small, public, _float64(teacher_logits), rounds_steps)


def pooled(
    plan: StudyPlan,
    records: Records,
    public: PublicSet,
    teacher_logits: NDArray[np.floating] | None,
) -> nn.Module:
    """All hospitals' records in one place without noise: the ceiling that no study is allowed to reach.

    The large network from the public warm start, for :data:`POOLED_EPOCHS` passes over the records at least.
    """
    learning, model = plan.learning, warm_model(plan, plan.model.large, public, _float64(teacher_logits))
    steps = max(plan.training_rounds * learning.pupil_steps, POOLED_EPOCHS * len(records) // learning.home_batch)
    home_steps(model, records, steps, learning.pupil_learning_rate, plan, _rng(plan, _POOLED, ""))
    return model


def _with_prior(plan: StudyPlan, prior: tuple[float, ...]) -> StudyPlan:
    """The plan with these class frequencies in place of the public set's, if it adjusts to any."""
    if not plan.learning.class_prior:
        return plan
    return plan.model_copy(update={"learning": plan.learning.model_copy(update={"class_prior": prior})})


def _float64(logits: NDArray[np.floating] | None) -> NDArray[np.float64] | None:
    return None if logits is None else np.asarray(logits, dtype=np.float64)


def _rng(plan: StudyPlan, purpose: int, hospital: str) -> np.random.Generator:
    return np.random.default_rng([plan.study.seed, purpose, zlib.crc32(hospital.encode())])
