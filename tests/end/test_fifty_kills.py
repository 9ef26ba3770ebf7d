"""``kill -9`` at fifty random moments of one study: at no time an upload without an entry, and epsilon never goes down.

Everything runs as processes: the coordinator, and the hospitals (tests/support/light_hospitals.py). One hospital is
killed fifty times and started again each time. A dead hospital's ledger cannot change, and whatever of its uploads was
still on its way may arrive: so what holds while it is dead held at every moment before.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from light_hospitals import STAGES, Hospitals
from studies import Study, study, wait_until

from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.coordinator.events import Uploaded, parse_event
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.signing import ED25519, SigningKey
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.entries import LedgerEntry, Release, open_reservations, releases, spent
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.study.canonical import GENESIS
from secure_fedhelp.wire.messages import UploadHeader, parse_header

pytestmark = pytest.mark.end

KILLS = 50
KILLS_A_ROUND = 2
ROUNDS = KILLS // KILLS_A_ROUND + 1
VICTIM = "large-3"
HOSPITALS = (VICTIM, "small-1", "small-2")


def moments(seed: int) -> Iterator[tuple[int, str, int]]:
    """Fifty moments in the order of a study: round, stage, and how many looks at the hospital after it was seen."""
    chosen = random.Random(seed)
    for number in range(ROUNDS - 1):
        for stage in sorted(chosen.choices(STAGES, k=KILLS_A_ROUND), key=STAGES.index):
            # A look takes about twenty microseconds, and starting longer than anything after it.
            yield number, stage, chosen.randrange(10_000 if stage == "starting" else 2_000)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Study]:
    """A study of three hospitals, with its coordinator running."""
    # Nobody is given up: the hospital that dies comes back each time.
    seconds = dict.fromkeys((f"aggregation__{what}_deadline_seconds" for what in ("gather", "round", "answer")), 600.0)
    with study(tmp_path / "run", ROUNDS, HOSPITALS, **seconds) as made:
        made.start_coordinator()
        yield made


def read_as_the_client_does(running: Study, copy: Path) -> tuple[list[str], list[LedgerEntry]]:
    """Head after each number of entries, and the entries, of the victim's ledger: a torn last line is judged by the
    ledger's own code, on a copy."""
    folder = running.run.hospital(VICTIM)
    copy.write_bytes(folder.ledger.read_bytes() if folder.ledger.exists() else b"")
    key = SigningKey.load(folder.keys / "signing.key", open_lock(folder.root)).of(ED25519)
    with Ledger.open(copy, VICTIM, key, time.time) as ledger:
        return [GENESIS, *ledger.heads], list(ledger.entries)


def accepted(running: Study, copy: Path) -> list[UploadHeader]:
    """The headers of the victim's uploads that the coordinator has accepted, from a copy of its journal."""
    files = [running.run.coordinator / f"journal.sqlite{end}" for end in ("", "-wal")]

    def marks() -> list[tuple[int, int]]:
        return [(f.stat().st_mtime_ns, f.stat().st_size) if f.exists() else (0, 0) for f in files]

    before = None
    while before != marks():  # the others go on meanwhile: a copy made during a write is none
        before = marks()
        for file in files:
            if file.exists():  # the log is gone once the coordinator has ended
                shutil.copy(file, copy.with_name(copy.name + file.name.removeprefix("journal.sqlite")))
    with sqlite3.connect(copy) as database:
        events = [parse_event(text) for (text,) in database.execute("SELECT event FROM events ORDER BY number")]
    database.close()
    return [parse_header(e.header) for e in events if isinstance(e, Uploaded) and e.name == VICTIM]


def arriving(running: Study) -> list[int]:
    """Rounds of which the coordinator holds any byte of the victim's, accepted or not."""
    names = [path.name.split("-", 2) for path in (running.run.coordinator / "uploads").iterdir()]
    return [int(number) for number, _, rest in names if rest.startswith(f"{VICTIM}-")]


def require_paid(running: Study, headers: list[UploadHeader], heads: list[str], entries: list[LedgerEntry]) -> None:
    """Every upload names a ledger that this one goes on from, in which a release of that very round pays for it."""
    for header in headers:
        assert header.ledger_entries < len(heads), f"round {header.round}: the ledger has forgotten entries"
        assert heads[header.ledger_entries] == header.ledger_head, f"round {header.round}: another ledger"
        paying = [e for e in entries[: header.ledger_entries] if isinstance(e, Release) and e.round == header.round]
        assert [e.study for e in paying] == [running.plan.hash], f"round {header.round}: an upload without an entry"
    rounds = {e.round for e in entries if isinstance(e, Release)}
    assert set(arriving(running)) <= rounds, "bytes of an upload without an entry"


def test_no_kill_leaves_an_upload_without_an_entry_or_takes_epsilon_back(running: Study, tmp_path: Path) -> None:
    delta, last = running.plan.privacy_of(VICTIM).delta, 0.0
    reserved = unsent = 0
    with Hospitals(tmp_path / "hospitals.txt") as hospitals:

        def start(name: str) -> None:
            hospitals.start(name, running.run.hospital(name).root, running.run.plan, running.address)

        for name in HOSPITALS:
            start(name)
        for kill, (number, stage, looks) in enumerate(moments(seed=4)):
            killed = hospitals.kill(VICTIM, number, stage, looks)
            assert killed, (running.run.hospital(VICTIM).root / "log.txt").read_text(encoding="utf-8")
            copies = tmp_path / f"after-{kill}"
            copies.mkdir()
            headers = accepted(running, copies / "journal.sqlite")
            heads, entries = read_as_the_client_does(running, copies / "ledger.jsonl")
            require_paid(running, headers, heads, entries)
            now = epsilon(spent(entries), delta)
            assert now >= last, f"kill {kill}: epsilon went from {last} to {now}"
            last = now
            reserved += bool(open_reservations(entries))
            unsent += len(releases(entries)) > len(headers)
            start(VICTIM)
        assert [hospitals.wait(name) for name in HOSPITALS] == [0, 0, 0]
    assert kill + 1 == KILLS
    assert reserved, "no kill came between reservation and release"
    assert unsent, "no kill came between release and upload"

    # Nothing was lost or paid twice, and everybody was in every sum.
    assert running.cohorts() == [set(HOSPITALS)] * ROUNDS
    heads, entries = read_as_the_client_does(running, tmp_path / "ledger.jsonl")
    assert [e.round for e in entries if isinstance(e, Release)] == list(range(ROUNDS))
    wait_until((running.run.coordinator / "roster.json").exists)
    assert [f for f in verify_run(running.run.root, time.time()) if not f.ok] == []

    # And what was asked fifty times can be answered with no: one entry less, and the last upload is not paid for.
    headers = accepted(running, tmp_path / "journal.sqlite")
    assert [h.round for h in headers] == list(range(ROUNDS))
    with pytest.raises(AssertionError, match="has forgotten entries"):
        require_paid(running, headers, heads[:-1], entries[:-1])
    unpaid = [e for e in entries if not (isinstance(e, Release) and e.round == 3)]
    with pytest.raises(AssertionError, match="round 3: an upload without an entry"):
        require_paid(running, headers[3:4], heads, unpaid)
