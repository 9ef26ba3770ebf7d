"""A transcript file for an auditor: read, then checked by the rules the hospitals themselves used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from secure_fedhelp.errors import StorageError, TranscriptInvalid
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.reading import TRANSCRIPT, LineTooLong, read_lines
from secure_fedhelp.wire.transcript import TranscriptEntry, verify_transcript, witnessed_heads

__all__ = ["read_transcript", "verify_transcript", "witnessed_heads"]


def read_transcript(
    path: Path, coordinator_public_hex: str, member_public_hex: Mapping[str, str], plan: StudyPlan
) -> list[TranscriptEntry]:
    """The verified entries of ``transcript.jsonl``.

    Raises TranscriptInvalid naming file, entry and reason, and StorageError if it cannot be read.
    """
    try:
        return verify_transcript(_whole_lines(path), coordinator_public_hex, member_public_hex, plan)
    except LineTooLong as error:
        raise TranscriptInvalid(f"{path}: transcript entry {error.number}: {error.strerror}") from error
    except OSError as error:
        raise StorageError(f"cannot read the transcript {path}: {error.strerror}", "Check the path.") from error
    except TranscriptInvalid as error:
        raise type(error)(f"{path}: {error.message}", error.hint) from error


def _whole_lines(path: Path) -> Iterator[bytes]:
    """A transcript's lines without their line feeds, one by one: of a file that is none the first is refused."""
    for number, line in enumerate(read_lines(path, TRANSCRIPT)):
        if not line.endswith(b"\n"):
            raise TranscriptInvalid(
                f"transcript entry {number}: the last line is torn (no line feed)",
                "Start the coordinator once: it completes the file.",
            )
        yield line[:-1]
