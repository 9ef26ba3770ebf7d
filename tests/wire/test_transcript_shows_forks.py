"""A transcript whose hospitals saw different lines, or used different study keys, convinces nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest
from members import Hospital
from plans import example_plan

from secure_fedhelp.coordinator.publication import signed_line
from secure_fedhelp.errors import KeyEpochRolledBack, TranscriptInvalid
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.study.canonical import GENESIS, sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import NO_VIEW
from secure_fedhelp.wire.transcript import TranscriptChecker

PLAN = example_plan(aggregation__key_epoch_rounds=2)
COORDINATOR = SigningKey.generate()
MEMBERS = {h.name: Hospital(PLAN, h.name) for h in PLAN.hospitals}
FIRST = next(iter(MEMBERS))


class Coordinator:
    """Signs whatever entry it is asked for; the hospitals' signatures are real."""

    def __init__(self, plan: StudyPlan = PLAN) -> None:
        self.plan = plan
        self.checker = TranscriptChecker(
            COORDINATOR.public_hex, {n: m.key.public_hex for n, m in MEMBERS.items()}, self.plan
        )
        self.round, self.previous = 0, GENESIS

    def check(self, epoch: int = 0, one: dict[str, Any] | None = None, **changes: object) -> None:
        """Sign and check the next line: ``changes`` are in all headers, ``one`` in the first hospital's only."""
        cohort = []
        for name, member in sorted(MEMBERS.items()):
            values = {"round": self.round, "key_epoch": epoch, "previous": self.previous} | changes
            header = member.header(b"body", **(values | (one or {} if name == FIRST else {})))
            cohort.append({"header": json.loads(header), "signature": member.sign_header(header).hex()})
        entry = {
            "absent": [],
            "agreed": [],
            "attempt": 0,
            "cohort": cohort,
            "declined": [],
            "format": 2,
            "key_epoch": epoch,
            "members": [],
            "previous": self.previous,
            "round": self.round,
            "study": self.plan.hash,
            "sum_bytes": 1,
            "sum_sha256": "0" * 64,
            "view": NO_VIEW,
        }
        line = signed_line(entry, COORDINATOR)
        self.checker.check(line)
        self.round, self.previous = self.round + 1, sha256_hex(line)


def test_headers_that_agree_pass_and_each_epoch_has_its_own_key() -> None:
    honest = Coordinator()
    honest.check()
    honest.check()
    honest.check(epoch=1, key_fingerprint="1" * 64)
    honest.check(epoch=1, key_fingerprint="1" * 64)


def test_a_hospital_that_saw_another_line_before_cannot_be_in_the_cohort() -> None:
    with pytest.raises(TranscriptInvalid, match=f"{FIRST} was shown another transcript"):
        Coordinator().check(one={"previous": "1" * 64})
    forking = Coordinator()
    forking.check()
    with pytest.raises(TranscriptInvalid, match="entry 1: .* another transcript"):
        forking.check(one={"previous": GENESIS})


def test_an_epoch_that_is_over_never_comes_back() -> None:
    rolling = Coordinator()
    rolling.check()
    rolling.check()
    with pytest.raises(KeyEpochRolledBack, match="key epoch 0, in this round it is epoch 1"):
        rolling.check(epoch=0)


def test_an_epoch_neither_ends_early_nor_lasts_too_long() -> None:
    early = Coordinator()
    early.check()
    with pytest.raises(KeyEpochRolledBack, match="key epoch 1, in this round it is epoch 0"):
        early.check(epoch=1)


def test_two_study_keys_in_one_cohort_are_noticed() -> None:
    with pytest.raises(
        TranscriptInvalid, match="used key 1111111111111111 of epoch 0|others used key 1111111111111111"
    ):
        Coordinator().check(one={"key_fingerprint": "1" * 64})


def test_a_study_key_that_changes_within_its_epoch_is_noticed() -> None:
    changing = Coordinator()
    changing.check()
    with pytest.raises(TranscriptInvalid, match="entry 1: .* used key 1111111111111111"):
        changing.check(key_fingerprint="1" * 64)
