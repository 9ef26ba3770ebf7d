"""Comparisons: the intervals are Student's, differences are paired by seed, and nothing is left out."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import InvalidConfiguration, InvalidData
from secure_fedhelp.research.compare import (
    MODELS,
    CompareSettings,
    Row,
    difference,
    level,
    run_comparison,
    write_rows,
)


def row(seed: int, hospital: str, model: str, auroc: float) -> Row:
    return Row(seed, hospital, "small", model, None, auroc, 0.5)


ROWS = [
    row(seed, hospital, model, value)
    for seed, values in enumerate([(0.9, 0.7, 0.6, 0.5), (0.8, 0.8, 0.7, 0.5), (1.0, 0.8, 0.6, 0.6)], 1)
    for hospital, model, value in zip("abab", ("study", "study", "local", "local"), values, strict=True)
]


def test_a_seeds_value_is_the_mean_over_its_hospitals() -> None:
    found = level(ROWS, "small", "study", "auroc")
    assert found.mean == pytest.approx((0.8 + 0.8 + 0.9) / 3)
    assert found.deviation == pytest.approx(math.sqrt(((0.1 / 3) ** 2 * 2 + (0.2 / 3) ** 2) / 2))


def test_differences_are_paired_and_their_interval_is_students() -> None:
    found = difference(ROWS, "small", ("study", "local"), "auroc")
    values = [0.8 - 0.55, 0.8 - 0.6, 0.9 - 0.6]
    assert found.mean == pytest.approx(0.25)
    deviation = math.sqrt(sum((v - 0.25) ** 2 for v in values) / 2)
    assert found.deviation == pytest.approx(deviation)
    assert found.half_width == pytest.approx(4.302653 * deviation / math.sqrt(3), rel=1e-5)


def test_one_seed_gives_no_interval() -> None:
    found = level(ROWS[:4], "small", "study", "auroc")
    assert found.mean == pytest.approx(0.8)
    assert math.isnan(found.half_width)


def test_files_hold_every_figure(tmp_path: Path) -> None:
    write_rows(tmp_path / "f.csv", ROWS)
    with (tmp_path / "f.csv").open() as file:
        assert [float(line["auroc"]) for line in csv.DictReader(file)] == [r.auroc for r in ROWS]
    write_rows(tmp_path / "f.json", ROWS)
    assert len(json.loads((tmp_path / "f.json").read_text())) == len(ROWS)


def test_bad_settings_are_refused_before_anything_runs() -> None:
    with pytest.raises(InvalidConfiguration):
        run_comparison(CompareSettings("breast-cancer", None, 0, 1, 3.0, 1))
    with pytest.raises(InvalidData):
        run_comparison(CompareSettings("heart", None, 2, 1, 3.0, 2))


def test_the_command_runs_a_comparison_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    arguments = ["compare", "--seeds", "1", "--rounds", "2", "--epsilon", "2", "--jobs", "1", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "no encryption" in result.output
    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert {line["model"] for line in lines} == set(MODELS)
    assert len(lines) == len(MODELS) * 6
    assert all(1.9 < float(line["epsilon"]) <= 2.0 for line in lines if line["epsilon"])
