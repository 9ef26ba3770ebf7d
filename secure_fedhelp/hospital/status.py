"""The status file: what the process is doing, replaced atomically, for whoever watches (a person, the demo)."""

from __future__ import annotations

import json
from pathlib import Path

from secure_fedhelp.errors import StorageError
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.reading import STATUS, parse_json, read_bounded


def write_status(path: Path, step: str, details: dict[str, object]) -> None:
    """Replace the status file. Raises StorageError on a full disk, like every write of the client."""
    write_atomic(path, json.dumps({"step": step, **details}, sort_keys=True).encode(), 0o600)


def read_status(path: Path) -> dict[str, object]:
    """The last status, or an empty one if there is none yet. Raises StorageError if what is there cannot be read."""
    try:
        values = parse_json(read_bounded(path, STATUS))
    except (FileNotFoundError, ValueError):
        return {}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    return values if isinstance(values, dict) else {}
