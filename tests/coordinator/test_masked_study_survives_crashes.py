"""A masked round on a real disk: killed after any step it goes on, the masks come off, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from members import masked_body, some_body
from plans import example_plan
from pure_studies import MaskedStudy

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.keeper import Keeper
from secure_fedhelp.coordinator.sharing import check_records, check_reveal
from secure_fedhelp.coordinator.state import State
from secure_fedhelp.errors import ForgedShare, ProtocolError, StorageError, UnmaskingFailed
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.secagg.masked.member import MaskKeys
from secure_fedhelp.secagg.masked.statements import SHARES_CONTEXT, SharesStatement, parse
from secure_fedhelp.secagg.packing import SumAccumulator
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.messages import Phase, parse_header
from secure_fedhelp.wire.transcript import verify_transcript

NAMES = ("alpha", "beta", "gamma", "delta")
A_B_C = NAMES[:3]
COORDINATOR = SigningKey.generate()
REPAIRING, STRICT = (
    example_plan(
        hospitals=[{"name": n, "tier": "small", "nominal_patients": 40} for n in NAMES],
        study__rounds=2,
        aggregation__masks=masks,
        aggregation__minimum_cohort=2,
    )
    for masks in ("repairing", "strict")
)


class KeptStudy(MaskedStudy):
    """A masked study whose coordinator keeps it in a folder; uploads are real bodies with real masks."""

    def __init__(self, folder: Path, plan: StudyPlan = REPAIRING) -> None:
        self.folder = folder
        self.now = 1000.0
        self.keeper = Keeper(folder, plan, COORDINATOR, lambda: self.now)
        super().__init__(plan)
        self.now, self.state = 1000.0, self.keeper.state
        for name in NAMES:
            self.do(self.hospitals[name].joined())
        self.keyed()

    def do(self, event: events.Event) -> State:
        beside: dict[str, bytes] | None = None
        match event:
            case events.KeyPosted():
                beside = dict.fromkeys(event.recipients, b"sealed")
            case events.SharesPosted():
                beside = dict(self.records[self.state.place][event.name])
            case events.Revealed():
                beside = {event.name: self.reveals[self.state.place][event.name]}
            case events.Uploaded():
                header = parse_header(event.header)
                self.keeper.spool.append(header, self.bodies[self.state.place][event.name])
                self.keeper.spool.check(header)
            case events.Ticked():
                self.keeper.work()
                self.state = self.keeper.state
                return self.state
        self.state = self.keeper.submit(event, beside)
        return self.state

    def held_by(self, name: str) -> dict[str, bytes]:
        return self.keeper.held_by(name)[1]

    def plain(self, name: str, round_number: int) -> bytes:
        return some_body(self.plan, 10 * round_number + NAMES.index(name))

    def masked(self, name: str, masks: MaskKeys) -> bytes:
        return masked_body(self.plan, self.plain(name, self.state.round), masks)

    def crash(self) -> None:
        """What a killed process leaves: files as they are, and its lock gone."""
        self.keeper._journal.close()
        self.keeper = Keeper(self.folder, self.plan, COORDINATOR, lambda: self.now)
        self.state = self.keeper.state

    def work(self) -> None:
        self.keeper.work()
        self.state = self.keeper.state

    def sum_of(self, *names: str, round_number: int = 0) -> bytes:
        """What the sum of these hospitals' uploads without any masks is, but for the seeds' order."""
        accumulator = SumAccumulator(plan_profile(self.plan), self.plan.largest_length)
        for name in names:
            accumulator.add(name, self.plain(name, round_number))
        return accumulator.finish()

    def entry(self, round_number: int = 0) -> dict[str, object]:
        return dict(json.loads(self.keeper.lines(round_number)[0])["entry"])

    def rows(self, table: str) -> list[tuple[int, int]]:
        return list(self.keeper._journal._database.execute(f"SELECT DISTINCT round, attempt FROM {table}"))

    def bodies_on_disk(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "uploads").iterdir())


@pytest.fixture
def study(tmp_path: Path) -> Iterator[KeptStudy]:
    started = KeptStudy(tmp_path / "coordinator")
    yield started
    started.keeper.close()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[KeptStudy]:
    started = KeptStudy(tmp_path / "coordinator", STRICT)
    yield started
    started.keeper.close()


def test_masks_come_off_the_sum_of_all(study: KeptStudy) -> None:
    study.until(Phase.SUMMING).work()
    assert study.keeper.spool.read_sum(0, 0) == study.sum_of(*NAMES)


@pytest.mark.parametrize("lost_in", [Phase.ADVERTISING, Phase.SHARING, Phase.COLLECTING, Phase.AGREEING])
def test_a_hospital_lost_in_any_phase_is_repaired(study: KeptStudy, lost_in: Phase) -> None:
    study.until(lost_in)
    study.until(Phase.SUMMING, *A_B_C)
    cohort = NAMES if lost_in is Phase.AGREEING else A_B_C
    study.work()
    assert study.keeper.spool.read_sum(0, 0) == study.sum_of(*cohort)
    entry = study.entry()
    assert entry["members"] == sorted(A_B_C if lost_in is Phase.ADVERTISING else NAMES)
    assert [a["hospital"] for a in entry["agreed"]] == sorted(A_B_C)  # type: ignore[index, union-attr]
    publics = {name: hospital.key.public_hex for name, hospital in study.hospitals.items()}
    verify_transcript(study.keeper.lines(0), COORDINATOR.public_hex, publics, study.plan)


def test_killed_after_every_step_it_goes_on(study: KeptStudy) -> None:
    while study.state.phase is not Phase.FINISHED:
        if study.state.phase is Phase.SUMMING:
            study.work()
        else:
            # In round 1, delta deals and is not heard of again.
            away = {"delta"} if study.state.round == 1 and study.state.phase is not Phase.SHARING else set()
            if study.state.phase is Phase.ADVERTISING:
                away = set()
            waiting = sorted(study.state.awaited - away)
            study.step(waiting[0]) if waiting else study.late()
        before = study.state
        study.crash()
        for what in ("phase", "place", "attempt", "uploads", "present", "previous", "witnessed", "reason"):
            assert getattr(study.state, what) == getattr(before, what), what
    assert study.keeper.spool.read_sum(0, 0) == study.sum_of(*NAMES)
    assert study.keeper.spool.read_sum(1, 0) == study.sum_of(*A_B_C, round_number=1)


def test_a_crash_while_the_masks_come_off_costs_nothing(study: KeptStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study.until(Phase.SUMMING)
    with monkeypatch.context() as patched:

        def full(*_: object) -> None:
            raise StorageError("the disk is full")

        patched.setattr(study.keeper.spool, "store_sum", full)
        with pytest.raises(StorageError):
            study.keeper.work()
    study.crash()
    study.work()
    assert study.keeper.spool.read_sum(0, 0) == study.sum_of(*NAMES)


# -- what is added while others still upload --------------------------------------------------------------------------


def test_uploads_are_added_as_they_come(study: KeptStudy) -> None:
    study.until(Phase.COLLECTING)
    for count, name in enumerate(NAMES[:-1], 1):
        study.step(name)
        study.work()
        assert study.keeper._sum._added == set(NAMES[:count])
    study.crash()
    study.work()
    assert study.keeper._sum._added == set(A_B_C), "bodies on the disk are added again"
    study.until(Phase.SUMMING).work()
    assert study.keeper.spool.read_sum(0, 0) == study.sum_of(*NAMES)


def test_a_fresh_attempt_forgets_what_was_added_and_erases_it(strict: KeptStudy) -> None:
    strict.until(Phase.COLLECTING)
    strict.step(*A_B_C)
    strict.work()
    assert len(strict.bodies_on_disk()) == 3
    assert strict.rows("records") == [(0, 0)]
    strict.late()
    assert strict.state.place == (0, 1)
    strict.work()
    assert (strict.bodies_on_disk(), strict.rows("records")) == ([], [])
    strict.until(Phase.SUMMING)
    assert all(name.startswith("00000-01-") for name in strict.bodies_on_disk())
    strict.work()
    assert strict.keeper.spool.read_sum(0, 0) == strict.sum_of(*A_B_C)
    assert strict.entry()["attempt"] == 1


def test_a_body_changed_on_the_disk_is_not_added(study: KeptStudy) -> None:
    study.until(Phase.COLLECTING)
    study.step("alpha")
    path = study.folder / "uploads" / study.bodies_on_disk()[0]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StorageError, match="changed on the disk"):
        study.work()


# -- what lies beside the journal -------------------------------------------------------------------------------------


def test_shares_are_kept_while_they_are_needed_and_no_longer(study: KeptStudy) -> None:
    study.until(Phase.REVEALING)
    study.step("alpha")
    assert study.rows("records") == study.rows("reveals") == [(0, 0)]
    study.until(Phase.SUMMING).work()
    assert study.rows("records") == study.rows("reveals") == []
    left = study.folder / "uploads" / f"00000-00-alpha-{'0' * 64}"
    left.write_bytes(b"left by a crash after publishing")
    study.keeper._journal._database.execute("INSERT INTO reveals VALUES (0, 0, 'alpha', 'left')")
    study.crash()
    assert study.rows("reveals") == []
    assert not left.exists()


def test_a_holder_gets_the_records_that_are_its_own(study: KeptStudy) -> None:
    study.until(Phase.COLLECTING)
    for name in NAMES:
        expected = {dealer: records[name] for dealer, records in study.records[0, 0].items()}
        assert study.keeper.held_by(name)[1] == expected
    assert study.keeper.held_by("mallory")[1] == {}


def test_a_journal_that_cannot_be_read_is_named(study: KeptStudy) -> None:
    study.keeper._journal._database.execute("DROP TABLE records")
    with pytest.raises(StorageError, match="cannot read"):
        study.keeper.held_by("alpha")
    with pytest.raises(StorageError, match="cannot write"):
        study.keeper._journal.forget_shares_before((1, 0))


# -- forged shares ----------------------------------------------------------------------------------------------------


def test_records_that_the_dealer_did_not_sign_are_refused(study: KeptStudy) -> None:
    study.until(Phase.SHARING)
    event = study.shares_event("alpha")
    records = dict(study.records[0, 0]["alpha"])
    statement = parse(SharesStatement, event.statement)
    check_records(statement, records)
    with pytest.raises(ForgedShare, match="not those it signed"):
        check_records(statement, records | {"beta": records["gamma"]})
    with pytest.raises(ForgedShare, match="other holders"):
        check_records(statement, {"beta": records["beta"]})
    with pytest.raises(ForgedShare, match="other holders"):
        check_records(statement, records | {"mallory": records["beta"]})


def test_a_dealer_whose_shares_do_not_fit_together_ends_the_study_by_name(
    study: KeptStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """beta commits to another self secret than it shares: found when the shares are put together, and it is named."""
    study.until(Phase.SHARING)
    honest = study.shares_event("beta")
    statement = parse(SharesStatement, honest.statement).model_copy(update={"self_secret": "0" * 64}).to_bytes()
    signature = study.hospitals["beta"].key.sign(SHARES_CONTEXT, statement)
    lie = honest.model_copy(update={"statement": statement, "signature": signature})
    study.do(lie)
    member = study.member("beta")
    memory = member._memory
    assert memory is not None
    assert memory.dealing is not None
    changed = (statement.hex(), signature.hex(), memory.dealing[2])
    member._memory = memory.model_copy(update={"dealing": changed})
    study.until(Phase.SUMMING).work()
    error = study.keeper.watch("alpha", 0, 0.0).ended_error()
    assert type(error) is UnmaskingFailed
    assert "beta dealt shares of another self secret" in error.message
    assert study.keeper.lines(0) == []
    study.crash()
    assert study.state.phase is Phase.ENDED


def test_shares_that_cannot_be_used_at_all_do_not_stop_the_coordinator_at_every_start(
    study: KeptStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ProtocolError("no usable key")

    study.until(Phase.SUMMING)
    monkeypatch.setattr("secure_fedhelp.coordinator.keeper.mask_keys", broken)
    study.work()
    assert type(study.keeper.watch("alpha", 0, 0.0).ended_error()) is UnmaskingFailed


def test_a_disk_that_cannot_be_read_is_no_fault_of_the_shares(study: KeptStudy) -> None:
    study.until(Phase.SUMMING)
    study.keeper._journal._database.execute("ALTER TABLE reveals RENAME TO elsewhere")
    with pytest.raises(StorageError):
        study.keeper.work()
    study.keeper._journal._database.execute("ALTER TABLE elsewhere RENAME TO reveals")
    study.crash()
    study.work()
    assert study.state.round == 1


def test_what_is_revealed_is_checked_before_it_counts(study: KeptStudy) -> None:
    study.until(Phase.REVEALING)
    study.revealed_event("alpha")
    data = study.reveals[0, 0]["alpha"]
    state, mine = study.keeper.held_by("alpha")
    values = json.loads(data)
    forged = dict(values, self_shares=dict(values["self_shares"], beta="0" * 32))
    fewer = dict(values, self_shares={"beta": values["self_shares"]["beta"]})
    both = dict(values, mask_shares=values["self_shares"])

    def canonical(what: dict[str, object]) -> bytes:
        return json.dumps(what, sort_keys=True, separators=(",", ":")).encode()

    check_reveal(study.plan, state, "alpha", canonical(values), mine)
    with pytest.raises(ForgedShare, match="alpha reveals a share of beta"):
        check_reveal(study.plan, state, "alpha", canonical(forged), mine)
    for wrong in (fewer, both):
        with pytest.raises(ProtocolError, match="other shares"):
            check_reveal(study.plan, state, "alpha", canonical(wrong), mine)
    with pytest.raises(ForgedShare):
        check_reveal(study.plan, state, "beta", canonical(values), study.keeper.held_by("beta")[1])


def test_the_sums_hash_is_in_the_transcript(study: KeptStudy) -> None:
    study.until(Phase.SUMMING).work()
    total = study.keeper.spool.read_sum(0, 0)
    assert study.entry()["sum_sha256"] == hashlib.sha256(total).hexdigest()
