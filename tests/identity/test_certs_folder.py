"""``certs/`` explains and scripts a consortium's certificates, and never holds a private key."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.tls import Credentials, load_credentials

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "certs" / "make-consortium.sh"


def test_no_private_key_lies_in_certs() -> None:
    files = [p for p in (ROOT / "certs").rglob("*") if p.is_file()]
    assert SCRIPT in files
    assert (ROOT / "certs" / "README.md") in files
    for path in files:
        assert path.suffix not in {".key", ".pem", ".p12", ".pfx"}, path
        assert b"PRIVATE KEY-----" not in path.read_bytes(), path


def test_the_script_parses() -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_is_executable_and_stops_at_the_first_error() -> None:
    assert SCRIPT.stat().st_mode & 0o100
    assert "set -euo pipefail" in SCRIPT.read_text()


@pytest.mark.parametrize("words", [[], ["folder", "north"]])
def test_the_script_without_members_says_how_to_call_it(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "Usage" in done.stderr
    assert list(tmp_path.iterdir()) == []


def credentials(folder: Path, now: float) -> Credentials:
    """Opened as a command does: by the lock of the member's folder, which for a hospital is above its keys."""
    return load_credentials(folder, now, open_lock(folder.parent if folder.name == "keys" else folder))


@pytest.mark.end
def test_the_script_makes_a_consortium_whose_credentials_hold(tmp_path: Path) -> None:
    command = tmp_path / "secure-fedhelp"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m secure_fedhelp "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "run"), "north", "alpha", "beta"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "SECURE_FEDHELP": str(command)},
    )
    assert done.returncode == 0, done.stderr
    now = time.time()  # the commands read the machine's clock too
    found = {
        (i.role, i.name) for i in (credentials(p.parent, now).identity for p in (tmp_path / "run").rglob("tls.crt"))
    }
    assert found == {("coordinator", "coordinator"), ("hospital", "alpha"), ("hospital", "beta")}
