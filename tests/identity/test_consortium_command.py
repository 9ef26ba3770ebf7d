"""``secure-fedhelp consortium``: what it writes is right, and what it prints is what people have to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from consortia import DAY, NOW
from typer.testing import CliRunner
from unlocking import UNLOCK

from secure_fedhelp.cli import consortium
from secure_fedhelp.errors import DuplicateHospital, FedHelpError, IdentityError, InvalidConfiguration, StorageError
from secure_fedhelp.identity.certificates import (
    certificate_fingerprint,
    check_certificate,
    make_request,
    request_fingerprint,
)


@pytest.fixture(autouse=True)
def _fixed_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consortium, "_now", lambda: NOW)


def run(*words: object) -> Any:
    return CliRunner().invoke(consortium.app, [str(w) for w in words])


def said(*words: object) -> str:
    done = run(*words)
    assert done.exception is None, done.exception
    return str(done.output)


def refused(error: type[FedHelpError], *words: object) -> FedHelpError:
    done = run(*words)
    assert isinstance(done.exception, error), (done.exception, done.output)
    return done.exception


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    said("init", tmp_path / "authority", "--name", "north")
    return tmp_path / "authority"


@pytest.fixture
def request_path(tmp_path: Path) -> Path:
    return make_request(tmp_path / "alpha", "north", "hospital", "alpha", UNLOCK)


def test_init_prints_the_fingerprint_to_compare(tmp_path: Path) -> None:
    text = said("init", tmp_path / "authority", "--name", "north", "--days", 10)
    ca_pem = (tmp_path / "authority" / "ca.crt").read_bytes()
    assert certificate_fingerprint(ca_pem) in text.splitlines()
    assert "telephone" in text
    refused(InvalidConfiguration, "init", tmp_path / "authority", "--name", "north")
    refused(InvalidConfiguration, "init", tmp_path / "other", "--name", "No rth")


def test_sign_writes_a_certificate_that_holds(authority: Path, request_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "alpha.crt"
    words = ["sign", request_path, "--authority", authority, "--role", "hospital", "--name", "alpha", "--out", out]
    text = said(*words)
    identity = check_certificate(out.read_bytes(), (authority / "ca.crt").read_bytes(), NOW)
    assert (identity.role, identity.name, identity.not_after) == ("hospital", "alpha", NOW + 365 * DAY)
    assert request_fingerprint(request_path.read_bytes()) in text.splitlines()
    assert f"secure-fedhelp consortium revoke alpha --authority {authority}" in text.splitlines()
    refused(DuplicateHospital, *words)
    said(*words, "--renew", "--days", 20)
    assert check_certificate(out.read_bytes(), (authority / "ca.crt").read_bytes(), NOW).not_after == NOW + 20 * DAY


def test_sign_for_a_coordinator(authority: Path, tmp_path: Path) -> None:
    request = make_request(tmp_path / "hub", "north", "coordinator", "hub", UNLOCK)
    words = [
        "sign",
        request,
        "--authority",
        authority,
        "--role",
        "coordinator",
        "--name",
        "hub",
        "--out",
        tmp_path / "c",
    ]
    assert "--dns" in refused(InvalidConfiguration, *words).hint
    said(*words, "--dns", "fed.example", "--dns", "192.0.2.7")
    assert check_certificate((tmp_path / "c").read_bytes(), (authority / "ca.crt").read_bytes(), NOW).name == "hub"


def test_mistakes_are_named_and_nothing_is_written(authority: Path, request_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.crt"
    base = ["--authority", authority, "--out", out]
    refused(InvalidConfiguration, "sign", tmp_path / "nowhere.csr", *base, "--role", "hospital", "--name", "alpha")
    refused(StorageError, "sign", tmp_path, *base, "--role", "hospital", "--name", "alpha")
    refused(IdentityError, "sign", request_path, *base, "--role", "hospital", "--name", "beta")
    refused(InvalidConfiguration, "sign", request_path, *base, "--role", "admin", "--name", "alpha")
    elsewhere = ["--authority", tmp_path / "x", "--out", out, "--role", "hospital", "--name", "alpha"]
    refused(InvalidConfiguration, "sign", request_path, *elsewhere)
    assert not out.exists()


def test_revoke_and_list(authority: Path, request_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "alpha.crt"
    said("sign", request_path, "--authority", authority, "--role", "hospital", "--name", "alpha", "--out", out)
    assert "valid" in said("list", "--authority", authority)
    text = said("revoke", "alpha", "--authority", authority)
    assert "Revoked 1 certificate" in text
    assert str(authority / "revoked.crl") in text
    assert "no certificate left" in said("revoke", "alpha", "--authority", authority)
    refused(IdentityError, "revoke", "omega", "--authority", authority)
    listed = " ".join(said("list", "--authority", authority).split())
    assert "alpha" in listed
    assert "revoked" in listed


def test_list_tells_the_expired_ones(
    authority: Path, request_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "alpha.crt"
    said("sign", request_path, "--authority", authority, "--role", "hospital", "--name", "alpha", "--out", out)
    monkeypatch.setattr(consortium, "_now", lambda: NOW + 400 * DAY)
    text = said("list", "--authority", authority)
    assert "expired" in text
    assert certificate_fingerprint((authority / "ca.crt").read_bytes()) in text


@pytest.mark.parametrize("command", [[], ["init"], ["sign"], ["revoke"], ["list"]])
def test_every_help_carries_an_example(command: list[str]) -> None:
    assert "Example: secure-fedhelp consortium" in " ".join(said(*command, "--help").split())
