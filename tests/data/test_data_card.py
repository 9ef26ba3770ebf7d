"""The data card counts what is there, says what the arrays cannot, and is told to the hospital alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import tomli_w
from plans import example_plan
from rich.console import Console
from typer.testing import CliRunner

from secure_fedhelp.cli.loading import LoadingBar
from secure_fedhelp.cli.main import app
from secure_fedhelp.data.card import data_card
from secure_fedhelp.data.images import write_images
from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.records import Records
from secure_fedhelp.study.plan import StudyPlan, parse_plan


def table_plan(nominal: int = 4) -> StudyPlan:
    values = example_plan().model_dump(mode="json", exclude_none=True)
    age, sex = {"name": "age", "kind": "numeric"}, {"name": "sex", "kind": "categorical", "categories": ["f", "m"]}
    values["data"] |= {"kind": "table", "input_shape": [3], "columns": [age, sex]}
    values["hospitals"][1]["nominal_patients"] = nominal
    values["privacy"]["small"]["sampling_rate"] = 0.5
    return parse_plan(values)


TABLE = """patient_id,age,sex,target
a,60,f,ill
a,61,,ill
a,,,healthy
b,50,m,healthy
c,,f,healthy
d,40,f,healthy
"""


def hospital(tmp_path: Path, plan: StudyPlan, records: str) -> list[str]:
    """A folder with a configuration; the words of the command that shows its card."""
    (tmp_path / "beta" / "data").mkdir(parents=True)
    config = {"name": "beta", "consortium": "north", "records": records}
    (tmp_path / "beta" / "hospital.toml").write_text(tomli_w.dumps(config))
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)))
    return ["hospital", "data", "--folder", str(tmp_path / "beta"), "--plan", str(tmp_path / "plan.toml")]


def test_a_tables_card_counts_patients_classes_and_holes(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(TABLE)
    plan = table_plan(nominal=6)
    rows = dict(data_card(load_records(tmp_path / "r.csv", plan.data), plan, "beta").rows())
    assert rows == {
        "patients": "4 (the plan's nominal number: 6)",
        "records": "6",
        "records a patient": "1 at least, 1 median, 3 at most",
        "classes": "healthy 4 (66.7%), ill 2 (33.3%)",
        "missing values": "age 2 (33.3%), sex 2 (33.3%)",
    }


def test_a_card_says_that_it_stays_and_what_the_file_does_not_name(tmp_path: Path) -> None:
    plan = table_plan(nominal=6)
    (tmp_path / "r.csv").write_text(TABLE)
    loaded = load_records(tmp_path / "r.csv", plan.data)
    lines = data_card(Loaded(loaded.records, loaded.missing, ("no patients named",)), plan, "beta").lines()
    assert "stays at the hospital" in lines[0]
    assert "  note: no patients named" in lines
    assert any("4 patients here, the plan declares 6" in line for line in lines)


def test_an_images_card_gives_shape_and_intensities() -> None:
    plan = example_plan()
    inputs = np.full((4, 1, 28, 28), -2.0, dtype=np.float32)
    inputs[0, 0, 0, 0] = 2.0
    labels = np.asarray([0, 1, 1, 1], dtype=np.int64)
    rows = dict(data_card(Loaded(Records(inputs, labels, tuple("abca"))), plan, "beta").rows())
    assert rows["image shape"].startswith("1 x 28 x 28")
    assert rows["intensities"] == "-2 to 2; 0 to 1 with black 0 and white 1"
    assert "missing values" not in rows
    masks = np.zeros((4, 28, 28), dtype=np.int64)
    masks[:, :14] = 1
    rows = dict(data_card(Loaded(Records(inputs, masks, tuple("abca"))), plan, "beta").rows())
    assert rows["pixels of a class"] == "healthy 1568 (50.0%), ill 1568 (50.0%)"


def test_the_command_shows_the_card_in_eighty_columns_and_writes_nothing(tmp_path: Path) -> None:
    words = hospital(tmp_path, table_plan(), "data/records.csv")
    (tmp_path / "beta" / "data" / "records.csv").write_text(TABLE)
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    assert "stays at the hospital" in done.output
    assert "healthy 4 (66.7%)" in done.output
    assert "fit the plan" in done.output
    assert max(map(len, done.output.splitlines())) <= 80
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_reads_as_the_hospitals_configuration_says(tmp_path: Path) -> None:
    words = hospital(tmp_path, table_plan(), "data/records.csv")
    german = TABLE.replace(",", ";").replace("c;;f", "7;1.234,5;f").replace("d;40", "07,0;-40,5")
    (tmp_path / "beta" / "data" / "records.csv").write_text(german)
    refused = CliRunner().invoke(app, words)
    assert 'with separator = ";" they would be' in str(refused.exception)
    config = tmp_path / "beta" / "hospital.toml"
    usual = config.read_text()
    config.write_text(usual + '[reading]\nseparator = ";"\ndecimal = ","\nthousands = "."\n')
    done = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "records.csv: 1 patient(s) in more than one spelling" in done.output
    assert "line 6 '7' and line 7 '07,0'" in done.output
    config.write_text(usual + '[reading]\nseparator = "semicolon"\n')
    assert "reading.separator" in str(CliRunner().invoke(app, words).exception)


def test_records_that_do_not_fit_show_their_card_and_the_reason(tmp_path: Path) -> None:
    words = hospital(tmp_path, example_plan(), "data/scans.npz")
    few = Records(np.zeros((2, 1, 28, 28), dtype=np.float32), np.asarray([0, 1], dtype=np.int64), ("a", "b"))
    write_images(tmp_path / "beta" / "data" / "scans.npz", few)
    done = CliRunner().invoke(app, words)
    assert "2 (the plan's nominal number: 80)" in done.output
    assert type(done.exception).__name__ == "TooFewPatients"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_long_loads_show_and_quick_ones_do_not() -> None:
    for terminal in (True, False):
        out, clock = Console(record=True, force_terminal=terminal, width=80, file=io.StringIO()), Clock()
        with LoadingBar(out, clock) as bar:
            for done in range(11):
                bar("quick.csv", done, 10)
            for done in range(11):
                clock.now += 4.0
                bar("long.csv", done, 10)
            bar("broken.csv", 0, 10)
        text = out.export_text()
        assert "quick" not in text
        assert terminal or text.splitlines() == ["loading long.csv: 40%", "loading long.csv: 80%"]
