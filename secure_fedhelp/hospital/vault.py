"""What a hospital must find again after a crash: checkpoint, spool of each round, study keys, secrets of the masks.

Everything is replaced atomically and readable by the owner only. What is secret is sealed under the folder's root key
(identity/sealed_files.py): study keys, masks' secrets, values, bodies, sums, checkpoint; and the members' cards as they
were checked. In clear are only what the transcript shows anyway and marks without content. The order of one round is

    1. the values to release are spooled (``values``): they have not left, nothing is spent;
    2. the ledger entry is written and synced: spent;
    3. the encrypted body is spooled (``body``), then uploaded, then marked acknowledged.

A crash between 1 and 2 released nothing: the values are dropped and the round is trained again. A crash after 2 finds
the values and the entry that names their hash, and uploads the same values: nothing is spent twice.
"""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from secure_fedhelp.errors import StorageError, StudyEnded
from secure_fedhelp.identity.private_files import require_own_folder
from secure_fedhelp.identity.sealed_files import VAULT, is_sealed, unseal, write_sealed
from secure_fedhelp.identity.unlock import Unlock
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.files import sync_folder, write_atomic
from secure_fedhelp.study.reading import STATE, read_bounded

_OWNER_ONLY: Final = 0o600
#: Above every round and key epoch.
_ALL: Final = sys.maxsize
#: Names of the files whose content is secret.
_SECRET: Final = re.compile(r"study-key-\d+|checkpoint|round-\d+-(values|body|sum|secrets)")


@dataclass(frozen=True)
class Checkpoint:
    """The state after the last absorbed round: rounds absorbed, the transcript so far, and the method's own bytes."""

    rounds: int
    method: bytes


@dataclass(frozen=True)
class AcceptedCard:
    """A member's card as it came (canonical JSON), and when this hospital checked it (unix seconds)."""

    card: bytes
    time: float


class Vault:
    """Files under ``state/``; every write is atomic and synced before it returns. StorageError on a full disk.

    What is read raises StorageError if a sealed file was changed, cut short or moved, UnsealedSecret if it is in clear.
    """

    def __init__(self, folder: Path, unlock: Unlock) -> None:
        """For the hospital's own process: makes the folder."""
        self._folder, self._unlock, self._reading_only = folder, unlock, False
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"cannot create {folder}: {error.strerror}") from error
        require_own_folder(folder)

    @classmethod
    def read_only(cls, folder: Path, unlock: Unlock) -> Vault:
        """For whoever looks on, while the hospital may be running: changes nothing in the folder."""
        vault = cls.__new__(cls)
        vault._folder, vault._unlock, vault._reading_only = folder, unlock, True
        return vault

    def clear_leftovers(self) -> None:
        """Delete what a write left that a crash cut off: it never counted. Only for who knows that no other process
        of this hospital runs (by the ledger's lock): it might be writing."""
        for leftover in self._folder.glob(".*.part"):
            self._forget(leftover.name)

    def seal_clear_files(self) -> list[Path]:
        """Seal every secret that an earlier version left in clear; the files it sealed. Running it again goes on."""
        sealed = []
        for path in sorted(self._folder.iterdir()):
            data = self._read(path.name) if _SECRET.fullmatch(path.name) else None
            if data is not None and not is_sealed(data):
                write_sealed(path, data, self._unlock, VAULT)
                sealed.append(path)
        return sealed

    # -- study binding ----------------------------------------

    def signed_plan(self) -> str | None:
        """The hash of the plan this hospital has signed in this folder, if any."""
        data = self._read("signed-plan")
        return None if data is None else data.decode()

    def remember_plan(self, plan_hash: str) -> None:
        self._write("signed-plan", plan_hash.encode())

    def rounds_to_absorb(self, planned: int) -> int:
        """How many rounds of a study this hospital takes home: all, or up to the one in which it left for good."""
        data = self._read("left")
        if data is None:
            return planned
        if not data.isdigit():
            raise StorageError(f"{self._path('left')} is damaged", "Restore the folder from a backup.")
        return int(data) + 1

    def remember_left(self, round_number: int) -> None:
        """That the transcript has this hospital's own word that it left for good in a round."""
        self._write("left", str(round_number).encode())

    def require_not_given_back(self) -> None:
        """StudyEnded if this hospital gave the folder's study back: its keys are gone, and it takes no new ones."""
        if self._path("given-back").exists():
            raise StudyEnded(
                "this hospital gave this study back ('hospital budget --give-back') and takes part no more",
                "Make a new study a folder of its own: 'hospital init --like' this one.",
            )

    def give_back(self, values: bool) -> None:
        """End the study here, for good: :meth:`forget_study`, and no later start takes part again."""
        self._write("given-back", b"")
        self.forget_study(values)

    def forget_study(self, values: bool) -> None:
        """It is over: forget every key, body and secret, and the released values too if ``values``."""
        self.forget_study_keys_before(_ALL)
        self.forget_rounds_before(_ALL, values)

    # -- members' cards ----------------------------------------

    def accepted_cards(self) -> dict[str, AcceptedCard]:
        """Every hospital's card that this hospital has checked, by name."""
        data = self._open("cards")
        if data is None:
            return {}
        return {name: AcceptedCard(v["card"].encode(), v["time"]) for name, v in json.loads(data).items()}

    def remember_accepted_cards(self, cards: Mapping[str, AcceptedCard]) -> None:
        # Nothing in it is secret. Sealed, so that nobody else gives an ended certificate a time at which it held.
        record = {name: {"card": c.card.decode(), "time": c.time} for name, c in cards.items()}
        self._seal("cards", json.dumps(record, sort_keys=True).encode())

    # -- study keys ----------------------------------------

    def study_key(self, epoch: int) -> bytes | None:
        return self._open(f"study-key-{epoch}")

    def remember_study_key(self, epoch: int, key: bytes) -> None:
        self._seal(f"study-key-{epoch}", key)

    def forget_study_keys_before(self, epoch: int) -> None:
        """After its epoch a key opens nothing more. That it was confirmed stays known: no other takes its place."""
        for path in self._folder.glob("study-key-*"):
            number = path.name.removeprefix("study-key-")
            if number.isdigit() and int(number) < epoch:
                self._forget(path.name)

    def confirmed_key(self, epoch: int) -> bool:
        """Whether this hospital has signed that it holds the epoch's key: from then on it takes no other."""
        return self._path(f"study-key-{epoch}-confirmed").exists()

    def remember_confirmed_key(self, epoch: int) -> None:
        self._write(f"study-key-{epoch}-confirmed", b"")

    # -- checkpoint ----------------------------------------

    def checkpoint(self) -> Checkpoint | None:
        data = self._open("checkpoint")
        if data is None:
            return None
        return Checkpoint(rounds=int.from_bytes(data[:8], "big"), method=data[8:])

    def remember_checkpoint(self, checkpoint: Checkpoint) -> None:
        # One file for both, so that the number of rounds and the model never disagree after a crash.
        self._seal("checkpoint", checkpoint.rounds.to_bytes(8, "big") + checkpoint.method)

    # -- spool of a round ----------------------------------------

    def values(self, round_number: int) -> dict[str, Vector] | None:
        """The channels spooled for a round (already clipped), or None."""
        data = self._open(f"round-{round_number:05d}-values")
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
        self._seal(f"round-{round_number:05d}-values", buffer.getvalue())

    def forget_values(self, round_number: int) -> None:
        self._forget(f"round-{round_number:05d}-values")

    def upload(self, round_number: int) -> tuple[bytes, bytes, bytes] | None:
        """(header, signature, body) spooled for a round, or None."""
        body, meta = self._open(f"round-{round_number:05d}-body"), self._read(f"round-{round_number:05d}-header")
        if body is None or meta is None:
            return None
        record = json.loads(meta)
        return record["header"].encode(), bytes.fromhex(record["signature"]), body

    def remember_upload(self, round_number: int, header: bytes, signature: bytes, body: bytes) -> None:
        self._seal(f"round-{round_number:05d}-body", body)
        record = {"header": header.decode(), "signature": signature.hex()}
        self._write(f"round-{round_number:05d}-header", json.dumps(record).encode())

    def upload_header(self, round_number: int) -> bytes | None:
        """The header of this round's upload; it is kept after the body is dropped."""
        meta = self._read(f"round-{round_number:05d}-header")
        return None if meta is None else json.loads(meta)["header"].encode()

    def acknowledged(self, round_number: int, attempt: int = 0) -> bool:
        """Whether the coordinator has confirmed the upload of this attempt at a round: if that attempt's sum is
        published, the transcript must hold it."""
        return self._path(f"round-{round_number:05d}-acknowledged-{attempt}").exists()

    def remember_acknowledged(self, round_number: int, attempt: int = 0) -> None:
        self._write(f"round-{round_number:05d}-acknowledged-{attempt}", b"")

    def sum(self, round_number: int) -> Vector | None:
        data = self._open(f"round-{round_number:05d}-sum")
        return None if data is None else np.frombuffer(data, dtype="<f8").astype(np.float64)

    def remember_sum(self, round_number: int, total: Vector) -> None:
        """Keep a decrypted sum (research mode only, to measure the error of the encryption)."""
        self._seal(f"round-{round_number:05d}-sum", total.astype("<f8").tobytes())

    # -- the masks' secrets of a round ----------------------------------------

    def round_secrets(self, round_number: int) -> bytes | None:
        """What this hospital drew for a round's masks, as the caller put it in, or None."""
        return self._open(f"round-{round_number:05d}-secrets")

    def remember_round_secrets(self, round_number: int, data: bytes) -> None:
        self._seal(f"round-{round_number:05d}-secrets", data)

    def forget_round_secrets(self, round_number: int) -> None:
        """Take the round's secrets off the disk, as far as a file system does that.

        The name is gone when this returns, and stays gone after a power cut. The blocks may live on until they are used
        again (and overwriting them first would not change that on flash or with copy on write): what is in them is the
        sealed form, so whoever finds them needs the unlock secret too.
        """
        self._forget(f"round-{round_number:05d}-secrets")

    def forget_rounds_before(self, round_number: int, values: bool) -> None:
        """Forget bodies and secrets of all rounds before this one, and the released values too if ``values``."""
        dropped = {"body", "secrets"} | ({"values"} if values else set())
        for path in self._folder.glob("round-*-*"):
            _, number, what = path.name.split("-", 2)
            if what in dropped and int(number) < round_number:
                self._forget(path.name)

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
            return read_bounded(self._path(name), STATE)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._path(name)}: {error.strerror}") from error

    def _open(self, name: str) -> bytes | None:
        data = self._read(name)
        return None if data is None else unseal(data, self._path(name), self._unlock, VAULT)

    def _write(self, name: str, data: bytes) -> None:
        write_atomic(self._writable(name), data, _OWNER_ONLY)

    def _seal(self, name: str, data: bytes) -> None:
        write_sealed(self._writable(name), data, self._unlock, VAULT)

    def _forget(self, name: str) -> None:
        path = self._writable(name)
        try:
            path.unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            raise StorageError(f"cannot delete {path}: {error.strerror or error}") from error

    def _writable(self, name: str) -> Path:
        if self._reading_only:
            raise StorageError(f"{self._folder} was opened for reading only", "Only the hospital's own process writes.")
        return self._path(name)
