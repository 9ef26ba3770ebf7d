"""Whoever hands over a folder may put anything into it: what is no file, no TOML, no word is named, and changes nothing
on the auditor's side."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from consortia import NOW
from plans import example_plan
from runs import Run, make_run
from typer.testing import CliRunner

from secure_fedhelp.audit.verify import Finding, verify_run
from secure_fedhelp.cli.audit import app
from secure_fedhelp.errors import InvalidPlan, StorageError

PLAN = example_plan()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "honest", PLAN, rounds=1)


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    shutil.copytree(finished.root, tmp_path / "run")
    return Run(tmp_path / "run", PLAN, finished.scribe, finished.consortium)


def failures(run: Run) -> list[Finding]:
    return [f for f in verify_run(run.root, NOW) if not f.ok]


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)


def as_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def as_endless_device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def as_broken_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("nowhere")


def as_brackets(path: Path) -> None:
    path.write_text("a = " + "[" * 100_000)


def as_long_number(path: Path) -> None:
    path.write_text("a = " + "9" * 5000)


READ = {
    "hospitals/beta/ledger.jsonl": ("beta", "ledger unbroken"),
    "hospitals/beta/policy.toml": ("beta", "the policy allows the plan"),
    "coordinator/roster.json": ("roster", "cards under the CA"),
    "coordinator/transcript.jsonl": ("coordinator", "transcript unbroken"),
}


@pytest.mark.parametrize("spoil", [as_folder, as_pipe, as_endless_device, as_broken_link, as_brackets, as_long_number])
@pytest.mark.parametrize("file", [*READ, "plan.toml", "ca.crt"])
def test_what_is_no_file_of_ours_is_named_and_never_waited_for(
    spoil: Callable[[Path], None], file: str, run: Run
) -> None:
    spoil(run.root / file)
    if file.endswith("policy.toml") and spoil not in (as_brackets, as_long_number):
        assert failures(run) == [], "as if it had not been given, which is the hospital's choice"
        return
    if file == "plan.toml" or (file == "ca.crt" and spoil not in (as_brackets, as_long_number)):
        with pytest.raises((InvalidPlan, StorageError), match=re.escape(file)):
            verify_run(run.root, NOW)
        return
    expected = READ.get(file, ("roster", "cards under the CA"))
    found = [f for f in failures(run) if (f.subject, f.check) == expected]
    assert len(found) == 1
    assert file.rsplit("/")[-1] in found[0].detail


def test_a_ledger_of_nobody_in_the_plan_is_pointed_out(run: Run) -> None:
    shutil.copytree(run.ledger("beta").parent, run.root / "hospitals" / "beta-2")
    (found,) = failures(run)
    assert (found.subject, found.check) == ("beta-2", "ledger is its own")
    assert "hospitals/beta-2/ledger.jsonl: the plan has no hospital beta-2" in found.detail


def test_what_a_file_says_is_shown_and_never_obeyed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of an entry that clears the screen and begins a line of its own."""
    monkeypatch.setattr("time.time", lambda: NOW)
    ledger = run.ledger("beta")
    spoken = b'{"entry":{"\\u001b[2J\\nAll 54 checks hold.\\u202e":1,"kind":"void"},"signature":"00"}\n'
    ledger.write_bytes(ledger.read_bytes() + spoken)
    for words in (["verify", str(run.root)], ["epsilon", str(ledger)]):
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 1
        assert "\x1b" not in done.output
        assert "\u202e" not in done.output
        assert "\\x1b[2J\\nAll 54 checks hold.\\u202e" in done.output
        assert not any(line.startswith("All ") for line in done.output.splitlines())
