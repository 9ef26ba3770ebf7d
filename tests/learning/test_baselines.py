"""The rivals: same budget, same steps, and nothing they should not have seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.learning import baselines
from secure_fedhelp.learning.evaluation import Metrics, evaluate
from secure_fedhelp.privacy.noise import NoiseName, SeededNoise

Study = Any


class Counting:
    """Seeded noise that counts the steps (one toss of coins each)."""

    name: NoiseName = "seeded-research"

    def __init__(self) -> None:
        self.steps, self._source = 0, SeededNoise(b"count")

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> NDArray[np.float64]:
        return self._source.normal(shape, standard_deviation)

    def poisson_mask(self, count: int, rate: float) -> NDArray[np.bool_]:
        self.steps += 1
        return self._source.poisson_mask(count, rate)

    def uniform(self, count: int) -> NDArray[np.float64]:
        return self._source.uniform(count)


def judged(study: Study, model: nn.Module) -> Metrics:
    return evaluate(model, study.test)


@pytest.mark.parametrize("warm", [False, True])
def test_local_training_takes_the_studys_private_steps(study: Study, warm: bool) -> None:
    noise = Counting()
    extra = {"public": study.public, "teacher_logits": study.teacher} if warm else {}
    found = judged(study, baselines.local_only(study.plan, "beta", study.records["beta"], noise, **extra))
    assert noise.steps == study.plan.study.rounds * study.plan.privacy["small"].steps
    assert isinstance(found, Metrics)


def test_without_noise_a_hospital_learns_the_task(study_with: Callable[..., Study]) -> None:
    study = study_with(pupil_steps=60, personal_steps=180)
    for name in ("alpha", "beta"):
        found = judged(study, baselines.local_non_private(study.plan, name, study.records[name]))
        warm = judged(study, baselines.local_non_private(study.plan, name, study.records[name], study.public))
        assert found.auroc > 0.85
        assert warm.auroc > 0.85


def test_noise_costs_a_local_hospital_utility(study_with: Callable[..., Study]) -> None:
    study = study_with(pupil_steps=60, personal_steps=180)
    quiet = judged(study, baselines.local_non_private(study.plan, "gamma", study.records["gamma"]))
    section = study.plan.privacy["small"].model_copy(update={"noise_multiplier": 50.0})
    plan = study.plan.model_copy(update={"privacy": {"large": section, "small": section}})
    loud = judged(study, baselines.local_only(plan, "gamma", study.records["gamma"], SeededNoise(b"z")))
    assert loud.auroc < quiet.auroc


def test_public_training_learns_from_the_public_set_and_its_teacher(study_with: Callable[..., Study]) -> None:
    study = study_with(warm_steps=60, public_learning_rate=0.02)
    found = judged(study, baselines.public_only(study.plan, study.public, study.teacher))
    assert found.auroc > 0.7
    again = judged(study, baselines.public_only(study.plan, study.public, study.teacher))
    assert found == again
    assert judged(study, baselines.public_only(study.plan, study.public, None)) != found


def test_each_rival_alone_is_trained_at_its_own_rate(
    study_with: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rival at somebody else's rate loses to noise that a shorter step had spared it, and proves nothing."""
    taken: list[float] = []

    def noted(model: nn.Module, *rest: Any) -> None:
        taken.append(rest[-2])

    monkeypatch.setattr(baselines, "train_private", noted)

    def rate_of(warm: bool, **rates: float) -> float:
        study = study_with(private_learning_rate=0.5, local_learning_rates=rates)
        extra = {"public": study.public} if warm else {}
        baselines.local_only(study.plan, "beta", study.records["beta"], SeededNoise(b"r"), **extra)
        return taken[-1]

    assert (rate_of(False), rate_of(True)) == (0.5, 0.5)
    assert (rate_of(False, small=0.1), rate_of(True, small=0.1)) == (0.1, 0.1)
    assert (rate_of(False, **{"small-warm": 0.01}), rate_of(True, **{"small-warm": 0.01})) == (0.5, 0.01)
    assert rate_of(True, **{"small": 0.1, "large-warm": 0.2}) == 0.1, "the large hospital's is another"


def test_a_hospital_alone_adjusts_to_its_own_class_frequencies_where_the_study_adjusts_to_the_publics(
    study_with: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them every study would win in macro-F1 by a threshold."""
    seen: list[tuple[float, ...]] = []

    def noted(*arguments: Any) -> None:
        seen.append(arguments[4].learning.class_prior)

    monkeypatch.setattr(baselines, "home_steps", noted)
    records = study_with().records["beta"]
    for prior in ((0.2, 0.8), ()):
        study = study_with(class_prior=prior)
        baselines.local_non_private(study.plan, "beta", records)
        baselines.local_non_private(study.plan, "beta", records, study.public, study.teacher)
    own = tuple((np.bincount(records.labels, minlength=2) + 1) / (len(records.labels) + 2))
    assert seen[0] == pytest.approx(own, abs=6e-4)
    assert seen[1:] == [(0.2, 0.8), (), ()]
