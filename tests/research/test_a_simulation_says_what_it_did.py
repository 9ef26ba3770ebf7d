"""`simulate`: the records before training, every party's log, and the same study in plain."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from rich.console import Console
from sweeps import STUDY, own
from typer.testing import CliRunner

from secure_fedhelp.cli.main import app
from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.records_table import print_records
from secure_fedhelp.research.simulation import simulate

QUICK = """
name = "quick"
dataset = "breast-cancer"
rounds = 1
hospitals = ["large-3", "small-1", "small-2"]
[learning]
warm_steps = 1
public_steps = 1
pupil_steps = 1
personal_steps = 1
"""


def shown() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=120, highlight=False), text


@pytest.mark.end
def test_records_are_shown_first_and_every_party_keeps_what_it_said(tmp_path: Path) -> None:
    study = STUDY.model_copy(update={"hospitals": ("large-3", "small-1", "small-2"), "variants": {}})
    screen, text = shown()
    simulate(study, None, tmp_path / "run", False, screen)
    said = text.getvalue()
    assert said.index("records before training") < said.index("round")
    for name in study.hospitals:
        log = (tmp_path / "run" / "hospitals" / name / "log.txt").read_text()
        assert log.index("data card. This data card stays at the hospital.") < log.index("connecting")
        assert "patients: " in log
    assert (tmp_path / "run" / "coordinator" / "log.txt").read_text().strip()


def test_the_table_of_records_counts_what_the_hospitals_have(tmp_path: Path) -> None:
    study = own(tmp_path / "[red]ward")
    data = study_data(study, None)
    screen, text = shown()
    print_records(study_plan(study, data), data, screen)
    rows = {line.split("│")[1].strip(): line for line in text.getvalue().splitlines() if "│" in line}
    for name, (tier, records) in data.hospitals.items():
        cells = [cell.strip() for cell in rows[name].split("│")[2:5]]
        assert cells == [tier, str(records.n_patients), str(len(records))]
        ill = int((records.labels == study_plan(study, data).data.classes.index("ill")).sum())
        assert f"ill {ill}, well {len(records) - ill}" in rows[name]
    assert "Public: 20 records (ill " in text.getvalue()
    assert "Test: 40 records of 40 patients (ill " in text.getvalue()


def test_a_study_in_plain_says_so_everywhere_and_is_not_put_over_an_encrypted_one(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(QUICK)
    out = tmp_path / "out"
    words = ["simulate", str(tmp_path / "study.toml"), "--no-encryption", "--out", str(out)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "records before training" in done.output
    assert "Encryption: none." in done.output
    rows = csv.DictReader(io.StringIO((out / "results.csv").read_text()))
    assert {row["contender"]: row["encryption"] for row in rows} == {
        "fedhelp": "none",
        "local-dp": "not needed",
        "local": "not needed",
        "public": "not needed",
    }
    (tmp_path / "study.toml").write_text(QUICK + '[variants.fedhelp]\nmethod = { name = "fedhelp", logits = false }\n')
    assert "4 runs, 4 done before" in CliRunner().invoke(app, words).output
    assert "4 runs, 0 done before" in CliRunner().invoke(app, [*words, "--overwrite"]).output
    encrypted = CliRunner().invoke(app, ["simulate", str(tmp_path / "study.toml"), "--out", str(out), "--overwrite"])
    assert isinstance(encrypted.exception, InvalidConfiguration)
    assert len(list((out / "runs").iterdir())) == 4, "nothing was deleted"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.toml").touch()
    refused = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "run")])
    assert "run directory of an encrypted study" in str(refused.exception)
