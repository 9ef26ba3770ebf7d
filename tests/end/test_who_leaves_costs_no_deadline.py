"""A hospital that ends with an error says that it does not take part: the others go on, or end by name, at once."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from studies import quick_plan, study
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import HospitalsLeft, IdentityError, PolicyViolation, UnderQuorum
from secure_fedhelp.learning.methods.fedhelp import FedHelp
from secure_fedhelp.privacy.release import PrivateOutput
from secure_fedhelp.research.catalog import StudyData, prepare
from secure_fedhelp.research.demo import DemoSettings, run_demo
from secure_fedhelp.research.demo_setup import RunFolder, create_run_folder
from secure_fedhelp.research.progress import rounds_published
from secure_fedhelp.research.simulation import run_simulation
from secure_fedhelp.research.summary import read_summary

pytestmark = pytest.mark.end

NAMES = ("large-1", "large-2", "small-1", "small-2")
#: Nobody could wait for these and pass.
HOURS = {
    "aggregation__gather_deadline_seconds": 36_000.0,
    "aggregation__round_deadline_seconds": 36_000.0,
    "aggregation__answer_deadline_seconds": 3_600.0,
}
ENOUGH_SECONDS = 60


@pytest.fixture(scope="module")
def data() -> StudyData:
    data = prepare("breast-cancer", None, 1)
    return replace(data, hospitals={name: data.hospitals[name] for name in NAMES})


def of_one_class(data: StudyData, name: str) -> StudyData:
    tier, records = data.hospitals[name]
    ill = np.flatnonzero(records.labels == 1)
    rows = [data.rows[name][number] for number in ill]
    return replace(data, hospitals={**data.hospitals, name: (tier, records.take(ill))}, rows={**data.rows, name: rows})


def simulated(tmp_path: Path, data: StudyData, minimum: int, rounds: int = 1, masks: str = "repairing") -> RunFolder:
    plan = quick_plan(data, rounds, **HOURS, aggregation__minimum_cohort=minimum, aggregation__masks=masks)
    run = create_run_folder(tmp_path / "run", overwrite=False)
    run_simulation(run, plan, replace(data, references=()), Console(quiet=True), rivals=False)
    return run


def log(run: Path, name: str) -> str:
    folder = run / "coordinator" if name == "coordinator" else run / "hospitals" / name
    return (folder / "log.txt").read_text()


def test_records_of_one_class_cost_the_others_no_deadline(tmp_path: Path, data: StudyData) -> None:
    began = time.monotonic()
    run = simulated(tmp_path, of_one_class(data, "small-2"), minimum=3)
    assert time.monotonic() - began < ENOUGH_SECONDS
    assert rounds_published(run) == 1
    assert all(run.hospital(name).result.exists() == (name != "small-2") for name in NAMES)
    assert "one class" in log(run.root, "small-2")


def test_a_study_that_needs_everybody_ends_at_once_and_names_who_left_and_why(tmp_path: Path, data: StudyData) -> None:
    began = time.monotonic()
    with pytest.raises(HospitalsLeft, match=r"after 0 of 1 rounds.*left: small-2.*small-2: .*one class"):
        simulated(tmp_path, of_one_class(data, "small-2"), minimum=4)
    assert time.monotonic() - began < ENOUGH_SECONDS
    for name in NAMES[:3]:
        assert "left: small-2" in log(tmp_path / "run", name)
    for name in ("coordinator", *NAMES[:3]):
        assert "class," not in log(tmp_path / "run", name).partition("left: small-2")[2], "why is nobody's business"


def test_a_policy_that_refuses_the_plan_costs_the_others_no_deadline(
    tmp_path: Path, data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses before the hospital has opened its keys; it still leaves by its own certificate."""
    from secure_fedhelp.research import simulation

    write = simulation.write_hospitals

    def stricter(run: RunFolder, *arguments: object, **named: object) -> None:
        write(run, *arguments, **named)  # type: ignore[arg-type]
        policy = run.hospital("large-2").root / "policy.toml"
        policy.write_text("".join(line for line in policy.read_text().splitlines(True) if "largest_eps" not in line))
        policy.write_text("largest_epsilon = 0.001\n" + policy.read_text())

    monkeypatch.setattr(simulation, "write_hospitals", stricter)
    run = simulated(tmp_path, data, minimum=3)
    assert rounds_published(run) == 1
    assert "largest_epsilon" in log(run.root, "large-2")
    assert "large-2 says that it does not take part" in log(run.root, "coordinator")


@pytest.mark.parametrize("masks", ["repairing", "strict", "none"])
def test_training_that_fails_in_a_round_costs_the_others_no_deadline(
    tmp_path: Path, data: StudyData, monkeypatch: pytest.MonkeyPatch, masks: str
) -> None:
    contribute = FedHelp.contribute

    def slips(self: FedHelp, round_number: int) -> PrivateOutput:
        if round_number == 1 and self.site.hospital == "small-1":
            raise ZeroDivisionError("a slip")
        return contribute(self, round_number)

    monkeypatch.setattr(FedHelp, "contribute", slips)
    run = simulated(tmp_path, data, minimum=3, rounds=2, masks=masks)
    assert rounds_published(run) == 2
    assert "a slip" in log(run.root, "small-1")


def test_too_few_left_in_a_round_end_the_study_at_once(
    tmp_path: Path, data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    contribute = FedHelp.contribute

    def slips(self: FedHelp, round_number: int) -> PrivateOutput:
        if round_number == 1 and self.site.hospital.startswith("small"):
            raise ZeroDivisionError("a slip")
        return contribute(self, round_number)

    monkeypatch.setattr(FedHelp, "contribute", slips)
    # By the hospitals' declined training, or by their leaving, whichever the coordinator hears of first.
    with pytest.raises(UnderQuorum, match=r"after 1 of 2 rounds.*(left|declined): small-"):
        simulated(tmp_path, data, minimum=3, rounds=2)


def test_a_mistake_that_ended_the_gathering_is_mended_and_all_run_the_same_commands_again(tmp_path: Path) -> None:
    with study(tmp_path / "run", 1, NAMES[1:], aggregation__minimum_cohort=3) as running:
        policy = running.run.hospital("small-1").root / "policy.toml"
        right = policy.read_text()
        policy.write_text("largest_epsilon = 0.001\n" + right.replace("largest_epsilon", "# largest_epsilon"))
        running.start_coordinator()
        for name in NAMES[1:]:
            running.start_thread(name)
        for thread in running.threads.values():
            thread.join()
        found = {name: type(error) for name, error in running.errors.items()}
        assert found == {"large-2": HospitalsLeft, "small-1": PolicyViolation, "small-2": HospitalsLeft}
        process = running.parties.parties["coordinator"].process
        assert process.wait(90) == HospitalsLeft.exit_code
        policy.write_text(right)
        running.errors.clear()
        running.start_coordinator()
        for name in NAMES[1:]:
            running.start_thread(name)
        running.join_threads()
        assert running.cohorts() == [set(NAMES[1:])]


def test_a_folder_with_another_hospitals_keys_does_not_sign_that_one_off(tmp_path: Path) -> None:
    """A copied folder, of which only the name was changed: what it could say, it would say as the other."""
    with study(tmp_path / "run", 1, NAMES[1:], aggregation__minimum_cohort=3) as running:
        copied, other = (running.run.hospital(name).root for name in ("small-1", "small-2"))
        shutil.rmtree(copied / "keys")
        shutil.copytree(other / "keys", copied / "keys")
        shutil.copy(other / "unlock.json", copied)
        running.start_coordinator()
        running.start_thread("small-1")
        running.threads["small-1"].join()
        assert isinstance(running.errors["small-1"], IdentityError)
        assert "does not take part" not in log(running.run.root, "coordinator")
        running.parties.require_running("coordinator")


def test_the_demo_ends_with_the_error_of_its_study_and_shows_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every party is a process: four of six hospitals refuse the plan, and the other two are told so."""
    from secure_fedhelp.research import demo

    write = demo.write_hospitals

    def stricter(run: RunFolder, *arguments: object, **named: object) -> None:
        write(run, *arguments, **named)  # type: ignore[arg-type]
        for name in ("large-1", "large-2", "large-3", "small-3"):
            policy = run.hospital(name).root / "policy.toml"
            kept = [line for line in policy.read_text().splitlines(keepends=True) if "largest_epsilon" not in line]
            policy.write_text("largest_epsilon = 0.001\n" + "".join(kept))

    monkeypatch.setattr(demo, "write_hospitals", stricter)
    out = tmp_path / "run"
    with pytest.raises(HospitalsLeft, match=r"after 0 of 2 rounds.*left: large-1, large-2, large-3, small-3") as caught:
        run_demo(DemoSettings("breast-cancer", None, 2, 3.0, 1, out, overwrite=False))
    assert caught.value.exit_code == 5
    assert read_summary(out / "summary.json").rounds == 0
    assert "Report:" in capsys.readouterr().out
    for name in ("small-1", "small-2"):
        assert "HospitalsLeft" in log(out, name)


def test_the_simulation_ends_with_the_error_of_its_study_and_shows_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FedHelp, "contribute", lambda self, round_number: 1 / 0)
    (tmp_path / "study.toml").write_text('name = "own"\ndataset = "breast-cancer"\nrounds = 1\n')
    words = ["simulate", str(tmp_path / "study.toml"), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UnderQuorum)
    assert "ZeroDivisionError" in done.exception.message
    assert "0 rounds" in done.output
    assert "Report:" in done.output
