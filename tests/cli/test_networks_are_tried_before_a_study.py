"""A network that cannot be trained is refused while the plan is a draft; code from outside runs only where allowed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from plans import VALUES, example_plan
from sweeps import own
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import FedHelpError, PolicyViolation, UnsupportedModel
from secure_fedhelp.hospital.setup import init_hospital
from secure_fedhelp.identity.secret_source import SecretSource
from secure_fedhelp.research.simulation import simulate
from secure_fedhelp.research.sweep.runs import expand
from secure_fedhelp.research.sweep.sweep import sweep
from secure_fedhelp.study.sections import ModelSection

TABLE: dict[str, Any] = {
    "kind": "table",
    "input_shape": [3],
    "columns": [{"name": name, "kind": "numeric"} for name in ("a", "b", "c")],
}


@pytest.fixture(autouse=True)
def _not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test starts with the module from outside not imported."""
    monkeypatch.delitem(sys.modules, "odd_networks", raising=False)


def written(folder: Path, small: str, **changes: Any) -> Path:
    table = {"data": {**VALUES["data"], **TABLE}} if small.startswith("odd") and "flat" not in small else {}
    large = "mlp-4" if table else "cnn-8"
    changes = {"model__small": small, "model__large": large, "aggregation__masks": "repairing", **table, **changes}
    path = folder / "plan.toml"
    path.write_text(tomli_w.dumps(example_plan(**changes).model_dump(mode="json", exclude_none=True)))
    return path


def hospital(folder: Path, policy: str) -> Path:
    init_hospital(folder / "beta", "north", "beta", SecretSource(folder / "beta.key"))
    (folder / "beta" / "policy.toml").write_text(policy)
    return folder / "beta"


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0
    return " ".join(result.output.split())


def held_against(folder: Path, plan: Path, command: str) -> str:
    if command == "show":
        return run("plan", "show", plan, "--policy", folder / "policy.toml", "--hospital", "beta")
    return run("hospital", "policy", "check", plan, "--folder", folder)


def test_a_plan_says_what_its_networks_train(tmp_path: Path) -> None:
    text = run("plan", "show", written(tmp_path, "cnn-4"))
    assert "large hospitals train 1,682 values of cnn-4 privately." in text
    twin = {"name": "fedhelp", "twin": True}
    text = run("plan", "show", written(tmp_path, "cnn-4", method=twin))
    assert "values of cnn-4 and cnn-8 privately" in text
    assert "small hospitals train 1,682 values of cnn-4 privately" in text


@pytest.mark.parametrize(("small", "words"), [("cnn-5", "no network 'cnn-5'"), ("unet-small", "answer for each pixel")])
def test_a_network_that_does_not_fit_the_plan_is_refused_by_plan_show(tmp_path: Path, small: str, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        run("plan", "show", written(tmp_path, small))


def test_plan_show_imports_nothing_without_a_policy_and_says_so(tmp_path: Path) -> None:
    text = run("plan", "show", written(tmp_path, "odd_networks:mixing"))
    assert "not tried, since odd_networks:mixing is code from outside" in text
    assert "odd_networks" not in sys.modules


@pytest.mark.parametrize("command", ["show", "check"])
def test_what_the_policy_does_not_name_is_not_imported(tmp_path: Path, command: str) -> None:
    plan = written(tmp_path, "odd_networks:coded")
    folder = hospital(tmp_path, 'models_allowed = ["*"]\n')
    with pytest.raises(PolicyViolation, match="models_allowed"):
        held_against(folder, plan, command)
    assert "odd_networks" not in sys.modules


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize(
    ("small", "words"),
    [("coded", "values of odd_networks:coded privately."), ("attending", "privately, record by record: many times")],
)
def test_what_the_policy_names_is_tried(tmp_path: Path, command: str, small: str, words: str) -> None:
    plan = written(tmp_path, f"odd_networks:{small}")
    folder = hospital(tmp_path, f'models_allowed = ["mlp-*", "odd_networks:{small}"]\n')
    assert words in held_against(folder, plan, command)
    assert "odd_networks" in sys.modules


@pytest.mark.parametrize("command", ["show", "check"])
@pytest.mark.parametrize("small", ["mixing", "flat_mixing"])
def test_a_network_that_mixes_records_is_refused_before_anybody_signs(tmp_path: Path, command: str, small: str) -> None:
    plan = written(tmp_path, f"odd_networks:{small}")
    folder = hospital(tmp_path, f'models_allowed = ["mlp-*", "cnn-*", "odd_networks:{small}"]\n')
    with pytest.raises(UnsupportedModel, match=r"layer '.*' .BatchNorm1d. (mixes|changes)") as refused:
        held_against(folder, plan, command)
    assert "GroupNorm" in refused.value.hint


def test_a_simulation_and_a_sweep_refuse_it_before_the_first_run(tmp_path: Path) -> None:
    from rich.console import Console

    model = ModelSection(small="odd_networks:mixing", large="mlp-4")
    study = own(tmp_path / "data").model_copy(update={"model": model, "rounds": 1})
    with pytest.raises(UnsupportedModel, match="BatchNorm1d"):
        simulate(study, None, tmp_path / "run", False, Console(quiet=True))
    assert not (tmp_path / "run").exists()

    def engine(runs: object) -> Any:
        raise AssertionError("a run was started")

    runs = expand(study, ["fedavg"], [3.0], 1, False, None)
    with pytest.raises(FedHelpError, match="BatchNorm1d"):
        sweep(runs, tmp_path / "sweep", engine)


def test_a_study_with_frozen_parts_gets_their_hash_into_its_plan(tmp_path: Path) -> None:
    from secure_fedhelp.learning.trial import try_networks
    from secure_fedhelp.research.own_data import study_data
    from secure_fedhelp.research.plans import study_plan

    model = ModelSection(small="odd_networks:frozen", large="mlp-4")
    study = own(tmp_path / "data").model_copy(update={"model": model, "rounds": 1})
    plan = study_plan(study, study_data(study, None))
    assert plan.model.small_constants is not None
    assert plan.model.large_constants is None
    assert try_networks(plan)[0].values == 6 * 8 + 6 + 2 * 6 + 2
