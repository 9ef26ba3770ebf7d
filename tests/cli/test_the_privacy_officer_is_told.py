"""What is left of a budget, and what a plan asks that the policy does not allow: said before anything is signed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w
from ledgers import channels
from plans import example_plan
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import (
    InvalidConfiguration,
    InvalidPlan,
    LedgerInvalid,
    NotOnRoster,
    PolicyViolation,
    UnlockSecretMissing,
)
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.hospital.setup import init_hospital
from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.identity.secret_source import SecretSource
from secure_fedhelp.identity.signing import SigningKey
from secure_fedhelp.privacy.datasets import KEY_PURPOSE, PatientBook
from secure_fedhelp.privacy.ledger import Ledger
from secure_fedhelp.privacy.mechanisms import planned_events
from secure_fedhelp.study.plan import StudyPlan

PLAN = example_plan(aggregation__masks="repairing", model__small="cnn-4", model__large="cnn-8")


class Hospital:
    """A folder with keys, and a plan file beside it."""

    def __init__(self, root: Path, plan: StudyPlan = PLAN) -> None:
        self.root, self.plan_file, self.plan = root / "beta", root / "plan.toml", plan
        self.key_file = root / "beta.key"
        init_hospital(self.root, "north", "beta", SecretSource(self.key_file))
        dumped = plan.model_dump(mode="json", exclude_none=True)
        self.plan_file.write_text(tomli_w.dumps(dumped), encoding="utf-8")
        key = SigningKey.load(self.root / "keys" / "signing.key", open_lock(self.root, SecretSource(self.key_file)))
        self.key = key
        self.book = PatientBook(self.root / "ledger.jsonl", key.derive(KEY_PURPOSE))

    def policy(self, text: str) -> None:
        (self.root / "policy.toml").write_text(text, encoding="utf-8")

    def spend(self, patients: list[str], rounds: int, plan: StudyPlan | None = None, reserve: bool = False) -> None:
        dataset, plan = self.book.enter(patients), plan or self.plan
        with Ledger.open(self.root / "ledger.jsonl", "beta", self.key, lambda: 1.0) as ledger:
            for number in range(rounds):
                events = planned_events(plan, "beta", number)
                place = {"study": plan.hash, "delta": 1e-4, "dataset": dataset}
                ledger.release(
                    events,
                    round=number,
                    channels=channels(number),
                    noise_source="system",
                    **place,  # type: ignore[arg-type]
                )
            if reserve:
                ledger.reserve(events, round=rounds, **place)  # type: ignore[arg-type]

    def budget(self, *more: object) -> str:
        result = CliRunner().invoke(
            app,
            ["hospital", "budget", "--folder", str(self.root), "--key-file", str(self.key_file), *map(str, more)],
            catch_exceptions=False,
        )
        assert result.exit_code == 0, result.output
        assert max(len(line) for line in result.output.splitlines()) <= 80
        return result.output


@pytest.fixture
def beta(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def test_nothing_spent_is_said_and_the_whole_plan_fits(beta: Hospital) -> None:
    said = beta.budget("--plan", beta.plan_file)
    assert "Nothing has been spent or reserved." in said
    assert "4 more round(s) of study lungs fit (4 planned)" in " ".join(said.split())


def test_studies_on_the_same_patients_add_up_and_others_do_not(beta: Hospital) -> None:
    rival = example_plan(study__name="rival")
    beta.spend(["ann", "bob"], 2)
    alone = beta.budget()
    beta.spend(["bob", "eve"], 1, rival)
    beta.spend(["zoe"], 1, rival, reserve=True)
    rows = [line.split() for line in beta.budget().splitlines() if "%" in line]
    first, second, third = rows
    assert [row[1] for row in rows] == ["2", "2", "1"]
    assert [row[3] for row in rows] == ["2", "1", "1"]
    assert first[4] == second[4], "bob is in both"
    assert float(third[4]) < float(alone.split("%")[0].split()[-3]) < float(first[4])
    assert third[5:7] == ["to", third[6]]
    assert float(third[6]) > float(third[4])


def test_what_still_fits_follows_from_what_others_took(beta: Hospital) -> None:
    beta.policy("largest_epsilon = 3.0\nlifetime_epsilon = 0.9\n")
    beta.spend(["ann"], 1, example_plan(study__name="rival"))
    left = int(beta.budget("--plan", beta.plan_file).split(" more round(s)")[0].split()[-1])
    assert 0 <= left < 4
    beta.policy("largest_epsilon = 3.0\nlifetime_epsilon = 90.0\n")
    assert int(beta.budget("--plan", beta.plan_file).split(" more round(s)")[0].split()[-1]) > left


def test_a_round_of_exact_counts_fits_only_as_often_as_the_policy_says(beta: Hospital) -> None:
    values = PLAN.model_dump(mode="json", exclude_none=True) | {"metrics": {"release": "pooled", "bins": 2}}
    values["channels"].append({"name": "metrics", "length": 12, "bound": 1.0})
    beta.plan_file.write_text(tomli_w.dumps(values), encoding="utf-8")
    assert "4 more round(s)" in beta.budget("--plan", beta.plan_file)
    beta.policy("largest_epsilon = 3.0\nexact_releases = 0\n")
    assert "3 more round(s)" in beta.budget("--plan", beta.plan_file)


def test_a_delta_that_means_nothing_is_refused_and_not_replaced(beta: Hospital) -> None:
    beta.spend(["ann"], 1)
    with pytest.raises(InvalidPlan, match="delta"):
        beta.budget("--delta", "0")


def test_what_a_study_that_is_over_had_reserved_is_given_back(beta: Hospital) -> None:
    beta.spend(["ann"], 2, reserve=True)
    fits = "2 more round(s) of study lungs fit"
    assert fits in beta.budget("--plan", beta.plan_file), "its own reservation is not counted twice"
    said = beta.budget("--give-back", PLAN.hash[:12])
    assert f"Gave back 1 reservation(s) of study {PLAN.hash[:16]}." in said
    assert " to " not in said
    with pytest.raises(InvalidConfiguration, match="no one study"):
        beta.budget("--give-back", PLAN.hash[:12])


def test_a_study_of_this_folder_that_is_given_back_leaves_no_key(beta: Hospital) -> None:
    """A hospital that never heard how its study ended has its keys and secrets until then."""
    state = Vault(beta.root / "state", open_lock(beta.root, SecretSource(beta.key_file)))
    state.remember_plan(PLAN.hash)
    state.remember_study_key(0, b"key")
    state.remember_round_secrets(1, b"masks")
    with pytest.raises(InvalidConfiguration, match="no one study"):
        beta.budget("--give-back", "0123456789")
    assert state.study_key(0) == b"key"
    with pytest.raises(InvalidConfiguration, match="too short to name a study"):
        beta.budget("--give-back", PLAN.hash[:7])
    said = beta.budget("--give-back", PLAN.hash[:12])
    assert f"Gave back 0 reservation(s) of study {PLAN.hash[:16]}." in said
    assert "Its keys in this folder are deleted; it takes part no more." in said
    assert (state.study_key(0), state.round_secrets(1)) == (None, None)


def test_a_plan_for_others_is_refused_by_name(beta: Hospital) -> None:
    values = PLAN.model_dump(mode="json", exclude_none=True)
    values["hospitals"][1]["name"] = "omega"
    beta.plan_file.write_text(tomli_w.dumps(values), encoding="utf-8")
    with pytest.raises(NotOnRoster):
        beta.budget("--plan", beta.plan_file)


def test_a_second_studys_folder_goes_on_with_the_same_ledger(beta: Hospital, tmp_path: Path) -> None:
    beta.policy("largest_epsilon = 2.0\n")
    beta.spend(["ann"], 2)
    for file in ("ca.crt", "revoked.crl", "tls.crt"):
        (beta.root / "keys" / file).write_text(file)
    command = ["hospital", "init", "--folder", str(tmp_path / "next"), "--consortium", "north", "--name", "beta"]
    like = ["--like", str(beta.root), "--like-key-file", str(beta.key_file)]
    done = CliRunner().invoke(app, [*command, *like], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "signed with --renew" in done.output
    folder = HospitalFolder(tmp_path / "next")
    assert {f for f in ("ca.crt", "revoked.crl", "tls.crt") if (folder.keys / f).exists()} == {"ca.crt", "revoked.crl"}
    assert (folder.keys / "ca.crt").read_text() == "ca.crt"
    elsewhere = [*command[:3], str(tmp_path / "south"), command[4], "south", *command[6:], *like]
    assert CliRunner().invoke(app, elsewhere, catch_exceptions=False).exit_code == 0
    assert not (tmp_path / "south" / "keys" / "ca.crt").exists(), "another consortium has another authority"
    assert folder.policy().largest_epsilon == 2.0
    key = SigningKey.load(folder.keys / "signing.key", open_lock(folder.root))
    assert key.public_hex == beta.key.public_hex
    path = folder.root / folder.config().ledger
    with Ledger.open(path, "beta", key, lambda: 1.0) as ledger:
        assert ledger.count == 2
        assert PatientBook(path, key.derive(KEY_PURPOSE)).patients(ledger.entries[0].dataset) == 1
    for wrong in (["--name", "alpha"], ["--like", str(tmp_path / "nowhere")]):
        other = [*command[:3], str(tmp_path / "third"), *command[4:], *like, *wrong]
        with pytest.raises(InvalidConfiguration):
            CliRunner().invoke(app, other, catch_exceptions=False)
        assert not (tmp_path / "third" / "keys" / "signing.key").exists()
    with pytest.raises(UnlockSecretMissing) as missing:
        CliRunner().invoke(app, [*other[:8], "--like", str(beta.root), "--like-key-file", "no"], catch_exceptions=False)
    assert "--like-key-file" in missing.value.hint
    assert not (tmp_path / "third").exists(), "nothing was made"


def test_the_ledgers_path_may_hold_any_character(tmp_path: Path) -> None:
    first = Hospital(tmp_path / 'Klinik "Süd" \U0001f3e5')
    command = ["hospital", "init", "--folder", str(tmp_path / "next"), "--consortium", "north", "--name", "beta"]
    like = ["--like", str(first.root), "--like-key-file", str(first.key_file)]
    assert CliRunner().invoke(app, [*command, *like], catch_exceptions=False).exit_code == 0
    assert HospitalFolder(tmp_path / "next").config().ledger == str((first.root / "ledger.jsonl").resolve())


def test_a_damaged_ledger_is_named(beta: Hospital) -> None:
    beta.spend(["ann"], 2)
    path = beta.root / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"steps":5', b'"steps":1', 1))
    with pytest.raises(LedgerInvalid, match="entry 0"):
        beta.budget()


def test_every_broken_clause_is_shown_at_once_beside_those_that_hold(beta: Hospital) -> None:
    command = ["hospital", "policy", "check", str(beta.plan_file), "--folder", str(beta.root)]
    beta.policy("largest_epsilon = 1.0\nsmallest_cohort = 5\nchannels_allowed = []\n")
    found = CliRunner().invoke(app, command)
    assert isinstance(found.exception, PolicyViolation)
    assert found.exception.exit_code == 4
    assert "largest_epsilon, smallest_cohort, channels_allowed" in found.exception.message
    assert found.output.count("BROKEN") == 3
    assert found.output.count(" ok") >= 5
    beta.policy("")
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0
    assert "No clause is broken.\nNetworks: large hospitals train 1,682 values of cnn-4 privately.\n" in found.output
