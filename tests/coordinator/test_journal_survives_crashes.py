"""What was acknowledged is found again after a crash, and a full disk stops the coordinator without losing a study."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from members import FINGERPRINT, Hospital, some_body
from plans import example_plan

from secure_fedhelp.coordinator import events
from secure_fedhelp.coordinator.journal import Journal
from secure_fedhelp.coordinator.keeper import Keeper
from secure_fedhelp.coordinator.roster_file import write_roster
from secure_fedhelp.coordinator.spool import Spool
from secure_fedhelp.coordinator.transcript_file import TranscriptFile
from secure_fedhelp.errors import (
    BadSignature,
    CiphertextNotCanonical,
    FedHelpError,
    InvalidConfiguration,
    KeyCeremonyFailed,
    PlanChanged,
    StorageError,
)
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.secagg.packing import SumAccumulator
from secure_fedhelp.secagg.profiles import profile
from secure_fedhelp.study.canonical import sha256_hex
from secure_fedhelp.wire.messages import CHUNK_BYTES, Phase, parse_header

PLAN = example_plan(study__rounds=2)
PROFILE = profile("standard")
NAMES = tuple(h.name for h in PLAN.hospitals)
COORDINATOR_KEY = SigningKey.generate()
BODIES = {name: some_body(PLAN, seed) for seed, name in enumerate(NAMES)}


class Run:
    """A keeper in a folder that can be left as a crash leaves it, and opened again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, 1000.0
        self.hospitals = {name: Hospital(PLAN, name) for name in NAMES}
        self.keeper = self.open()

    def open(self) -> Keeper:
        return Keeper(self.folder, PLAN, COORDINATOR_KEY, lambda: self.now)

    def crash(self) -> Keeper:
        """What a killed process leaves: files as they are, and its lock gone."""
        before = self.keeper
        before._journal.close()
        self.keeper = self.open()
        return self.keeper

    def to_collecting(self) -> Run:
        for hospital in self.hospitals.values():
            self.keeper.submit(hospital.joined())
        self.make_key()
        return self

    def make_key(self) -> None:
        sealed = {name: f"for {name}".encode() for name in NAMES[1:]}
        self.keeper.submit(self.hospitals[NAMES[0]].posted(), sealed)
        for hospital in self.hospitals.values():
            self.keeper.submit(hospital.confirmed())

    def send(self, name: str, round_number: int = 0) -> None:
        event = self.hospitals[name].uploaded(BODIES[name], round=round_number, previous=self.keeper.state.previous)
        header = parse_header(event.header)
        self.keeper.spool.append(header, BODIES[name])
        self.keeper.spool.check(header)
        self.keeper.submit(event)

    def whole_round(self, round_number: int = 0) -> None:
        for name in NAMES:
            self.send(name, round_number)
        self.keeper.work()


def events_of(run: Run) -> list[events.Event]:
    return [event for event, _ in run.keeper._journal.events()]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "coordinator")


# -- the journal ----------------------------------------------------------------------------------------------------


def test_after_each_step_a_crash_changes_nothing_but_the_deadline(run: Run) -> None:
    steps: list[Callable[[], object]] = [
        *(lambda h=h: run.keeper.submit(h.joined()) for h in run.hospitals.values()),
        run.make_key,
        *(lambda n=n: run.send(n) for n in NAMES),
        lambda: run.keeper.work(),
        *(lambda n=n: run.send(n, 1) for n in NAMES),
        lambda: run.keeper.work(),
    ]
    for step in steps:
        step()
        before = run.keeper.state
        run.now += 1
        after = run.crash().state
        for name in ("phase", "round", "members", "present", "confirmed", "uploads", "previous", "witnessed"):
            assert getattr(after, name) == getattr(before, name)
    assert run.keeper.state.phase is Phase.FINISHED
    assert len(run.keeper.lines(0)) == 2


def test_coming_and_going_does_not_store_the_card_again(run: Run) -> None:
    card = b"a long card " * 1000
    run.keeper.submit(run.hospitals["alpha"].joined(card))
    before = len(events_of(run))
    for _ in range(3):
        run.keeper.submit(events.Left(name="alpha"))
        run.keeper.submit(run.hospitals["alpha"].joined(card))
    stored = events_of(run)[before:]
    assert [type(event) for event in stored] == [events.Left, events.Returned] * 3
    assert max(len(events.event_json(event)) for event in stored) < 100
    present, version = run.keeper.state.present, run.keeper.state.version
    state = run.crash().state
    assert (state.present, state.members["alpha"].card, state.version) == (present, card, version)


def test_a_renewed_card_survives_a_crash(run: Run) -> None:
    run.keeper.submit(run.hospitals["alpha"].joined())
    run.keeper.submit(run.hospitals["alpha"].joined(b"renewed", expires=2e9))
    assert run.crash().state.members["alpha"].card == b"renewed"


def test_a_restart_gives_hospitals_the_whole_deadline_again(run: Run) -> None:
    run.to_collecting()
    run.now += 10_000
    keeper = run.crash()
    keeper.work()
    assert keeper.state.phase is Phase.COLLECTING
    assert keeper.state.deadline == run.now + PLAN.aggregation.round_deadline_seconds


def test_a_deadline_that_passed_before_a_restart_stays_passed(run: Run) -> None:
    run.to_collecting()
    run.now = run.keeper.state.deadline
    run.keeper.work()
    assert run.keeper.state.phase is Phase.ENDED
    assert run.crash().state.reason == run.keeper.state.reason != ""


def test_a_passed_deadline_is_noticed_before_a_late_upload(run: Run) -> None:
    run.to_collecting()
    run.now = run.keeper.state.deadline
    with pytest.raises(FedHelpError, match="0 of at least 3 hospitals while collecting for round 1"):
        run.send(NAMES[0])


def test_sealed_keys_survive(run: Run) -> None:
    keeper = run.to_collecting().crash()
    assert keeper.sealed_key(0, NAMES[1]) == b"for " + NAMES[1].encode()
    assert keeper.sealed_key(0, NAMES[0]) == keeper.sealed_key(1, NAMES[1]) == b""
    assert keeper.state.fingerprint == FINGERPRINT


def test_nobody_else_on_the_machine_reads_the_journal(run: Run) -> None:
    run.to_collecting()
    files = [path for path in run.folder.iterdir() if path.name.startswith("journal.sqlite")]
    assert files
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_two_coordinators_cannot_share_a_folder(run: Run) -> None:
    with pytest.raises(InvalidConfiguration, match="in use"):
        run.open()


def test_a_folder_belongs_to_one_plan(run: Run) -> None:
    run.keeper.close()
    with pytest.raises(PlanChanged):
        Keeper(run.folder, example_plan(study__rounds=3), COORDINATOR_KEY, lambda: 0.0)


def test_a_journal_of_rubbish_is_named(run: Run) -> None:
    run.keeper.close()
    (run.folder / "journal.sqlite").write_bytes(b"rubbish" * 1000)
    with pytest.raises(StorageError):
        run.open()


def test_a_journal_that_breaks_the_rules_is_refused(run: Run) -> None:
    run.keeper.close()
    journal = Journal(run.folder / "journal.sqlite", PLAN.hash)
    journal.append(events.Published(round=0, line=b"never happened"), 0.0)
    journal.close()
    with pytest.raises(StorageError, match="breaks the rules"):
        run.open()


def test_an_unreadable_event_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", PLAN.hash)
    journal._database.execute("INSERT INTO events (at, event) VALUES (0, '{}')")
    with pytest.raises(StorageError, match="cannot read"):
        list(journal.events())


# -- the sum ----------------------------------------------------------------------------------------------------------


def test_the_sum_counts_each_body_once_and_bodies_are_erased(run: Run) -> None:
    run.to_collecting().whole_round()
    expected = SumAccumulator(PROFILE, PLAN.largest_length)
    for name in NAMES:
        expected.add(name, BODIES[name])
    entry = json.loads(run.keeper.lines(0)[0])["entry"]
    stored = run.keeper.spool.read_sum(0, 0)
    assert stored == expected.finish()
    assert (entry["sum_sha256"], entry["sum_bytes"]) == (sha256_hex(stored), len(stored))
    assert not list((run.folder / "uploads").iterdir())


def test_a_crash_between_closing_and_publishing_adds_again(run: Run) -> None:
    run.to_collecting()
    for name in NAMES:
        run.send(name)
    assert run.keeper.state.phase is Phase.SUMMING
    run.crash().work()
    assert run.keeper.state.round == 1


def test_a_study_that_ends_while_its_round_is_added_up_publishes_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.to_collecting()
    for name in NAMES:
        run.send(name)
    store_sum = run.keeper.spool.store_sum

    def meanwhile(round_number: int, total: bytes) -> tuple[str, int]:
        run.keeper._state = run.keeper.state.end(KeyCeremonyFailed("another key"))
        return store_sum(round_number, total)

    monkeypatch.setattr(run.keeper.spool, "store_sum", meanwhile)
    run.keeper.work()
    assert run.keeper.state.phase is Phase.ENDED
    assert run.keeper.lines(0) == []


def test_bodies_left_by_a_crash_after_publishing_are_erased_at_the_start(run: Run) -> None:
    run.to_collecting().whole_round()
    left = run.folder / "uploads" / f"00000-00-{NAMES[0]}-{'0' * 64}"
    left.write_bytes(b"left")
    run.crash()
    assert not left.exists()


def test_a_body_changed_on_the_disk_is_never_summed(run: Run) -> None:
    run.to_collecting()
    for name in NAMES:
        run.send(name)
    path = next((run.folder / "uploads").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(StorageError, match="changed on the disk"):
        run.keeper.work()
    path.unlink()
    with pytest.raises(StorageError):
        run.crash().work()


def test_a_sum_that_does_not_exist_is_empty(run: Run) -> None:
    assert run.keeper.spool.read_sum(7, 0) == b""


# -- bodies ---------------------------------------------------------------------------------------------------------


def test_a_partial_body_goes_on_at_its_offset(run: Run) -> None:
    header = parse_header(run.hospitals["alpha"].header(BODIES["alpha"]))
    assert run.keeper.spool.offset(header) == 0
    assert run.keeper.spool.append(header, BODIES["alpha"][:1000]) == 1000
    spool = run.crash().spool
    assert spool.offset(header) == 1000
    spool.append(header, BODIES["alpha"][1000:])
    spool.check(header)


def test_another_body_replaces_a_partial_one_of_the_same_hospital_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path, PROFILE, PLAN.length_of)
    first, second = (parse_header(Hospital(PLAN, "alpha").header(BODIES[n])) for n in ("alpha", "beta"))
    neighbour = first.model_copy(update={"hospital": "alpha-north"})
    for header in (first, neighbour, second):
        spool.append(header, b"part")
    assert [spool.offset(h) for h in (first, neighbour, second)] == [0, 4, 4]


def test_a_body_that_is_not_the_signed_one_is_erased(run: Run) -> None:
    header = parse_header(run.hospitals["alpha"].header(BODIES["alpha"]))
    run.keeper.spool.append(header, BODIES["beta"])
    with pytest.raises(BadSignature):
        run.keeper.spool.check(header)
    assert run.keeper.spool.offset(header) == 0


def test_a_body_with_other_seeds_than_the_signed_ones_is_erased(run: Run) -> None:
    body = BODIES["alpha"]
    header = parse_header(run.hospitals["alpha"].header(body, seeds_sha256="0" * 64))
    run.keeper.spool.append(header, body)
    with pytest.raises(BadSignature, match="seeds"):
        run.keeper.spool.check(header)
    assert run.keeper.spool.offset(header) == 0


def test_a_residue_beyond_the_modulus_is_erased(run: Run) -> None:
    body = BODIES["alpha"][:-7] + b"\xff" * 7
    header = parse_header(run.hospitals["alpha"].header(body))
    run.keeper.spool.append(header, body)
    with pytest.raises(CiphertextNotCanonical):
        run.keeper.spool.check(header)
    assert run.keeper.spool.offset(header) == 0


# -- transcript.jsonl -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "present", [None, b"", b"first\nsec", b"first\nsecond\nthird\n", b"wrong\n", b"first\nsecond\n"]
)
def test_the_transcript_file_is_made_to_agree(tmp_path: Path, present: bytes | None) -> None:
    path = tmp_path / "transcript.jsonl"
    if present is not None:
        path.write_bytes(present)
    file = TranscriptFile(path, [b"first", b"second"])
    assert path.read_bytes() == b"first\nsecond\n"
    file.append(b"third")
    assert path.read_bytes() == b"first\nsecond\nthird\n"


def test_a_transcript_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "transcript.jsonl"
    file = TranscriptFile(path, [])
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError):
        file.append(b"line")
    with pytest.raises(StorageError):
        TranscriptFile(path, [])


def test_the_next_start_completes_the_file(run: Run) -> None:
    run.to_collecting().whole_round()
    path = run.folder / "transcript.jsonl"
    line = path.read_bytes()
    path.write_bytes(line[:-10])
    run.crash()
    assert path.read_bytes() == line


# -- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_keeper_and_the_study_goes_on_after_a_restart(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.to_collecting()
    before = run.keeper.state

    def full(*_: object) -> None:
        raise StorageError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(run.keeper._journal, "append", full)
        with pytest.raises(StorageError, match="full"):
            run.send("alpha")
    assert run.keeper.state is before, "what was not stored did not happen"
    with pytest.raises(StorageError, match="full"):
        run.keeper.submit(run.hospitals["beta"].declined(0, "maintenance"))
    with pytest.raises(StorageError, match="full"):
        run.keeper.work()
    run.crash()
    for name in NAMES:
        run.send(name) if name != "alpha" else run.keeper.submit(run.hospitals[name].uploaded(BODIES[name]))
    run.keeper.work()
    assert run.keeper.state.round == 1


def test_a_body_that_meets_a_full_disk_goes_on_where_it_stopped(tmp_path: Path) -> None:
    room = 10

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(descriptor, data[: min(3, room)])
        room -= written
        return written

    header = parse_header(Hospital(PLAN, "alpha").header(BODIES["alpha"]))
    with pytest.raises(StorageError, match="No space left"):
        Spool(tmp_path, PROFILE, PLAN.length_of, write).append(header, BODIES["alpha"])
    spool = Spool(tmp_path, PROFILE, PLAN.length_of)
    assert spool.offset(header) == 10
    spool.append(header, BODIES["alpha"][10:])
    spool.check(header)


SMALL_DISK = f"""
import resource, sys
from pathlib import Path
from secure_fedhelp.coordinator.events import Left
from secure_fedhelp.coordinator.journal import Journal
from secure_fedhelp.errors import StorageError
journal = Journal(Path(sys.argv[1]), "0" * 64)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
stored = 0
try:
    while True:
        journal.append(Left(name="x" * {CHUNK_BYTES // 64}), 0.0)
        stored += 1
except StorageError:
    print(stored)
"""


def test_a_file_that_cannot_grow_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    done = subprocess.run([sys.executable, "-c", SMALL_DISK, str(path)], capture_output=True, text=True, check=True)
    stored = int(done.stdout)
    assert stored > 0
    journal = Journal(path, "0" * 64)
    assert len(list(journal.events())) == stored
    journal.close()


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        Spool(tmp_path / "file", PROFILE, PLAN.length_of)
    with pytest.raises(StorageError):
        Journal(tmp_path / "absent" / "journal.sqlite", PLAN.hash)


def test_a_refused_row_leaves_nothing_of_its_event(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", PLAN.hash)
    event = Hospital(PLAN, "alpha").posted()
    journal.append(event, 0.0, {"beta": b"first"})
    with pytest.raises(StorageError, match="cannot write"):
        journal.append(event, 0.0, {"beta": b"second"})
    assert len(list(journal.events())) == 1
    assert journal.sealed_key(0, "beta") == b"first"


def test_a_folder_that_vanishes_is_named(run: Run) -> None:
    header = parse_header(run.hospitals["alpha"].header(BODIES["alpha"]))
    spool = run.keeper.spool
    with pytest.raises(StorageError):
        spool.check(header)
    for place in ("uploads", "sums"):
        (run.folder / place).rmdir()
        (run.folder / place).write_bytes(b"a file")
    for use in (
        lambda: spool.offset(header),
        lambda: spool.append(header, b"x"),
        lambda: spool.read_sum(0, 0),
        lambda: spool.forget_bodies_before((1, 0)),
        lambda: spool.add(SumAccumulator(PROFILE, PLAN.largest_length), header),
        lambda: spool.store_sum(0, b"sum"),
    ):
        with pytest.raises(StorageError):
            use()


@pytest.mark.parametrize("present", [None, b"{}\n"])
def test_the_roster_file_is_replaced_when_it_differs(tmp_path: Path, present: bytes | None) -> None:
    path = tmp_path / "roster.json"
    if present is not None:
        path.write_bytes(present)
    write_roster(path, {"alpha": b'{"a":1}'})
    assert path.read_bytes() == b'{"alpha":{"a":1}}\n'
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError):
        write_roster(path, {})


def test_what_happened_is_told_in_lines(run: Run) -> None:
    run.to_collecting().whole_round()
    run.keeper.submit(events.Left(name="beta"))
    run.keeper.submit(run.hospitals["beta"].joined())
    run.keeper.submit(run.hospitals["beta"].declined(1, "maintenance"))
    told = "\n".join(run.keeper.news())
    for line in (
        "alpha joined (1 of 3 present)",
        "key epoch 1: alpha makes the study key",
        "alpha posted the study key",
        "round 1 of 2: waiting for alpha, beta, gamma",
        "gamma uploaded",
        "round 1: adding 3 uploads",
        "round 1 of 2 published",
        "beta said goodbye",
        "beta declined round 2: maintenance",
        "the study has ended: UnderQuorum",
    ):
        assert line in told
    assert run.keeper.news() == []
