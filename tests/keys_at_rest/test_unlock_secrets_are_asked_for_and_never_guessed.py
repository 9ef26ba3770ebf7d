"""Where an unlock secret comes from, that a wrong one is told by name, and that nothing waits where nobody answers."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import (
    FedHelpError,
    InvalidConfiguration,
    StorageError,
    UnlockSecretMissing,
    UnsafePermissions,
    WrongUnlockSecret,
)
from secure_fedhelp.hospital.setup import init_hospital
from secure_fedhelp.identity import secret_source, unlock
from secure_fedhelp.identity.lock import create_lock, establish_lock, open_lock, opened_by
from secure_fedhelp.identity.secret_source import VARIABLE, SecretSource, default_key_file
from secure_fedhelp.identity.unlock import Secret, Unlock

REAL_N = unlock._SCRYPT_N
PASSPHRASE = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _fast_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smaller N: what is tested is who is asked what. One test below has the real parameters."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(unlock, "_SCRYPT_N", 2**4)


def says(*answers: str | None) -> SecretSource:
    """A person at a terminal who types these answers, one a question."""
    left = list(answers)
    return SecretSource(passphrase=True, ask=lambda question: left.pop(0))


def passphrase_file(folder: Path, text: str = PASSPHRASE + "\n") -> Path:
    path = folder / "passphrase"
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path


# --- the passphrase --------------------------------------------------------------------------------------------------


def test_a_typed_passphrase_opens_and_another_does_not(tmp_path: Path) -> None:
    made = create_lock(tmp_path / "alpha", says(PASSPHRASE, PASSPHRASE))
    assert open_lock(tmp_path / "alpha", says(PASSPHRASE)).key("x") == made.key("x")
    for wrong in ("Correct horse battery staple", PASSPHRASE + " ", "x"):
        with pytest.raises(WrongUnlockSecret, match="passphrase does not open") as caught:
            open_lock(tmp_path / "alpha", says(wrong))
        assert caught.value.exit_code == 3
    assert opened_by(tmp_path / "alpha").endswith("is opened by its passphrase")


def test_a_wrong_passphrase_is_named_before_anything_else_happens(tmp_path: Path) -> None:
    root = tmp_path / "alpha"
    init_hospital(root, "north", "alpha", says(PASSPHRASE, PASSPHRASE))
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    with pytest.raises(WrongUnlockSecret):
        init_hospital(root, "north", "alpha", says("something else of 15"), renew=True)
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before
    init_hospital(root, "north", "alpha", says(PASSPHRASE), renew=True)


@pytest.mark.parametrize("spelling", ["e\u0301 is one letter twice", "\u00e9 is one letter twice"])
def test_one_passphrase_typed_on_two_systems_is_one(tmp_path: Path, spelling: str) -> None:
    """Accented letters come composed from one keyboard and decomposed from another."""
    made = create_lock(tmp_path / "alpha", says(*["\u00e9 is one letter twice"] * 2))
    assert open_lock(tmp_path / "alpha", says(spelling)).key("x") == made.key("x")


def test_a_short_passphrase_and_two_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match="14 characters") as caught:
        create_lock(tmp_path / "alpha", says("fourteen chars", "fourteen chars"))
    assert "words" in caught.value.hint
    with pytest.raises(InvalidConfiguration, match="differ"):
        create_lock(tmp_path / "alpha", says(PASSPHRASE, PASSPHRASE + "r"))
    with pytest.raises(InvalidConfiguration, match="text"):
        create_lock(tmp_path / "alpha", says(*["\ud800 half of a pair, not text"] * 2))
    assert not (tmp_path / "alpha" / "unlock.json").exists()


def test_file_and_environment_answer_in_a_persons_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = SecretSource(passphrase=True, ask=lambda question: None)
    by_file = SecretSource(passphrase_file=passphrase_file(tmp_path), ask=lambda question: None)
    made = create_lock(tmp_path / "alpha", by_file)
    assert open_lock(tmp_path / "alpha", by_file).key("x") == made.key("x")
    monkeypatch.setenv(VARIABLE, PASSPHRASE)
    assert open_lock(tmp_path / "alpha", nobody).key("x") == made.key("x")
    monkeypatch.setenv(VARIABLE, "another passphrase")
    assert open_lock(tmp_path / "alpha", by_file).key("x") == made.key("x"), "the command line wins"
    with pytest.raises(WrongUnlockSecret):
        open_lock(tmp_path / "alpha", nobody)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UnlockSecretMissing, match="no terminal"):
        open_lock(tmp_path / "alpha", nobody)


def test_a_passphrase_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = passphrase_file(tmp_path)
    path.chmod(0o644)
    with pytest.raises(UnsafePermissions):
        create_lock(tmp_path / "alpha", SecretSource(passphrase_file=path))
    path.chmod(0o600)
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(InvalidConfiguration, match="UTF-8"):
        create_lock(tmp_path / "alpha", SecretSource(passphrase_file=path))


def test_two_kinds_of_secret_at_once_are_refused(tmp_path: Path) -> None:
    both = SecretSource(key_file=tmp_path / "k", passphrase=True)
    with pytest.raises(InvalidConfiguration, match="both"):
        create_lock(tmp_path / "alpha", both)
    create_lock(tmp_path / "by-file")
    create_lock(tmp_path / "by-word", says(PASSPHRASE, PASSPHRASE))
    with pytest.raises(InvalidConfiguration, match="key file, not by a passphrase"):
        open_lock(tmp_path / "by-file", SecretSource(passphrase_file=passphrase_file(tmp_path)))
    with pytest.raises(InvalidConfiguration, match="passphrase, not by a key file"):
        open_lock(tmp_path / "by-word", SecretSource(key_file=tmp_path / "by-file.unlock"))


def test_a_terminal_is_asked_without_echo_and_its_absence_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    asked = []
    monkeypatch.setattr(secret_source.getpass, "getpass", lambda question: asked.append(question) or "typed")
    assert secret_source._ask("Passphrase of alpha") is None  # the tests' own input is no terminal
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert secret_source._ask("Passphrase of alpha") == "typed"
    monkeypatch.setattr(sys, "stdin", None)
    assert secret_source._ask("Passphrase of alpha") is None
    assert asked == ["Passphrase of alpha: "]


@pytest.mark.end
def test_join_without_a_terminal_ends_by_name_and_hangs_nowhere(tmp_path: Path) -> None:
    """The real command, in a session of its own with nothing to read from: getpass would look for a terminal."""

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "secure_fedhelp", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            timeout=60,
            env={**os.environ, **environment},
        )

    folder = ["--folder", tmp_path / "hub"]
    init = ["coordinator", "init", *folder, "--consortium", "north", "--name", "hub", "--passphrase"]
    refused = run(*init)
    assert refused.returncode == 3
    assert "UnlockSecretMissing" in refused.stderr
    assert not (tmp_path / "hub" / "tls.key").exists()
    assert run(*init, SECURE_FEDHELP_PASSPHRASE=PASSPHRASE).returncode == 0
    rekey = ["coordinator", "rekey", *folder, "--new-key-file", tmp_path / "k"]
    for passphrase, name in ((None, "UnlockSecretMissing"), ("not this passphrase", "WrongUnlockSecret")):
        refused = run(*rekey, **({} if passphrase is None else {VARIABLE: passphrase}))
        assert refused.returncode == 3
        assert f"error: {name}" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert PASSPHRASE not in refused.stdout + refused.stderr
    assert run(*rekey, SECURE_FEDHELP_PASSPHRASE=PASSPHRASE).returncode == 0
    open_lock(tmp_path / "hub")


def test_the_passphrase_goes_through_scrypt_with_the_stated_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7914 by cryptography's own call; the figures are OWASP's, and 128 MiB a guess."""
    monkeypatch.setattr(unlock, "_SCRYPT_N", REAL_N)
    salt = bytes(range(32))
    expected = Scrypt(salt=salt, length=32, n=131072, r=8, p=1).derive(PASSPHRASE.encode())
    assert Secret.from_passphrase(PASSPHRASE).wrapping_key(salt) == expected


# --- the key file ----------------------------------------------------------------------------------------------------


def test_by_default_the_key_file_is_beside_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (Path("alpha"), Path(), tmp_path / "beta", Path("..") / "gamma"):
        create_lock(folder)
        key_file = default_key_file(folder)
        assert key_file.exists()
        assert not key_file.is_relative_to(folder.resolve())
        assert str(key_file) in opened_by(folder)
        open_lock(folder)


def test_a_place_in_full_is_kept_and_one_in_short_is_told_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create_lock(Path("members/alpha"), SecretSource(key_file=Path("secrets/alpha.key")))
    assert '"../../secrets/alpha.key"' in (tmp_path / "members/alpha/unlock.json").read_text()
    create_lock(Path("members/beta"), SecretSource(key_file=tmp_path / "secrets" / "beta.key"))
    assert f'"{tmp_path}/secrets/beta.key"' in (tmp_path / "members/beta/unlock.json").read_text()
    for name in ("alpha", "beta"):
        open_lock(tmp_path / "members" / name)
        assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_a_place_that_cannot_be_written_is_named_and_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        create_lock(tmp_path / "alpha", SecretSource(key_file=tmp_path / "file" / "k"))
    assert not (tmp_path / "alpha" / "unlock.json").exists()
    with pytest.raises(StorageError):
        create_lock(tmp_path / "file" / "alpha", SecretSource(key_file=tmp_path / "k"))


def test_half_a_key_file_is_never_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            create_lock(tmp_path / "alpha")
    assert not (tmp_path / "alpha.unlock").exists()
    create_lock(tmp_path / "alpha")
    open_lock(tmp_path / "alpha")


def test_a_folder_has_one_lock(tmp_path: Path) -> None:
    made = create_lock(tmp_path / "alpha")
    with pytest.raises(InvalidConfiguration, match="already has a lock"):
        create_lock(tmp_path / "alpha")
    assert establish_lock(tmp_path / "alpha").key("x") == made.key("x")


def test_a_folder_without_keys_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        open_lock(tmp_path)
    assert "hospital init" in caught.value.hint


# --- never shown -----------------------------------------------------------------------------------------------------


def test_secrets_are_never_printed_or_pickled(tmp_path: Path) -> None:
    for secret, shown in (
        (Secret.from_passphrase(PASSPHRASE), "Secret(passphrase)"),
        (Secret("key-file", bytes(32)), "Secret(key-file)"),
        (Unlock.generate(), "Unlock(secret)"),
    ):
        assert repr(secret) == str(secret) == f"{secret}" == shown
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(secret)


def test_a_wiped_secret_is_no_secret() -> None:
    secret = Secret("key-file", b"k" * 32)
    secret.wipe()
    with pytest.raises(ValueError, match="wiped"):
        secret.wrapping_key(bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        Unlock(bytes(16))


def test_the_commands_say_what_opens_the_folder_and_print_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, words in (
        ("alpha", "hospital init --folder alpha --consortium north --name alpha"),
        ("hub", "coordinator init --folder hub --consortium north --name hub"),
        ("authority", "consortium init authority --name north"),
    ):
        done = CliRunner().invoke(app, words.split())
        assert done.exception is None, done.exception
        key_file = tmp_path / f"{folder}.unlock"
        assert str(key_file) in done.output
        assert key_file.read_text().strip() not in done.output


def test_a_malformed_name_leaves_neither_folder_nor_key_file(tmp_path: Path) -> None:
    for command in (["hospital", "init", "--consortium", "north"], ["coordinator", "init", "--consortium", "north"]):
        done = CliRunner().invoke(app, [*command, "--folder", str(tmp_path / "x"), "--name", "No Name"])
        assert isinstance(done.exception, InvalidConfiguration)
    done = CliRunner().invoke(app, ["consortium", "init", str(tmp_path / "x"), "--name", "No Name"])
    assert isinstance(done.exception, FedHelpError)
    assert list(tmp_path.iterdir()) == []
