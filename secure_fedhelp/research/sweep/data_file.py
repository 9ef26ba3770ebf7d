"""The contents of a study's own data file, by hash: a file that has changed under its name is other data."""

from __future__ import annotations

import hashlib
from pathlib import Path

from secure_fedhelp.errors import DataChanged, InvalidData
from secure_fedhelp.research.study_file import StudyFile

#: By path, time of change in nanoseconds and size, for as long as this process lives: a sweep asks for each run.
_known: dict[tuple[Path, int, int], str] = {}


def data_sha256(study: StudyFile) -> str | None:
    """SHA-256 of the file that ``[data]`` names; None for a data set of the catalog. Raises InvalidData."""
    if study.data is None:
        return None
    path = study.data.path
    try:
        status = path.stat()
        key = (path.absolute(), status.st_mtime_ns, status.st_size)
        if key not in _known:
            with path.open("rb") as file:
                _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}", "[data] path is relative to the study file.") from error
    return _known[key]


def require_unchanged(study: StudyFile, expected: str | None) -> None:
    """DataChanged if the file is no longer what it was when its run was named."""
    if study.data is not None and data_sha256(study) != expected:
        raise DataChanged(
            f"{study.data.path.name} has changed since this run was asked for: put it back, or start the sweep again"
        )
