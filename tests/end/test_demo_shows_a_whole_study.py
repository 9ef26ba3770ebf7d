"""The first thing a newcomer runs: a study with everything switched on, and every figure of it holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant

from secure_fedhelp.hospital.vault import Vault
from secure_fedhelp.identity.lock import open_lock
from secure_fedhelp.secagg.picker import plan_profile
from secure_fedhelp.study.channel import pack_channels
from secure_fedhelp.study.plan import load_plan

pytestmark = pytest.mark.end


def command(*words: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "secure_fedhelp", *words]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=timeout)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("demo") / "run"
    done = command("demo", "--rounds", "2", "--seed", "3", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def summary(run: tuple[Path, str]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run[0] / "summary.json").read_text(encoding="utf-8"))
    return loaded


def test_the_summary_has_what_the_readme_promises(run: tuple[Path, str]) -> None:
    found = summary(run)
    assert (found["study"], found["method"], found["dataset"]) == ("breast-cancer-demo", "fedhelp", "breast-cancer")
    assert found["rounds"] == 2
    assert 0 < found["wall_seconds"] <= 150
    assert [h["tier"] for h in found["hospitals"]] == ["large"] * 3 + ["small"] * 3
    for hospital in found["hospitals"]:
        for model in ("study_model", "personal_model", "local_only", "local_non_private"):
            assert 0 <= hospital[model]["balanced_accuracy"] <= 1
            assert 0 <= hospital[model]["auroc"] <= 1
        assert hospital["bytes_up"] > 0
        assert hospital["bytes_down"] > 0
        assert hospital["status"] == "contributed"


def test_uploads_are_at_most_eight_bytes_a_value(run: tuple[Path, str]) -> None:
    assert 0 < summary(run)["aggregation"]["up_bytes_per_value"] <= 8.0


def test_encrypted_sums_equal_the_plain_sums_of_every_channel(run: tuple[Path, str]) -> None:
    plan = load_plan(run[0] / "plan.toml")
    names = [h.name for h in plan.hospitals]
    bound = plan_profile(plan).error_bound(len(names))
    folders = {name: run[0] / "hospitals" / name for name in names}
    vaults = {name: Vault.read_only(folder / "state", open_lock(folder)) for name, folder in folders.items()}
    for number in range(2):
        plain: dict[str, Any] = {c.name: np.zeros(c.length) for c in plan.channels}
        for name in names:
            values = vaults[name].values(number)
            assert values is not None
            pack_channels(plan, number, name, values)  # what was released keeps the plan's shapes and bounds
            for channel, vector in values.items():
                plain[channel] += plan.weights[name] * vector
        for name in names:
            total = vaults[name].sum(number)
            assert total is not None
            start = 0
            for channel in plan.channels:
                part = total[start : start + channel.length]
                error = float(np.abs(part - plain[channel.name]).max())
                assert error <= bound, (number, name, channel.name)
                assert np.abs(plain[channel.name]).max() > 0, "an empty channel would show nothing"
                start += channel.length
    assert 0 < summary(run)["aggregation"]["max_error"] <= bound


def test_epsilon_in_the_summary_is_the_pld_epsilon_of_the_ledger_alone(run: tuple[Path, str]) -> None:
    for hospital in summary(run)["hospitals"]:
        accountant = PLDAccountant(value_discretization_interval=1e-4)
        deltas = set()
        for line in (run[0] / "hospitals" / hospital["name"] / "ledger.jsonl").read_text().splitlines():
            entry = json.loads(line)["entry"]
            deltas.add(entry["delta"])
            for event in entry["events"] if entry["kind"] == "release" else []:
                assert event["kind"] == "dp-sgd"
                step = dp_event.PoissonSampledDpEvent(
                    event["sampling_rate"], dp_event.GaussianDpEvent(event["noise_multiplier"])
                )
                accountant.compose(step, event["steps"])
        assert deltas == {hospital["delta"]}
        assert hospital["epsilon"] == pytest.approx(accountant.get_epsilon(hospital["delta"]), rel=2e-3)
        assert hospital["epsilon"] <= hospital["epsilon_budget"] * (1 + 1e-6)


def test_the_run_verifies_and_a_changed_byte_does_not(run: tuple[Path, str]) -> None:
    assert command("audit", "verify", str(run[0])).returncode == 0
    ledger = run[0] / "hospitals" / "small-1" / "ledger.jsonl"
    intact = ledger.read_bytes()
    ledger.write_bytes(intact.replace(b'"round":1', b'"round":0', 1))
    try:
        done = command("audit", "verify", str(run[0]))
        assert done.returncode == 1
        assert "small-1" in done.stdout + done.stderr
    finally:
        ledger.write_bytes(intact)


def test_the_user_sees_rounds_a_table_and_where_the_report_is(run: tuple[Path, str]) -> None:
    assert "round 2 of 2 published" in run[1]
    assert "small-3" in run[1]
    assert "report.html" in run[1]
    report = (run[0] / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report
    assert "http://" not in report.replace("http://www.w3.org", "")


def test_a_run_directory_is_not_overwritten_by_accident(run: tuple[Path, str]) -> None:
    done = command("demo", "--out", str(run[0]))
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert (run[0] / "summary.json").exists()


def test_a_folder_that_is_no_run_is_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    done = command("demo", "--out", str(tmp_path), "--overwrite")
    assert done.returncode == 2
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--dataset", "heart"], "InvalidData"),
        (["--dataset", "pneumonia", "--data-dir", "/nonexistent"], "InvalidData"),
        (["--epsilon", "1e-9"], "Invalid"),
    ],
)
def test_bad_settings_end_by_name_before_anything_starts(tmp_path: Path, words: list[str], named: str) -> None:
    done = command("demo", *words, "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "hospitals").exists()
