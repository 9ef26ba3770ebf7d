"""Whatever is wrong with a hospital's files is told by name, with a hint, before anything is trained, spent or sent."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tomli_w
from studies import Study, study
from unlocking import UNLOCK

from secure_fedhelp.errors import (
    AccountantDisagreement,
    CapacityExceeded,
    CertificateExpired,
    FedHelpError,
    FoundationUnavailable,
    IdentityError,
    InvalidConfiguration,
    InvalidPlan,
    InvalidPolicy,
    InvalidValue,
    MissingColumn,
    NotOnRoster,
    NotReleasable,
    OneClassOnly,
    PlanChanged,
    PolicyViolation,
    PublicSetMismatch,
    StorageError,
    TooFewPatients,
    UnknownCategory,
    UnlockSecretMissing,
    UnsafePermissions,
    UnsealedSecret,
    WrongAuthority,
)
from secure_fedhelp.hospital import preparation
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.world import World
from secure_fedhelp.identity.authority import Authority
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.sealed_files import read_key, write_key
from secure_fedhelp.privacy import accountant

NAME = "small-1"
Change = Callable[[Study, HospitalFolder], None]


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Study]:
    with study(tmp_path / "run") as running:
        yield running


def folder_of(running: Study) -> HospitalFolder:
    return running.run.hospital(NAME)


def prepare(running: Study, now: float | None = None) -> None:
    """All checks that come before a hospital connects."""
    moment = time.time() if now is None else now
    member = preparation.prepare_membership(folder_of(running).root, running.run.plan, moment)
    records = preparation.prepare_records(member)
    preparation.ask_teacher(member, records.public, World(lambda: moment, lambda _: None))


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def edit_table(path: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(change(rows))


def other_authority(running: Study, folder: HospitalFolder) -> None:
    other = Authority.create(running.run.root / "other", running.plan.consortium, time.time(), 30, UNLOCK)
    request = (folder.keys / "tls.csr").read_bytes()
    (folder.keys / "tls.crt").write_bytes(other.sign(request, "hospital", NAME, time.time(), 30))


def swapped_certificate(running: Study, folder: HospitalFolder) -> None:
    other = running.run.hospital("small-2")
    (folder.keys / "tls.crt").write_bytes((other.keys / "tls.crt").read_bytes())
    write_key(folder.keys / "tls.key", read_key(other.keys / "tls.key", open_lock(other.root)), open_lock(folder.root))


def swapped_key(running: Study, folder: HospitalFolder) -> None:
    other = running.run.hospital("small-2").keys
    (folder.keys / "signing.key").write_bytes((other / "signing.key").read_bytes())


def other_lock(running: Study, folder: HospitalFolder) -> None:
    other = running.run.hospital("small-2").root
    (folder.root / "unlock.json").write_bytes((other / "unlock.json").read_bytes())


def one_class(running: Study, folder: HospitalFolder) -> None:
    edit_table(
        folder.root / "data" / "records.csv", lambda rows: [rows[0]] + [r for r in rows[1:] if r[-1] == "benign"]
    )


def one_class_test(running: Study, folder: HospitalFolder) -> None:
    edit_table(folder.root / "data" / "test.csv", lambda rows: [rows[0]] + [r for r in rows[1:] if r[-1] == "benign"])


def few_patients(running: Study, folder: HospitalFolder) -> None:
    def keep(rows: list[list[str]]) -> list[list[str]]:
        first = {label: next(r for r in rows[1:] if r[-1] == label) for label in ("benign", "malignant")}
        return [rows[0], *first.values()]

    edit_table(folder.root / "data" / "records.csv", keep)


def cell(row: int, column: int, value: str) -> Change:
    def change(running: Study, folder: HospitalFolder) -> None:
        def put(rows: list[list[str]]) -> list[list[str]]:
            rows[row][column] = value
            return rows

        edit_table(folder.root / "data" / "records.csv", put)

    return change


def policy(**values: object) -> Change:
    def change(running: Study, folder: HospitalFolder) -> None:
        (folder.root / "policy.toml").write_text(tomli_w.dumps(values), encoding="utf-8")

    return change


def configuration(old: str, new: str) -> Change:
    return lambda running, folder: replace_text(folder.root / "hospital.toml", old, new)


def plan_text(old: str, new: str) -> Change:
    return lambda running, folder: replace_text(running.run.plan, old, new)


CASES: list[tuple[str, Change, type[FedHelpError], str]] = [
    ("no configuration", lambda r, f: (f.root / "hospital.toml").unlink(), InvalidConfiguration, "no such file"),
    ("misspelt key", configuration("records =", "recrods ="), InvalidConfiguration, "recrods"),
    ("no policy", lambda r, f: (f.root / "policy.toml").unlink(), InvalidPolicy, "no such file"),
    ("misspelt policy", policy(largest_epsilom=1.0), InvalidPolicy, "largest_epsilom"),
    ("plan breaks the policy", policy(largest_epsilon=1.0, smallest_cohort=5), PolicyViolation, "smallest_cohort"),
    ("malformed plan", plan_text("[study]", "[study"), InvalidPlan, "plan.toml"),
    ("two hospitals with one name", plan_text('"small-2"', '"small-1"'), InvalidPlan, "two hospitals with one name"),
    ("unknown profile", plan_text("required_error = 0.01", 'profile = "weak"'), InvalidPlan, "weak"),
    ("no profile fits", plan_text("bound = 16.0", "bound = 1e9"), InvalidPlan, "exact holds sums up to"),
    (
        "two ways to choose",
        plan_text("required_error = 0.01", 'required_error = 1.0\nprofile = "fine"'),
        InvalidPlan,
        "",
    ),
    ("bounds too wide", plan_text("required_error = 0.01", 'profile = "compact"'), CapacityExceeded, "compact"),
    ("noise too large", plan_text("required_error = 0.01", 'profile = "deep"'), NotReleasable, "cannot be sanitised"),
    ("not on the roster", configuration(f'"{NAME}"', '"mallory"'), NotOnRoster, "mallory"),
    ("no certificate", lambda r, f: (f.keys / "tls.crt").unlink(), InvalidConfiguration, "tls.crt"),
    ("certificate of another CA", other_authority, WrongAuthority, ""),
    ("another member's certificate", swapped_certificate, IdentityError, "small-2"),
    ("another member's sealed key", swapped_key, StorageError, "signing.key"),
    ("another member's lock", other_lock, StorageError, "tls.key"),
    ("no lock", lambda r, f: (f.root / "unlock.json").unlink(), UnsealedSecret, "in clear"),
    ("no key file", lambda r, f: (r.run.unlock / f"{NAME}.key").unlink(), UnlockSecretMissing, "small-1.key"),
    ("readable key file", lambda r, f: (r.run.unlock / f"{NAME}.key").chmod(0o640), UnsafePermissions, "small-1.key"),
    ("readable private key", lambda r, f: (f.keys / "tls.key").chmod(0o644), UnsafePermissions, "tls.key"),
    ("readable sealing key", lambda r, f: (f.keys / "sealing.key").chmod(0o640), UnsafePermissions, "sealing.key"),
    ("no table", lambda r, f: (f.root / "data" / "records.csv").unlink(), FedHelpError, "records.csv"),
    ("missing column", cell(0, 3, "renamed"), MissingColumn, ""),
    ("not a number", cell(2, 3, "twelve"), InvalidValue, "line 3"),
    ("infinity", cell(2, 3, "inf"), InvalidValue, "line 3"),
    ("unknown class", cell(2, -1, "unsure"), UnknownCategory, "unsure"),
    ("one class only", one_class, OneClassOnly, "benign"),
    ("too few patients", few_patients, TooFewPatients, NAME),
    ("one class of test records", one_class_test, OneClassOnly, "test records"),
    (
        "another public set",
        plan_text('public_sha256 = "', 'public_sha256 = "' + "0" * 64 + '" #'),
        PublicSetMismatch,
        "",
    ),
]


@pytest.mark.parametrize(("what", "change", "error", "named"), CASES, ids=[c[0].replace(" ", "-") for c in CASES])
def test_wrong_files_are_named(ready: Study, what: str, change: Change, error: type[FedHelpError], named: str) -> None:
    change(ready, folder_of(ready))
    with pytest.raises(error) as caught:
        prepare(ready)
    assert named in caught.value.message
    assert caught.value.hint
    assert not folder_of(ready).ledger.exists()


def test_everything_in_order_passes(ready: Study) -> None:
    prepare(ready)


def test_all_broken_clauses_are_named(ready: Study) -> None:
    policy(largest_epsilon=1.0, largest_delta=1e-9, smallest_cohort=5, channels_allowed=[])(ready, folder_of(ready))
    with pytest.raises(PolicyViolation) as caught:
        prepare(ready)
    for clause in ("largest_epsilon", "largest_delta", "smallest_cohort", "channels_allowed", "metrics"):
        assert clause in caught.value.message


def test_an_expired_certificate_is_named(ready: Study) -> None:
    with pytest.raises(CertificateExpired):
        prepare(ready, time.time() + 40 * 86_400)


def test_a_plan_changed_after_it_was_signed_is_refused(ready: Study) -> None:
    member = preparation.prepare_membership(folder_of(ready).root, ready.run.plan, time.time())
    member.vault.remember_plan(member.plan.hash)
    replace_text(ready.run.plan, "rounds = 2", "rounds = 3")
    with pytest.raises(PlanChanged, match="signed plan"):
        prepare(ready)


def test_a_foundation_server_that_is_down_is_named(ready: Study) -> None:
    url = "http://127.0.0.1:9"
    config = folder_of(ready).root / "hospital.toml"
    config.write_text(config.read_text(encoding="utf-8") + f'foundation_url = "{url}"\n', encoding="utf-8")
    replace_text(
        folder_of(ready).root / "policy.toml", "foundation_endpoints = []", f'foundation_endpoints = ["{url}"]'
    )
    with pytest.raises(FoundationUnavailable):
        prepare(ready)


def test_a_foundation_server_outside_the_policy_is_never_asked(ready: Study) -> None:
    config = folder_of(ready).root / "hospital.toml"
    config.write_text(config.read_text(encoding="utf-8") + 'foundation_url = "http://127.0.0.1:9"\n', encoding="utf-8")
    with pytest.raises(PolicyViolation, match="foundation_endpoints"):
        prepare(ready)


def test_a_state_folder_that_cannot_be_made_is_a_storage_error(ready: Study) -> None:
    folder_of(ready).state.write_text("a file is in the way", encoding="utf-8")
    with pytest.raises(StorageError):
        prepare(ready)


def test_accountants_that_contradict_each_other_stop_a_hospital_before_it_trains(
    ready: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = preparation.prepare_membership(folder_of(ready).root, ready.run.plan, time.time())
    preparation.check_accounting(member)
    monkeypatch.setattr(accountant, "_opacus_epsilon", lambda merged, delta: 0.5)  # RDP far below PLD: one is wrong
    with pytest.raises(AccountantDisagreement):
        preparation.check_accounting(member)


def test_the_command_line_prints_name_and_hint_and_no_traceback(ready: Study) -> None:
    policy(largest_epsilon=0.1)(ready, folder_of(ready))
    arguments = ["hospital", "join", "--folder", str(folder_of(ready).root), "--plan", str(ready.run.plan)]
    done = subprocess.run(
        [sys.executable, "-m", "secure_fedhelp", *arguments, "--coordinator", "127.0.0.1:9"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == PolicyViolation.exit_code
    assert "error: PolicyViolation: the plan breaks" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
