"""Whatever somebody does to a ledger or a transcript, ``audit verify`` names the file, the entry and the reason.

One test over all manipulations. A flipped byte is tried at *every* position of a ledger and of the transcript, by the
reader that the audit uses; at every 61st position, and for everything else, by the command itself. What was verified
once in this process is not verified again (signatures and cards are pure functions of what they are given), so a flip
costs what it changes and the whole takes seconds.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
from consortia import NOW
from plans import example_plan
from runs import Run, make_run
from typer.testing import CliRunner

from secure_fedhelp.audit import verify as auditing
from secure_fedhelp.audit.transcript import read_transcript
from secure_fedhelp.cli.audit import app
from secure_fedhelp.errors import LedgerInvalid, TranscriptInvalid
from secure_fedhelp.identity.cards import MemberCard
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy import entries as ledger_entries
from secure_fedhelp.privacy.ledger import read_ledger
from secure_fedhelp.study.canonical import canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire import transcript as transcript_rules

PLAN = example_plan()
LEDGER, TRANSCRIPT = "hospitals/beta/ledger.jsonl", "coordinator/transcript.jsonl"
#: Chunks of a file that are one test each.
CHUNKS = 4


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "honest", PLAN, rounds=2)


@pytest.fixture
def run(honest: Run, tmp_path: Path) -> Run:
    shutil.copytree(honest.root, tmp_path / "run", ignore=shutil.ignore_patterns("consortium"))
    return Run(tmp_path / "run", PLAN, honest.scribe, honest.consortium)


@pytest.fixture(autouse=True)
def _remember_what_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what succeeded is remembered: a function that raises is asked again."""
    for module in (ledger_entries, transcript_rules):
        monkeypatch.setattr(module, "verify", _verify)
    monkeypatch.setattr(auditing, "check_card", _check_card_once)
    monkeypatch.setattr("time.time", lambda: NOW)


_verify = lru_cache(maxsize=None)(ledger_entries.verify)
_check_card = auditing.check_card
_cards: dict[tuple[bytes, bytes, float], MemberCard] = {}


def _check_card_once(card: bytes, ca: bytes, plan: StudyPlan, now: float) -> MemberCard:
    if (card, ca, now) not in _cards:
        _cards[(card, ca, now)] = _check_card(card, ca, plan, now)
    return _cards[(card, ca, now)]


# -- what can be done to a file --------------------------------------------------------------------------------------

#: What a file becomes, which entry is to be named, and for what reason.
Forgery = tuple[bytes, int, str]


@dataclass(frozen=True)
class Manipulation:
    name: str
    file: str
    forgeries: Callable[[Run, bytes], Iterator[Forgery]]
    #: Every so many forgeries one goes through the command; the others through the reader that it uses.
    through_command: int = 1

    def __str__(self) -> str:
        return f"{self.file.rsplit('/')[-1]}: {self.name}"


def flips(chunk: int) -> Callable[[Run, bytes], Iterator[Forgery]]:
    """Every byte of one of CHUNKS pieces of the file: another digit or letter, or upper case, which hexadecimal allows.

    A flip that leaves valid JSON is harder to see than one that does not.
    """

    def forge(run: Run, content: bytes) -> Iterator[Forgery]:
        for position in range(chunk * len(content) // CHUNKS, (chunk + 1) * len(content) // CHUNKS):
            forged = bytearray(content)
            forged[position] ^= 0x20 if position % 2 and forged[position] in b"abcdef" else 0x01
            yield bytes(forged), content.count(b"\n", 0, position), r"\w+"

    return forge


def lines_of(content: bytes) -> list[bytes]:
    return content.splitlines(keepends=True)


def drop_last(run: Run, content: bytes) -> Iterator[Forgery]:
    kept = lines_of(content)[:-1]
    yield b"".join(kept), len(kept), "dropped|missing"


def reorder(run: Run, content: bytes) -> Iterator[Forgery]:
    lines = lines_of(content)
    for first, second in pairwise(range(len(lines))):
        swapped = [*lines[:first], lines[second], lines[first], *lines[second + 1 :]]
        yield b"".join(swapped), first, "moved"


def drop_in_the_middle(run: Run, content: bytes) -> Iterator[Forgery]:
    lines = lines_of(content)
    for number in range(len(lines) - 1):
        yield b"".join([*lines[:number], *lines[number + 1 :]]), number, "missing|moved"


def double(run: Run, content: bytes) -> Iterator[Forgery]:
    lines = lines_of(content)
    for number, line in enumerate(lines):
        yield b"".join([*lines[:number], line, *lines[number:]]), number + 1, "doubled"


def resign_ledger(run: Run, content: bytes) -> Iterator[Forgery]:
    """By another key: one entry, under the old key's name and under its own; then all, with a chain that holds."""
    key = SigningKey.generate()
    lines = [json.loads(line) for line in content.splitlines()]
    for number, line in enumerate(lines):
        kept = [canonical_bytes(other) + b"\n" for other in lines]
        kept[number] = signed("ledger-entry", line["entry"], key)
        yield b"".join(kept), number, "signature does not hold"
        kept[number] = signed("ledger-entry", line["entry"] | {"public_key": key.public_hex}, key)
        # Of the first entry the file takes whatever key it names; then the others were signed by another.
        yield b"".join(kept), number or 1, "names key|does not follow"
    forged: list[bytes] = []
    for line in lines:
        previous = sha256_hex(forged[-1][:-1]) if forged else "0" * 64
        forged.append(signed("ledger-entry", line["entry"] | {"public_key": key.public_hex, "previous": previous}, key))
    yield b"".join(forged), 0, f"is of beta with key {key.public_hex[:16]}, not beta's"


def resign_transcript(run: Run, content: bytes) -> Iterator[Forgery]:
    key = SigningKey.generate()
    for number, line in enumerate(lines_of(content)):
        forged = lines_of(content)
        forged[number] = signed("transcript-entry", json.loads(line)["entry"], key)
        yield b"".join(forged), number, "signature of the coordinator"


def resign_upload(run: Run, content: bytes) -> Iterator[Forgery]:
    """The coordinator itself replaces a hospital's header and signs everything: all but the hospital's signature."""
    number = len(lines_of(content)) - 1
    forged = lines_of(content)
    entry = json.loads(forged[number])["entry"]
    header = entry["cohort"][1]["header"] | {"ledger_entries": 2}
    entry["cohort"][1] = {
        "header": header,
        "signature": SigningKey.generate().sign("upload-header", canonical_bytes(header)).hex(),
    }
    forged[number] = signed("transcript-entry", entry, run.scribe.coordinator)
    yield b"".join(forged), number, "signature of beta"


def signed(context: str, entry: dict[str, object], key: SigningKey) -> bytes:
    signature = key.sign(context, canonical_bytes(entry)).hex()
    return canonical_bytes({"entry": entry, "signature": signature}) + b"\n"


def older_copies(run: Run, content: bytes) -> Iterator[Forgery]:
    """As the file was at any earlier time, from empty on."""
    lines = lines_of(content)
    for kept in range(len(lines)):
        yield b"".join(lines[:kept]), kept, "older copy|missing"


def rewritten(run: Run, content: bytes) -> Iterator[Forgery]:
    """The hospital's own key, another history of the same length: what the other hospitals witnessed is not it."""
    run.ledger("beta").unlink()
    for number in range(2):
        run.spend("beta", number + 2)  # rounds 3 and 4 for rounds 1 and 2
    forged = run.ledger("beta").read_bytes()
    assert len(lines_of(forged)) == len(lines_of(content))
    yield forged, 1, "does not go on from them"


def of_another_hospital(run: Run, content: bytes) -> Iterator[Forgery]:
    yield run.ledger("gamma").read_bytes(), 0, "the ledger is of gamma"


MANIPULATIONS = [
    Manipulation(f"flip every byte of part {chunk + 1}", file, flips(chunk), through_command=61)
    for file in (LEDGER, TRANSCRIPT)
    for chunk in range(CHUNKS)
] + [
    *(Manipulation("drop the last entry", file, drop_last) for file in (LEDGER, TRANSCRIPT)),
    *(Manipulation("drop an entry before it", file, drop_in_the_middle) for file in (LEDGER, TRANSCRIPT)),
    *(Manipulation("reorder two entries", file, reorder) for file in (LEDGER, TRANSCRIPT)),
    *(Manipulation("double an entry", file, double) for file in (LEDGER, TRANSCRIPT)),
    *(Manipulation("an older copy", file, older_copies) for file in (LEDGER, TRANSCRIPT)),
    Manipulation("signed again by another key", LEDGER, resign_ledger),
    Manipulation("signed again by another key", TRANSCRIPT, resign_transcript),
    Manipulation("a header signed by another key", TRANSCRIPT, resign_upload),
    Manipulation("another history by the same key", LEDGER, rewritten),
    Manipulation("another hospital's file", LEDGER, of_another_hospital),
]


@pytest.mark.parametrize("manipulation", MANIPULATIONS, ids=str)
def test_every_manipulation_is_found(manipulation: Manipulation, run: Run) -> None:
    path = run.root / manipulation.file
    content = path.read_bytes()
    forgeries = list(manipulation.forgeries(run, content))
    assert forgeries
    for number, (forged, entry, reason) in enumerate(forgeries):
        assert forged != content
        path.write_bytes(forged)
        named = rf"{re.escape(manipulation.file)}: (transcript )?entry {entry}\b.*({reason})"
        if number % manipulation.through_command == 0:
            code, output = audit(run)
            assert code == 1, (number, output)
            assert re.search(named, output), (number, named, output)
        else:
            assert re.search(named, refusal(run, path)), (number, named)
    path.write_bytes(content)
    assert audit(run)[0] == 0, "an honest run passes, so it was the manipulation that was found"


def audit(run: Run) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["verify", str(run.root), "--ca", str(run.root / "ca.crt")], catch_exceptions=False)
    return done.exit_code, done.output


def refusal(run: Run, path: Path) -> str:
    """Why the audit's reader of this file refuses it."""
    try:
        if path == run.transcript:
            read_transcript(path, run.scribe.coordinator.public_hex, run.scribe.member_keys, run.plan)
        else:
            read_ledger(path)
    except (LedgerInvalid, TranscriptInvalid) as error:
        return error.message
    return "nothing"
