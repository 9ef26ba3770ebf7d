"""``issued.jsonl``: the authority's own record of every certificate it ever signed or revoked, one JSON line each.

Lines are only ever added. A line is written *before* the certificate is handed out, so there can be a line without a
certificate (after a crash) and never a certificate without a line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from secure_fedhelp.errors import StorageError
from secure_fedhelp.study.canonical import canonical_bytes
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.reading import ISSUED, read_bounded
from secure_fedhelp.study.sections import Name, Sha256, Strict

Serial = Annotated[str, Field(pattern=r"^[0-9a-f]{1,40}$")]


class IssuedLine(Strict):
    event: Literal["issued"] = "issued"
    #: Hexadecimal, because RFC 5280 serial numbers have up to 160 bits and JSON readers lose digits beyond 53.
    serial: Serial
    role: Literal["hospital", "coordinator"]
    name: Name
    not_before: int
    not_after: int
    #: SHA-256 of the public key (SubjectPublicKeyInfo), as compared by telephone.
    key_sha256: Sha256


class RevokedLine(Strict):
    event: Literal["revoked"] = "revoked"
    serial: Serial
    at: int


@dataclass(frozen=True)
class IssuedCertificate:
    """One certificate and what became of it; times in unix seconds."""

    serial: int
    role: str
    name: str
    not_after: float
    key_sha256: str
    revoked_at: float | None = None

    def valid(self, now: float) -> bool:
        """Neither revoked nor past its end."""
        return self.revoked_at is None and now <= self.not_after


_LINE: TypeAdapter[IssuedLine | RevokedLine] = TypeAdapter(
    Annotated[IssuedLine | RevokedLine, Field(discriminator="event")]
)


def read_issued(path: Path) -> list[IssuedCertificate]:
    """Every certificate of the index, oldest first. StorageError if the file is missing or a line is malformed.

    A missing file is an error, not an empty index: without it revoked certificates would drop out of the next list.
    """
    found: dict[str, IssuedCertificate] = {}
    try:
        lines = read_bounded(path, ISSUED).splitlines()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", "Restore the authority's folder.") from error
    for number, text in enumerate(lines, start=1):
        try:
            line = _LINE.validate_json(text)
            if isinstance(line, IssuedLine):
                end = float(line.not_after)
                found[line.serial] = IssuedCertificate(int(line.serial, 16), line.role, line.name, end, line.key_sha256)
            else:
                found[line.serial] = replace(found[line.serial], revoked_at=float(line.at))
        except (ValidationError, KeyError) as error:
            hint = "Restore the authority's folder from its copy; certificates already handed out stay valid."
            raise StorageError(f"{path}: line {number} is malformed", hint) from error
    return list(found.values())


def append_lines(path: Path, lines: list[IssuedLine] | list[RevokedLine]) -> None:
    """Add lines; after a crash all of them are there or none. StorageError. The caller holds the authority's lock."""
    before = read_bounded(path, ISSUED) if path.exists() else b""
    write_atomic(path, before + b"".join(canonical_bytes(line.model_dump(mode="json")) + b"\n" for line in lines))
