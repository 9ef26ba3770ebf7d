"""Another secret for a folder: the old one or the new one opens it at every moment, and afterwards only the new one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import (
    FedHelpError,
    InvalidConfiguration,
    StorageError,
    UnlockSecretMissing,
    WrongUnlockSecret,
)
from secure_fedhelp.hospital.setup import init_hospital
from secure_fedhelp.identity import unlock
from secure_fedhelp.identity.lock import change_secret, create_lock, open_lock
from secure_fedhelp.identity.secret_source import USUAL, SecretSource
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.study import files


@pytest.fixture(autouse=True)
def _fast_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlock, "_SCRYPT_N", 2**4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    init_hospital(tmp_path / "alpha", "north", "alpha")
    return tmp_path / "alpha"


def run(*words: object, code: int = 0, **environment: str) -> str:
    done = CliRunner().invoke(app, [str(w) for w in words], env=environment)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output


def test_afterwards_only_the_new_key_file_opens(folder: Path, tmp_path: Path) -> None:
    key, old = SigningKey.load(folder / "keys" / "signing.key", open_lock(folder)), tmp_path / "alpha.unlock"
    text = run("hospital", "rekey", "--folder", folder, "--new-key-file", tmp_path / "new.unlock")
    assert "Delete the old one" in text
    assert "old copy of the folder can still open both" in text  # what another secret cannot undo
    opened = open_lock(folder)
    assert SigningKey.load(folder / "keys" / "signing.key", opened).public_hex == key.public_hex
    with pytest.raises(WrongUnlockSecret):
        open_lock(folder, SecretSource(key_file=old))
    old.unlink()
    open_lock(folder)


def test_from_a_key_file_to_a_passphrase_and_back(folder: Path, tmp_path: Path) -> None:
    words = ["hospital", "rekey", "--folder", folder]
    run(*words, "--new-passphrase", SECURE_FEDHELP_NEW_PASSPHRASE="five random words for alpha")
    with pytest.raises(InvalidConfiguration, match="passphrase, not by a key file"):
        open_lock(folder, SecretSource(key_file=tmp_path / "alpha.unlock"))
    with pytest.raises(UnlockSecretMissing):
        run(*words, "--new-key-file", tmp_path / "k")
    (tmp_path / "old").touch(mode=0o600)
    (tmp_path / "old").write_text("five random words for alpha\n")
    (tmp_path / "new").touch(mode=0o600)
    (tmp_path / "new").write_text("five other words for alpha\n")
    run(*words, "--passphrase-file", tmp_path / "old", "--new-passphrase-file", tmp_path / "new")
    run(*words, "--passphrase-file", tmp_path / "new", "--new-key-file", tmp_path / "k")
    open_lock(folder)


def test_the_other_folders_have_the_same_command(tmp_path: Path) -> None:
    run("consortium", "init", tmp_path / "ca", "--name", "north")
    run("consortium", "rekey", "--authority", tmp_path / "ca", "--new-key-file", tmp_path / "k")
    (tmp_path / "ca.unlock").unlink()
    run("coordinator", "init", "--folder", tmp_path / "hub", "--consortium", "north", "--name", "hub")
    run("coordinator", "rekey", "--folder", tmp_path / "hub", "--new-key-file", tmp_path / "k")
    (tmp_path / "hub.unlock").unlink()
    sign = ["consortium", "sign", tmp_path / "hub" / "tls.csr", "--authority", tmp_path / "ca", "--role", "coordinator"]
    run(*sign, "--name", "hub", "--dns", "localhost", "--out", tmp_path / "hub" / "tls.crt")
    (tmp_path / "k").rename(tmp_path / "moved")
    with pytest.raises(UnlockSecretMissing):
        run("consortium", "revoke", "hub", "--authority", tmp_path / "ca")
    assert "hub" in run("consortium", "list", "--authority", tmp_path / "ca"), "the list needs no key"
    run("consortium", "revoke", "hub", "--authority", tmp_path / "ca", "--key-file", tmp_path / "moved")


def test_a_new_secret_must_be_chosen_and_be_new(folder: Path, tmp_path: Path) -> None:
    before = (folder / "unlock.json").read_bytes()
    for words in ([], ["--new-key-file", tmp_path / "alpha.unlock"], ["--new-key-file", folder / "inside.key"]):
        with pytest.raises(InvalidConfiguration):
            run("hospital", "rekey", "--folder", folder, *words)
    with pytest.raises(InvalidConfiguration, match="both"):
        run("hospital", "rekey", "--folder", folder, "--new-key-file", tmp_path / "k", "--new-passphrase")
    assert (folder / "unlock.json").read_bytes() == before
    open_lock(folder)


def test_the_wrong_old_secret_changes_nothing(folder: Path, tmp_path: Path) -> None:
    create_lock(tmp_path / "beta")
    before = (folder / "unlock.json").read_bytes()
    with pytest.raises(WrongUnlockSecret):
        change_secret(folder, SecretSource(key_file=tmp_path / "beta.unlock"), SecretSource(key_file=tmp_path / "new"))
    assert (folder / "unlock.json").read_bytes() == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_crash_in_the_middle_leaves_one_secret_that_opens(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Cut off at each system call in turn: the folder opens by the old or the new secret, and another run ends it."""
    new, real, left = SecretSource(key_file=tmp_path / "new.unlock"), getattr(os, call), 0

    def cut(*args: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(5, "Input/output error")
        return real(*args, **named)

    crashes = 0
    for left_before in range(6):
        left = left_before
        with monkeypatch.context() as patched:
            patched.setattr(files.os if call == "fsync" else os, call, cut)
            try:
                change_secret(folder, USUAL, new)
            except StorageError:
                crashes += 1
                opens = []
                for source in (SecretSource(key_file=tmp_path / "alpha.unlock"), new):
                    try:
                        open_lock(folder, source)
                        opens.append(source)
                    except FedHelpError:
                        pass
                assert len(opens) == 1
                if opens == [new]:
                    break
            else:
                break
    assert crashes >= 1
    assert not list(folder.glob(".unlock.json.*.part"))
    with contextlib.suppress(WrongUnlockSecret):  # it had been done
        change_secret(folder, SecretSource(key_file=tmp_path / "alpha.unlock"), new)
    open_lock(folder, new)
    with pytest.raises(WrongUnlockSecret):
        open_lock(folder, SecretSource(key_file=tmp_path / "alpha.unlock"))
