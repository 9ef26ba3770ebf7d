"""A folder of an earlier version, with its keys in clear: refused by name, and sealed by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.coordinator.setup import init_coordinator
from secure_fedhelp.errors import IdentityError, InvalidConfiguration, StorageError, UnsealedSecret
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.setup import init_hospital, seal_hospital
from secure_fedhelp.hospital.vault import Checkpoint, Vault
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.sealed_files import is_sealed, read_key
from secure_fedhelp.identity.signing import SigningKey

LEFTOVER = ".round-00001-values.ab12.part"
SECRETS = ("study-key-0", "checkpoint", "round-00001-values", "round-00001-body")


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(w) for w in words])
    if done.exception is not None:
        raise done.exception
    return str(done.output)


def old_pem(key: Ed25519PrivateKey) -> bytes:
    no_encryption = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_encryption)


def in_clear(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)


@pytest.fixture
def old(tmp_path: Path) -> tuple[HospitalFolder, Ed25519PrivateKey]:
    """A hospital's folder as version 0.1 left it in the middle of a study."""
    folder, key = HospitalFolder(tmp_path / "alpha"), Ed25519PrivateKey.generate()
    init_hospital(folder.root, "north", "alpha")
    unlock = open_lock(folder.root)
    for name in ("tls.key", "sealing.key"):
        in_clear(folder.keys / name, read_key(folder.keys / name, unlock))
    in_clear(folder.keys / "signing.key", old_pem(key))
    vault = Vault(folder.state, unlock)
    vault.remember_study_key(0, b"study key")
    vault.remember_checkpoint(Checkpoint(1, b"model"))
    vault.remember_values(1, {"model-update": np.ones(2)})
    vault.remember_upload(1, b"{}", b"s", b"body")
    vault.remember_acknowledged(1)
    opened = {name: vault._open(name) for name in SECRETS}
    for name, data in opened.items():
        assert data is not None
        in_clear(folder.state / name, data)
    in_clear(folder.state / LEFTOVER, b"of a write that a crash cut off")
    (folder.root / "unlock.json").unlink()
    (tmp_path / "alpha.unlock").unlink()
    return folder, key


def everything_opens(folder: HospitalFolder, key: Ed25519PrivateKey) -> None:
    unlock = open_lock(folder.root)
    assert SigningKey.load(folder.keys / "signing.key", unlock).public_hex == key.public_key().public_bytes_raw().hex()
    assert b"PRIVATE KEY" in read_key(folder.keys / "tls.key", unlock)
    assert len(read_key(folder.keys / "sealing.key", unlock)) == 96
    vault = Vault(folder.state, unlock)
    assert (vault.study_key(0), vault.checkpoint()) == (b"study key", Checkpoint(1, b"model"))
    values = vault.values(1)
    assert values is not None
    assert values["model-update"].tolist() == [1, 1]
    assert vault.upload(1) == (b"{}", b"s", b"body")
    assert not (folder.state / LEFTOVER).exists()
    for path in (
        *(folder.keys / n for n in ("tls.key", "signing.key", "sealing.key")),
        *(folder.state / n for n in SECRETS),
    ):
        assert is_sealed(path.read_bytes())
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_with_keys_in_clear_is_refused_by_name(old: tuple[HospitalFolder, Ed25519PrivateKey]) -> None:
    folder, _ = old
    with pytest.raises(UnsealedSecret, match="in clear") as caught:
        open_lock(folder.root)
    assert "hospital seal-keys" in caught.value.hint
    with pytest.raises(UnsealedSecret):
        init_hospital(folder.root, "north", "alpha", renew=True)


def test_one_command_seals_it_and_keeps_every_key(old: tuple[HospitalFolder, Ed25519PrivateKey]) -> None:
    folder, key = old
    text = run("hospital", "seal-keys", "--folder", folder.root)
    assert "Sealed 7 file(s)" in text
    assert "unused blocks" in text  # what sealing cannot undo
    everything_opens(folder, key)
    assert "sealed already" in run("hospital", "seal-keys", "--folder", folder.root)
    everything_opens(folder, key)


def test_cut_off_anywhere_it_goes_on(
    old: tuple[HospitalFolder, Ed25519PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    from secure_fedhelp.identity import sealed_files

    folder, key = old
    write, done = sealed_files.write_atomic, 0

    def one_and_no_more(*args: Any) -> None:
        nonlocal done
        if done:
            raise StorageError("power cut")
        done += 1
        write(*args)

    monkeypatch.setattr(sealed_files, "write_atomic", one_and_no_more)
    for _ in range(6):
        done = 0
        with pytest.raises(StorageError, match="power cut"):
            seal_hospital(folder.root)
    done = 0
    seal_hospital(folder.root)
    everything_opens(folder, key)


def test_coordinator_and_authority_have_the_same_command(tmp_path: Path) -> None:
    hub, ca = tmp_path / "hub", tmp_path / "ca"
    init_coordinator(hub, "north", "hub")
    run("consortium", "init", ca, "--name", "north")
    for folder, name in ((hub, "tls.key"), (ca, "ca.key")):
        in_clear(folder / name, read_key(folder / name, open_lock(folder)))
    in_clear(hub / "signing.key", old_pem(Ed25519PrivateKey.generate()))
    for folder in (hub, ca):
        (folder / "unlock.json").unlink()
    with pytest.raises(UnsealedSecret):
        run("consortium", "revoke", "hub", "--authority", ca)
    with pytest.raises(UnsealedSecret):
        run("coordinator", "init", "--folder", hub, "--consortium", "north", "--name", "hub")
    assert "Sealed 2 file(s)" in run("coordinator", "seal-keys", "--folder", hub)
    assert "Sealed 1 file(s)" in run("consortium", "seal-keys", "--authority", ca)
    assert SigningKey.load(hub / "signing.key", open_lock(hub))
    sign = ["consortium", "sign", hub / "tls.csr", "--authority", ca, "--role", "coordinator", "--name", "hub"]
    run(*sign, "--dns", "localhost", "--out", hub / "tls.crt")


def test_what_is_no_key_is_not_sealed(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="no private keys"):
        run("hospital", "seal-keys", "--folder", tmp_path / "nowhere")
    folder = HospitalFolder(tmp_path / "alpha")
    init_hospital(folder.root, "north", "alpha")
    p384 = b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n"
    in_clear(folder.keys / "signing.key", p384)
    with pytest.raises(IdentityError, match="readable"):
        seal_hospital(folder.root)
    in_clear(folder.keys / "signing.key", read_key(folder.keys / "tls.key", open_lock(folder.root)))
    with pytest.raises(IdentityError, match="another kind"):
        seal_hospital(folder.root)
