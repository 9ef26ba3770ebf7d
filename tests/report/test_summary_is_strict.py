"""What is read back is what was written, and a file that somebody else wrote cannot bring anything unexpected along."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from html_pages import require_readable_aloud, require_self_contained

from secure_fedhelp.errors import InvalidConfiguration, StorageError
from secure_fedhelp.learning.evaluation import Metrics
from secure_fedhelp.research.catalog import prepare
from secure_fedhelp.research.cohort import cohort_of
from secure_fedhelp.research.report import render
from secure_fedhelp.research.summary import MetricsSummary, RoundSummary, Summary, read_summary, write_summary


def test_reading_back_gives_the_same(summary: Summary, ended: Summary, deployed: Summary, tmp_path: Path) -> None:
    for one in (summary, ended, deployed):
        write_summary(tmp_path / "summary.json", one)
        assert read_summary(tmp_path / "summary.json") == one


def test_the_file_has_the_promised_keys(summary: Summary, tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.json", summary)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert set(found) >= {"study", "method", "dataset", "rounds", "wall_seconds", "aggregation", "hospitals"}
    cost = {"profile", "up_bytes_per_value", "down_bytes_per_value", "max_error"}
    assert set(found["aggregation"]) == cost | {"masks", "coalition", "flooding_sigma"}
    wanted = {"name", "tier", "patients", "epsilon", "delta", "epsilon_budget", "bytes_up", "bytes_down"}
    models = {"study_model", "personal_model", "local_only", "local_non_private"}
    assert set(found["hospitals"][0]) >= wanted | models
    assert set(found["hospitals"][0]["study_model"]) == {"balanced_accuracy", "auroc", "ece", "dice", "macro_f1"}


def test_every_figure_that_is_measured_has_its_place() -> None:
    measured = Metrics(0.5, 0.6, 0.1, 0.4, 0.3).as_dict()
    assert MetricsSummary.model_validate(measured).model_dump() == measured
    places = {"round": 0, "cohort": 3, "epsilon": 1.0, "bytes_up": 1, "bytes_down": 1}
    assert RoundSummary.model_validate(places | measured).model_dump() == places | measured


def changed(summary: Summary, tmp_path: Path, where: str, value: object) -> Path:
    """The summary's file with the value at a dotted place replaced."""
    path = tmp_path / "summary.json"
    found = json.loads(json.dumps(summary.model_dump(mode="json")))
    *before, last = where.split(".")
    target = found
    for key in before:
        target = target[int(key)] if key.isdigit() else target[key]
    target[last] = value
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("surprise", 1),
        ("hospitals", []),
        ("rounds", -1),
        ("wall_seconds", float("nan")),
        ("study", ""),
        ("study", "line\nfeed"),
        ("study", "clear \x1b[2J the screen"),
        ("study", "turned \u202e round"),
        ("hospitals.0.name", "x" * 121),
        ("hospitals.0.name", "\x9b31m"),
        ("hospitals.0.tier", "medium"),
        ("hospitals.0.epsilon", float("inf")),
        ("hospitals.0.epsilon", -0.1),
        ("hospitals.0.delta", 1.0),
        ("hospitals.0.status", "fine"),
        ("hospitals.0.status", "absent since round 0"),
        ("hospitals.0.study_model.auroc", 1.01),
        ("hospitals.0.study_model.auroc", None),
        ("hospitals.0.history.0.round", -1),
        ("plan_sha256", "5E" * 32),
        ("mode", "test"),
    ],
)
def test_a_wrong_value_is_refused_by_its_place(summary: Summary, tmp_path: Path, where: str, value: object) -> None:
    with pytest.raises(InvalidConfiguration, match=where.split(".")[-1]):
        read_summary(changed(summary, tmp_path, where, value))


def test_a_missing_or_broken_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    for name in ("absent.json", "broken.json"):
        with pytest.raises(InvalidConfiguration) as caught:
            read_summary(tmp_path / name)
        assert "summary.json" in caught.value.hint


def test_a_place_that_cannot_be_written_is_named(summary: Summary, tmp_path: Path) -> None:
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(StorageError, match=r"summary\.json"):
        write_summary(tmp_path / "summary.json", summary)


def test_the_float32_factor_needs_both_figures(summary: Summary) -> None:
    hospital = summary.hospitals[0]
    assert hospital.float32_factor == pytest.approx(328_000 / 170_000)
    assert hospital.model_copy(update={"bytes_up": None}).float32_factor is None
    assert hospital.model_copy(update={"float32_bytes": 0}).float32_factor is None


def test_counts_of_private_records_stand_in_no_summary_of_a_deployed_study(summary: Summary, tmp_path: Path) -> None:
    data = prepare("breast-cancer", None, 1)
    cohort = cohort_of(data)
    simulated = Summary.model_validate(summary.model_dump() | {"cohort": cohort})
    write_summary(tmp_path / "summary.json", simulated)
    assert read_summary(tmp_path / "summary.json").cohort == cohort
    with pytest.raises(ValueError, match="leave no hospital of a deployed study"):
        Summary.model_validate(summary.model_dump() | {"cohort": cohort, "mode": "deployment"})


def test_a_report_says_whom_it_is_of(summary: Summary) -> None:
    data = prepare("breast-cancer", None, 1)
    page = require_self_contained(render(summary.model_copy(update={"cohort": cohort_of(data)})))
    require_readable_aloud(page)
    rows = {row[0]: row[1:] for row in page.tables["cohort-table"][1:]}
    tier, records = data.hospitals["small-1"]
    ill = int((records.labels == 1).sum())
    assert rows[f"small-1 {tier}"] == [
        str(records.n_patients),
        str(len(records)),
        f"benign {len(records) - ill}, malignant {ill}",
    ]
    assert len(page.tables["columns-1"]) == 1 + 30
    assert "cohort" not in require_self_contained(render(summary)).idents
