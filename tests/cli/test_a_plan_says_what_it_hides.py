"""Whoever has to agree to a plan reads from one command which coalitions it stands and what its sums may show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from plans import VALUES, example_plan
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import CapacityExceeded, NotOnRoster, PolicyViolation
from secure_fedhelp.secagg.facts import attempt_facts

MANY = [{"name": f"h{i:02d}", "tier": "small", "nominal_patients": 40} for i in range(40)]


def written(folder: Path, **changes: Any) -> str:
    path = folder / "plan.toml"
    networks = {"model__small": "cnn-4", "model__large": "cnn-8"}
    path.write_text(tomli_w.dumps(example_plan(**networks | changes).model_dump(mode="json", exclude_none=True)))
    return str(path)


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", "show", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return " ".join(result.output.split())


def test_a_plan_without_masks_says_who_could_open_an_upload(tmp_path: Path) -> None:
    text = shown(written(tmp_path, aggregation__masks="none"))
    assert "the coordinator together with any one hospital can open every upload" in text


def test_coalitions_and_drop_outs_are_named_for_every_number_of_hospitals(tmp_path: Path) -> None:
    text = shown(written(tmp_path, aggregation__masks="repairing", hospitals=[*VALUES["hospitals"], *MANY[:3]]))
    assert "follows the protocol with 1 hospital(s) on its side, nor to one that lies with 1" in text
    assert "6 5 1 4 3 all never" in text
    assert "…" not in text, "a heading is cut at 80 columns"


def test_the_sparse_graph_prints_its_neighbours_and_failure_probability(tmp_path: Path) -> None:
    text = shown(written(tmp_path, aggregation__masks="repairing", hospitals=MANY))
    assert "40 27 13 13 13 27/14 2^-75" in text


def test_the_strict_setting_repairs_nobody_and_stands_all_but_two() -> None:
    plan = example_plan(aggregation__masks="strict", hospitals=MANY)
    for facts in attempt_facts(plan):
        assert (facts.repaired, facts.passive, facts.active) == (0, facts.members - 2, facts.members - 2)
        assert facts.graph.full


def test_sums_that_are_not_sanitised_are_said_to_stay(tmp_path: Path) -> None:
    text = shown(written(tmp_path, aggregation__decrypted="closed"))
    assert "nothing computed from them may leave" in text


def test_a_plan_whose_sums_would_wrap_is_refused_before_anybody_joins(tmp_path: Path) -> None:
    closed = {"aggregation__profile": "compact", "aggregation__decrypted": "closed"}
    shown(written(tmp_path, **closed))
    with pytest.raises(CapacityExceeded):
        shown(written(tmp_path, **closed, aggregation__weights="uniform"))


def test_a_policy_is_compared_with_the_plan(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    plan = written(tmp_path, aggregation__masks="repairing")
    policy.write_text("smallest_coalition = 1\n")
    assert "The policy allows this plan for alpha" in shown(plan, "--policy", str(policy))
    policy.write_text("smallest_coalition = 2\n")
    with pytest.raises(PolicyViolation, match="smallest_coalition: the plan asks masks = repairing"):
        shown(plan, "--policy", str(policy))
    with pytest.raises(NotOnRoster):
        shown(plan, "--policy", str(policy), "--hospital", "zeta")
