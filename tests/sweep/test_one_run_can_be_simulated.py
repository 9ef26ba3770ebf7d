"""One run of a sweep, by its id: the study that the sweep ran, or a named error."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeps import STUDY, Counting, own, runs
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import DataChanged, InvalidConfiguration
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.sweep.asked import remember, study_of
from secure_fedhelp.research.sweep.execute import execute
from secure_fedhelp.research.sweep.runs import expand
from secure_fedhelp.research.sweep.sweep import sweep


def test_the_study_of_a_run_makes_the_plan_that_the_sweep_had(tmp_path: Path) -> None:
    asked = runs("fedhelp", "no-logits", epsilons=(1.0, 2.5), seeds=2)
    sweep(asked, tmp_path, Counting())
    for run in asked:
        study = study_of(tmp_path / "asked.json", run.id)
        assert (study.epsilon, study.seed) == (run.epsilon, run.study.seed)
    last = study_plan(study, study_data(study, None))
    assert last.hash == execute(asked[-1]).plan_sha256


@pytest.mark.end
def test_a_run_simulated_as_deployed_has_the_figures_of_its_row() -> None:
    """The same noise at every hospital; what is left is the encryption's error and the noise of sanitised sums."""
    study = STUDY.model_copy(update={"rounds": 2, "hospitals": ("large-1", "small-1", "small-2"), "variants": {}})
    plain, locked = (
        execute(expand(study, ["fedavg"], [3.0], 1, encrypted, None)[0]).hospitals for encrypted in (False, True)
    )
    figures = {(h.hospital, h.model): h.metrics["ece"] for h in locked}  # moves with every digit of a model
    assert figures == {(h.hospital, h.model): pytest.approx(h.metrics["ece"], abs=1e-3) for h in plain}


@pytest.mark.parametrize("epsilon", [1.0000004, 0.1, 1 / 3])
def test_a_budget_with_many_digits_is_not_taken_for_a_changed_one(tmp_path: Path, epsilon: float) -> None:
    (run,) = runs("fedhelp", epsilons=(epsilon,), seeds=1)
    remember(tmp_path, [run])
    assert study_of(tmp_path / "asked.json", run.id).epsilon == epsilon


def test_the_command_simulates_a_run_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,), started = runs("no-logits", seeds=1), []
    remember(tmp_path, [run])

    def simulate(study: StudyFile, *rest: Any) -> None:
        started.append(study)
        raise InvalidConfiguration("far enough")

    monkeypatch.setattr("secure_fedhelp.research.simulation.simulate", simulate)
    words = ["simulate", str(tmp_path / "asked.json")]
    CliRunner().invoke(app, [*words, "--run", run.id])
    assert started == [run.study.model_copy(update={"epsilon": 3.0})]
    without = CliRunner().invoke(app, words)
    assert "asked.json is no study file" in str(without.exception)
    assert "--run ID" in without.exception.hint  # type: ignore[union-attr]
    (tmp_path / "study.toml").write_text('name = "quick"\ndataset = "breast-cancer"\n')
    toml = CliRunner().invoke(app, ["simulate", str(tmp_path / "study.toml"), "--run", run.id])
    assert "study.toml is no sweep's asked.json" in str(toml.exception)
    assert len(started) == 1


@pytest.mark.parametrize(
    ("contender", "epsilon", "reason"),
    [("local", 3.0, "the rival 'local'"), ("local-dp", 3.0, "the rival"), ("fedhelp", math.inf, "only in plain$")],
)
def test_what_is_no_simulation_is_refused_by_name(tmp_path: Path, contender: str, epsilon: float, reason: str) -> None:
    (run,) = runs(contender, epsilons=(epsilon,), seeds=1)
    remember(tmp_path, [run])
    with pytest.raises(InvalidConfiguration, match=reason) as raised:
        study_of(tmp_path / "asked.json", run.id)
    assert "start the sweep again" in raised.value.hint.lower()
    with pytest.raises(InvalidConfiguration, match="has no run '0123'"):
        study_of(tmp_path / "asked.json", "0123")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text, run: text[:-30], "is damaged"),
        (lambda text, run: "[3]", "is damaged"),
        (lambda text, run: "[" * 100_000, "is damaged"),
        (lambda text, run: text.replace('"rounds": 1', '"rounds": 0'), "study.rounds"),
        (lambda text, run: text.replace('"rounds": 1', '"rounds": 2'), "not what its name says"),
        (lambda text, run: text.replace('"epsilon": "3"', '"epsilon": "nan"'), "epsilon"),
        (lambda text, run: json.dumps([{"run": run}]), "study: Field required"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[str, str], str], reason: str) -> None:
    (run,) = runs("fedhelp", seeds=1)
    remember(tmp_path, [run])
    path = tmp_path / "asked.json"
    text = path.read_text()
    path.write_text(damage(text, run.id))
    assert path.read_text() != text
    with pytest.raises(InvalidConfiguration, match=reason):
        study_of(path, run.id)


def test_a_study_of_own_data_finds_its_file_and_not_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    study = own(Path("data"))
    (run,) = expand(study, ["fedavg"], [3.0], 1, False, None)
    remember(tmp_path, [run])
    monkeypatch.chdir("/")
    found = study_of(tmp_path / "asked.json", run.id)
    assert found.data is not None
    assert found.data.path == tmp_path / "data" / "own.csv"
    study_data(found, None)
    own(tmp_path / "data", shift=1)
    with pytest.raises(DataChanged):
        study_of(tmp_path / "asked.json", run.id)


def test_no_file_that_is_given_away_says_where_the_data_were(tmp_path: Path) -> None:
    """A folder that is moved together with its data goes on, and one that is published names nobody's home."""
    (tmp_path / "one").mkdir()
    (run,) = expand(own(tmp_path / "one" / "data"), ["fedavg"], [3.0], 1, False, None)
    out = tmp_path / "one" / "out" / "sweep"
    out.mkdir(parents=True)
    remember(out, [run])
    text = (out / "asked.json").read_text()
    assert str(tmp_path) not in text
    assert '"../../data/own.csv"' in text
    (tmp_path / "one").rename(tmp_path / "two")
    found = study_of(tmp_path / "two" / "out" / "sweep" / "asked.json", run.id)
    assert found.data is not None
    assert found.data.path == tmp_path / "two" / "data" / "own.csv"


def test_an_absolute_path_of_an_earlier_version_is_read_and_not_kept(tmp_path: Path) -> None:
    (run,) = expand(own(tmp_path / "data"), ["fedavg"], [3.0], 1, False, None)
    out = tmp_path / "out"
    out.mkdir()
    remember(out, [run])
    entry = json.loads((out / "asked.json").read_text())
    entry[0]["study"]["data"]["path"] = str(tmp_path / "data" / "own.csv")
    (out / "asked.json").write_text(json.dumps(entry))
    found = study_of(out / "asked.json", run.id)
    assert found.data is not None
    assert found.data.path == tmp_path / "data" / "own.csv"
    remember(out, runs("fedhelp", seeds=1))
    assert str(tmp_path) not in (out / "asked.json").read_text()
    assert study_of(out / "asked.json", run.id) == found


def test_a_folder_behind_a_link_finds_its_data(tmp_path: Path) -> None:
    (run,) = expand(own(tmp_path / "data"), ["fedavg"], [3.0], 1, False, None)
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    remember(tmp_path / "link", [run])
    for place in ("link", "far/away"):
        found = study_of(tmp_path / place / "asked.json", run.id)
        assert found.data is not None
        assert found.data.path.exists()
