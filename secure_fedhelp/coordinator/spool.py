"""The large files of a study: bodies of the running round, complete or partial, and the published sums.

    uploads/ROUND-ATTEMPT-HOSPITAL-SHA256    a body, appended to as it arrives; whole once the journal says so
    sums/ROUND.sum                           a published sum; kept, so that a hospital that comes back can catch up

Bodies are erased when their round's sum is published, and when another attempt at the round begins: nothing needs a
single hospital's ciphertext after that.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from secure_fedhelp.errors import BadSignature, ProtocolError, StorageError
from secure_fedhelp.secagg.packing import SumAccumulator, check_body
from secure_fedhelp.secagg.profiles import SEED_BYTES, Profile
from secure_fedhelp.study.files import storage_error, write_atomic
from secure_fedhelp.wire.messages import CHUNK_BYTES, UploadHeader

#: Writes bytes to a descriptor and returns how many were written, as os.write does.
Write = Callable[[int, bytes], int]
#: Device, inode, size, time of the last write and of the last change of any kind (nanoseconds).
_Mark = tuple[int, ...]
#: File systems note times in steps of some milliseconds.
_CLOCK_STEP_NS = 20_000_000


class Spool:
    """Bodies and sums under ``folder``. Calls about one hospital come one at a time; others may run beside them.

    Every method raises StorageError if the disk is full or cannot be read or written.
    """

    def __init__(self, folder: Path, profile: Profile, length: Callable[[int], int], write: Write = os.write) -> None:
        """``length`` says how many values the bodies of a round have."""
        self._uploads, self._sums = folder / "uploads", folder / "sums"
        self._profile, self._length, self._write = profile, length, write
        #: Bodies that this process has hashed, with the file as it was then.
        self._hashed: dict[str, _Mark] = {}
        try:
            for place in (self._uploads, self._sums):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot create {folder}: {error.strerror or error}") from error

    # -- bodies -------------------------------------------------------------------------------------------------------

    def offset(self, header: UploadHeader) -> int:
        """Bytes of this very body that are stored."""
        try:
            return self._path(header).stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise _storage_error(self._path(header), error) from error

    def append(self, header: UploadHeader, data: bytes) -> int:
        """Store the next bytes of a body, synced to the disk; returns the new offset.

        A first piece erases what the hospital sent of any other body in this round, so a hospital holds at most one.
        """
        path = self._path(header)
        try:
            if not path.exists():
                self._forget_others(header)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._write(descriptor, bytes(rest)) :]
                # Synced piece by piece: after a power cut the offset that a file's size tells is one that was stored.
                os.fsync(descriptor)
                return os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _storage_error(path, error) from error

    def check(self, header: UploadHeader) -> None:
        """Refuse and erase a stored body that is not the signed one, or is no canonical body of the plan.

        Raises BadSignature, CiphertextWrongLength or CiphertextNotCanonical.
        """
        path = self._path(header)
        try:
            with path.open("rb") as file:
                mark = _mark(file)
                if hashlib.file_digest(file, "sha256").hexdigest() != header.body_sha256:
                    raise BadSignature("the body is not the one whose hash the header signs")
                file.seek(0)
                seeds = file.read(SEED_BYTES)
                if hashlib.sha256(seeds).hexdigest() != header.seeds_sha256:
                    raise BadSignature("the body's seeds are not those whose hash the header signs")
                # Mapped, not read: many bodies may be checked at once. Unmapped with the last reference to it; a
                # refusal's traceback still holds views, which closing here would stumble over.
                body = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                check_body(self._profile, self._length(header.round), memoryview(body))
            if time.time_ns() - mark[-1] > _CLOCK_STEP_NS:  # a change within one step would leave the same mark
                self._hashed[path.name] = mark
        except (BadSignature, ProtocolError):
            path.unlink(missing_ok=True)
            raise
        except OSError as error:
            raise _storage_error(path, error) from error
        except ValueError as error:
            raise StorageError(f"cannot read {path}: {error}") from error

    def discard(self, header: UploadHeader) -> None:
        """Erase a body, partial or not."""
        self._path(header).unlink(missing_ok=True)

    # -- sums ---------------------------------------------------------------------------------------------------------

    def add(self, accumulator: SumAccumulator, header: UploadHeader) -> None:
        """Add a stored body to a sum, piece by piece: it is mapped and never in memory as a whole.

        What is summed is what was signed, whatever happened to the disk since: unless the file is still the one that
        :meth:`check` hashed, it is hashed again. (Hashing takes four times as long as adding.)
        """
        path = self._path(header)
        try:
            with path.open("rb") as file:
                known = self._hashed.get(path.name) == _mark(file)
                body = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # unmapped with its last view
            if not known and hashlib.sha256(body).hexdigest() != header.body_sha256:
                raise StorageError(f"{path} was changed on the disk", "Restore the folder from a backup.")
            accumulator.add(header.hospital, body)
        except OSError as error:
            raise _storage_error(path, error) from error
        except ValueError as error:
            raise StorageError(f"cannot read {path}: {error}") from error

    def store_sum(self, round_number: int, total: bytes) -> tuple[str, int]:
        """Store a round's sum, and return its SHA-256 and its length."""
        write_atomic(self._sum_path(round_number), total, 0o600)
        return hashlib.sha256(total).hexdigest(), len(total)

    def read_sum(self, round_number: int, offset: int) -> bytes:
        """The next piece of a sum, at most a chunk; empty at its end or if it does not exist."""
        path = self._sum_path(round_number)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(CHUNK_BYTES)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise _storage_error(path, error) from error

    def forget_bodies_before(self, place: tuple[int, int]) -> None:
        """Erase the bodies of all rounds and attempts before this one."""
        try:
            for path in self._uploads.iterdir():
                round_number, attempt, _ = path.name.split("-", 2)
                if (int(round_number), int(attempt)) < place:
                    path.unlink(missing_ok=True)
                    self._hashed.pop(path.name, None)
        except OSError as error:
            raise _storage_error(self._uploads, error) from error

    def _forget_others(self, header: UploadHeader) -> None:
        wanted = self._path(header).name
        for path in self._uploads.iterdir():
            # All but the hash: a pattern with a star would take st-anna's body for st's.
            if path.name.rpartition("-")[0] == wanted.rpartition("-")[0]:
                path.unlink(missing_ok=True)

    def _path(self, header: UploadHeader) -> Path:
        # Numbers, name and hash were checked as numbers, roster name and hexadecimal: no path can be made of them.
        return self._uploads / f"{header.round:05d}-{header.attempt:02d}-{header.hospital}-{header.body_sha256}"

    def _sum_path(self, round_number: int) -> Path:
        return self._sums / f"{round_number:05d}.sum"


def _mark(file: BinaryIO) -> _Mark:
    """Which file this is, and when it was last changed; the kernel sets the last of these."""
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _storage_error(path: Path, error: OSError) -> StorageError:
    return storage_error(f"cannot use {path}", error)
