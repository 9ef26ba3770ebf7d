"""A simulation runs what is deployed: the same models as real processes over TLS, files that an audit accepts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from studies import quick_plan, study, wait_until
from typer.testing import CliRunner

from secure_fedhelp.audit.verify import verify_run
from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import InvalidConfiguration, UnderQuorum
from secure_fedhelp.hospital.preparation import prepare_membership
from secure_fedhelp.research.catalog import prepare
from secure_fedhelp.research.demo import _start_foundation
from secure_fedhelp.research.demo_setup import RunFolder, create_run_folder, write_hospitals, write_plan, write_teachers
from secure_fedhelp.research.simulation import run_simulation
from secure_fedhelp.research.summary import read_summary
from secure_fedhelp.study.plan import parse_plan

pytestmark = pytest.mark.end

NAMES = ("large-1", "small-1", "small-2")
#: Hardly any sanitising noise: it comes from the study key, which is another one in each run.
EXACT = {"aggregation__profile": "exact", "aggregation__required_error": None, "aggregation__flooding_bits": 10}


def models(run: RunFolder, name: str) -> dict[str, Any]:
    folder = run.hospital(name).models
    return {kind: torch.load(folder / f"{kind}.pt", weights_only=True) for kind in ("shared", "personal")}


def test_same_seed_in_memory_and_in_processes_over_tls_gives_the_same_models(tmp_path: Path) -> None:
    data = prepare("breast-cancer", None, 1)
    data = replace(data, hospitals={name: data.hospitals[name] for name in NAMES})
    plan = quick_plan(data, 2, **EXACT)
    simulated = create_run_folder(tmp_path / "simulated", overwrite=False)
    run_simulation(simulated, plan, data, Console(quiet=True))
    with study(tmp_path / "real", 2, NAMES, **EXACT) as real:
        assert real.plan == plan
        write_teachers(real.run, plan, data.references)
        url = _start_foundation(real.run, real.parties)
        write_hospitals(real.run, plan, data, [url], noise_seed=f"{plan.study.name} {plan.study.seed}")
        real.start_coordinator()
        for name in NAMES:
            real.start_process(name)
        wait_until(lambda: all(real.parties.parties[name].process.poll() is not None for name in NAMES))
        for name in NAMES:
            for kind, found in models(simulated, name).items():
                for layer, weights in models(real.run, name)[kind].items():
                    torch.testing.assert_close(found[layer], weights, atol=1e-4, rtol=0)
            ledger = [entry["events"] for entry in real.ledger(name)]
            assert ledger
        assert [f for f in verify_run(simulated.root, 0.0) if not f.ok] == []


def test_the_command_leaves_a_run_that_an_audit_accepts(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('name = "quick"\ndataset = "breast-cancer"\nrounds = 2\nseed = 4\n[method]\nname = "fedprox"\n')
    done = CliRunner().invoke(app, ["simulate", str(file), "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    summary = read_summary(tmp_path / "run" / "summary.json")
    assert (summary.method, summary.rounds, summary.aggregation.masks) == ("fedprox", 2, "repairing")
    assert summary.aggregation.max_error < 1e-9
    assert {h.status for h in summary.hospitals} == {"contributed"}
    assert summary.seeded_noise
    assert "In these files no patient is protected" in (tmp_path / "run" / "report.html").read_text()
    findings = verify_run(tmp_path / "run", 0.0)
    assert [f for f in findings if not f.ok] == []
    assert any("seeded research noise" in f.detail for f in findings), "noise that can be made again is named"


def test_a_method_and_a_network_of_ones_own_are_simulated_as_the_rest(tmp_path: Path) -> None:
    """Each hospital's policy has to name such code by its path; who simulates wrote it."""
    file = tmp_path / "study.toml"
    file.write_text(
        'name = "own"\ndataset = "breast-cancer"\nrounds = 1\n'
        'model = { small = "own_code:network", large = "mlp-16" }\n'
        'method = { name = "imported", path = "own_code:Mine" }\n'
    )
    done = CliRunner().invoke(app, ["simulate", str(file), "--out", str(tmp_path / "run")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert {h.status for h in read_summary(tmp_path / "run" / "summary.json").hospitals} == {"contributed"}
    assert [f for f in verify_run(tmp_path / "run", 0.0) if not f.ok] == []


def test_a_fault_of_ones_own_method_is_told_and_no_run_of_nobody_is_kept(tmp_path: Path) -> None:
    method = 'method = { name = "imported", path = "own_code:Faulty" }\n'
    (tmp_path / "study.toml").write_text('name = "own"\ndataset = "breast-cancer"\nrounds = 1\n' + method)
    words = ["simulate", str(tmp_path / "study.toml"), "--out", str(tmp_path / "run")]
    with pytest.raises(UnderQuorum, match="ZeroDivisionError: a slip"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def test_a_study_file_names_every_wrong_key(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('name = "quick"\ndataset = "breast-cancer"\nepsilom = 3\n[method]\nname = "magic"\n')
    with pytest.raises(InvalidConfiguration, match="epsilom") as caught:
        CliRunner().invoke(app, ["simulate", str(file)], catch_exceptions=False)
    assert "method" in caught.value.message


def test_noise_that_can_be_made_again_is_refused_in_deployment(tmp_path: Path) -> None:
    with study(tmp_path / "run", 2, NAMES) as running:
        values = running.plan.model_dump(mode="json")
        values["study"]["mode"] = "deployment"
        write_plan(running.run.plan, parse_plan(values))
        write_hospitals(running.run, running.plan, running.data, [], noise_seed="known")
        with pytest.raises(InvalidConfiguration, match="research_noise_seed"):
            prepare_membership(running.run.hospital("small-1").root, running.run.plan, 0.0)
