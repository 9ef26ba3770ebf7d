"""The audited code is the study's own: its claims stand, and each mistake planted in it is caught.

Coins and noise come from a seed here, so that a run that passes once always passes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from canary_plans import canary_plan

from secure_fedhelp.audit.canary import black_box, suite, white_box
from secure_fedhelp.audit.canary.bounds import p_value
from secure_fedhelp.audit.canary.curve import claimed_curve
from secure_fedhelp.audit.canary.planted import noise_halved
from secure_fedhelp.audit.canary.results import CanaryResult, Planted
from secure_fedhelp.audit.canary.suite import Audit, Size, Subject, audits_of, run, self_test_audits, size_of
from secure_fedhelp.audit.canary.tally import Scale, right_guesses_at, same_event
from secure_fedhelp.audit.canary.white_box import CanaryModel, Network, likelihood_ratios
from secure_fedhelp.errors import InvalidConfiguration, InvalidPlan
from secure_fedhelp.learning import averaging
from secure_fedhelp.privacy import training
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.mechanisms import DpSgd, planned_event
from secure_fedhelp.privacy.noise import SeededNoise
from secure_fedhelp.privacy.training import NoisyOptimizer, train_private

SMALL = Size(white_box=Scale(12, 400, 80), black_box=Scale(4, 200, 40), games=40)


def made(audits: list[Audit], seed: bytes = b"audit") -> list[CanaryResult]:
    return run(audits, 0.95, SeededNoise(seed))


@pytest.mark.parametrize("claim", [1.0, 2.0, 4.0, 8.0])
def test_the_real_code_keeps_its_claim(claim: float) -> None:
    results = made(audits_of(Subject.of_epsilon(claim, 1e-5), SMALL))
    assert [r.kind for r in results] == ["white-box", "black-box", "game"]
    for result in results:
        assert result.claimed_epsilon == pytest.approx(claim, rel=2e-3)
        assert result.lower_bound < result.claimed_epsilon
        assert result.assumption_free_bound < result.claimed_epsilon
        assert result.holds
        assert result.as_expected
    # An attack that sees nothing would keep any claim: the canaries must be seen.
    assert results[0].lower_bound > 0.3 * claim


@pytest.fixture(scope="module")
def planted() -> dict[Planted | None, CanaryResult]:
    return {result.planted: result for result in made(self_test_audits(1e-5, SMALL))}


@pytest.mark.parametrize(
    "mistake",
    [
        "noise-halved",
        "clip-skipped",
        "records-not-patients",
        "batch-size-from-private-count",
        "teacher-through-the-valve",
    ],
)
def test_a_planted_mistake_is_caught(planted: dict[Planted | None, CanaryResult], mistake: Planted) -> None:
    result = planted[mistake]
    assert result.claimed_epsilon == pytest.approx(2.0, rel=2e-3)
    assert result.lower_bound > result.claimed_epsilon
    assert not result.holds
    assert result.as_expected


def test_nothing_planted_is_left_behind(planted: dict[Planted | None, CanaryResult]) -> None:
    assert len(planted) == 5
    assert training.NoisyOptimizer is NoisyOptimizer


def test_false_alarms_are_no_more_than_promised() -> None:
    """Twenty audits at 95 %: one alarm is what the promise allows on average, and none is what these seeds give."""
    subject, scale = Subject.of_epsilon(2.0, 1e-5), Scale(4, 200, 40)
    for seed in range(20):
        noise = SeededNoise(seed.to_bytes(2, "big"))
        tally = white_box.white_box(train_private, subject.privacy, subject.network(), scale, noise)
        curve = claimed_curve(tally.event)
        assert p_value(curve, scale.canaries, scale.guesses, scale.trainings, tally.correct) > 0.05


def test_every_bound_gets_its_share_of_the_error() -> None:
    tiny = Size(Scale(1, 20, 4), Scale(1, 20, 4), 2)
    audits = [*audits_of(Subject.of_epsilon(2.0, 1e-5), tiny), *self_test_audits(1e-5, tiny)]
    results = made(audits)
    assert {r.joint_confidence for r in results} == {0.95}
    assert {round(1 - r.confidence, 9) for r in results} == {round(0.05 / 3, 9)}


@pytest.mark.parametrize(("tier", "twin"), [("small", False), ("large", False), ("large", True)])
def test_a_plans_own_round_is_audited(tier: Any, twin: bool) -> None:
    plan = canary_plan(twin=twin)
    results = made(audits_of(Subject.of_plan(plan, tier, None), SMALL))
    event = planned_event(plan.privacy[tier])
    for result in results:
        assert result.event == event
        assert result.claimed_epsilon == epsilon([event], plan.privacy[tier].delta)
        assert (result.plan, result.tier, result.delta) == (plan.hash, tier, plan.privacy[tier].delta)
        assert result.holds


def test_a_plan_on_images_is_audited_with_its_own_network() -> None:
    plan = canary_plan(image=True)
    network = Subject.of_plan(plan, "small", 1e-6).network()
    assert (network.architecture, network.input_shape) == ("cnn-4-4", (1, 8, 8))
    audit = audits_of(Subject.of_plan(plan, "small", 1e-6), Size(Scale(4, 200, 40), Scale(1, 20, 4), 4))[0]
    (result,) = made([audit])
    assert result.holds
    assert result.delta == 1e-6


def test_half_the_noise_is_seen_at_a_plans_own_figures() -> None:
    subject = Subject.of_plan(canary_plan(), "small", None)
    tally = white_box.white_box(
        noise_halved, subject.privacy, subject.network(), SMALL.white_box, SeededNoise(b"plan's noise")
    )
    assert suite.lower_bound(tally, subject.delta, 0.99) > epsilon([tally.event], subject.delta)


def test_a_round_hands_training_the_plans_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The game calls the training itself, so it cannot see what a round would have called it with."""
    called: list[tuple[Any, ...]] = []

    def noted(*arguments: Any, **named: Any) -> DpSgd:
        called.append(arguments)
        return train_private(*arguments, **named)

    assert averaging.train_private is train_private
    monkeypatch.setattr(averaging, "train_private", noted)
    privacy = Subject.of_epsilon(2.0, 1e-5).privacy
    black_box.black_box(black_box.fedhelp_round, privacy, Scale(2, 40, 8), SeededNoise(b"a round"), "small")
    for _, _, _, handed, nominal, *_ in called:
        assert (handed, nominal) == (privacy, 40)
    # Of 20 bystanders and half of 40 canaries, as coins fell: the private number is another each time.
    assert {records.n_patients for _, _, records, *_ in called} - {40}
    assert len(called) == 2


def test_a_tier_that_is_not_in_the_plan_is_a_named_error() -> None:
    plan = canary_plan(tiers=("small",))
    with pytest.raises(InvalidPlan, match="privacy.large"):
        Subject.of_plan(plan, "large", None)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 2.0, float("nan")])
def test_a_confidence_that_is_none_is_a_named_error(confidence: float) -> None:
    with pytest.raises(InvalidConfiguration, match="confidence"):
        run([], confidence, SeededNoise(b""))


def test_too_few_canaries_are_a_named_error() -> None:
    with pytest.raises(InvalidConfiguration, match="too few"):
        size_of("quick", 3)
    with pytest.raises(InvalidConfiguration, match="guesses"):
        Scale(1, 10, 11)
    assert size_of("full").white_box.trainings == 4 * size_of("quick").white_box.trainings


def test_trainings_that_report_different_events_are_not_one_audit() -> None:
    event = planned_event(Subject.of_epsilon(2.0, 1e-5).privacy)
    assert same_event([event, event]) == event
    with pytest.raises(InvalidConfiguration, match="different events"):
        same_event([event, event.model_copy(update={"steps": 5})])


# --- the canaries themselves -----------------------------------------------------------------------------------------


class Watched(SeededNoise):
    """Noise so small that movements show the gradients, and coins that always fall on one side."""

    def normal(self, shape: int | tuple[int, ...], standard_deviation: float) -> np.ndarray[Any, np.dtype[np.float64]]:
        return super().normal(shape, standard_deviation) * 1e-6

    def poisson_mask(self, count: int, rate: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.ones(count, dtype=np.bool_)


def test_a_canarys_gradient_has_the_whole_clipping_norm_in_its_own_place() -> None:
    network, privacy = Network("mlp-4", (3,), 2, 0.5), Subject.of_epsilon(2.0, 1e-5).privacy
    included = np.array([True, False, True, True, False])
    model = CanaryModel(network, len(included))
    records = white_box._records(network, included, 0)
    assert records.n_patients == network.bystanders + 3
    assert len(records) == network.bystanders + 6
    train_private(model, model.losses(10.0), records, privacy, 40, 0.5, Watched(b"all are drawn"))
    unit = 0.5 * privacy.clipping_norm / (privacy.sampling_rate * 40)
    moved = model.movements() / unit
    assert moved.shape == (privacy.steps, 5)
    assert moved == pytest.approx(np.tile(included.astype(float), (privacy.steps, 1)), abs=1e-4)


def test_likelihoods_order_canaries_by_every_step_and_by_their_sum_if_one_is_missing() -> None:
    privacy = Subject.of_epsilon(2.0, 1e-5).privacy
    moved = np.zeros((privacy.steps, 3))
    moved[0] = [0.0, 1.0, 5.0]
    assert list(np.argsort(likelihood_ratios(moved, privacy))) == [0, 1, 2]
    assert list(likelihood_ratios(moved[:2], privacy)) == [0.0, 1.0, 5.0]


def test_guesses_are_the_ends_of_the_order() -> None:
    scores = np.array([3.0, -2.0, 0.1, 9.0, 0.0])
    included = np.array([True, False, False, True, True])
    assert right_guesses_at(scores, included, 3) == 3
    assert right_guesses_at(-scores, included, 3) == 1
    assert right_guesses_at(scores, ~included, 3) == 0
    assert right_guesses_at(scores, included, 5) == 3


def test_coins_come_from_the_source_that_the_result_names(tmp_path: Path) -> None:
    results = made(audits_of(Subject.of_epsilon(2.0, 1e-5), Size(Scale(1, 20, 4), Scale(1, 20, 4), 2)))
    assert {r.coins for r in results} == {"seeded-research"}
    again = made(audits_of(Subject.of_epsilon(2.0, 1e-5), Size(Scale(1, 20, 4), Scale(1, 20, 4), 2)))
    assert [r.correct for r in again] == [r.correct for r in results]
