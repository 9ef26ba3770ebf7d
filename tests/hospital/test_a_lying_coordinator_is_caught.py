"""What a hospital checks by itself before it decrypts, and before it takes a study key from anybody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ledgers import proofs
from plans import example_plan
from studies import Study, study

from secure_fedhelp.errors import (
    BadSignature,
    FedHelpError,
    InvalidContribution,
    KeyCeremonyFailed,
    NotReleasable,
    StudyEnded,
    TranscriptInvalid,
    UnderQuorum,
    UnsupportedModel,
    WrongRound,
)
from secure_fedhelp.hospital.agent import Agent
from secure_fedhelp.hospital.ceremony import KeyCeremony
from secure_fedhelp.hospital.contribution import EpochKey, OpenedSum, check_round, make_upload, open_sum
from secure_fedhelp.hospital.preparation import Membership, prepare_membership
from secure_fedhelp.hospital.vault import Checkpoint
from secure_fedhelp.identity.cards import make_card
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.signing import SigningKey, verify
from secure_fedhelp.identity.tls import load_credentials
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.privacy.release import Budget, PrivateOutput, ReleaseGate
from secure_fedhelp.secagg.ckks import Cipher
from secure_fedhelp.secagg.keys import StudyKey
from secure_fedhelp.secagg.packing import SumAccumulator, add_modulo, pack_residues, split_sum
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.secagg.profiles import SEED_BYTES
from secure_fedhelp.secagg.sanitise import plan_flooding
from secure_fedhelp.secagg.sealing import key_context, seal
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.study.policy import SitePolicy
from secure_fedhelp.wire.messages import Phase, SealedStudyKey, StudyState, decline_statement, key_statement
from secure_fedhelp.wire.transcript import TranscriptEntry

ME, MAKER = "small-1", "large-1"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    with study(tmp_path_factory.mktemp("lying") / "run") as ready:
        yield ready


def member(running: Study, name: str) -> Membership:
    return prepare_membership(running.run.hospital(name).root, running.run.plan, time.time())


# -- the sum ---------------------------------------------------------------------------------------------------------


def entry(
    running: Study, cohort: list[str], total: bytes | None = None, bodies: dict[str, bytes] | None = None
) -> TranscriptEntry:
    """An unsigned entry of round 0 (signatures have tests of their own in tests/wire and tests/audit)."""
    plan = running.plan
    chosen = plan_profile(plan)
    header: dict[str, Any] = {
        "attempt": 0,
        "body_bytes": chosen.body_bytes(plan.largest_length),
        "format": 2,
        "key_epoch": 0,
        "key_fingerprint": "4" * 64,
        "ledger_entries": 1,
        "ledger_head": "1" * 64,
        "previous": "0" * 64,
        "profile": chosen.name,
        "round": 0,
        "study": plan.hash,
        "tenseal": "0.3.18",
        "view": "0" * 64,
    }

    def upload(name: str) -> dict[str, Any]:
        body = (bodies or {}).get(name)
        hashes = {"body_sha256": sha256_hex(body) if body else "2" * 64}
        hashes["seeds_sha256"] = sha256_hex(body[:SEED_BYTES]) if body else "5" * 64
        return {"header": {**header, **hashes, "hospital": name, "weight": plan.weights[name]}, "signature": "0" * 128}

    uploads = [upload(name) for name in cohort]
    right_size = chosen.sum_bytes(plan.largest_length, len(cohort))
    values = {
        "absent": (),
        "agreed": (),
        "attempt": 0,
        "cohort": tuple(uploads),
        "declined": (),
        "format": 2,
        "key_epoch": 0,
        "members": (),
        "previous": "0" * 64,
        "round": 0,
        "study": plan.hash,
        "sum_bytes": right_size if total is None else len(total),
        "sum_sha256": sha256_hex(total or b""),
        "view": "0" * 64,
    }
    return TranscriptEntry.model_validate(values)


def test_a_cohort_below_the_plans_minimum_is_not_opened(running: Study) -> None:
    with pytest.raises(TranscriptInvalid, match="at least 3"):
        check_round(running.plan, SitePolicy(smallest_cohort=2), entry(running, [ME, MAKER]), ME, None)


def test_a_cohort_below_the_site_policys_minimum_is_not_opened(running: Study) -> None:
    with pytest.raises(TranscriptInvalid, match="at least 5"):
        check_round(running.plan, SitePolicy(smallest_cohort=5), entry(running, running.names[:4]), ME, None)


def test_a_confirmed_upload_that_was_left_out_is_noticed(running: Study) -> None:
    others = [n for n in running.names if n != ME]
    with pytest.raises(TranscriptInvalid, match="left it out"):
        check_round(running.plan, SitePolicy(), entry(running, others), ME, "2" * 64)


def test_another_upload_under_our_name_is_noticed(running: Study) -> None:
    with pytest.raises(TranscriptInvalid, match="another upload"):
        check_round(running.plan, SitePolicy(), entry(running, running.names), ME, "3" * 64)


def test_a_round_without_us_may_be_opened_when_we_sent_nothing(running: Study) -> None:
    others = [n for n in running.names if n != ME]
    assert check_round(running.plan, SitePolicy(), entry(running, others), ME, None) == tuple(sorted(others))


def test_a_sum_of_another_length_is_never_downloaded(running: Study) -> None:
    huge = entry(running, running.names).model_copy(update={"sum_bytes": 2**52})
    with pytest.raises(TranscriptInvalid, match="bytes"):
        check_round(running.plan, SitePolicy(), huge, ME, None)


class Sums:
    """Three hospitals' honest bodies, and whatever a coordinator makes of them."""

    def __init__(self, running: Study, value: float = 0.25) -> None:
        self.plan = running.plan
        self.profile = plan_profile(self.plan)
        key = StudyKey.generate(self.profile)
        self.cipher = Cipher(self.profile, key)
        self.key = EpochKey(0, key.fingerprint(self.plan.hash, 0), self.cipher, key.flooding_key)
        self.cohort = tuple(running.names[:3])
        self.bodies = {n: self.cipher.encrypt(np.full(self.plan.largest_length, value)) for n in self.cohort}

    def add(self, bodies: list[bytes]) -> bytes:
        adder = SumAccumulator(self.profile, self.plan.largest_length)
        for name, body in zip(self.cohort, bodies, strict=True):
            adder.add(name, body)
        return adder.finish()

    def open(self, running: Study, data: bytes) -> OpenedSum:
        about = entry(running, list(self.cohort), data, self.bodies)
        return open_sum(self.plan, about, self.cohort, data, self.key)


def test_a_sum_other_than_the_transcripts_is_never_decrypted(running: Study) -> None:
    sums = Sums(running)
    data = sums.add([sums.bodies[n] for n in sums.cohort])
    opened = sums.open(running, data)
    assert np.abs(opened.exact - 0.75).max() <= sums.profile.error_bound(3)
    assert set(opened.means) == {c.name for c in running.plan.channels}
    about = entry(running, list(sums.cohort), data, sums.bodies)
    for other in (data[:-1], data + b"\0", bytes([data[0] ^ 1]) + data[1:]):
        with pytest.raises(TranscriptInvalid, match="differs"):
            open_sum(sums.plan, about, sums.cohort, other, sums.key)


def test_versions_of_one_sum_carry_one_noise(running: Study) -> None:
    """Else a coordinator would give each hospital another version of the last sum, and average their noises away."""
    sums = Sums(running)
    data = sums.add([sums.bodies[n] for n in sums.cohort])
    residues, _ = split_sum(sums.profile, sums.plan.largest_length, sums.cohort, data)
    add_modulo(residues, np.ones_like(residues), sums.profile.moduli_column())  # a constant too small to matter
    shifted = pack_residues(sums.profile, residues) + data[sums.profile.residues_bytes(sums.plan.largest_length) :]
    assert shifted != data
    noise = plan_flooding(sums.plan, sums.profile)
    for name, mean in sums.open(running, data).means.items():
        other = sums.open(running, shifted).means[name]
        weights = sum(sums.plan.weights[n] for n in sums.cohort)
        assert np.abs(mean - other).max() * weights <= noise.grid * 1.001


def test_one_hospitals_upload_in_place_of_the_cohorts_is_not_opened(running: Study) -> None:
    sums = Sums(running)
    with pytest.raises(TranscriptInvalid, match="other ciphertexts"):
        sums.open(running, sums.add([sums.bodies[sums.cohort[0]]] * 3))


def test_an_earlier_rounds_uploads_are_not_opened_again(running: Study) -> None:
    sums = Sums(running)
    earlier = [sums.cipher.encrypt(np.full(sums.plan.largest_length, 0.1)) for _ in sums.cohort]
    with pytest.raises(TranscriptInvalid, match="other ciphertexts"):
        sums.open(running, sums.add(earlier))


def test_a_sum_beyond_what_the_cohort_can_make_never_reaches_a_model(running: Study) -> None:
    sums = Sums(running)
    strange = Cipher(sums.profile, StudyKey.generate(sums.profile))
    sums.bodies[sums.cohort[1]] = strange.encrypt(np.zeros(sums.plan.largest_length))  # another key: decrypts to noise
    with pytest.raises(TranscriptInvalid, match="at most"):
        sums.open(running, sums.add([sums.bodies[n] for n in sums.cohort]))


def test_only_a_released_value_can_become_an_upload(running: Study) -> None:
    class LooksReleased:
        def __init__(self) -> None:
            self.channels = {c.name: np.zeros(c.length) for c in running.plan.channels}

    with pytest.raises(NotReleasable):
        make_upload(running.plan, ME, 0, LooksReleased(), None, "0" * 64, None, None)  # type: ignore[arg-type]  # an attack


# -- the study key -----------------------------------------------------------------------------------------------------


class Relay:
    """The coordinator's part of the key ceremony, in memory, able to lie."""

    def __init__(self, cards: dict[str, bytes], own: bytes, answer: SealedStudyKey) -> None:
        self._cards, self._own, self.answer = cards, own, answer

    def roster(self) -> dict[str, bytes]:
        return self._cards

    def coordinator_card(self) -> bytes:
        return self._own

    def get_key(self, epoch: int) -> SealedStudyKey:
        return self.answer


def coordinator_card(running: Study) -> bytes:
    folder = running.run.coordinator
    unlock = open_lock(folder)
    key = SigningKey.load(folder / "signing.key", unlock)
    return make_card(running.plan.hash, "coordinator", "coordinator", key.public_hex, "", folder, key, unlock)


def agent(running: Study, relay: Relay, *, restarted: bool = False) -> Agent:
    """This hospital at its first start, or later with the cards that it has checked before."""
    mine = member(running, ME)
    if not restarted:
        (running.run.hospital(ME).state / "cards").unlink(missing_ok=True)
    nothing: Any = None
    made = Agent(
        plan=mine.plan,
        policy=mine.policy,
        hospital=ME,
        card=mine.card,
        credentials=mine.credentials,
        signing=mine.signing,
        sealing=mine.sealing,
        vault=mine.vault,
        ledger=nothing,
        gate=nothing,
        method=nothing,
        coordinator=relay,  # type: ignore[arg-type]  # the calls of the ceremony only
        clock=time.time,
        progress=lambda what, details: None,
    )
    made._learn_roster()
    return made


def answer(
    running: Study, *, signer: str = MAKER, announced: StudyKey | None = None, context: str = ME
) -> SealedStudyKey:
    """A sealed study key as ``MAKER`` would post it, or as somebody else would."""
    chosen = plan_profile(running.plan)
    key = StudyKey.generate(chosen)
    fingerprint = (announced or key).fingerprint(running.plan.hash, 0)
    statement = key_statement(running.plan.hash, 0, fingerprint)
    signature = member(running, signer).signing.sign("key-confirmation", statement)
    sealed = seal(
        member(running, ME).sealing.public_hex, key.to_bytes(), key_context(running.plan.hash, 0, MAKER, context)
    )
    return SealedStudyKey(MAKER, sealed, fingerprint, {MAKER: signature})


def relay(running: Study, key: SealedStudyKey) -> Relay:
    return Relay({n: member(running, n).card for n in running.names}, coordinator_card(running), key)


def test_an_honest_makers_key_is_taken(running: Study) -> None:
    given = answer(running)
    taken = agent(running, relay(running, given)).ceremony.receive(0)
    assert taken is not None
    assert taken.fingerprint(running.plan.hash, 0) == given.fingerprint
    (running.run.hospital(ME).state / "study-key-0").unlink()


def test_a_key_that_nobody_has_confirmed_yet_is_waited_for(running: Study) -> None:
    given = answer(running)
    unconfirmed = SealedStudyKey(MAKER, given.sealed, given.fingerprint, {})
    assert agent(running, relay(running, unconfirmed)).ceremony.receive(0) is None


def test_a_key_the_coordinator_made_itself_is_refused(running: Study) -> None:
    with pytest.raises(BadSignature):
        agent(running, relay(running, answer(running, signer="small-2"))).ceremony.receive(0)


def test_a_key_made_by_a_stranger_is_refused(running: Study) -> None:
    given = answer(running)
    stranger = SealedStudyKey("mallory", given.sealed, given.fingerprint, {"mallory": given.confirmations[MAKER]})
    with pytest.raises(KeyCeremonyFailed, match="mallory"):
        agent(running, relay(running, stranger)).ceremony.receive(0)


def test_a_key_other_than_the_announced_one_is_refused(running: Study) -> None:
    other = StudyKey.generate(plan_profile(running.plan))
    with pytest.raises(KeyCeremonyFailed, match="announced"):
        agent(running, relay(running, answer(running, announced=other))).ceremony.receive(0)


def test_a_key_sealed_for_somebody_else_is_refused(running: Study) -> None:
    with pytest.raises(KeyCeremonyFailed):
        agent(running, relay(running, answer(running, context="small-2"))).ceremony.receive(0)


def test_who_has_left_for_good_cannot_make_the_next_key(running: Study) -> None:
    mine = agent(running, relay(running, answer(running)))
    with pytest.raises(KeyCeremonyFailed, match=f"{MAKER} has left this study for good"):
        mine.ceremony.receive(0, frozenset({MAKER}))


def test_a_key_whose_epoch_is_over_is_wiped(running: Study) -> None:
    key = StudyKey.generate(plan_profile(running.plan))
    Cipher(key.profile, key).forget()
    with pytest.raises(KeyCeremonyFailed, match="wiped"):
        key.to_bytes()


def test_a_key_that_was_confirmed_is_never_replaced(running: Study) -> None:
    mine = agent(running, relay(running, answer(running)))
    first = mine.ceremony.receive(0)
    assert first is not None
    mine.vault.remember_confirmed_key(0)
    mine.coordinator.answer = answer(running)  # type: ignore[attr-defined]  # the same maker signs for another key
    again = mine.ceremony.receive(0)
    assert again is not None
    assert again.to_bytes() == first.to_bytes()
    for name in ("study-key-0", "study-key-0-confirmed"):
        (running.run.hospital(ME).state / name).unlink()


def test_nothing_is_spent_while_the_others_hold_another_key(running: Study) -> None:
    given = answer(running)
    mine = agent(running, relay(running, given))
    key = mine.ceremony.epoch_key(0)
    (running.run.hospital(ME).state / "study-key-0").unlink()
    with pytest.raises(KeyCeremonyFailed, match="only large-1, small-1"):
        mine.ceremony.require_agreed(key)
    statement = key_statement(running.plan.hash, 0, key.fingerprint)
    third = member(running, "small-2").signing.sign("key-confirmation", statement)
    forged = member(running, "small-2").signing.sign("key-confirmation", statement + b" ")
    confirmed = dict(given.confirmations)
    for signature, enough in ((forged, False), (third, True)):
        confirmations = {**confirmed, "small-2": signature, "mallory": third}
        mine.coordinator.answer = SealedStudyKey(MAKER, given.sealed, given.fingerprint, confirmations)  # type: ignore[attr-defined]
        if enough:
            mine.ceremony.require_agreed(key)
        else:
            with pytest.raises(KeyCeremonyFailed):
                mine.ceremony.require_agreed(key)


@pytest.mark.parametrize("error", [InvalidContribution("diverged"), IndexError("a fault of imported code")])
def test_training_that_failed_is_paid_for_before_anybody_can_notice(
    running: Study, tmp_path: Path, error: Exception
) -> None:
    """The hospital goes silent, which the coordinator sees: an output of a mechanism that ran."""

    class Diverges:
        def contribute(self, number: int) -> None:
            assert len(mine.ledger.entries) == 1, "reserved first"
            raise error

    mine = agent(running, relay(running, answer(running)))
    with Ledger.open(tmp_path / "ledger.jsonl", ME, mine.signing.of("ed25519"), time.time) as ledger:
        mine.ledger, mine.gate = ledger, ReleaseGate(ledger, mine.plan, ME, Budget("d" * 64))
        mine.method = Diverges()  # type: ignore[assignment]
        with pytest.raises(type(error)):
            mine._released(0)
        assert [entry.kind for entry in ledger.entries] == ["reservation", "release"]
        assert mine.gate.epsilon_spent() > 0

        # Whatever starts the process anew by itself would fail again, and pay again, until nothing is left.
        again = agent(running, relay(running, answer(running)))
        again.ledger, again.gate, again.method = ledger, mine.gate, mine.method
        assert again._released(0) is None
        assert len(ledger.entries) == 2


def test_a_study_that_ended_early_leaves_no_study_key(running: Study) -> None:
    """What was recorded of its uploads shall be opened by nothing that is found here later."""
    mine = agent(running, relay(running, answer(running)))
    ended = StudyState(version=9, phase=Phase.ENDED, round=0, key_epoch=0, reason="UnderQuorum: too few are left")
    mine.coordinator = SimpleNamespace(join=lambda card: None, watch=lambda *_: ended, goodbye=lambda: None)  # type: ignore[assignment]
    mine.vault.remember_study_key(0, b"key")
    mine.vault.remember_round_secrets(0, b"masks")
    mine.vault.remember_upload(0, b"{}", b"s", b"body")
    with pytest.raises(UnderQuorum):
        mine.run()
    assert mine.vault.study_key(0) is None
    assert mine.vault.round_secrets(0) is None
    assert mine.vault.upload(0) is None
    (running.run.hospital(ME).state / "round-00000-header").unlink()
    (running.run.hospital(ME).state / "signed-plan").unlink()


def test_a_hospital_that_trained_while_the_study_ended_learns_how(running: Study) -> None:
    """Its upload is refused; what it has kept of the study goes as if it had watched."""
    mine = agent(running, relay(running, answer(running)))
    states = [
        StudyState(version=9, phase=Phase.COLLECTING, round=0, key_epoch=0),
        StudyState(version=10, phase=Phase.ENDED, round=0, key_epoch=0, reason="UnderQuorum: too few are left"),
    ]
    said: list[str] = []
    calls = {"join": lambda card: None, "goodbye": lambda: None, "watch": lambda *_: states.pop(0)}
    for name, call in calls.items():
        setattr(mine.coordinator, name, call)
    mine.progress = lambda what, details: said.append(what)
    mine.vault.remember_study_key(0, b"key")

    def refused(*_: object) -> None:
        raise UnderQuorum("too few are left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agent, "_take", refused)
        with pytest.raises(UnderQuorum):
            mine.run()
    assert states == []
    assert "too late, the study is over" in said
    assert mine.vault.study_key(0) is None
    (running.run.hospital(ME).state / "signed-plan").unlink()


def test_a_fault_after_the_release_is_not_paid_again(running: Study, tmp_path: Path) -> None:
    """The ledger has the release, and the book of patients could not be written: the next start recovers it."""

    class Trains:
        def contribute(self, number: int) -> PrivateOutput:
            channels = {name: np.zeros(length) for name, length in mine.plan.lengths(number).items()}
            return PrivateOutput(channels, planned_events(mine.plan, ME, number), proofs(mine.plan), "system")

    def short_of_memory() -> None:
        raise MemoryError

    mine = agent(running, relay(running, answer(running)))
    with Ledger.open(tmp_path / "ledger.jsonl", ME, mine.signing.of("ed25519"), time.time) as ledger:
        mine.ledger, mine.gate = ledger, ReleaseGate(ledger, mine.plan, ME, Budget("d" * 64), spent=short_of_memory)
        mine.method = Trains()  # type: ignore[assignment]
        with pytest.raises(MemoryError):
            mine._released(0)
        assert [entry.kind for entry in ledger.entries] == ["reservation", "release"]
        assert not mine.gate.failed(0)
        assert mine._released(0) is not None
        assert len(ledger.entries) == 2
    mine.vault.forget_values(0)


def test_what_a_crash_left_of_a_study_goes_at_the_next_start(running: Study) -> None:
    """Of one that was absorbed to its end, by the agent; of an earlier epoch and round, as it goes on."""
    mine = agent(running, relay(running, answer(running)))
    mine.method = SimpleNamespace(load=lambda data: None)  # type: ignore[assignment]
    mine.vault.remember_study_key(0, b"key")
    mine.vault.remember_upload(0, b"{}", b"s", b"body")
    mine.vault.remember_checkpoint(Checkpoint(1, b""))
    mine._resume()
    assert mine.vault.upload(0) is None
    assert mine.vault.study_key(0) == b"key", "of the epoch that goes on"

    class Later:
        round = key_epoch = 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secure_fedhelp.hospital.agent.TranscriptChecker", lambda *_: Later())
        agent(running, relay(running, answer(running)), restarted=True)
    assert mine.vault.study_key(0) is None

    mine.vault.remember_study_key(1, b"key")
    mine.vault.remember_round_secrets(1, b"masks")
    mine.vault.remember_checkpoint(Checkpoint(mine.plan.study.rounds, b""))
    said: list[str] = []
    mine.progress = lambda what, details: said.append(what)
    mine.run()
    assert said == ["resumed", "finished"]
    assert (mine.vault.study_key(1), mine.vault.round_secrets(1)) == (None, None)
    for name in ("checkpoint", "signed-plan", "round-00000-header"):
        (running.run.hospital(ME).state / name).unlink()


def test_a_hospital_that_left_for_good_needs_nobody_to_finish(running: Study) -> None:
    """Killed after the last sum it had a key for: the coordinator, who may be gone, is not asked again. That it was
    the last is kept before the sum is opened, with the line that says so."""
    mine, said = agent(running, relay(running, answer(running))), []
    mine.method = SimpleNamespace(load=lambda data: None)  # type: ignore[assignment]
    mine.progress = lambda what, details: said.append((what, details))
    mine.vault.remember_study_key(0, b"key")
    entry, out = SimpleNamespace(round=0, cohort=()), [frozenset(), frozenset({ME})]

    class Declined:
        @property
        def out(self) -> frozenset[str]:
            return out[0]

        def check(self, line: bytes) -> SimpleNamespace:
            out.pop(0)
            return entry

    mine._checker = Declined()  # type: ignore[assignment]  # a line with our own final word
    mine._read_lines([b"line"])
    assert mine._waiting == [(entry, frozenset())], "its sum is still to be opened"
    assert not mine._complete

    mine.vault.remember_checkpoint(Checkpoint(1, b""))
    mine.run()
    assert said == [("resumed", {"rounds": 1}), ("left for good", {"round": 0})]
    assert mine.vault.study_key(0) is None
    for name in ("checkpoint", "signed-plan", "left"):
        (running.run.hospital(ME).state / name).unlink()


def test_rounds_after_it_left_are_not_opened(running: Study) -> None:
    """It was away for two rounds: of the second it has no key, and nobody would seal it one."""
    mine, opened = agent(running, relay(running, answer(running))), []
    first, second = SimpleNamespace(round=0), SimpleNamespace(round=1)
    mine._checker = SimpleNamespace(round=2)  # type: ignore[assignment]
    mine._waiting = [(first, frozenset()), (second, frozenset({ME}))]  # type: ignore[list-item]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Agent, "_open", lambda self, entry, out: opened.append(entry))
        mine._catch_up(StudyState(version=9, phase=Phase.COLLECTING, round=2, key_epoch=1))
    assert opened == [first]
    assert mine._waiting == []


def test_a_study_that_was_given_back_is_not_taken_up_again(running: Study) -> None:
    """A supervisor that starts the process again would fetch the deleted key, and pay on."""
    mine = agent(running, relay(running, answer(running)))
    mine.vault.remember_study_key(0, b"key")
    mine.vault.give_back(values=True)
    assert mine.vault.study_key(0) is None
    with pytest.raises(StudyEnded, match="gave this study back"):
        mine.run()
    with pytest.raises(StudyEnded, match="gave this study back"):
        member(running, ME)
    (running.run.hospital(ME).state / "given-back").unlink()


@pytest.mark.parametrize(("mode", "kept"), [("research", True), ("deployment", False)])
def test_only_a_research_study_keeps_what_it_released(running: Study, mode: str, kept: bool) -> None:
    mine = agent(running, relay(running, answer(running)))
    study = mine.plan.study.model_copy(update={"mode": mode})
    mine.plan = mine.plan.model_copy(update={"study": study})
    mine.vault.remember_values(0, {"model-update": np.ones(2)})
    mine._forget_rounds(1)
    assert (mine.vault.values(0) is not None) == kept
    mine.vault.remember_values(0, {"model-update": np.ones(2)})
    mine._forget_study()
    assert (mine.vault.values(0) is not None) == kept
    mine.vault.forget_values(0)


@pytest.mark.parametrize(
    ("error", "told"),
    [(WrongRound("too late"), "too late"), (StudyEnded("it is over"), "too late, the study is over")],
)
def test_a_key_that_is_confirmed_too_late_ends_no_process(running: Study, error: FedHelpError, told: str) -> None:
    """The next state says how the study goes on, or how it ended; the step itself is not taken yet."""
    mine, said = agent(running, relay(running, answer(running))), []
    mine.progress = lambda what, details: said.append(what)

    def refused(*_: object) -> bool:
        raise error

    state = StudyState(version=9, phase=Phase.KEYING, round=0, key_epoch=0, maker=MAKER, unconfirmed=(ME,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyCeremony, "take_part", refused)
        mine._step(state)
    assert said == [told]
    assert mine._taken is None


def test_a_kill_between_failing_and_paying_is_no_way_out(running: Study, tmp_path: Path) -> None:
    """It trains again, and pays: that the hospital was silent has been seen, and a reservation is given back."""

    class Diverges:
        def contribute(self, number: int) -> None:
            raise InvalidContribution("diverged")

    class Killed(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Killed

    mine = agent(running, relay(running, answer(running)))
    with Ledger.open(tmp_path / "ledger.jsonl", ME, mine.signing.of("ed25519"), time.time) as ledger:
        mine.ledger, mine.gate = ledger, ReleaseGate(ledger, mine.plan, ME, Budget("d" * 64))
        mine.method = Diverges()  # type: ignore[assignment]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ReleaseGate, "spend_without_release", dies)
            with pytest.raises(Killed):
                mine._released(0)
        assert [entry.kind for entry in ledger.entries] == ["reservation"]
        with pytest.raises(InvalidContribution):
            mine._released(0)
        assert mine._released(0) is None
        mine.gate.give_back()
        assert [entry.kind for entry in ledger.entries] == ["reservation", "release"]


def test_a_round_whose_training_failed_is_declined_by_name(running: Study) -> None:
    """So that the others do not wait for this hospital until the deadline."""
    mine = agent(running, relay(running, answer(running)))
    told: list[tuple[int, str]] = []
    said: list[str] = []

    def decline(number: int, reason: str, signature: bytes) -> None:
        verify(mine.signing.public_hex, "decline", decline_statement(mine.plan.hash, number, ME, reason), signature)
        told.append((number, reason))

    class Failed:
        def failed(self, number: int) -> bool:
            return True

    mine.gate = Failed()  # type: ignore[assignment]  # the one call that is made
    mine.coordinator.decline = decline  # type: ignore[method-assign]
    mine.progress = lambda what, details: said.append(what)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyCeremony, "require_agreed", lambda *_, **__: None)
        assert mine._prepared(0, 0) is None
    mine._forget_key()
    assert told == [(0, "TrainingFailed")]
    assert said == ["left out, training failed in an earlier run"]
    assert not mine._declined, "the next round is ours again"
    (running.run.hospital(ME).state / "study-key-0").unlink()


def test_a_restart_takes_the_cards_that_were_checked_before(running: Study) -> None:
    """The roster is kept by the agent: were it not, an ended certificate of another's would keep this hospital out."""
    vault, honest = member(running, ME).vault, relay(running, answer(running))
    first = agent(running, honest)
    kept = vault.accepted_cards()
    assert {name: card.card for name, card in kept.items()} == honest.roster()
    later = agent(running, honest, restarted=True)
    assert vault.accepted_cards() == kept, "with the times of the first check"
    assert later._cards == first._cards
    vault.remember_accepted_cards(kept | {"gone": kept[ME]})
    with pytest.raises(TranscriptInvalid, match="other members than at an earlier start: gone"):
        agent(running, honest, restarted=True)


def test_an_output_that_the_gate_refuses_is_paid_for(running: Study, tmp_path: Path) -> None:
    class TooLong:
        def contribute(self, number: int) -> PrivateOutput:
            channels = {name: np.zeros(length + 1) for name, length in mine.plan.lengths(number).items()}
            return PrivateOutput(channels, planned_events(mine.plan, ME, number), proofs(mine.plan), "system")

    mine = agent(running, relay(running, answer(running)))
    with Ledger.open(tmp_path / "ledger.jsonl", ME, mine.signing.of("ed25519"), time.time) as ledger:
        mine.ledger, mine.gate = ledger, ReleaseGate(ledger, mine.plan, ME, Budget("d" * 64))
        mine.method = TooLong()  # type: ignore[assignment]
        with pytest.raises(InvalidContribution):
            mine._released(0)
        assert [entry.kind for entry in ledger.entries] == ["reservation", "release"]


def test_a_network_that_is_refused_before_a_record_is_drawn_costs_nothing(running: Study, tmp_path: Path) -> None:
    class Refused:
        def contribute(self, number: int) -> None:
            raise UnsupportedModel("layer 'norm' (BatchNorm1d) mixes the records of a batch")

    mine = agent(running, relay(running, answer(running)))
    with Ledger.open(tmp_path / "ledger.jsonl", ME, mine.signing.of("ed25519"), time.time) as ledger:
        mine.ledger, mine.gate = ledger, ReleaseGate(ledger, mine.plan, ME, Budget("d" * 64))
        mine.method = Refused()  # type: ignore[assignment]
        with pytest.raises(UnsupportedModel):
            mine._released(0)
        assert [entry.kind for entry in ledger.entries] == ["reservation"]


@pytest.mark.parametrize(
    ("announced", "epoch"), [(1, 0), (51, 0), (2, 0), (0, 1)], ids=["unpublished", "beyond", "past-the-plan", "epoch"]
)
def test_rounds_that_were_never_published_are_not_trained_for(running: Study, announced: int, epoch: int) -> None:
    mine = agent(running, relay(running, answer(running)))
    if announced == 2:
        mine._rounds = 2  # all rounds of the plan are behind us
    state = StudyState(version=9, phase=Phase.COLLECTING, round=announced, key_epoch=epoch)
    with pytest.raises(TranscriptInvalid):
        mine._is_next(state)


@pytest.mark.parametrize(("phase", "attempt"), [(Phase.COLLECTING, 1), (Phase.ADVERTISING, 0), (Phase.REVEALING, 0)])
def test_attempts_are_not_for_plans_without_masks(running: Study, phase: Phase, attempt: int) -> None:
    """With another attempt's number a confirmed upload could be left out unnoticed."""
    mine = agent(running, relay(running, answer(running)))
    mine.plan = example_plan(aggregation__masks="none")
    with pytest.raises(TranscriptInvalid, match="no masks"):
        mine._is_next(StudyState(version=9, phase=phase, round=0, key_epoch=0, attempt=attempt))


def test_the_round_after_the_last_published_one_is_trained_for(running: Study) -> None:
    mine = agent(running, relay(running, answer(running)))
    assert mine._is_next(StudyState(version=9, phase=Phase.COLLECTING, round=0, key_epoch=0))
    mine._rounds = 1
    assert not mine._is_next(StudyState(version=9, phase=Phase.COLLECTING, round=0, key_epoch=0))


def test_a_hospital_that_is_too_slow_for_a_step_waits_for_the_next_round(running: Study) -> None:
    """The study goes on while it asks: no reason to leave it."""

    class GoneOn:
        def share(self, number: int, attempt: int, require: object) -> None:
            raise WrongRound("the study has gone on")

    mine, told = agent(running, relay(running, answer(running))), []
    mine._masked = GoneOn()  # type: ignore[assignment]  # only the step that is asked for
    mine.progress = lambda what, details: told.append(what)
    state = StudyState(version=9, phase=Phase.SHARING, round=0, key_epoch=0)
    mine._step(state)
    mine._step(state)  # and the same phase is not asked about again
    assert told == ["too late"]


def test_a_study_called_finished_too_early_is_not_believed(running: Study) -> None:
    mine = agent(running, relay(running, answer(running)))
    with pytest.raises(TranscriptInvalid, match="finished after 0 of 2"):
        mine._require_complete()


def test_a_roster_without_ourselves_is_refused(running: Study) -> None:
    lying = relay(running, answer(running))
    del lying._cards[ME]
    with pytest.raises(TranscriptInvalid, match="our own card"):
        agent(running, lying)


def test_a_roster_below_the_smallest_cohort_is_refused(running: Study) -> None:
    lying = relay(running, answer(running))
    lying._cards = {name: lying._cards[name] for name in (ME, MAKER)}
    with pytest.raises(TranscriptInvalid, match="smallest cohort"):
        agent(running, lying)


def test_a_roster_with_a_swapped_card_is_refused(running: Study) -> None:
    lying = relay(running, answer(running))
    lying._cards["small-2"] = lying._cards["small-3"]
    with pytest.raises(TranscriptInvalid, match="another member's"):
        agent(running, lying)


def test_a_hospital_that_presents_itself_as_the_coordinator_is_refused(running: Study) -> None:
    lying = relay(running, answer(running))
    lying._own = lying._cards["small-2"]
    with pytest.raises(FedHelpError):
        agent(running, lying)


def test_credentials_of_the_folder_hold(running: Study) -> None:
    folder = running.run.hospital(ME)
    assert load_credentials(folder.keys, time.time(), open_lock(folder.root)).identity.name == ME
    assert Path(running.run.hospital(ME).keys / "sealing.key").stat().st_mode & 0o077 == 0
