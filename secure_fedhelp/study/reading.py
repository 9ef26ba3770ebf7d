"""The one way in which this package reads a file: of a known kind, with a limit, and a regular file only.

What lies in a folder may come from anybody: out of an archive, from another hospital, from a disk that is broken. A
parser takes many times a file's size in memory, a pipe is waited for without an end, and a device has none. So before
any parser sees a byte, the open file is asked what it is and how large, and never more than its kind's limit is read.

Links are followed, since secrets and settings are mounted as links in many places; what they lead to has to be a file.
Everything raised here is an OSError with words in ``strerror``: each caller turns it into the named error of what it
reads, with the path. :data:`KINDS` has every limit with its reason.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, AnyStr, BinaryIO, Final

MIB: Final = 2**20
GIB: Final = 2**30


@dataclass(frozen=True)
class Kind:
    """What a file is, and how large one of it can honestly be, in bytes; with lines, of one line too."""

    name: str
    largest: int
    largest_line: int | None = None

    @property
    def longest(self) -> int:
        """Of a line, or of a record of several."""
        return self.largest if self.largest_line is None else self.largest_line


#: 20,000 columns (a gene each), each with a name, centre and scale in a section of its own, are 1.6 MB.
PLAN = Kind("a plan", 2 * MIB)
#: A study file of a researcher: names columns as a plan does.
STUDY_FILE = Kind("a study file", 2 * MIB)
#: Some thirty keys; lists of channels, endpoints and patient columns.
SETTINGS = Kind("a file of settings", 256 * 2**10)
#: 10,000 rounds, the most of a plan, are 18 MB at 1.8 kB for a reservation and its release: fourteen such studies, or
#: 2,900 of fifty rounds. An entry names each channel, some hundred bytes.
LEDGER = Kind("a ledger", 256 * MIB, 64 * 2**10 + 1)
#: 10,000 rounds of ten hospitals with hybrid signatures are 1.5 GB. Lines are bounded by the plan's hospitals, at most
#: 256 (wire/transcript.py), and read one by one.
TRANSCRIPT = Kind("a transcript", 2 * GIB, 17 * MIB)
#: 256 hospitals, the most of a plan, with 32 KiB each: hybrid keys, their signatures and a certificate are half of it.
ROSTER = Kind("a roster", 8 * MIB)
#: One member's keys and certificate.
CARD = Kind("a card", MIB)
#: A chain of certificates, or one request.
CERTIFICATE = Kind("a certificate", MIB)
#: Forty bytes a revoked certificate: 100,000 of them, and PEM's third more.
REVOCATIONS = Kind("a revocation list", 16 * MIB)
#: A line for each certificate that an authority ever issued, 300 bytes: 200,000 of them.
ISSUED = Kind("a list of issued certificates", 64 * MIB, 64 * 2**10)
#: A sealed private key with its envelope, a passphrase, a bearer token.
SECRET = Kind("a secret", MIB)
#: Twice 36 bytes a patient, of all data sets of a ledger: 1.8 million.
PATIENT_BOOK = Kind("a book of patients", 128 * MIB)
#: What a hospital keeps of a running study: a channel has at most 2^28 values of 8 bytes.
STATE = Kind("a state file", 8 * GIB)
#: What one process says of itself, what an audit measured: some kB.
STATUS = Kind("a status file", 16 * MIB)
#: A researcher's own: a run's summary, what a sweep was asked for (8 kB a run), an audit as JSON.
RESULTS = Kind("a file of results", 64 * MIB)
#: A line a round with its figures: 10,000 rounds of 20 kB.
METRICS = Kind("a file of metrics", 256 * MIB, MIB)
#: What a process of a long study printed. Only its end is read.
LOG = Kind("a log", GIB)
#: As Parquet unpacked: rows are kept as text, in several times as much memory. A record is 20,000 columns of 50 bytes.
TABLE = Kind("a table", 4 * GIB, 16 * MIB)
#: The unpacked size is limited to the same (data/npz.py).
ARRAYS = Kind("an array file", 8 * GIB)
#: 64 million pixels, the most that is unpacked, of eight bytes; with text and thumbnails twice of it.
PICTURE = Kind("an image file", GIB)
#: The demonstration's: layers of a small network, 64 million numbers.
TEACHER = Kind("a teacher file", 256 * MIB)
#: A CT of 2,000 slices of 1024 x 1024 pixels of two bytes is 4 GB.
VOLUME = Kind("an image volume", 8 * GIB)
#: A Python module that a plan or study names; templates and texts of a page.
SOURCE = Kind("a source file", 16 * MIB)

#: So much may any packed file unpack to. Beyond it a file that is honest has a hundredth of it at least: pictures and
#: tables of patients never pack so well, a file made to fill the memory packs a thousand times and more.
_UNPACKED_FREELY: Final = 256 * MIB
_LARGEST_RATIO: Final = 100

#: More parts than this in one dotted key of a TOML file: ``tomllib`` would take quadratic time for them.
_MOST_KEY_PARTS: Final = 256
#: A number of so many digits is none of ours, and costs ``tomllib`` two hundred times its length.
_MOST_DIGITS: Final = 1000
_DIGITS: Final = re.compile(rf"(?<![0-9_])[0-9_]{{{_MOST_DIGITS + 1}}}")
#: So many values in one list or table: what is checked against a model can be wrong in each, and each fault is kept.
_MOST_VALUES: Final = 2**15
_PART: Final = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DOTTED: Final = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*+\.[ \t]*+){{{_MOST_KEY_PARTS}}}")


class UnfitFile(OSError):
    """What stands at a path cannot be a file of its kind: no regular file, or too large."""

    def __init__(self, why: str, number: int = errno.EINVAL) -> None:
        super().__init__(number, why)


class LineTooLong(UnfitFile):
    """A line, counted from 0, that no file of the kind has."""

    def __init__(self, number: int, kind: Kind) -> None:
        super().__init__(
            f"line {number + 1} has more than {kind.longest} bytes; {kind.name} has none such", errno.EFBIG
        )
        self.number = number


def open_bounded(path: Path, kind: Kind) -> BinaryIO:
    """``path`` for reading, once it is known to be a regular file within its kind's limit; OSError."""
    # Asked before it is opened, since opening a device may already do something; and after, since the two may differ.
    _require_fit(path.stat(), kind)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        require_fit(descriptor, kind)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def require_fit(file: Path | int, kind: Kind) -> None:
    """OSError unless a path or open descriptor is a regular file within the limit of ``kind``.

    With a path it is for libraries that open files themselves: everybody else reads what was looked at.
    """
    _require_fit(os.fstat(file) if isinstance(file, int) else file.stat(), kind)


def _require_fit(found: os.stat_result, kind: Kind) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnfitFile(f"it is {_what(found.st_mode)}, no regular file; {kind.name} is one")
    if found.st_size > kind.largest:
        raise _too_large(found.st_size, kind)


def _what(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _too_large(size: int, kind: Kind) -> UnfitFile:
    return UnfitFile(f"it has {size} bytes, and {kind.name} has at most {kind.largest}", errno.EFBIG)


def require_plausible(packed: int, unpacked: int) -> None:
    """UnfitFile if a file of ``packed`` bytes says that it unpacks to more (bytes, cells) than an honest one would."""
    if unpacked > max(_UNPACKED_FREELY, _LARGEST_RATIO * packed):
        raise UnfitFile(
            f"it has {packed} bytes and would unpack to {unpacked}, more than {_LARGEST_RATIO} times as much",
            errno.EFBIG,
        )


def read_bounded(path: Path, kind: Kind) -> bytes:
    """All of a file of this kind. OSError if it cannot be read, is no regular file, or is larger than its kind."""
    with open_bounded(path, kind) as file:
        return read_rest(file, kind)


def read_rest(file: BinaryIO, kind: Kind) -> bytes:
    """All of an open file, from where it stands, within the limit also if it grows meanwhile; OSError."""
    data = file.read(min(kind.largest, os.fstat(file.fileno()).st_size) + 1)
    while more := file.read(min(MIB, kind.largest + 1 - len(data))):  # it grew, or does not know its own size
        data += more
    if len(data) > kind.largest:
        raise _too_large(len(data), kind)
    return data


def read_end(path: Path, kind: Kind, size: int = 2**18) -> bytes:
    """The last bytes of a file, ``size`` at most; OSError."""
    with open_bounded(path, kind) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - size))
        return file.read(size)


def read_lines(path: Path, kind: Kind) -> Iterator[bytes]:
    """The lines of a file, one after another and each with its line feed; the last may lack it. OSError.

    Neither file nor line exceeds the kind's limits: a file without line feeds is not read to its end.
    """
    with open_bounded(path, kind) as file:
        yield from BoundedLines(file, kind)


class BoundedLines(Iterator[AnyStr]):
    """The lines of an open file, binary or text; OSError beyond the limits of ``kind`` (of text, in characters).

    A record of several lines (a CSV cell may hold line feeds) is bounded as one line is: ``records`` are ended by the
    caller's :meth:`next_record`. Without them each line is a record.
    """

    def __init__(self, file: IO[AnyStr], kind: Kind, *, records: bool = False) -> None:
        self._file: IO[AnyStr] = file
        self._kind, self._records = kind, records
        self._left, self._total, self._count = kind.longest, 0, 0

    def next_record(self) -> None:
        """What was read so far is done with."""
        self._left = self._kind.longest

    def __next__(self) -> AnyStr:
        line = self._file.readline(self._left + 1)
        if not line:
            raise StopIteration
        if len(line) > self._left:
            raise LineTooLong(self._count, self._kind)
        self._count += 1
        self._total += len(line)
        if self._total > self._kind.largest:  # it grew since it was opened
            raise _too_large(self._total, self._kind)
        if self._records:
            self._left -= len(line)
        return line


def hash_bounded(path: Path, kind: Kind) -> tuple[int, str]:
    """Length and SHA-256 of a file, read piece by piece; OSError."""
    with open_bounded(path, kind) as file:
        digest, size = hashlib.sha256(), 0
        while piece := file.read(MIB):
            size += len(piece)
            if size > kind.largest:
                raise _too_large(size, kind)
            digest.update(piece)
    return size, digest.hexdigest()


def parse_json(data: bytes) -> Any:
    """JSON as plain values; ValueError for what is none, or is nested deeper than this reads."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def parse_toml(data: bytes) -> dict[str, Any]:
    """TOML as plain values; ValueError for what is none, is nested deeper than this reads, or has endless keys."""
    text = data.decode("utf-8")
    if _DOTTED.search(text):
        raise ValueError(f"a key of more than {_MOST_KEY_PARTS} parts")
    if _DIGITS.search(text):
        raise ValueError(f"a number of more than {_MOST_DIGITS} digits")
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _require_countable(values)
    return values


def _require_countable(values: dict[str, Any]) -> None:
    waiting: list[Any] = [values]
    while waiting:
        held = waiting.pop()
        if len(held) > _MOST_VALUES:
            raise ValueError(f"{len(held)} values in one list or table, at most {_MOST_VALUES} are read")
        waiting += [v for v in (held.values() if isinstance(held, dict) else held) if isinstance(v, dict | list)]


def said_by(error: Exception) -> str:
    """What a parser says of a malformed file, in one line; a person at an archive knows no names of exceptions."""
    return " ".join(str(error).split())[:200] or "its parts contradict one another"
