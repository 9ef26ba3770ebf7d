"""``plan privacy``: three tables a tier within 80 columns, warnings in words, and every figure as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w
from plans import example_plan
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.privacy.accountant import epsilon
from secure_fedhelp.privacy.mechanisms import study_events
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.sections import MetricsSection


def shown(folder: Path, plan: StudyPlan) -> str:
    path = folder / "plan.toml"
    path.write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)))
    arguments = ["plan", "privacy", str(path), "--budget", "-1", "--budget", "3", "--json", str(folder / "out.json")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False, env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert all(len(line) <= 80 for line in result.output.splitlines())
    return result.output


def test_a_plan_s_price_fits_eighty_columns_and_is_in_the_json(tmp_path: Path) -> None:
    plan = example_plan()
    text = " ".join(shown(tmp_path, plan).split())
    found = json.loads((tmp_path / "out.json").read_bytes())
    assert found["study"] == plan.hash
    large, small = found["tiers"]
    assert small["by_round"][-1] == pytest.approx(epsilon(study_events(plan, "beta"), 1e-4), rel=1e-6)
    assert f"{small['by_round'][-1]:.3f}" in text
    assert "Tier large, 1 hospital(s)" in text
    assert f"still fit into the budget after the last: {large['spare']}." in text
    assert f"noise multiplier none {small['noise'][1]['multiplier']:g}" in text
    assert "twice the patients, half rate 4 0.125" in text
    assert "10-20" in text, "patients expected at the smallest and the largest hospital"


def test_what_breaks_a_promise_is_said_in_words(tmp_path: Path) -> None:
    metrics = MetricsSection(release="pooled")
    plan = example_plan(privacy__small__epsilon=0.7, privacy__small__sampling_rate=0.3).model_dump(mode="json")
    plan["channels"].append({"name": "metrics", "length": metrics.length(2), "bound": 2.0})
    text = " ".join(shown(tmp_path, parse_plan(plan | {"metrics": metrics.model_dump()})).split())
    assert "THE BUDGET ENDS: these hospitals stop after round 1 of 4." in text
    assert "NO DIFFERENTIAL PRIVACY in round 4: exact counts leave inside the opened sum" in text


def test_no_protection_is_the_word_infinite(tmp_path: Path) -> None:
    text = shown(tmp_path, example_plan(privacy__small__noise_multiplier=0.1, privacy__small__steps=400))
    assert "infinite" in text
    assert json.loads((tmp_path / "out.json").read_bytes())["tiers"][1]["by_round"][-1] == "infinite"
