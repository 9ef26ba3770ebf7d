"""``secure-fedhelp coordinator`` as an operator meets it."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
import tomli_w
from consortia import Consortium
from plans import example_plan
from servers import NOW
from typer.testing import CliRunner

from secure_fedhelp.cli.coordinator import app
from secure_fedhelp.errors import InvalidConfiguration, InvalidPlan, StorageError, UnderQuorum

CLI = CliRunner()


def run(*words: str | Path) -> str:
    done = CLI.invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def plan_file(folder: Path, **changes: object) -> Path:
    path = folder / "plan.toml"
    path.write_text(tomli_w.dumps(example_plan(**changes).model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    return path


def test_init_makes_keys_for_the_owner_only_and_says_what_is_next(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    output = run("init", "--folder", folder, "--consortium", "north", "--name", "coordinator")
    for name in ("tls.key", "signing.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert "tls.csr" in output
    before = (folder / "signing.key").read_bytes()
    run("init", "--folder", folder, "--consortium", "north", "--name", "coordinator")
    assert (folder / "signing.key").read_bytes() == before


def test_from_init_to_a_study_nobody_joins(tmp_path: Path) -> None:
    consortium = Consortium.create(tmp_path / "north", now=NOW)
    folder = tmp_path / "coordinator"
    run("init", "--folder", folder, "--consortium", "north", "--name", "coordinator")
    request = (folder / "tls.csr").read_bytes()
    certificate = consortium.authority.sign(request, "coordinator", "coordinator", NOW, 30, ["127.0.0.1"])
    (folder / "tls.crt").write_bytes(certificate)
    (folder / "ca.crt").write_bytes(consortium.ca_pem)
    plan = plan_file(tmp_path, aggregation__gather_deadline_seconds=0.2)
    begin = time.monotonic()
    with pytest.raises(UnderQuorum, match="missing: alpha, beta, gamma"):
        run("serve", "--folder", folder, "--plan", plan, "--listen", "127.0.0.1:0", "--linger", "5")
    assert time.monotonic() - begin < 5, "nobody is present, so nobody is waited for"
    assert not (folder / "address").exists()
    (folder / "address").mkdir()
    with pytest.raises(StorageError, match="cannot remove .*address"):
        run("serve", "--folder", folder, "--plan", plan, "--listen", "127.0.0.1:0")


def test_what_is_wrong_is_named_before_anything_starts(tmp_path: Path) -> None:
    plan = plan_file(tmp_path)
    with pytest.raises(InvalidPlan):
        run("serve", "--folder", tmp_path, "--plan", tmp_path / "none.toml", "--listen", "127.0.0.1:0")
    with pytest.raises(InvalidConfiguration):
        run("serve", "--folder", tmp_path, "--plan", plan, "--listen", "127.0.0.1:0")
