"""NPZ files, read without pickle and with their size checked first.

An NPZ is a ZIP archive, so a small file can unpack to a huge array: the declared sizes are added up before a byte is
unpacked, and held against the file's own. ``allow_pickle`` stays off, because a pickle is a program.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.errors import FedHelpError, InvalidData
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.reading import ARRAYS, UnfitFile, open_bounded, require_plausible, said_by

#: What is read at once: numpy and zipfile read arrays in pieces of 256 KiB, and a list of members is some kB.
LARGEST_PIECE = 64 * 2**20
#: Largest unpacked size of one file.
LARGEST_BYTES = 8 * 2**30
_ARRAYS = "Arrays are needed here, as numpy.savez writes them. Image files are listed in an index (docs/data.md)."
Arrays = dict[str, NDArray[Any]]


def array_names(path: Path) -> set[str]:
    """Names of the arrays in an NPZ, of which none is unpacked; InvalidData if it is no archive."""
    try:
        with open_bounded(path, ARRAYS) as file, zipfile.ZipFile(_InPieces(file)) as archive:
            return {member.filename.removesuffix(".npy") for member in archive.infolist()}
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # as below: archives can be wrong in many ways
        raise InvalidData(f"{path.name}: not a readable NPZ file: {said_by(error)}", _ARRAYS) from error


def read_arrays(path: Path, needed: Sequence[str], optional: Sequence[str] = (), progress: Progress = silent) -> Arrays:
    """The named arrays; InvalidData if a needed one is missing, the file unpacks too large, or it cannot be read."""
    try:
        with open_bounded(path, ARRAYS) as file, zipfile.ZipFile(_InPieces(file)) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            if (declared := sum(member.file_size for member in members.values())) > LARGEST_BYTES:
                raise InvalidData(f"{path.name}: unpacks to {declared} bytes, at most {LARGEST_BYTES} are allowed")
            require_plausible(os.fstat(file.fileno()).st_size, declared)
            missing = [name for name in needed if name not in members]
            if missing:
                raise InvalidData(f"{path.name}: no array {', '.join(repr(name) for name in missing)}")
            names = [name for name in (*needed, *optional) if name in members]
            total, done, found = sum(members[name].file_size for name in names), 0, Arrays()

            def told(count: int) -> None:
                nonlocal done
                done += count
                progress(path.name, done, total)

            told(0)
            for name in names:
                with archive.open(members[name]) as member:
                    # A reader that is no file of the system's is read in pieces.
                    found[name] = np.lib.format.read_array(_Counted(member, told), allow_pickle=False)
        progress(path.name, total, total)
        return found
    except FedHelpError:
        raise
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a malformed archive or array header: numpy and zipfile raise many kinds
        if "Object arrays" in str(error):
            hint = "Store text as text, array.astype(str), and numbers as numbers."
            raise InvalidData(
                f"{path.name}: an array of Python objects, which would have to be unpickled", hint
            ) from error
        raise InvalidData(f"{path.name}: not a readable NPZ file: {said_by(error)}", _ARRAYS) from error


class _InPieces(io.BufferedIOBase):
    """A file that gives no more than a piece at once: a list of members of gigabytes would be read whole."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell  # type: ignore[method-assign]

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        wanted = LARGEST_PIECE + 1 if size is None or size < 0 else size
        if wanted > LARGEST_PIECE + 1 or len(data := self._file.read(wanted)) > LARGEST_PIECE:
            raise UnfitFile(f"a list of members of more than {LARGEST_PIECE} bytes")
        return data


class _Counted:
    """A member of an archive that tells how many bytes each reading gave."""

    def __init__(self, member: IO[bytes], told: Callable[[int], None]) -> None:
        self._member, self._told = member, told

    def read(self, size: int = -1) -> bytes:
        data = self._member.read(size)
        self._told(len(data))
        return data


def write_arrays(path: Path, arrays: Arrays, mode: int = 0o600) -> None:
    """Write the arrays at once, compressed; raises StorageError."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub reads ** as its flags
    write_atomic(path, buffer.getvalue(), mode=mode)
