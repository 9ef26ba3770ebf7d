"""With masks a transcript proves that enough of the cohort signed one and the same list of survivors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from plans import VALUES, example_plan
from runs import Scribe

from secure_fedhelp.errors import SplitView, TranscriptInvalid
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.wire.transcript import TranscriptEntry, verify_transcript

_SMALL = [{"name": name, "tier": "small", "nominal_patients": 40} for name in ("delta", "epsilon")]
#: Five hospitals: four must sign.
PLAN = example_plan(aggregation__masks="repairing", hospitals=[*VALUES["hospitals"], *_SMALL])


@pytest.fixture
def scribe() -> Scribe:
    return Scribe(PLAN)


def verify(scribe: Scribe) -> list[TranscriptEntry]:
    return verify_transcript(scribe.lines, scribe.coordinator.public_hex, scribe.member_keys, PLAN)


def test_an_honest_round_and_one_with_a_drop_out_verify(scribe: Scribe) -> None:
    scribe.round()
    names = sorted(scribe.hospitals)
    cohort = [scribe.signed(scribe.header(name, 1)) for name in names[:4]]
    entry = scribe.entry(cohort)
    scribe.publish(entry)
    first, second = verify(scribe)
    assert (len(first.agreed), len(second.agreed)) == (5, 4)
    assert second.survivors.survivors.keys() == set(names[:4])


def _pop(key: str, count: int) -> Callable[[dict[str, Any]], None]:
    return lambda entry: [entry[key].pop() for _ in range(count)] and None


LIES: dict[str, tuple[Callable[[dict[str, Any]], None], type[TranscriptInvalid], str]] = {
    "too few signed": (_pop("agreed", 2), SplitView, "3 hospitals have signed this list of survivors, 4 are needed"),
    "nobody signed": (lambda e: e.update(agreed=[]), SplitView, "0 hospitals have signed"),
    "fewer members, so fewer to convince": (lambda e: e["members"].pop(), SplitView, "survivor is no member|signed"),
    "another view": (lambda e: e.update(view="8" * 64), SplitView, "shown other keys and shares"),
    "another attempt": (lambda e: e.update(attempt=1), SplitView, "another attempt"),
    "a signature of another hospital": (
        lambda e: e["agreed"][0].update(signature=e["agreed"][1]["signature"]),
        SplitView,
        "alpha has not signed",
    ),
    "signers not sorted": (lambda e: e["agreed"].reverse(), TranscriptInvalid, "agreed is not sorted"),
    "a signer twice": (lambda e: e["agreed"].insert(0, e["agreed"][0]), TranscriptInvalid, "agreed is not sorted"),
    "an unknown signer": (lambda e: e["agreed"][4].update(hospital="zeta"), TranscriptInvalid, "zeta is no survivor"),
    "an unknown member": (lambda e: e["members"].append("zeta"), TranscriptInvalid, "zeta is no member"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_list_that_was_not_agreed_on_shows(lie: str, scribe: Scribe) -> None:
    change, error, words = LIES[lie]
    scribe.round(change)
    with pytest.raises(error, match=f"transcript entry 0: .*({words})"):
        verify(scribe)


def test_an_upload_added_after_the_agreement_shows(scribe: Scribe) -> None:
    names = sorted(scribe.hospitals)
    cohort = [scribe.signed(scribe.header(name, 0)) for name in names]
    entry = scribe.entry(cohort)
    entry |= scribe.agreement(cohort[:4])  # four agreed on four; the fifth came later
    scribe.publish(entry)
    with pytest.raises(SplitView, match="survivor is no member"):
        verify(scribe)


def test_a_cohort_below_the_plans_smallest_shows_whatever_was_signed() -> None:
    scribe = Scribe(PLAN)
    names = sorted(scribe.hospitals)[:2]
    cohort = [scribe.signed(scribe.header(name, 0)) for name in names]
    scribe.publish(scribe.entry(cohort))
    with pytest.raises(SplitView, match="2 survivors of 2 members, at least 3 are needed"):
        verify(scribe)


def test_a_forged_agreement_shows(scribe: Scribe) -> None:
    names = sorted(scribe.hospitals)
    cohort = [scribe.signed(scribe.header(name, 0)) for name in names]
    honest = scribe.hospitals["beta"]
    scribe.hospitals["beta"] = SigningKey.generate()
    entry = scribe.entry(cohort)
    scribe.hospitals["beta"] = honest
    scribe.publish(entry)
    with pytest.raises(SplitView, match="beta has not signed"):
        verify(scribe)


def test_a_plan_without_masks_has_no_agreements() -> None:
    plan = example_plan(aggregation__masks="none")
    scribe = Scribe(plan)
    scribe.round(lambda e: e.update(members=["alpha"]))
    with pytest.raises(TranscriptInvalid, match="speaks of masks"):
        verify_transcript(scribe.lines, scribe.coordinator.public_hex, scribe.member_keys, plan)
