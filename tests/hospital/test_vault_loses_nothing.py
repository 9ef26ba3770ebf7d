"""The vault gives back exactly what was put in, to its owner only, and a full disk leaves the old state."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from unlocking import UNLOCK

from secure_fedhelp.errors import StorageError
from secure_fedhelp.hospital.taking_part import _stream
from secure_fedhelp.hospital.vault import Checkpoint, Vault
from secure_fedhelp.identity.sealed_files import VAULT, write_sealed
from secure_fedhelp.study import files


def test_everything_comes_back_after_a_restart(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    channels = {"model-update": np.arange(3.0), "public-logits": np.array([-1.5])}
    vault.remember_plan("ab" * 32)
    vault.remember_study_key(2, b"key")
    vault.remember_checkpoint(Checkpoint(7, b"method"))
    vault.remember_values(3, channels)
    vault.remember_upload(3, b'{"a":1}', b"\x01\x02", b"body")
    vault.remember_acknowledged(3)
    vault.remember_sum(3, np.array([0.5, 2.0]))
    vault.remember_transcript([b"one", b"two"])

    again = Vault(tmp_path / "state", UNLOCK)
    assert again.signed_plan() == "ab" * 32
    assert again.study_key(2) == b"key"
    assert again.checkpoint() == Checkpoint(7, b"method")
    values = again.values(3)
    assert values is not None
    assert {k: v.tolist() for k, v in values.items()} == {k: v.tolist() for k, v in channels.items()}
    assert again.upload(3) == (b'{"a":1}', b"\x01\x02", b"body")
    assert again.acknowledged(3)
    total = again.sum(3)
    assert total is not None
    assert total.tolist() == [0.5, 2.0]
    assert again.transcript() == [b"one", b"two"]


def test_an_empty_vault_knows_nothing(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    assert vault.signed_plan() is None
    assert vault.study_key(0) is None
    assert vault.checkpoint() is None
    assert vault.values(0) is None
    assert vault.upload(0) is None
    assert vault.upload_header(0) is None
    assert vault.sum(0) is None
    assert vault.transcript() == []
    assert not vault.acknowledged(0)


def test_the_header_outlives_the_body(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    vault.remember_upload(0, b"{}", b"s", b"body")
    vault.forget_rounds_before(1, values=False)
    assert vault.upload(0) is None
    assert vault.upload_header(0) == b"{}"


def test_values_that_were_not_paid_for_can_be_dropped(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    vault.remember_values(0, {"model-update": np.zeros(1)})
    vault.forget_values(0)
    assert vault.values(0) is None


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    vault.remember_study_key(0, b"key")
    vault.remember_values(0, {"model-update": np.zeros(1)})
    for path in (tmp_path / "state").iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    vault.remember_checkpoint(Checkpoint(1, b"old"))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        vault.remember_checkpoint(Checkpoint(2, b"new"))
    assert vault.checkpoint() == Checkpoint(1, b"old")


def test_damaged_values_are_a_storage_error(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    vault.remember_values(0, {"model-update": np.zeros(100)})
    path = tmp_path / "state" / "round-00000-values"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StorageError, match="damaged"):
        vault.values(0)
    for damaged in (b"PK\x03\x04", b"no archive"):  # sealed by us, and still not what it should be
        write_sealed(path, damaged, UNLOCK, VAULT)
        with pytest.raises(StorageError, match="damaged"):
            vault.values(0)


def test_leftovers_of_a_cut_off_write_are_cleared(tmp_path: Path) -> None:
    Vault(tmp_path / "state", UNLOCK)
    leftover = tmp_path / "state" / ".round-00000-values.ab12.part"
    leftover.write_bytes(b"private")
    again = Vault(tmp_path / "state", UNLOCK)
    assert leftover.exists(), "it may be of a process that is running: who holds the ledger knows that there is none"
    again.clear_leftovers()
    assert list((tmp_path / "state").iterdir()) == []


def test_what_a_crash_left_of_absorbed_rounds_and_old_epochs_is_forgotten(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    for number in range(3):
        vault.remember_values(number, {"model-update": np.zeros(1)})
        vault.remember_upload(number, b"{}", b"s", b"body")
        vault.remember_round_secrets(number, b"masks")
        vault.remember_study_key(number, b"key")
        vault.remember_confirmed_key(number)
    vault.forget_rounds_before(2, values=True)
    vault.forget_study_keys_before(2)
    for number in range(3):
        kept = number == 2
        assert (vault.values(number) is not None) == kept
        assert (vault.upload(number) is not None) == kept
        assert (vault.round_secrets(number) is not None) == kept
        assert (vault.study_key(number) is not None) == kept
        assert vault.upload_header(number) == b"{}"
        assert vault.confirmed_key(number)


def test_a_confirmed_key_is_remembered(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    assert not vault.confirmed_key(0)
    vault.remember_confirmed_key(0)
    assert Vault(tmp_path / "state", UNLOCK).confirmed_key(0)


def test_an_unreadable_file_is_a_storage_error(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    (tmp_path / "state" / "checkpoint").mkdir()
    with pytest.raises(StorageError):
        vault.checkpoint()


def test_a_process_after_a_crash_draws_no_noise_that_has_left(tmp_path: Path) -> None:
    """The values of round 1 wait for their sum: who went on at the start of their stream would give round 2 their
    noise, and the two releases could be subtracted."""
    vault, seen = Vault(tmp_path / "state", UNLOCK), [_stream(Vault(tmp_path / "state", UNLOCK))]
    assert seen == ["from round 0"], "what a study that was never stopped draws"
    for values in (np.zeros(2), np.ones(2)):  # spooled and never paid for, so trained and spooled again
        vault.remember_values(0, {"model-update": values})
        seen.append(_stream(vault))
        assert _stream(vault) == seen[-1], "nothing has left since"
    vault.remember_checkpoint(Checkpoint(1, b""))
    seen.append(_stream(vault))
    assert seen[-1] == "from round 1"
    assert len(set(seen)) == len(seen)


def test_the_round_in_which_it_left_is_the_last_to_take_home(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "state", UNLOCK)
    assert vault.rounds_to_absorb(8) == 8
    vault.remember_left(2)
    assert Vault(tmp_path / "state", UNLOCK).rounds_to_absorb(8) == 3
    (tmp_path / "state" / "left").write_bytes(b"")
    with pytest.raises(StorageError, match="damaged"):
        vault.rounds_to_absorb(8)
