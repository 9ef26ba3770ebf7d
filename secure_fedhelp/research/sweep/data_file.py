"""The contents of a study's own data by hash: a file that has changed under its name is other data."""

from __future__ import annotations

from pathlib import Path

from secure_fedhelp.data.reading import STANDARD
from secure_fedhelp.errors import DataChanged, InvalidData
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.study.canonical import digest
from secure_fedhelp.study.reading import ARRAYS, hash_bounded

#: By path, time of change in nanoseconds and size, for as long as this process lives: a sweep asks for each run.
_known: dict[tuple[Path, int, int], str] = {}


def data_sha256(study: StudyFile) -> str | None:
    """SHA-256 of the file that ``[data]`` names; None for a data set of the catalog. Raises InvalidData.

    Of image files it is one over the names and hashes of all that are read: of a folder its images, masks and
    ``patients.csv``, of an index its own and those that it lists.
    """
    if study.data is None:
        return None
    try:
        if not study.data.files:
            return _sha256(study.data.path)
        from secure_fedhelp.data.picture_sets import files_of

        return digest(
            {name: _sha256(file) for name, file in files_of(study.data.path, study.data.reading or STANDARD).items()}
        )
    except OSError as error:
        name = str(error.filename or study.data.path)
        here = name == str(study.data.path)
        hint = "[data] path is relative to the study file." if here else f"{study.data.path.name} lists it."
        raise InvalidData(f"{name}: {error.strerror or error}", hint) from error


def _sha256(path: Path) -> str:
    status = path.stat()
    key = (path.absolute(), status.st_mtime_ns, status.st_size)
    if key not in _known:
        _known[key] = hash_bounded(path, ARRAYS)[1]
    return _known[key]


def require_unchanged(study: StudyFile, expected: str | None) -> None:
    """DataChanged if the data are no longer what they were when their run was named."""
    if study.data is not None and data_sha256(study) != expected:
        raise DataChanged(
            f"{study.data.path.name} has changed since this run was asked for: put it back, or start the sweep again"
        )
