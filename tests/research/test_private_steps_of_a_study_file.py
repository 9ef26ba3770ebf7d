"""A study file may take other private steps than the data set's, and pays for them with noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.study_file import StudyFile, load_study
from secure_fedhelp.research.sweep.runs import expand
from secure_fedhelp.study.plan import StudyPlan


def plan(**values: Any) -> StudyPlan:
    study = StudyFile.model_validate({"name": "a", "dataset": "breast-cancer", "rounds": 2} | values)
    return study_plan(study, study_data(study, None))


def test_more_steps_of_a_tier_cost_that_tier_more_noise() -> None:
    usual, longer = plan(), plan(privacy={"steps": {"small": 20}})
    assert longer.privacy["small"].steps == 20
    assert longer.privacy["small"].noise_multiplier > usual.privacy["small"].noise_multiplier
    assert longer.privacy["large"] == usual.privacy["large"]


def test_a_smaller_sampling_rate_costs_less_noise() -> None:
    usual, rarer = plan(), plan(privacy={"sampling_rate": {"large": 0.1}})
    assert rarer.privacy["large"].noise_multiplier < usual.privacy["large"].noise_multiplier


def test_the_clipping_norm_is_everybodys() -> None:
    found = plan(privacy={"clipping_norm": 2.5})
    assert {section.clipping_norm for section in found.privacy.values()} == {2.5}


def test_uniform_weights_are_uniform() -> None:
    assert plan().aggregation.weights == "precision"
    assert plan(weights="uniform").aggregation.weights == "uniform"


def test_a_variant_takes_the_place_of_the_files_steps() -> None:
    variant = {"privacy": {"steps": {"small": 3}}, "weights": "uniform"}
    study = StudyFile.model_validate(
        {"name": "a", "dataset": "breast-cancer", "privacy": {"clipping_norm": 9}, "variants": {"short": variant}}
    )
    (run,) = expand(study, ["short"], [3.0], 1, False, None)
    found = study_plan(run.study, study_data(run.study, None))
    assert (found.privacy["small"].steps, found.privacy["small"].clipping_norm) == (3, 1.0)
    assert found.aggregation.weights == "uniform"


@pytest.mark.parametrize(
    "line",
    ["[privacy]\nclipping_norm = 0", "[privacy]\nsteps = { tiny = 3 }", "[privacy]\nsampling_rate = { small = 1 }"],
)
def test_values_that_are_none_are_refused_by_name(tmp_path: Path, line: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f'name = "a"\ndataset = "breast-cancer"\n{line}\n')
    with pytest.raises(InvalidConfiguration, match="privacy"):
        load_study(file)
