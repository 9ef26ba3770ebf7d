"""``transcript.jsonl``: the published lines as a file that people and auditors read. The journal is the truth."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from secure_fedhelp.errors import StorageError
from secure_fedhelp.study.files import storage_error, write_atomic
from secure_fedhelp.study.reading import TRANSCRIPT, read_bounded


class TranscriptFile:
    """An append-only file of lines, made to agree with the journal when it is opened."""

    def __init__(self, path: Path, lines: Iterable[bytes]) -> None:
        """Repair the file: a half-written or missing last line is completed, anything else that differs replaced."""
        self._path, self._waiting = path, b""
        expected = b"".join(line + b"\n" for line in lines)
        try:
            present = read_bounded(path, TRANSCRIPT) if path.exists() else b""
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        if not path.exists() or present != expected:
            write_atomic(path, expected)

    def append(self, line: bytes) -> None:
        """Add a line and sync it; StorageError (the next start then completes the file). After NoFileLeft the line
        waits for :meth:`settle`."""
        self._waiting += line + b"\n"
        self.settle()

    def settle(self) -> None:
        """Add what still waits; the errors of :meth:`append`."""
        if not self._waiting:
            return
        try:
            with self._path.open("ab") as file:
                file.write(self._waiting)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise storage_error(f"cannot write {self._path}", error) from error
        self._waiting = b""
