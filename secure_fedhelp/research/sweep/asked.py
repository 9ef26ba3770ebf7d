"""``asked.json`` of a sweep's folder: the study of every run that it was ever asked for, so that one can be simulated.

Entries of earlier calls stay: their results are in the folder as well.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from secure_fedhelp.errors import InvalidConfiguration, StorageError
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.sweep.data_file import require_unchanged
from secure_fedhelp.research.sweep.runs import RIVALS, Run
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.reading import RESULTS, parse_json, read_bounded
from secure_fedhelp.study.sections import Strict


class Asked(Strict):
    """One run as it was asked for."""

    run: str
    contender: str
    epsilon: float = Field(gt=0, allow_inf_nan=True)
    encryption: str
    #: Of the study's own data file.
    data_sha256: str | None = None
    study: StudyFile


def remember(folder: Path, runs: Sequence[Run]) -> None:
    """Add ``runs`` to the folder's file. Raises StorageError if what is there cannot be read."""
    path = folder / "asked.json"
    entries: dict[str, Any] = {}
    if path.exists():
        try:
            # as plain values: another version's entry, which this one might not understand, stays what it is
            entries = {entry["run"]: entry for entry in parse_json(read_bounded(path, RESULTS))}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StorageError(f"{path} is damaged", "Delete this file: the sweep writes it anew.") from error
    entries |= {run.id: _entry(run, folder) for run in runs}
    for entry in entries.values():
        _without_place(entry, folder)
    write_atomic(path, json.dumps(list(entries.values()), indent=1).encode())


def _from(folder: Path, path: Path) -> str:
    """Where a file lies, seen from ``folder``: a folder that is moved with its data, or given away, names nobody's
    home. Links on the way are followed, since ``..`` leads out of where they lead to."""
    place = path.parent.resolve() / path.name  # not the file itself: an index lists files beside itself
    return Path(os.path.relpath(place, folder.resolve())).as_posix()


def _without_place(entry: Any, folder: Path) -> None:
    """An entry of an earlier version may hold an absolute path; its name does not depend on it."""
    with contextlib.suppress(KeyError, TypeError):  # another version's entry stays what it is
        if Path(entry["study"]["data"]["path"]).is_absolute():
            entry["study"]["data"]["path"] = _from(folder, Path(entry["study"]["data"]["path"]))


def _entry(run: Run, folder: Path) -> dict[str, Any]:
    study = run.study.model_dump(mode="json", exclude_none=True)
    if run.study.data is not None:
        study["data"]["path"] = _from(folder, run.study.data.path)
    entry = {
        "run": run.id,
        "contender": run.contender,
        "epsilon": f"{run.epsilon:.17g}",  # all digits: the name of the run depends on them
        "encryption": run.encryption,
        "study": study,
    }
    return entry if run.data_sha256 is None else entry | {"data_sha256": run.data_sha256}


def study_of(path: Path, ident: str) -> StudyFile:
    """The study of one run, with its epsilon in it, for a simulation.

    Raises InvalidConfiguration if the file is damaged, or has no such run, or one that is no simulation; DataChanged
    if the study's own data file is another by now.
    """
    again = "Start the sweep again: it writes this file."
    if path.suffix != ".json":
        raise InvalidConfiguration(f"{path} is no sweep's asked.json", "--run is for those; leave it out.")
    try:
        values = parse_json(read_bounded(path, RESULTS))
        entry = {e["run"]: e for e in values}.get(ident)
        found = None if entry is None else Asked.model_validate_json(json.dumps(entry))
    except ValidationError as error:
        raise InvalidConfiguration(f"{path}: run {ident}: {explain(error)}", again) from error
    except OSError as error:
        raise InvalidConfiguration(f"{path}: cannot be read: {error.strerror or error}", again) from error
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidConfiguration(f"{path} is damaged", again) from error
    if found is None:
        known = "The column run of results.csv has the ids of all that are done."
        raise InvalidConfiguration(f"{path} has no run {ident!r}", known)
    if found.contender in RIVALS:
        raise InvalidConfiguration(
            f"run {ident} is the rival {found.contender!r}: no study that could be simulated",
            "Start the sweep again to repeat it; a simulation trains a study's rivals beside it.",
        )
    if math.isinf(found.epsilon):
        raise InvalidConfiguration(
            f"run {ident} is without privacy, which runs only in plain", "Start the sweep again to repeat it."
        )
    if found.study.data is not None:  # relative to this file; one of an earlier version is absolute
        place = Path(os.path.normpath(path.parent.resolve() / found.study.data.path))
        data = found.study.data.model_copy(update={"path": place})
        found = found.model_copy(update={"study": found.study.model_copy(update={"data": data})})
    _require_whole(path, found)
    require_unchanged(found.study, found.data_sha256)
    return found.study.model_copy(update={"epsilon": found.epsilon})


def _require_whole(path: Path, found: Asked) -> None:
    """Its name is a hash over all of it and the version."""
    encrypted = found.encryption != "none"
    run = Run(found.study, found.contender, found.epsilon, encrypted, data_sha256=found.data_sha256)
    if run.id != found.run:
        raise InvalidConfiguration(
            f"{path}: run {found.run} is not what its name says: it was changed, or is of another version",
            "Start the sweep again with this version: it names its runs anew.",
        )
