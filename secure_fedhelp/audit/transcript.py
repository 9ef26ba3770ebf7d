"""A transcript file for an auditor: read, then checked by the rules the hospitals themselves used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from secure_fedhelp.errors import StorageError, TranscriptInvalid
from secure_fedhelp.study.files import read_regular
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.transcript import TranscriptEntry, verify_transcript, witnessed_heads

__all__ = ["read_transcript", "verify_transcript", "witnessed_heads"]


def read_transcript(
    path: Path, coordinator_public_hex: str, member_public_hex: Mapping[str, str], plan: StudyPlan
) -> list[TranscriptEntry]:
    """The verified entries of ``transcript.jsonl``.

    Raises TranscriptInvalid naming file, entry and reason, and StorageError if it cannot be read.
    """
    try:
        content = read_regular(path)
    except OSError as error:
        raise StorageError(f"cannot read the transcript {path}: {error.strerror}", "Check the path.") from error
    *lines, torn = content.split(b"\n")
    if torn:
        raise TranscriptInvalid(
            f"{path}: transcript entry {len(lines)}: the last line is torn (no line feed)",
            "Start the coordinator once: it completes the file.",
        )
    try:
        return verify_transcript(lines, coordinator_public_hex, member_public_hex, plan)
    except TranscriptInvalid as error:
        raise type(error)(f"{path}: {error.message}", error.hint) from error
