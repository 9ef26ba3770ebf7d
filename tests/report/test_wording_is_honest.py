"""Sentences name the losers as plainly as the winners, and no figure is rounded to look better."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.research import wording
from secure_fedhelp.research.summary import MetricsSummary, PooledSummary, Summary


def with_auroc(summary: Summary, model: str, values: list[float | None]) -> Summary:
    hospitals = []
    for hospital, value in zip(summary.hospitals, values, strict=True):
        metrics = None if value is None else MetricsSummary(auroc=value, balanced_accuracy=0.5)
        hospitals.append(hospital.model_copy(update={model: metrics}))
    return summary.model_copy(update={"hospitals": tuple(hospitals)})


def test_winners_ties_and_losers_are_counted_and_named(summary: Summary) -> None:
    first, second, third = wording.sentences(summary)
    assert first == (
        "Against what each hospital could train alone from nothing, without any noise, its personal model is better "
        "at 3 of 6 (small-4 +0.083, small-3 +0.066, small-1 +0.022), no different at 2 of 6 (large-1 +0.005, "
        "small-2 +0.005), worse at 1 of 6 (large-2 −0.019); median +0.013 AUROC."
    )
    assert second.startswith("Against training alone with the same epsilon, the shared model is better at 6 of 6")
    assert "and 3 more" in second
    assert third.endswith("reach AUROC 0.944; the shared model reaches 0.961.")


def test_a_study_that_only_lost_says_only_that(summary: Summary) -> None:
    lost = with_auroc(with_auroc(summary, "personal_model", [0.6] * 6), "study_model", [0.4] * 6)
    first, second, third = wording.sentences(lost)
    assert "worse at 6 of 6" in first
    assert "better" not in first
    assert "worse at 6 of 6" in second
    assert third.endswith("reaches only 0.400: in this run the hospitals' noisy updates made it worse.")


def test_a_shared_model_no_better_than_the_public_set_is_called_that(summary: Summary) -> None:
    third = wording.sentences(with_auroc(summary, "study_model", [0.95] * 6))[2]
    assert "does not show that the hospitals' records improved it" in third


def test_hospitals_without_figures_are_not_counted(summary: Summary) -> None:
    some = with_auroc(summary, "personal_model", [None, 0.99, None, None, None, None])
    assert "better at 0" not in wording.sentences(some)[0]
    assert "1 of 1" in wording.sentences(some)[0]


def test_without_baselines_nothing_is_claimed(deployed: Summary) -> None:
    assert wording.sentences(deployed) == ["No local baselines were measured in this run, so it cannot say who gained."]
    assert wording.caveat(deployed) is None


def test_who_left_early_is_said(ended: Summary) -> None:
    assert wording.sentences(ended)[-2:] == [
        "The budget of large-2 ended in round 4: it stopped before training any further, and the others went on "
        "without it.",
        "Not everybody was there to the end: small-4 absent since round 4.",
    ]
    assert "one seed" in str(wording.caveat(ended))


def test_whose_training_failed_is_said(summary: Summary) -> None:
    first, second, *rest = summary.hospitals
    failed = [h.model_copy(update={"status": f"training failed in round {n}"}) for n, h in ((2, first), (3, second))]
    assert wording.sentences(summary.model_copy(update={"hospitals": (*failed, *rest)}))[-1] == (
        "Of the hospitals' training large-1's failed in round 2, large-2's failed in round 3: it was paid for, and the "
        "sums went on without it."
    )


def test_several_budgets_that_ended_share_a_sentence(ended: Summary) -> None:
    first, *rest = ended.hospitals
    none_left = first.model_copy(update={"status": "budget spent before round 1"})
    assert wording.sentences(ended.model_copy(update={"hospitals": (none_left, *rest)}))[-2] == (
        "The budget of large-1 was spent before round 1, of large-2 ended in round 4: they stopped before training any "
        "further, and the others went on without them."
    )


def test_what_was_measured_together_is_said_and_nothing_if_it_cannot_be(deployed: Summary) -> None:
    figures = {"records": 40.0, "accuracy": 0.9, "balanced_accuracy": 0.8761, "auroc": 0.95}
    together = PooledSummary(confusion=((20.0, 2.0), (2.0, 16.0)), **figures)
    assert wording.sentences(deployed.model_copy(update={"pooled": together}))[-1] == (
        "On 40 patients whom no hospital trained on, counted together, the shared model reaches AUROC 0.950 and "
        "balanced accuracy 0.876; no hospital's own figure left it."
    )
    unknown = together.model_copy(update={"auroc": None})
    assert wording.sentences(deployed.model_copy(update={"pooled": unknown})) == wording.sentences(deployed)


@given(st.floats(min_value=0, max_value=1e6))
def test_epsilon_is_never_shown_smaller_than_it_was(value: float) -> None:
    shown = float(wording.epsilon(value))
    assert value <= shown < value + 0.0100001


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "–"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (102_400, "100 KiB"),
        (1_500_000, "1.4 MiB"),
        (2**40, "1024 GiB"),
    ],
)
def test_sizes(count: int | None, words: str) -> None:
    assert wording.size(count) == words


def test_other_figures() -> None:
    assert [wording.duration(s) for s in (3.21, 59.7, 3671)] == ["3.2 s", "1 min 0 s", "61 min 11 s"]
    assert wording.share(None) == wording.factor(None) == wording.NOTHING
    assert wording.share(0.98765) == "0.988"
    assert wording.factor(1.926) == "1.9×"
    assert wording.signed(-0.0125) == "−0.013" or wording.signed(-0.0125) == "−0.012"
    assert wording.count(12_345) == "12,345"


def test_dice_is_told_of_a_segmentation_only(summary: Summary) -> None:
    assert not any("Dice" in sentence for sentence in wording.sentences(summary))
    masked = MetricsSummary(auroc=0.9, balanced_accuracy=0.8, dice=0.62)
    hospitals = [h.model_copy(update={"study_model": masked}) for h in summary.hospitals]
    own = masked.model_copy(update={"dice": 0.7})
    hospitals[0] = hospitals[0].model_copy(update={"personal_model": own})
    hospitals[1] = hospitals[1].model_copy(update={"personal_model": own.model_copy(update={"dice": 0.5})})
    told = wording.sentences(summary.model_copy(update={"hospitals": tuple(hospitals), "public_only": masked}))
    expected = (
        "Dice coefficient, the mean over test images: shared 0.620; personal 0.500 to 0.700; public set only 0.620."
    )
    assert expected in told
