"""Who took part: the plan's hospitals against the verified cards and the verified transcript."""

from __future__ import annotations

from collections.abc import Sequence

from secure_fedhelp.audit.report.model import Participant, plain
from secure_fedhelp.audit.report.words import listed, ranges, rounds
from secure_fedhelp.audit.verify import Run
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.cards import MemberCard
from secure_fedhelp.identity.signing import ledger_key
from secure_fedhelp.wire.messages import FINAL_REASON
from secure_fedhelp.wire.transcript import TranscriptEntry


def participants(run: Run) -> tuple[Participant, ...]:
    """The coordinator, then the hospitals in the plan's order."""
    coordinators = [card for card in run.cards.values() if card.role == "coordinator"]
    found = [
        Participant(name=c.name, role="coordinator", key_fingerprint=_fingerprint(c), said=_of_coordinator(run))
        for c in coordinators
    ]
    return (*found, *(_hospital(run, h.name) for h in run.plan.hospitals))


def _of_coordinator(run: Run) -> str:
    if not run.transcript_verified:
        return "Its transcript does not verify."
    return f"Signed the transcript of {rounds(len(run.transcript))}; it holds no key that decrypts."


def _hospital(run: Run, name: str) -> Participant:
    section, card = run.plan.hospital(name), run.cards.get(name)
    return Participant(
        name=name,
        role="hospital",
        tier=section.tier,
        nominal_patients=section.nominal_patients,
        key_fingerprint=None if card is None else _fingerprint(card),
        ledger_key=None if card is None else ledger_key(card.signing_key),
        taken_part=tuple(e.round for e in run.transcript if name in {u.hospital for u in e.cohort}),
        declined=tuple(e.round for e in run.transcript if name in {d.hospital for d in e.declined}),
        absent=tuple(e.round for e in run.transcript if name in e.absent),
        said=plain(_said(run, name, card)),
    )


def _said(run: Run, name: str, card: MemberCard | None) -> str:
    if not run.transcript_verified:
        return "Not known: the transcript does not verify."
    if card is None:
        return "Did not join: the roster has no valid card of it."
    parts = [_presence(run.transcript, name)]
    parts += [_left_out(entry, name) for entry in run.transcript if name in {d.hospital for d in entry.declined}]
    absent = [entry.round for entry in run.transcript if name in entry.absent]
    if absent:
        parts.append(f"Not heard from in {ranges(absent)}.")
    return " ".join(parts)


def _presence(transcript: Sequence[TranscriptEntry], name: str) -> str:
    taken = [entry.round for entry in transcript if name in {u.hospital for u in entry.cohort}]
    if not transcript:
        return "No round was published."
    if len(taken) == len(transcript):
        return f"In the sum of {'every round' if len(taken) > 1 else 'the only round'}."
    return f"In the sum of {ranges(taken)}." if taken else "In no sum."


def _left_out(entry: TranscriptEntry, name: str) -> str:
    reason = next(d.reason for d in entry.declined if d.hospital == name)
    if reason == FINAL_REASON:
        return f"Its budget had ended before round {entry.round + 1}: it declined that round and all later ones."
    return f"Declined round {entry.round + 1} ({reason})."


def _fingerprint(card: MemberCard) -> str:
    """Of the certificate's key, as it is read out on the telephone when a certificate is asked for."""
    return pem.fingerprint(pem.public_der(pem.read_certificate(card.certificate.encode()).public_key()))


def names(of: Sequence[str], everybody: int) -> str:
    """Hospitals by name, or all of them."""
    return f"all {everybody} hospitals" if len(of) == everybody > 1 else listed(of)
