"""NPZ files, read without pickle and with their size checked first.

An NPZ is a ZIP archive, so a small file can unpack to a huge array: the declared sizes are added up before a byte is
unpacked. ``allow_pickle`` stays off, because a pickle is a program.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.errors import FedHelpError, InvalidData
from secure_fedhelp.study.files import write_atomic

#: Largest unpacked size of one file.
LARGEST_BYTES = 8 * 2**30
Arrays = dict[str, NDArray[Any]]


def array_names(path: Path) -> set[str]:
    """Names of the arrays in an NPZ, of which none is unpacked; InvalidData if it is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {member.filename.removesuffix(".npy") for member in archive.infolist()}
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise InvalidData(f"{path.name}: not a readable NPZ file ({type(error).__name__})") from error


def read_arrays(path: Path, needed: Sequence[str], optional: Sequence[str] = (), progress: Progress = silent) -> Arrays:
    """The named arrays; InvalidData if a needed one is missing, the file unpacks too large, or it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in archive.infolist()}
        if (declared := sum(sizes.values())) > LARGEST_BYTES:
            raise InvalidData(f"{path.name}: unpacks to {declared} bytes, at most {LARGEST_BYTES} are allowed")
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in needed if name not in stored.files]
            if missing:
                raise InvalidData(f"{path.name}: no array {', '.join(repr(name) for name in missing)}")
            names = [name for name in (*needed, *optional) if name in stored.files]
            total, done, found = sum(sizes[name] for name in names), 0, {}
            for name in names:
                progress(path.name, done, total)
                found[name] = stored[name]
                done += sizes[name]
        progress(path.name, total, total)
        return found
    except FedHelpError:
        raise
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a malformed archive or array header: numpy and zipfile raise many kinds
        raise InvalidData(f"{path.name}: not a readable NPZ file ({type(error).__name__})") from error


def write_arrays(path: Path, arrays: Arrays, mode: int = 0o600) -> None:
    """Write the arrays at once, compressed; raises StorageError."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub reads ** as its flags
    write_atomic(path, buffer.getvalue(), mode=mode)
