"""``roster.json``: every member card as it was presented, for people and auditors. The journal is the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.files import storage_error, write_atomic
from secure_fedhelp.study.reading import ROSTER, read_bounded


def write_roster(path: Path, cards: Mapping[str, bytes]) -> None:
    """Replace the file by the cards (canonical JSON each) by name, if it differs. Raises StorageError."""
    content = canonical_bytes({name: json.loads(card) for name, card in cards.items()}) + b"\n"
    try:
        present = read_bounded(path, ROSTER) if path.exists() else None
    except OSError as error:
        raise storage_error(f"cannot read {path}", error) from error
    if present != content:
        write_atomic(path, content)
