"""Epsilon recomputed from a ledger file alone: no keys, no data, no trust in whoever claimed it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secure_fedhelp.identity.signing import ledger_key
from secure_fedhelp.privacy.accountant import cross_check
from secure_fedhelp.privacy.entries import releases, spent
from secure_fedhelp.privacy.ledger import read_ledger


@dataclass(frozen=True)
class EpsilonReport:
    """What one ledger adds up to. ``pld`` is the figure of record; ``rdp`` bounds the same from above, more loosely."""

    hospital: str
    unit: str
    delta: float
    entries: int
    pld: float
    rdp: float
    #: The key that signed the file, and where its noise came from; empty for a ledger without entries.
    public_key: str
    noise_sources: tuple[str, ...]


def recompute(path: Path, public_hex: str | None = None, delta: float | None = None) -> EpsilonReport:
    """Verify the ledger at ``path`` and compose everything in it, whatever its study.

    ``public_hex`` is the hospital's signing key of either suite, if the auditor has it from a card; None takes the one
    the file names.
    ``delta`` None takes the smallest of the entries', which gives the largest epsilon. Raises LedgerInvalid,
    StorageError if it cannot be read, AccountantDisagreement if the two accountants contradict each other.
    """
    entries = read_ledger(path, None if public_hex is None else ledger_key(public_hex))
    if not entries:
        return EpsilonReport("(no entries)", "patient", delta or 0.0, 0, 0.0, 0.0, "", ())
    used = min(e.delta for e in entries) if delta is None else delta
    both = cross_check(spent(entries), used, by="dp-accounting")
    return EpsilonReport(
        hospital=entries[0].hospital,
        unit=entries[0].unit,
        delta=used,
        entries=len(entries),
        pld=both.pld,
        rdp=both.rdp,
        public_key=entries[0].public_key,
        noise_sources=tuple(sorted({e.noise_source for e in releases(entries)})),
    )
