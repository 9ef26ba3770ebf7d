"""Study files that newcomers start from: each still loads, and gives a plan for data of the form that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_catalog import write_catalog

from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.study_file import load_study
from secure_fedhelp.research.sweep.runs import expand

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.toml"))


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_catalog(tmp_path_factory.mktemp("catalog"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_and_its_variants_make_plans(path: Path, catalog: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    assert study.method is not None
    for run in expand(study, [study.method.name, *study.variants], [3.0], 1, False, catalog):
        plan = study_plan(run.study, study_data(run.study, catalog))
        assert plan.method.name == (run.study.method or study.method).name
