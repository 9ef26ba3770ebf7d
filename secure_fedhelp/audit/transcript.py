"""A transcript file for an auditor: read, then checked by the rules the hospitals themselves used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from secure_fedhelp.errors import StorageError, TranscriptInvalid
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.wire.transcript import TranscriptEntry, verify_transcript, witnessed_heads

__all__ = ["read_transcript", "verify_transcript", "witnessed_heads"]


def read_transcript(
    path: Path, coordinator_public_hex: str, member_public_hex: Mapping[str, str], plan: StudyPlan
) -> list[TranscriptEntry]:
    """The verified entries of ``transcript.jsonl``; TranscriptInvalid, or StorageError if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read the transcript {path}: {error.strerror}", "Check the path.") from error
    if content and not content.endswith(b"\n"):
        raise TranscriptInvalid(
            f"{path}: the last line is torn (no line feed)", "Start the coordinator once: it completes the file."
        )
    lines = content.split(b"\n")[:-1]
    return verify_transcript(lines, coordinator_public_hex, member_public_hex, plan)
