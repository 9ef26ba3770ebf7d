"""A benchmark that leaves work out is fast: what is timed must give the right sum, with every lock on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from secure_fedhelp.errors import NotReleasable
from secure_fedhelp.research.bench.cohort import MaskedCohort
from secure_fedhelp.research.bench.material import Material, draw_contributions, hospital_names, true_sum
from secure_fedhelp.research.bench.sealed import SealedRounds
from secure_fedhelp.research.bench.stopwatch import Stopwatch
from secure_fedhelp.secagg.expansion import add_expanded
from secure_fedhelp.secagg.profiles import PROFILES

MASKED_STAGES = {
    "upload.agree_on_masks",
    "upload.mask",
    "upload.reveal",
    "coordinator.check_keys",
    "coordinator.rebuild",
    "coordinator.unmask",
}
STAGES = {
    "upload.encrypt",
    "upload.pack",
    "upload.sign",
    "coordinator.check",
    "coordinator.add",
    "coordinator.publish",
    "download.verify",
    "download.decrypt",
}


@pytest.fixture(scope="module", params=["standard", "compact", "exact"])
def material(request: pytest.FixtureRequest) -> Iterator[Material]:
    with Material(PROFILES[request.param], 3000, 4) as made:
        yield made


@pytest.mark.parametrize("masks", ["none", "repairing", "strict"])
def test_every_round_gives_the_cohorts_sum(material: Material, masks: str) -> None:
    cohort = None if masks == "none" else MaskedCohort(material.names, masks)  # type: ignore[arg-type]
    rounds = SealedRounds(material, cohort)
    assert (rounds.setting.masks, rounds.setting.profile) == (masks, material.profile.name)
    for measured in (rounds.measure(), rounds.measure()):  # a second one does the work again
        assert measured.max_error <= material.profile.error_bound(4)
        up, down = material.profile.body_bytes(3000), material.profile.sum_bytes(3000, 4)
        # The rest are headers and signatures, and with masks the keys and shares of four members.
        assert 300 < measured.up_bytes - up < (6000 if cohort else 700)
        assert 1000 < measured.down_bytes - down < (12_000 if cohort else 3000)
        sanitised = {"download.sanitise"} if material.flooding else set()
        assert set(measured.seconds) == STAGES | sanitised | (MASKED_STAGES if cohort else set())
        assert all(seconds > 0 for seconds in measured.seconds.values())
        if material.flooding is not None:
            assert measured.sanitised_error is not None
            assert measured.max_error < measured.sanitised_error <= material.flooding.error_bound() + 1e-6


def test_the_sum_is_garbage_while_a_mask_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the masks of the measured rounds are really there."""
    with Material(PROFILES["standard"], 3000, 4) as material:
        monkeypatch.setattr("secure_fedhelp.research.bench.sealed.add_expanded", _but_not_off_the_sum)
        rounds = SealedRounds(material, MaskedCohort(material.names, "repairing"))
        with pytest.raises(NotReleasable, match=r"the sanitised sum reaches \d\.\d+e\+05"):
            rounds.measure()


def _but_not_off_the_sum(residues: object, profile: object, plus: tuple[bytes, ...], minus: tuple[bytes, ...]) -> None:
    if len(minus) < 4:  # the coordinator takes off all four self-masks; no hospital subtracts as many
        add_expanded(residues, profile, plus, minus)  # type: ignore[arg-type]


def test_a_sparse_cohort_cancels_too_and_shares_contributions() -> None:
    with Material(PROFILES["standard"], 2100, 34) as material:
        measured = SealedRounds(material, MaskedCohort(material.names, "repairing")).measure()
        assert measured.contributions == 10
        assert measured.max_error <= 2 * material.profile.error_bound(34)  # the noise of a shared body adds up


def test_the_masks_of_a_round_are_those_of_all_pairs() -> None:
    """With everybody's own masks in place of the others' joint ones, the same keys remain: the self-masks."""
    names = hospital_names(5)
    cohort = MaskedCohort(names, "repairing")
    mine = cohort.agree_on_masks(Stopwatch())
    plus, minus = cohort.others_masks
    assert len(mine.plus) + len(mine.minus) == 5
    assert len(plus) + len(minus) == 4 + 4  # a self-mask, and a pair with the measured one, for each other
    left = (set(mine.plus) | set(plus)) - (set(mine.minus) | set(minus))
    added, removed = cohort.reveal(Stopwatch(), dict.fromkeys(names, "0" * 64))
    assert not added
    assert set(removed) == left


def test_contributions_keep_their_bound_and_a_larger_cohort_repeats_them() -> None:
    drawn = draw_contributions(500, 25, 0.1)
    assert len(drawn) == 10
    assert max(float(np.abs(c).max()) for c in drawn) <= 0.1
    expected = sum(drawn[i % 10] for i in range(25))
    np.testing.assert_allclose(true_sum(drawn, 25), expected)


def test_a_stopwatch_adds_up_what_comes_again_and_what_fails() -> None:
    watch = Stopwatch()
    with watch.stage("upload.pack"):
        pass
    first = watch.seconds["upload.pack"]
    with pytest.raises(ValueError, match="broken"), watch.stage("upload.pack"):
        raise ValueError("broken")
    assert watch.seconds["upload.pack"] > first
    watch.add("coordinator.add", 1.0)
    watch.add("coordinator.add", 1.0)
    assert watch.seconds["coordinator.add"] == 2.0
