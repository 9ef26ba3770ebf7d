"""Which patients a budget is about, without naming them: fingerprints under a secret of the hospital.

Every ledger entry names the *data set* it was made from by a fingerprint, so that two studies on the same patients are
charged to the same patients even if their files, columns or labels differ: only the identifiers count. Fingerprints are
HMAC-SHA256 under a key derived from the hospital's signing key, so the ledger, which auditors and perhaps courts read,
lets nobody test whether a person is among the patients.

Data sets grow. Whoever joins a study with ten more patients has another fingerprint and mostly the same patients, so
comparing fingerprints is not enough: :class:`PatientBook`, a sealed file beside the ledger, remembers each data set's
patients (as keyed hashes of 16 bytes). A data set counts as *apart* only if it is in the book and shares no patient
with the study's. A fingerprint that the book does not know counts as the same patients: a lost book can only make a
budget smaller.

The book also remembers how far its ledger had come: one that was deleted, or an older copy that was put back between
two studies, does not pass for one that has spent less.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from secure_fedhelp.errors import LedgerInvalid, StorageError
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.study.canonical import GENESIS
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.patients import canonical_patient, former_spellings
from secure_fedhelp.study.reading import PATIENT_BOOK, read_bounded

#: A key of 32 bytes for a purpose; made from the hospital's signing key.
KEY_PURPOSE: Final = "data-set-fingerprints"
_HASH_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_CONTEXT: Final = b"secure-fedhelp/patient-book/1"
_HINT: Final = (
    "Restore it from a backup. If there is none, delete it: every earlier data set then counts as the same patients."
)
_FULL: Final = "Begin another ledger for other patients: nothing was trained and nothing was spent."


class PatientBook:
    """The data sets that a ledger's entries are about; the file is ``LEDGER.patients``, sealed.

    ``key`` is 32 secret bytes, the same for every folder of the hospital that uses the ledger.
    """

    def __init__(self, ledger: Path, key: bytes) -> None:
        """Read the book beside ``ledger``; StorageError if it cannot be read, LedgerInvalid if it does not open."""
        self._path = ledger.with_name(ledger.name + ".patients")
        self._hash_key, self._seal_key = _derive(key, b"hash"), _derive(key, b"seal")
        self._sets: dict[str, frozenset[str]] = {}
        #: The same patients as an earlier version may have entered them (study/patients.py).
        self._former: dict[str, frozenset[str]] = {}
        self._seen: tuple[int, str] = (0, GENESIS)
        self._read()

    def enter(self, patients: Iterable[str]) -> str:
        """Remember a data set by its patients' identifiers, on the disk; its fingerprint."""
        people = frozenset(map(canonical_patient, patients))
        if not people:
            raise ValueError("a data set without patients")
        hashes = self._hashes(people)
        former = self._hashes(spelling for patient in people for spelling in former_spellings(patient))
        fingerprint = self._keyed(b"\0data-set\0" + "".join(sorted(hashes)).encode())
        if (self._sets.get(fingerprint), self._former.get(fingerprint)) != (hashes, former):
            self._sets[fingerprint], self._former[fingerprint] = hashes, former
            self._write()
        return fingerprint

    def apart(self, fingerprint: str) -> frozenset[str]:
        """Data sets of this book that share no patient with the one of this fingerprint; none if it is unknown."""
        if fingerprint not in self._sets:
            return frozenset()
        own = self._ever(fingerprint)
        return frozenset(name for name in self._sets if not self._ever(name) & own)

    def patients(self, fingerprint: str) -> int | None:
        """How many patients a data set has; None if the book does not know it."""
        found = self._sets.get(fingerprint)
        return None if found is None else len(found)

    def _ever(self, fingerprint: str) -> frozenset[str]:
        """Hashes of a data set's patients, in every spelling that a version of this program gave them."""
        return self._sets[fingerprint] | self._former.get(fingerprint, frozenset())

    def _hashes(self, spellings: Iterable[str]) -> frozenset[str]:
        return frozenset(self._keyed(spelling.encode())[: 2 * _HASH_BYTES] for spelling in spellings)

    def _keyed(self, data: bytes) -> str:
        return hmac.digest(self._hash_key, data, "sha256").hex()

    def follow(self, ledger: Ledger) -> None:
        """Hold the ledger against what was seen of it, and remember how far it is now. LedgerInvalid if it does not go
        on from there."""
        ledger.require_witnessed(*self._seen)
        now = ledger.count, ledger.head
        if now != self._seen:
            self._seen = now
            self._write()

    def _read(self) -> None:
        try:
            sealed = read_bounded(self._path, PATIENT_BOOK)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror or error}") from error
        try:
            data = AESGCM(self._seal_key).decrypt(sealed[:_NONCE_BYTES], memoryview(sealed)[_NONCE_BYTES:], _CONTEXT)
        except (InvalidTag, ValueError) as error:
            raise LedgerInvalid(f"{self._path} is damaged, or was made with another signing key", _HINT) from error
        record = json.loads(data)
        self._sets = {name: frozenset(patients) for name, patients in record["sets"].items()}
        self._former = {name: frozenset(patients) for name, patients in record.get("former", {}).items()}
        self._seen = record["entries"], record["head"]

    def _write(self) -> None:
        sets = {name: sorted(patients) for name, patients in sorted(self._sets.items())}
        former = {name: sorted(patients) for name, patients in sorted(self._former.items())}
        data = json.dumps({"sets": sets, "former": former, "entries": self._seen[0], "head": self._seen[1]}).encode()
        if len(data) > PATIENT_BOOK.largest - 1024:  # nobody would read it
            raise StorageError(f"{self._path}: {PATIENT_BOOK.name} has at most {PATIENT_BOOK.largest} bytes", _FULL)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        write_atomic(self._path, nonce + AESGCM(self._seal_key).encrypt(nonce, data, _CONTEXT), 0o600)


def _derive(key: bytes, purpose: bytes) -> bytes:
    return hmac.digest(key, _CONTEXT + b"/" + purpose, sha256)
