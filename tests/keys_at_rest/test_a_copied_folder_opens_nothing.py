"""Who copies a member's folder, or may write into it, gets no key and no value without the unlock secret."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from secure_fedhelp.coordinator.setup import init_coordinator
from secure_fedhelp.errors import (
    FedHelpError,
    InvalidConfiguration,
    StorageError,
    UnlockSecretMissing,
    UnsafePermissions,
    UnsealedSecret,
    WrongUnlockSecret,
)
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.setup import init_hospital
from secure_fedhelp.hospital.vault import Checkpoint, Vault
from secure_fedhelp.identity import pem
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.sealed_files import PRIVATE_KEYS, VAULT, read_key, seal, unseal, write_key
from secure_fedhelp.identity.secret_source import SecretSource
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.identity.unlock import Unlock

KEYS = ("tls.key", "signing.key", "sealing.key")
STUDY_KEY = bytes(range(200, 250)) * 40
MASKS = bytes(range(100, 164))
BODY = os.urandom(4096)
VALUES = np.linspace(-1, 1, 64)


@pytest.fixture
def hospital(tmp_path: Path) -> HospitalFolder:
    """A hospital in the middle of a study, opened by the key file ``alpha.unlock`` beside its folder."""
    folder = HospitalFolder(tmp_path / "alpha")
    init_hospital(folder.root, "north", "alpha")
    vault = Vault(folder.state, open_lock(folder.root))
    vault.remember_plan("ab" * 32)
    vault.remember_study_key(0, STUDY_KEY)
    vault.remember_round_secrets(3, MASKS)
    vault.remember_values(3, {"model-update": VALUES})
    vault.remember_upload(3, b"{}", b"signature", BODY)
    vault.remember_sum(2, VALUES + 1)
    vault.remember_checkpoint(Checkpoint(3, b"weights of the personal model" * 4))
    vault.remember_transcript([b"{}"])
    return folder


def secrets_of(folder: HospitalFolder) -> dict[str, bytes]:
    unlock = open_lock(folder.root)
    return {
        "tls.key": private_number(folder.keys / "tls.key", unlock),
        "signing.key": read_key(folder.keys / "signing.key", unlock),
        "sealing.key": read_key(folder.keys / "sealing.key", unlock),
        "study key": STUDY_KEY,
        "masks": MASKS,
        "body": BODY,
        "values": VALUES.astype("<f8").tobytes(),
        "sum": (VALUES + 1).astype("<f8").tobytes(),
        "checkpoint": b"weights of the personal model",
    }


def private_number(path: Path, unlock: Unlock) -> bytes:
    """The secret part of a TLS key; the rest of its PEM is the public half, which is in the certificate request too."""
    key = pem.read_private_key(read_key(path, unlock), "tls.key")
    return key.private_numbers().private_value.to_bytes(32, "big")


def spellings(secret: bytes) -> set[bytes]:
    """Pieces of a secret as somebody could have written them: raw, hexadecimal, base64 in its three alignments."""
    pieces = [secret[i : i + 16] for i in range(0, max(1, len(secret) - 15), 7)]
    found = set(pieces) | {p.hex().encode() for p in pieces} | {p.hex().upper().encode() for p in pieces}
    for piece in pieces:
        found |= {base64.b64encode(piece[i:])[: 4 * ((len(piece) - i) // 3)] for i in range(3)}
    return found


def clear_places(root: Path, wanted: dict[str, bytes]) -> list[tuple[str, str]]:
    contents = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    contents = {path: data + data.replace(b"\n", b"") for path, data in contents.items()}  # PEM breaks its lines
    return [
        (what, path.name)
        for what, secret in wanted.items()
        for needle in spellings(secret)
        for path, content in contents.items()
        if needle in content
    ]


def test_no_secret_lies_in_clear_in_any_file_of_the_folder(hospital: HospitalFolder) -> None:
    wanted = secrets_of(hospital)
    assert clear_places(hospital.root, wanted) == []
    # The search finds what it looks for: each secret, once it is written down.
    for what, secret in wanted.items():
        (hospital.root / "leak").write_bytes(b"x" * 3 + secret)
        assert (what, "leak") in clear_places(hospital.root, wanted)
        (hospital.root / "leak").write_bytes(base64.encodebytes(b"y" + secret))
        assert (what, "leak") in clear_places(hospital.root, wanted)


def test_the_key_file_is_beside_the_folder_and_its_secret_nowhere_in_it(hospital: HospitalFolder) -> None:
    key_file = hospital.root.with_name("alpha.unlock")
    secret = bytes.fromhex(key_file.read_text())
    assert key_file.stat().st_mode & 0o777 == 0o600
    root_key = bytes(open_lock(hospital.root)._root)
    assert clear_places(hospital.root, {"key file": secret, "root key": root_key}) == []


def test_a_copied_folder_without_its_key_file_opens_nothing(hospital: HospitalFolder, tmp_path: Path) -> None:
    copy = HospitalFolder(tmp_path / "stolen" / "alpha")
    shutil.copytree(hospital.root, copy.root)
    with pytest.raises(UnlockSecretMissing, match=r"alpha\.unlock") as caught:
        open_lock(copy.root)
    assert "lost" in caught.value.hint
    (tmp_path / "stolen" / "alpha.unlock").write_text("ab" * 32 + "\n")
    (tmp_path / "stolen" / "alpha.unlock").chmod(0o600)
    with pytest.raises(WrongUnlockSecret, match="key file") as wrong:
        open_lock(copy.root)
    assert "lost" in wrong.value.hint
    assert "ledger" in wrong.value.hint
    stranger = Unlock.generate()
    vault = Vault.read_only(copy.state, stranger)
    for attempt in (
        *(lambda n=name: read_key(copy.keys / n, stranger) for name in KEYS),
        lambda: vault.study_key(0),
        lambda: vault.round_secrets(3),
        lambda: vault.values(3),
        lambda: vault.upload(3),
        lambda: vault.sum(2),
        vault.checkpoint,
    ):
        with pytest.raises(StorageError, match="damaged, or another"):
            attempt()
    assert vault.signed_plan() == "ab" * 32  # what everybody may know


def test_folder_and_key_file_may_be_moved_together(hospital: HospitalFolder, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    hospital.root.with_name("alpha.unlock").rename(tmp_path / "elsewhere" / "alpha.unlock")
    with pytest.raises(UnlockSecretMissing):
        open_lock(hospital.root)
    told = SecretSource(key_file=tmp_path / "elsewhere" / "alpha.unlock")
    open_lock(hospital.root, told)
    hospital.root.rename(tmp_path / "elsewhere" / "alpha")
    open_lock(tmp_path / "elsewhere" / "alpha")


def test_a_second_study_has_a_folder_of_its_own_with_the_same_keys(hospital: HospitalFolder, tmp_path: Path) -> None:
    """Two studies on the same patients share one ledger, so they need its signing key."""
    second = HospitalFolder(tmp_path / "alpha-second-study")
    second.root.mkdir(mode=0o700)
    shutil.copy(hospital.root / "unlock.json", second.root)
    shutil.copytree(hospital.keys, second.keys)
    unlock = open_lock(second.root)
    first = SigningKey.load(hospital.keys / "signing.key", open_lock(hospital.root))
    assert SigningKey.load(second.keys / "signing.key", unlock).public_hex == first.public_hex
    assert Vault(second.state, unlock).study_key(0) is None


# --- who may write into the folder -----------------------------------------------------------------------------------


def test_a_file_in_another_files_place_does_not_open(hospital: HospitalFolder) -> None:
    unlock, state = open_lock(hospital.root), hospital.state
    vault = Vault(state, unlock)
    for one, other in (("signing.key", "sealing.key"), ("tls.key", "signing.key")):
        kept = (hospital.keys / one).read_bytes()
        (hospital.keys / one).write_bytes((hospital.keys / other).read_bytes())
        with pytest.raises(StorageError, match="another file"):
            read_key(hospital.keys / one, unlock)
        (hospital.keys / one).write_bytes(kept)
    (state / "study-key-1").write_bytes((state / "study-key-0").read_bytes())
    with pytest.raises(StorageError, match="study-key-1"):
        vault.study_key(1)
    (state / "round-00004-secrets").write_bytes((state / "round-00003-secrets").read_bytes())
    with pytest.raises(StorageError):
        vault.round_secrets(4)
    # Not even with the same name: a file of the state is no private key.
    (hospital.keys / "study-key-0").write_bytes((state / "study-key-0").read_bytes())
    (hospital.keys / "study-key-0").chmod(0o600)
    with pytest.raises(StorageError):
        read_key(hospital.keys / "study-key-0", unlock)


def test_a_file_of_another_folder_does_not_open(hospital: HospitalFolder, tmp_path: Path) -> None:
    """Not even where one key file opens both folders: each has a root key of its own."""
    other = HospitalFolder(tmp_path / "beta")
    init_hospital(other.root, "north", "beta", SecretSource(key_file=tmp_path / "alpha.unlock"))
    (other.keys / "signing.key").write_bytes((hospital.keys / "signing.key").read_bytes())
    with pytest.raises(StorageError):
        SigningKey.load(other.keys / "signing.key", open_lock(other.root))


def test_every_truncation_and_every_changed_byte_is_refused(tmp_path: Path) -> None:
    unlock, path = Unlock.generate(), tmp_path / "study-key-0"
    sealed = seal(b"sixteen secrets!", path.name, unlock, VAULT)
    assert unseal(sealed, path, unlock, VAULT) == b"sixteen secrets!"
    for end in range(len(sealed)):
        with pytest.raises((StorageError, UnsealedSecret)):
            unseal(sealed[:end], path, unlock, VAULT)
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((StorageError, UnsealedSecret)):
            unseal(bytes(changed), path, unlock, VAULT)
    for longer in (sealed + b"\0", b"\0" + sealed):
        with pytest.raises((StorageError, UnsealedSecret)):
            unseal(longer, path, unlock, VAULT)


def test_sealing_twice_differs(tmp_path: Path) -> None:
    unlock = Unlock.generate()
    assert seal(b"same", "name", unlock, VAULT) != seal(b"same", "name", unlock, VAULT)
    assert unlock.key(VAULT) != unlock.key(PRIVATE_KEYS)


def test_a_key_put_there_in_clear_is_refused_by_name(hospital: HospitalFolder) -> None:
    unlock = open_lock(hospital.root)
    for content in (b"-----BEGIN PRIVATE KEY-----\n", bytes(64), b""):
        (hospital.keys / "signing.key").write_bytes(content)
        with pytest.raises(UnsealedSecret, match=r"signing\.key") as caught:
            SigningKey.load(hospital.keys / "signing.key", unlock)
        assert "seal-keys" in caught.value.hint


# --- modes and owners ------------------------------------------------------------------------------------------------


def open_to_others(path: Callable[[HospitalFolder], Path], mode: int) -> Callable[[HospitalFolder], None]:
    return lambda folder: path(folder).chmod(mode)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o660])
@pytest.mark.parametrize("name", ["../alpha.unlock", "unlock.json", "keys/signing.key"])
def test_a_secret_that_others_can_touch_is_refused(hospital: HospitalFolder, name: str, mode: int) -> None:
    (hospital.root / name).chmod(mode)
    with pytest.raises(UnsafePermissions) as caught:
        SigningKey.load(hospital.keys / "signing.key", open_lock(hospital.root))
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_that_others_can_write_into_is_refused(hospital: HospitalFolder, mode: int) -> None:
    unlock = open_lock(hospital.root)
    hospital.keys.chmod(mode)
    hospital.state.chmod(mode)
    for attempt in (lambda: read_key(hospital.keys / "tls.key", unlock), lambda: Vault(hospital.state, unlock)):
        with pytest.raises(UnsafePermissions, match="others may write") as caught:
            attempt()
        assert "chmod 700" in caught.value.hint


def test_a_key_file_of_another_user_is_refused(hospital: HospitalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UnsafePermissions, match="another user"):
        open_lock(hospital.root)


def test_a_key_file_that_is_no_plain_file_is_refused_and_not_waited_for(hospital: HospitalFolder) -> None:
    key_file = hospital.root.with_name("alpha.unlock")
    key_file.unlink()
    os.mkfifo(key_file, 0o600)
    with pytest.raises(StorageError, match="regular file"):
        open_lock(hospital.root)
    key_file.unlink()
    key_file.mkdir(mode=0o700)
    with pytest.raises(StorageError, match="regular file"):
        open_lock(hospital.root)


@pytest.mark.parametrize("content", [b"", b"ab" * 31, b"AB" * 32, b"ab" * 32 + b"\n\n", b"xy" * 32, b"ab" * 33])
def test_a_file_that_is_no_key_file_is_named(hospital: HospitalFolder, content: bytes) -> None:
    hospital.root.with_name("alpha.unlock").write_bytes(content)
    with pytest.raises(InvalidConfiguration, match="not a key file"):
        open_lock(hospital.root)


def test_a_key_file_in_the_folder_it_opens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(tmp_path / "alpha")
    for place in (tmp_path / "alpha" / "my.unlock", tmp_path / "alpha" / "keys" / "k", tmp_path / "other" / "k"):
        with pytest.raises(InvalidConfiguration, match="in the folder"):
            init_hospital(tmp_path / "alpha", "north", "alpha", SecretSource(key_file=place))
        assert not place.exists()
    assert not (tmp_path / "alpha" / "keys" / "tls.key").exists()


def test_an_existing_key_file_is_never_replaced(tmp_path: Path) -> None:
    init_hospital(tmp_path / "alpha", "north", "alpha")
    before = (tmp_path / "alpha.unlock").read_bytes()
    shutil.rmtree(tmp_path / "alpha")
    init_hospital(tmp_path / "alpha", "north", "alpha")
    assert (tmp_path / "alpha.unlock").read_bytes() == before
    (tmp_path / "beta.unlock").write_bytes(b"notes of somebody")
    (tmp_path / "beta.unlock").chmod(0o600)
    with pytest.raises(InvalidConfiguration, match="not a key file"):
        init_hospital(tmp_path / "beta", "north", "beta")
    assert (tmp_path / "beta.unlock").read_bytes() == b"notes of somebody"


# --- other folders, other moments ------------------------------------------------------------------------------------


def test_no_secret_of_the_coordinator_lies_in_clear(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    init_coordinator(folder, "north", "coordinator")
    unlock = open_lock(folder)
    wanted = {
        "tls.key": private_number(folder / "tls.key", unlock),
        "signing.key": read_key(folder / "signing.key", unlock),
        "key file": bytes.fromhex((tmp_path / "coordinator.unlock").read_text()),
    }
    assert clear_places(folder, wanted) == []
    (folder / "tls.clear").write_bytes(read_key(folder / "tls.key", unlock))
    assert ("tls.key", "tls.clear") in clear_places(folder, wanted)


def test_a_crash_between_two_steps_of_init_is_healed_by_running_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it stops, the next run ends with a folder whose every key opens."""
    steps = 0

    def stops_at(stop: int, call: Callable[..., None]) -> Callable[..., None]:
        def instead(*args: object, **named: object) -> None:
            nonlocal steps
            steps += 1
            if steps == stop:
                raise StorageError("power cut")
            call(*args, **named)

        return instead

    from secure_fedhelp.hospital import setup
    from secure_fedhelp.identity import key_file, lock, sealed_files

    places = ((key_file, "create_private"), (lock, "write_atomic"), (sealed_files, "write_atomic"))
    for stop in range(1, 8):
        steps, root = 0, tmp_path / f"crash-{stop}" / "alpha"
        with monkeypatch.context() as patched:
            for module, name in (*places, (setup, "write_atomic")):
                patched.setattr(module, name, stops_at(stop, getattr(module, name)))
            with pytest.raises(StorageError, match="power cut"):
                init_hospital(root, "north", "alpha")
        init_hospital(root, "north", "alpha", renew=True)
        unlock = open_lock(root)
        for name in KEYS:
            assert read_key(root / "keys" / name, unlock)
        assert (root / "policy.toml").exists()
    assert steps == 7, "every write of init was cut off once"


def test_the_vault_is_never_changed_by_who_only_reads(hospital: HospitalFolder) -> None:
    leftover = hospital.state / ".round-00000-values.ab12.part"
    leftover.write_bytes(b"of a write that is going on")
    vault = Vault.read_only(hospital.state, open_lock(hospital.root))
    assert leftover.exists()
    assert vault.round_secrets(3) == MASKS
    for attempt in (
        lambda: vault.remember_round_secrets(4, b"x"),
        lambda: vault.remember_plan("cd" * 32),
        lambda: vault.forget_round_secrets(3),
        lambda: vault.forget_study_keys_before(1),
    ):
        with pytest.raises(StorageError, match="reading only"):
            attempt()
    assert vault.round_secrets(3) == MASKS
    nowhere = hospital.root / "nowhere"
    assert Vault.read_only(nowhere, open_lock(hospital.root)).study_key(0) is None
    assert not nowhere.exists()


def test_secrets_of_a_round_and_of_an_epoch_are_forgotten(hospital: HospitalFolder) -> None:
    vault = Vault(hospital.state, open_lock(hospital.root))
    vault.remember_confirmed_key(0)
    vault.forget_round_secrets(3)
    vault.forget_study_keys_before(1)
    assert (vault.round_secrets(3), vault.study_key(0)) == (None, None)
    assert not any(p.name in ("round-00003-secrets", "study-key-0") for p in hospital.state.iterdir())
    assert vault.confirmed_key(0), "another key must not take the forgotten one's place"
    vault.forget_round_secrets(3)  # twice is no error


def test_a_secret_that_cannot_be_deleted_is_named(hospital: HospitalFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = Vault(hospital.state, open_lock(hospital.root))

    def refused(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(StorageError, match="cannot delete"):
        vault.forget_round_secrets(3)


def test_a_lock_that_was_changed_opens_nothing(hospital: HospitalFolder) -> None:
    path = hospital.root / "unlock.json"
    text = path.read_text()
    salt = text.split('"salt": "')[1][:64]
    for old, new, error in (
        (salt, "00" * 32, WrongUnlockSecret),
        ('"root_key": "', '"root_key": "ff', InvalidConfiguration),
        ('"hkdf-sha256"', '"scrypt-n17-r8-p1"', InvalidConfiguration),
        ('"hkdf-sha256"', '"none"', InvalidConfiguration),
        ('"format": 1', '"format": 2', InvalidConfiguration),
        ("{", "{{", InvalidConfiguration),
        ('"key-file"', '"key-file", "surprise": 1', InvalidConfiguration),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(error):
            open_lock(hospital.root)
    path.write_text("\n".join(line for line in text.splitlines() if "../" not in line).replace('",\n}', '"\n}'))
    with pytest.raises(UnlockSecretMissing, match="does not say"):
        open_lock(hospital.root)


def test_a_lost_lock_is_told_as_what_it_is(hospital: HospitalFolder) -> None:
    (hospital.root / "unlock.json").unlink()
    with pytest.raises(UnsealedSecret):  # keys without a lock: of an earlier version, or the lock was lost
        open_lock(hospital.root)
    with pytest.raises(FedHelpError):
        init_hospital(hospital.root, "north", "alpha", renew=True)


def test_a_wiped_key_neither_opens_nor_seals() -> None:
    unlock = Unlock.generate()
    sealed = seal(b"x", "name", unlock, VAULT)
    unlock.wipe()
    for attempt in (lambda: seal(b"x", "name", unlock, VAULT), lambda: unseal(sealed, Path("name"), unlock, VAULT)):
        with pytest.raises(ValueError, match="wiped"):
            attempt()


def test_the_seal_is_plain_aes_gcm_under_hkdf(tmp_path: Path) -> None:
    """The format, opened by cryptography's own calls: a recovery tool of ten lines could be written from this."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    unlock = Unlock(bytes(range(32)))
    write_key(tmp_path / "signing.key", b"content", unlock)
    data = (tmp_path / "signing.key").read_bytes()
    info = b"secure-fedhelp/unlock/1/private-keys"
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(bytes(range(32)))
    assert key.hex() == "fc00b2d13e2fa04077898d61c0ea74b02624f6ad2ee978ca724e7baff9fbcd48"
    assert data[:8] == b"SFHSEAL\x01"
    bound_to = b"secure-fedhelp/sealed-file/1\x00private-keys\x00signing.key"
    assert AESGCM(key).decrypt(data[8:20], data[20:], bound_to) == b"content"
