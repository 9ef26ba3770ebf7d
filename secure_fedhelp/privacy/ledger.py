"""The privacy ledger: what a hospital has released, one signed line an entry, chained and never rewritten.

The kinds of entries are in entries.py; this file keeps them on a disk.

Each entry names the SHA-256 of the line before it, and the hospital's Ed25519 key signs it. So nobody without the key
can change, drop, reorder or insert an entry, and an auditor needs the file and the public key only. Cutting entries off
the end is the one thing a chain cannot show: the heads that the other hospitals witness in the transcript do.

**Spend, then release.** :meth:`Ledger.append` returns only after the line is on the disk, and an upload leaves only
after it returned. A crash in between leaves a spend without an upload, which is the safe side.

**A torn last line** (no line feed at the end) is what a crash during a write leaves. Its append never returned, so
nothing of it was uploaded, and :meth:`Ledger.open` cuts it off. One case is treated otherwise: if only the line feed is
missing and the entry is complete and validly signed, the entry is kept and the feed written, since somebody may have
removed the feed of an entry whose upload had left. Counting a spend that released nothing is safe, the reverse is not.
An entry that somebody cut in its middle looks like a crash; :meth:`Ledger.require_witnessed` tells the two apart for
every entry whose upload was published. A file damaged in any other way is refused and left as it is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from secure_fedhelp.errors import LedgerInvalid, LedgerLocked, StorageError
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.entries import (
    ChannelRelease,
    History,
    LedgerEntry,
    Release,
    Reservation,
    check_history,
    check_line,
    committed,
    parse_entry,
    signed_line,
    spent,
)
from secure_fedhelp.privacy.mechanisms import Event, Mechanism
from secure_fedhelp.privacy.noise import NoiseName
from secure_fedhelp.study.canonical import GENESIS, sha256_hex
from secure_fedhelp.study.files import sync_folder
from secure_fedhelp.study.reading import LEDGER, BoundedLines, LineTooLong, read_lines, require_fit

_OWNER_ONLY: Final = 0o600


class Ledger:
    """One hospital's ledger, open for appending in one place at a time. Made by :meth:`open`; a context manager."""

    def __init__(self, path: Path, file: int, hospital: str, key: SigningKey, clock: Callable[[], float]) -> None:
        """Verify and repair what ``file``, a locked descriptor of ``path``, holds. Use :meth:`open`."""
        self._path, self._file, self._hospital, self._key, self._clock = path, file, hospital, key, clock
        self._broken = False
        content = _Content()
        with os.fdopen(os.dup(file), "rb") as reading:  # flock holds until its last descriptor is closed
            self._history = check_history(content.entries(reading), str(path), key.public_hex)
        self._size = content.size
        if self.entries and self.entries[0].hospital != hospital:
            raise LedgerInvalid(f"{path}: the ledger of {self.entries[0].hospital}, not of {hospital}")
        if content.unended:
            self._write(b"\n")
        elif content.torn:
            os.ftruncate(file, self._size)
            os.fsync(file)

    @classmethod
    def open(cls, path: Path, hospital: str, key: SigningKey, clock: Callable[[], float]) -> Ledger:
        """Open or create the ledger of ``hospital``, verify all of it, and repair a torn last line (see above).

        ``clock`` gives unix seconds. Raises LedgerLocked if the file is open elsewhere, LedgerInvalid naming file,
        entry and reason if it does not verify or is another hospital's or key's, StorageError if it cannot be used.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, _OWNER_ONLY)
        except OSError as error:
            raise StorageError(f"cannot open the ledger {path}: {error.strerror}") from error
        try:
            # flock, not lockf: the latter is lost as soon as this process closes any other descriptor of the file.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            require_fit(file, LEDGER)
            sync_folder(path.parent)  # a new file must not vanish with its folder's cached entry
            return cls(path, file, hospital, key, clock)
        except BlockingIOError as error:
            os.close(file)
            raise LedgerLocked(f"{path} is open in another process") from error
        except LineTooLong as error:
            os.close(file)
            raise LedgerInvalid(f"{path}: entry {error.number}: {error.strerror}") from error
        except OSError as error:
            os.close(file)
            raise StorageError(f"cannot use the ledger {path}: {error.strerror}") from error
        except BaseException:
            os.close(file)
            raise

    # -- reading --------------------------------------------------------------------------------------------------

    @property
    def hospital(self) -> str:
        return self._hospital

    @property
    def entries(self) -> tuple[LedgerEntry, ...]:
        return tuple(self._history.entries)

    @property
    def count(self) -> int:
        return len(self._history.entries)

    @property
    def head(self) -> str:
        """SHA-256 of the last line (without its line feed) in hexadecimal; 64 zeros while the ledger is empty."""
        return self._history.head

    @property
    def heads(self) -> tuple[str, ...]:
        """SHA-256 of each line, in order."""
        return tuple(self._history.heads)

    @property
    def sources(self) -> frozenset[str]:
        """What a release may say it derives from: ``entry:SHA256`` of each release that was paid for in full."""
        return frozenset(self._history.sources)

    def events(self, study: str | None = None, apart: Container[str] = ()) -> list[Mechanism]:
        """The mechanisms of all releases in order, or of one study's (by plan hash); those about data sets in
        ``apart`` (by fingerprint) left out."""
        return spent(self._of(study, apart))

    def committed(self, study: str | None = None, apart: Container[str] = ()) -> list[Mechanism]:
        """As :meth:`events`, with what open reservations may yet spend."""
        return committed(self._of(study, apart))

    def reservation(self, study: str, round: int) -> Reservation | None:
        """The open reservation for a round (from 0) of a study."""
        return self._history.reservation(study, round)

    def _of(self, study: str | None, apart: Container[str]) -> list[LedgerEntry]:
        return [e for e in self.entries if (study is None or e.study == study) and e.dataset not in apart]

    def require_witnessed(self, entries: int, head: str) -> None:
        """Raise LedgerInvalid unless this ledger's first ``entries`` entries are those with head ``head``.

        What a hospital asks about its own uploads in the transcript: a ledger restored from an old backup verifies,
        but has forgotten what was spent since.
        """
        if entries > self.count or ([GENESIS, *self._history.heads][entries]) != head:
            raise LedgerInvalid(
                f"{self._path}: its {self.count} entries do not go on from the {entries} that the study witnessed",
                "An older copy was put in its place, or entries were removed: what they spent still counts. "
                "Restore the newest copy.",
            )

    # -- writing --------------------------------------------------------------------------------------------------

    def reserve(
        self, events: Sequence[Event], *, study: str, round: int, delta: float, dataset: str, unit: str = "patient"
    ) -> Reservation:
        """Write down what a round is going to ask of the records, and return when it is on the disk.

        StorageError as :meth:`release`; LedgerInvalid if the round is reserved already.
        """
        fields = {"study": study, "round": round, "unit": unit, "delta": delta, "dataset": dataset}
        entry = self._append({"kind": "reservation", "events": tuple(events), **fields})
        assert isinstance(entry, Reservation)  # noqa: S101  # by its kind
        return entry

    def void(self, reservation: Reservation) -> None:
        """Give an open reservation back: nothing of it was released. Errors as :meth:`release`."""
        same = reservation.model_dump(include={"study", "round", "unit", "delta", "dataset", "events"})
        self._append({"kind": "void", "reservation": reservation.index, **same})

    def release(
        self,
        events: Sequence[Event],
        *,
        study: str,
        round: int,
        delta: float,
        dataset: str,
        channels: Sequence[ChannelRelease],
        noise_source: NoiseName,
        unit: str = "patient",
    ) -> Release:
        """Sign and write one release; when this returns it is on the disk, and not before may anything leave.

        It settles the round's reservation, if there is one. Raises StorageError if it cannot be written; the file is
        then what it was. Raises LedgerInvalid if it contradicts an earlier entry, pydantic's ValidationError for
        fields that are no entry.
        """
        reserved = self.reservation(study, round)
        entry = self._append(
            {
                "kind": "release",
                "events": tuple(events),
                "study": study,
                "round": round,
                "unit": unit,
                "delta": delta,
                "dataset": dataset,
                "channels": tuple(sorted(channels, key=lambda c: c.name)),
                "noise_source": noise_source,
                "reservation": None if reserved is None else reserved.index,
            }
        )
        assert isinstance(entry, Release)  # noqa: S101  # by its kind
        return entry

    def _append(self, fields: dict[str, object]) -> LedgerEntry:
        if self._broken:
            raise StorageError(f"{self._path}: an earlier write failed and could not be undone")
        entry = parse_entry(
            {
                "index": self.count,
                "previous": self.head,
                "hospital": self._hospital,
                "public_key": self._key.public_hex,
                "time": int(self._clock()),
                **fields,
            }
        )
        self._history.require_next(entry)
        line = signed_line(entry, self._key)
        if self._size + len(line) >= LEDGER.largest:  # nobody would read it
            raise StorageError(f"{self._path}: {LEDGER.name} has at most {LEDGER.largest} bytes, and this one is full")
        self._write(line + b"\n")
        self._history.add(entry, line)
        return entry

    def close(self) -> None:
        """Release the lock. Closing twice is harmless."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._broken = -1, True

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += os.write(self._file, data[written:])
            os.fsync(self._file)
        except OSError as error:
            self._undo()
            raise StorageError(f"cannot write the ledger {self._path}: {error.strerror}") from error
        self._size += len(data)

    def _undo(self) -> None:
        """Back to the last good length; if even that fails, this object writes nothing any more."""
        try:
            os.ftruncate(self._file, self._size)
            os.fsync(self._file)
        except OSError:
            self._broken = True


def read_ledger(path: Path, public_hex: str | None = None) -> list[LedgerEntry]:
    """The verified entries of a ledger file, without a private key and without changing anything.

    ``public_hex`` None takes the key the file itself names: then it is consistent, but may be anybody's. Raises
    LedgerInvalid naming file, entry and reason, also for a torn last line, and StorageError if it cannot be read.
    """
    return read_history(path, public_hex).entries


def read_history(path: Path, public_hex: str | None = None) -> History:
    """As :func:`read_ledger`, with the hash of each line."""
    try:
        return check_history(_whole_lines(path), str(path), public_hex)
    except LineTooLong as error:
        raise LedgerInvalid(f"{path}: entry {error.number}: {error.strerror}") from error
    except OSError as error:
        raise StorageError(f"cannot read the ledger {path}: {error.strerror}", "Check the path.") from error


def _whole_lines(path: Path) -> Iterator[bytes]:
    """A ledger's lines without their line feeds, one by one: of a file that is none the first is refused."""
    for number, line in enumerate(read_lines(path, LEDGER)):
        if not line.endswith(b"\n"):
            raise LedgerInvalid(
                f"{path}: entry {number}: the last line is torn (no line feed)",
                "A crash of the hospital leaves this, as may a copy made during a write. Start the hospital's client "
                "once: it repairs the file; then copy it again.",
            )
        yield line[:-1]


class _Content:
    """What a ledger's file holds, told while its lines are read one by one."""

    def __init__(self) -> None:
        #: Bytes of all entries so far.
        self.size = 0
        #: Whether the last entry is whole and lacks its line feed only; whether it is none, and was torn.
        self.unended = self.torn = False

    def entries(self, file: BinaryIO) -> Iterator[bytes]:
        """Each entry's line without its line feed. OSError for a line that no write of ours can have begun."""
        count, last = 0, b""
        for line in BoundedLines(file, LEDGER):
            if not line.endswith(b"\n"):
                self.unended = _is_entry(line, count, last)
                self.torn = not self.unended
                if self.torn:
                    return
            self.size += len(line)
            count, last = count + 1, line.removesuffix(b"\n")
            yield last


def _is_entry(torn: bytes, count: int, last: bytes) -> bool:
    """Whether a line without its line feed is a whole, signed entry after ``count`` lines, whoever's it is."""
    try:
        check_line(torn, count, sha256_hex(last) if count else GENESIS, None)
    except LedgerInvalid:
        return False
    return True
