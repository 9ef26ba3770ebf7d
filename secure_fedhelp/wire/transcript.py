"""The coordinator's transcript, checked: pure rules over bytes, the same for a hospital and for an auditor.

A hospital runs them before it decrypts anything, an auditor years later from the file. The rules, line by line:

1. a line is one canonical JSON object, signed by the coordinator's key for ``transcript-entry``;
2. it is of this study, rounds count from 0 without a gap, and it names the SHA-256 of the line before;
3. the cohort is sorted, each hospital once, each a member, and each header is signed by that member's own key for
   ``upload-header``, and is of this study, round and key epoch. It names the same line before as the entry does, so
   hospitals that were shown different transcripts never share a cohort; and all headers of a key epoch name the same
   study key, the epoch being the one the rule of :func:`epoch_ends` gives;
4. a hospital's ledger only grows from round to round: fewer entries, or another head at the same length, is another
   ledger;
5. declines are signed by who declined; one with the final reason takes the hospital out of all later rounds;
6. cohort, declined and absent have nobody in common and name hospitals of the plan alone, and every member is in one of
   them or was out before;
7. with masks, the cohort is the list of survivors that at least the plan's threshold of them have signed, each upload
   under the same view of keys and shares; without, nobody has signed any.

What a round needs beyond that (is *my* upload in it, is the cohort large enough) is for the hospital to ask.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from secure_fedhelp.errors import BadSignature, KeyEpochRolledBack, NotOnRoster, SplitView, TranscriptInvalid
from secure_fedhelp.identity.signing import SIGNATURE_PATTERN, verify
from secure_fedhelp.secagg.masked.checks import check_agreement
from secure_fedhelp.secagg.masked.statements import SurvivorsStatement
from secure_fedhelp.study.canonical import GENESIS, canonical_bytes, sha256_hex
from secure_fedhelp.study.plan import StudyPlan, explain
from secure_fedhelp.study.sections import Name, Sha256, Strict
from secure_fedhelp.wire.messages import (
    DECLINE_CONTEXT,
    FINAL_REASON,
    HEADER_CONTEXT,
    NO_VIEW,
    TRANSCRIPT_CONTEXT,
    UploadHeader,
    decline_statement,
)

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Signature = Annotated[str, Field(pattern=SIGNATURE_PATTERN)]


class SignedUpload(Strict):
    """One hospital's upload as the transcript keeps it: its header, and the hospital's signature over that."""

    header: UploadHeader
    signature: _Signature

    @property
    def hospital(self) -> str:
        return self.header.hospital


class SignedRefusal(Strict):
    """A hospital's signed statement that it left out this round, or with the final reason all that follow."""

    hospital: Name
    reason: Annotated[str, Field(max_length=128)]
    signature: _Signature


class SignedAgreement(Strict):
    """A survivor's signature on the list of survivors (secagg/masked/statements.py)."""

    hospital: Name
    signature: _Signature


class TranscriptEntry(Strict):
    """What the coordinator did in one round. ``members`` gave round keys in the attempt that was published."""

    format: Literal[2]
    study: Sha256
    round: _Count
    key_epoch: _Count
    previous: Sha256
    cohort: tuple[SignedUpload, ...]
    declined: tuple[SignedRefusal, ...]
    absent: tuple[Name, ...]
    attempt: _Count
    members: tuple[Name, ...]
    view: Sha256
    agreed: tuple[SignedAgreement, ...]
    sum_bytes: _Count
    sum_sha256: Sha256

    @property
    def left(self) -> bool:
        """Whether somebody left for good in this round."""
        return any(d.reason == FINAL_REASON for d in self.declined)

    @property
    def survivors(self) -> SurvivorsStatement:
        """The list that the cohort has agreed on, as its members signed it."""
        return SurvivorsStatement(
            study=self.study,
            round=self.round,
            attempt=self.attempt,
            members=self.members,
            survivors={u.hospital: u.header.body_sha256 for u in self.cohort},
            view=self.view,
        )


@dataclass(frozen=True)
class WitnessedHead:
    """How many entries a hospital's ledger had in a round, and the SHA-256 of the last, signed by the hospital."""

    round: int
    entries: int
    head: str


#: Of a line of the transcript, for each hospital and for the rest: far more than its keys, hashes and signatures take,
#: and far less than what parsing it could not be afforded with (some twenty times its length in memory).
LARGEST_LINE_A_HOSPITAL = 64 * 2**10


class TranscriptChecker:
    """The rules above, one line at a time. After an error it must not be used on."""

    def __init__(self, coordinator_public_hex: str, member_public_hex: Mapping[str, str], plan: StudyPlan) -> None:
        self._coordinator, self._members, self._plan = coordinator_public_hex, dict(member_public_hex), plan
        self._round, self._epoch, self._previous = 0, 0, GENESIS
        self._epoch_began = 0
        self._fingerprint = ""  # of the epoch's study key; empty before its first upload
        self._out: set[str] = set()
        self._ledgers: dict[str, WitnessedHead] = {}

    @property
    def round(self) -> int:
        """Entries checked so far: the round the next one is about."""
        return self._round

    @property
    def key_epoch(self) -> int:
        """The key epoch of the next entry's round."""
        return self._epoch

    @property
    def previous(self) -> str:
        """SHA-256 of the last line; 64 zeros before the first."""
        return self._previous

    @property
    def out(self) -> frozenset[str]:
        """Hospitals that have left for good, by their own signed statements."""
        return frozenset(self._out)

    def check(self, line: bytes) -> TranscriptEntry:
        """The entry of the next line (without its line feed); TranscriptInvalid names the entry and the reason."""
        try:
            entry = self._signed_entry(line)
            self._check_place(entry)
            self._check_cohort(entry)
            self._check_key(entry)
            self._check_others(entry)
            self._check_agreement(entry)
        except TranscriptInvalid as error:
            raise type(error)(f"transcript entry {self._round}: {error.message}") from error
        except NotOnRoster as error:
            raise TranscriptInvalid(f"transcript entry {self._round}: {error.message}") from error
        self._round, self._previous = self._round + 1, sha256_hex(line)
        if epoch_ends(self._plan, self._epoch_began, self._round, entry.left):
            self._epoch, self._epoch_began, self._fingerprint = self._epoch + 1, self._round, ""
        self._out |= {d.hospital for d in entry.declined if d.reason == FINAL_REASON}
        return entry

    def _signed_entry(self, line: bytes) -> TranscriptEntry:
        if len(line) > (largest := LARGEST_LINE_A_HOSPITAL * (1 + len(self._plan.hospitals))):
            raise TranscriptInvalid(f"{len(line)} bytes, at most {largest} in a study of so many hospitals")
        try:
            values = json.loads(line)
            signature = bytes.fromhex(values["signature"])
            # The signature first: only the coordinator's own words are worth looking at.
            given = canonical_bytes(values["entry"])
            _require_signature(self._coordinator, TRANSCRIPT_CONTEXT, given, signature.hex(), "the coordinator")
            entry = TranscriptEntry.model_validate(values["entry"])
            signed = canonical_bytes(entry.model_dump(mode="json"))
        except ValidationError as error:
            raise TranscriptInvalid(f"malformed: {explain(error)}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise TranscriptInvalid("not a signed entry in JSON") from error
        # The hash of a line is what the next one names, so a line must have one spelling only.
        if signed != given or canonical_bytes({"entry": json.loads(signed), "signature": signature.hex()}) != line:
            raise TranscriptInvalid("not in canonical form")
        return entry

    def _check_place(self, entry: TranscriptEntry) -> None:
        if entry.study != self._plan.hash:
            raise TranscriptInvalid(f"it is of study {entry.study[:16]}, this is {self._plan.hash[:16]}")
        if entry.round != self._round:
            raise TranscriptInvalid(f"it is about round {entry.round + 1}: a round is missing, doubled or moved")
        if entry.previous != self._previous:
            raise TranscriptInvalid("it does not follow the entry before: one was changed, dropped or moved")
        if entry.key_epoch != self._epoch:
            raise KeyEpochRolledBack(f"it has key epoch {entry.key_epoch}, in this round it is epoch {self._epoch}")

    def _check_cohort(self, entry: TranscriptEntry) -> None:
        _require_sorted([u.hospital for u in entry.cohort], "cohort")
        for upload in entry.cohort:
            header, name = upload.header, upload.hospital
            if name in self._out:
                raise TranscriptInvalid(f"{name} had left the study for good, and is in the cohort")
            if (header.study, header.round, header.key_epoch) != (entry.study, entry.round, entry.key_epoch):
                raise TranscriptInvalid(f"the upload of {name} is of another study, round or key epoch")
            if (header.attempt, header.view) != (entry.attempt, entry.view):
                raise SplitView(f"the upload of {name} is of another attempt, or it was shown other keys and shares")
            if header.previous != entry.previous:
                raise TranscriptInvalid(f"{name} was shown another transcript before this entry")
            signed = canonical_bytes(header.model_dump(mode="json"))
            _require_signature(self._key(name), HEADER_CONTEXT, signed, upload.signature, name)
            self._check_ledger(header)

    def _check_key(self, entry: TranscriptEntry) -> None:
        for upload in entry.cohort:
            self._fingerprint = self._fingerprint or upload.header.key_fingerprint
            if upload.header.key_fingerprint != self._fingerprint:
                raise TranscriptInvalid(
                    f"{upload.hospital} used key {upload.header.key_fingerprint[:16]} of epoch {entry.key_epoch}, "
                    f"others used key {self._fingerprint[:16]}"
                )

    def _check_agreement(self, entry: TranscriptEntry) -> None:
        _require_sorted(list(entry.members), "members")
        _require_sorted([a.hospital for a in entry.agreed], "agreed")
        if self._plan.aggregation.masks == "none":
            if (entry.members, entry.agreed, entry.attempt, entry.view) != ((), (), 0, NO_VIEW):
                raise TranscriptInvalid("it speaks of masks, and the plan has none")
            return
        signatures = {a.hospital: bytes.fromhex(a.signature) for a in entry.agreed}
        keys = {name: self._key(name) for name in entry.members}
        minimum = self._plan.aggregation.minimum_cohort
        check_agreement(self._plan.aggregation.masks, minimum, entry.survivors, signatures, keys)

    def _check_ledger(self, header: UploadHeader) -> None:
        now = WitnessedHead(header.round, header.ledger_entries, header.ledger_head)
        before = self._ledgers.get(header.hospital, WitnessedHead(0, 0, now.head))
        if now.entries < before.entries or (now.entries == before.entries and now.head != before.head):
            raise TranscriptInvalid(
                f"the ledger of {header.hospital} had {before.entries} entries in round {before.round + 1}, "
                f"now it has {now.entries} and does not go on from them"
            )
        self._ledgers[header.hospital] = now

    def _check_others(self, entry: TranscriptEntry) -> None:
        declined = [d.hospital for d in entry.declined]
        _require_sorted(declined, "declined")
        _require_sorted(list(entry.absent), "absent")
        for decline in entry.declined:
            statement = decline_statement(entry.study, entry.round, decline.hospital, decline.reason)
            key = self._key(decline.hospital)
            _require_signature(key, DECLINE_CONTEXT, statement, decline.signature, decline.hospital)
        everybody = [u.hospital for u in entry.cohort] + declined + list(entry.absent)
        if len(set(everybody)) != len(everybody):
            raise TranscriptInvalid("a hospital is in two of cohort, declined and absent")
        strangers = set(entry.absent) - {h.name for h in self._plan.hospitals}
        if strangers:
            raise TranscriptInvalid(f"it names {', '.join(sorted(strangers))} absent, of which the plan says nothing")
        missing = self._members.keys() - set(everybody) - self._out
        if missing:
            raise TranscriptInvalid(f"it does not account for {', '.join(sorted(missing))}")

    def _key(self, name: str) -> str:
        if name not in self._members:
            raise TranscriptInvalid(f"{name} is no member")
        return self._members[name]


def epoch_ends(plan: StudyPlan, began: int, following: int, left: bool) -> bool:
    """Whether a new key epoch begins with round ``following``, the present one having begun with round ``began``.

    After the plan's number of rounds, and whenever somebody ``left`` for good in the round before: whoever has left
    shall open nothing any more.
    """
    return left or following - began >= plan.aggregation.key_epoch_rounds


def verify_transcript(
    lines: Iterable[bytes], coordinator_public_hex: str, member_public_hex: Mapping[str, str], plan: StudyPlan
) -> list[TranscriptEntry]:
    """All entries of a transcript, once every rule above holds for every line; TranscriptInvalid otherwise.

    ``lines`` are without line feeds. ``member_public_hex`` gives the signing key of each hospital that joined, from
    its checked card.
    """
    checker = TranscriptChecker(coordinator_public_hex, member_public_hex, plan)
    return [checker.check(line) for line in lines]


def witnessed_heads(entries: Sequence[TranscriptEntry]) -> dict[str, list[WitnessedHead]]:
    """Each hospital's ledger as the study witnessed it, round by round; absent rounds are left out."""
    heads: dict[str, list[WitnessedHead]] = {}
    for entry in entries:
        for upload in entry.cohort:
            header = upload.header
            witnessed = WitnessedHead(entry.round, header.ledger_entries, header.ledger_head)
            heads.setdefault(header.hospital, []).append(witnessed)
    return heads


def _require_signature(public_hex: str, context: str, message: bytes, signature: str, who: str) -> None:
    try:
        verify(public_hex, context, message, bytes.fromhex(signature))
    except BadSignature as error:
        raise TranscriptInvalid(f"the signature of {who} ({context}) does not hold") from error


def _require_sorted(names: list[str], what: str) -> None:
    if names != sorted(set(names)):
        raise TranscriptInvalid(f"{what} is not sorted, or names a hospital twice")
