"""What a hospital must find again after a crash: its checkpoint, the spool of each round, and the study keys.

Everything is replaced atomically and readable by the owner only. The order of one round is

    1. the values to release are spooled (``values``): they have not left, nothing is spent;
    2. the ledger entry is written and synced: spent;
    3. the encrypted body is spooled (``body``), then uploaded, then marked acknowledged.

A crash between 1 and 2 released nothing: the values are dropped and the round is trained again. A crash after 2 finds
the values and the entry that names their hash, and uploads the same values: nothing is spent twice.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secure_fedhelp.errors import StorageError
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.files import write_atomic

_OWNER_ONLY = 0o600


@dataclass(frozen=True)
class Checkpoint:
    """The state after the last absorbed round: rounds absorbed, the transcript so far, and the method's own bytes."""

    rounds: int
    method: bytes


class Vault:
    """Files under ``state/``; every write is atomic and synced before it returns. StorageError on a full disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"cannot create {folder}: {error.strerror}") from error
        for leftover in folder.glob(".*.part"):  # of a write that a crash cut off: it never counted
            leftover.unlink(missing_ok=True)

    # -- study binding ----------------------------------------

    def signed_plan(self) -> str | None:
        """The hash of the plan this hospital has signed in this folder, if any."""
        data = self._read("signed-plan")
        return None if data is None else data.decode()

    def remember_plan(self, plan_hash: str) -> None:
        self._write("signed-plan", plan_hash.encode())

    # -- study keys ----------------------------------------

    def study_key(self, epoch: int) -> bytes | None:
        return self._read(f"study-key-{epoch}")

    def remember_study_key(self, epoch: int, key: bytes) -> None:
        self._write(f"study-key-{epoch}", key)

    def confirmed_key(self, epoch: int) -> bool:
        """Whether this hospital has signed that it holds the epoch's key: from then on it takes no other."""
        return self._path(f"study-key-{epoch}-confirmed").exists()

    def remember_confirmed_key(self, epoch: int) -> None:
        self._write(f"study-key-{epoch}-confirmed", b"")

    # -- checkpoint ----------------------------------------

    def checkpoint(self) -> Checkpoint | None:
        data = self._read("checkpoint")
        if data is None:
            return None
        return Checkpoint(rounds=int.from_bytes(data[:8], "big"), method=data[8:])

    def remember_checkpoint(self, checkpoint: Checkpoint) -> None:
        # One file for both, so that the number of rounds and the model never disagree after a crash.
        self._write("checkpoint", checkpoint.rounds.to_bytes(8, "big") + checkpoint.method)

    # -- spool of a round ----------------------------------------

    def values(self, round_number: int) -> dict[str, Vector] | None:
        """The channels spooled for a round (already clipped), or None."""
        data = self._read(f"round-{round_number:05d}-values")
        if data is None:
            return None
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise StorageError(
                f"the spooled values of round {round_number + 1} are damaged",
                "Restore the folder from a backup; the ledger keeps what was spent.",
            ) from error

    def remember_values(self, round_number: int, channels: dict[str, Vector]) -> None:
        buffer = io.BytesIO()
        # The stub of savez takes only its own keyword's type for **channels.
        np.savez(buffer, **channels)  # type: ignore[arg-type]
        self._write(f"round-{round_number:05d}-values", buffer.getvalue())

    def forget_values(self, round_number: int) -> None:
        self._path(f"round-{round_number:05d}-values").unlink(missing_ok=True)

    def upload(self, round_number: int) -> tuple[bytes, bytes, bytes] | None:
        """(header, signature, body) spooled for a round, or None."""
        body, meta = self._read(f"round-{round_number:05d}-body"), self._read(f"round-{round_number:05d}-header")
        if body is None or meta is None:
            return None
        record = json.loads(meta)
        return record["header"].encode(), bytes.fromhex(record["signature"]), body

    def remember_upload(self, round_number: int, header: bytes, signature: bytes, body: bytes) -> None:
        self._write(f"round-{round_number:05d}-body", body)
        record = {"header": header.decode(), "signature": signature.hex()}
        self._write(f"round-{round_number:05d}-header", json.dumps(record).encode())

    def upload_header(self, round_number: int) -> bytes | None:
        """The header of this round's upload; it is kept after the body is dropped."""
        meta = self._read(f"round-{round_number:05d}-header")
        return None if meta is None else json.loads(meta)["header"].encode()

    def acknowledged(self, round_number: int) -> bool:
        """Whether the coordinator has confirmed this round's upload: from then on the transcript must hold it."""
        return self._path(f"round-{round_number:05d}-acknowledged").exists()

    def remember_acknowledged(self, round_number: int) -> None:
        self._write(f"round-{round_number:05d}-acknowledged", b"")

    def forget_body(self, round_number: int) -> None:
        """After a round is absorbed its ciphertext is of no more use."""
        self._path(f"round-{round_number:05d}-body").unlink(missing_ok=True)

    def sum(self, round_number: int) -> Vector | None:
        data = self._read(f"round-{round_number:05d}-sum")
        return None if data is None else np.frombuffer(data, dtype="<f8").astype(np.float64)

    def remember_sum(self, round_number: int, total: Vector) -> None:
        """Keep a decrypted sum (research mode only, to measure the error of the encryption)."""
        self._write(f"round-{round_number:05d}-sum", total.astype("<f8").tobytes())

    # -- transcript ----------------------------------------

    def transcript(self) -> list[bytes]:
        """The transcript lines this hospital has verified, without line ends."""
        data = self._read("transcript")
        return [] if not data else data.splitlines()

    def remember_transcript(self, lines: list[bytes]) -> None:
        self._write("transcript", b"".join(line + b"\n" for line in lines))

    # -- files ----------------------------------------

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _read(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._path(name)}: {error.strerror}") from error

    def _write(self, name: str, data: bytes) -> None:
        write_atomic(self._path(name), data, _OWNER_ONLY)
