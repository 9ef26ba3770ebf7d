"""The data card counts what is there, says what the arrays cannot, and is told to the hospital alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import tomli_w
from click.testing import Result
from plans import example_plan
from rich.console import Console
from typer.testing import CliRunner

from secure_fedhelp.cli.loading import LoadingBar
from secure_fedhelp.cli.main import app
from secure_fedhelp.data.card import data_card
from secure_fedhelp.data.images import write_images
from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.records_table import print_records
from secure_fedhelp.study.plan import StudyPlan, parse_plan
from secure_fedhelp.study.sections import Tier


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
        "cut at ten scales": "age 4 (66.7%)",
    }


def test_a_card_says_that_it_stays_and_what_the_file_does_not_name(tmp_path: Path) -> None:
    plan = table_plan(nominal=6)
    (tmp_path / "r.csv").write_text(TABLE)
    loaded = load_records(tmp_path / "r.csv", plan.data)
    lines = data_card(Loaded(loaded.records, loaded.columns, ("no patients named",)), plan, "beta").lines()
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


# --- what a program reads -------------------------------------------------------------------------------------------

AGES_IN_MONTHS = "patient_id,age,sex,target\n" + "".join(
    f"p{n},{12 * (40 + n) if n % 5 else ''},{'fmx'[n % 3]},{('ill', 'healthy')[n % 2]}\n" for n in range(40)
)


def wide_plan() -> StudyPlan:
    values = table_plan(nominal=40).model_dump(mode="json", exclude_none=True)
    values["data"]["columns"][0] |= {"center": 60.0, "scale": 12.0, "missing_indicator": True}
    values["data"]["columns"][1] |= {"other": True}
    values["data"]["input_shape"] = [5]
    return parse_plan(values)


def run_data(tmp_path: Path, text: str, *more: str, plan: StudyPlan | None = None) -> Result:
    words = hospital(tmp_path, plan or wide_plan(), "data/records.csv")
    (tmp_path / "beta" / "data" / "records.csv").write_text(text)
    return CliRunner().invoke(app, [*words, *more], env={"COLUMNS": "80"})


def test_warnings_stand_out_and_the_last_line_points_at_them(tmp_path: Path) -> None:
    done = run_data(tmp_path, AGES_IN_MONTHS)
    assert done.exit_code == 0, "a warning asks; it does not forbid"
    assert "warning: column age: the median is" in done.output
    assert "The records fit the plan. First look at the warning." in done.output
    assert "13 not listed (32.5%, 'x' 13)" in " ".join(done.output.split())
    assert max(map(len, done.output.splitlines())) <= 80


def test_the_json_of_a_card_keeps_its_keys(tmp_path: Path) -> None:
    done = run_data(tmp_path, AGES_IN_MONTHS, "--json", "-")
    card = json.loads(done.stdout)
    assert done.exit_code == 0
    assert list(card) == [
        "format", "hospital", "study", "fits", "misfit", "warnings", "notes", "patients", "nominal_patients",
        "records", "records_a_patient", "classes", "columns", "images",
    ]  # fmt: skip
    assert (card["format"], card["hospital"], card["fits"], card["misfit"]) == (1, "beta", True, None)
    assert [(one["kind"], one["column"]) for one in card["warnings"]] == [("middle", "age")]
    age, sex = card["columns"]
    assert list(age) == [
        "kind", "name", "missing", "cut", "center", "scale", "smallest", "lower_quartile", "median", "upper_quartile",
        "largest", "middle_in_scales", "spread_in_scales", "quartile_spread_in_scales", "codes",
    ]  # fmt: skip
    assert (age["missing"], age["cut"], age["median"], age["codes"]) == (8, 32, 720.0, [])
    assert sex == {
        "kind": "categorical", "name": "sex", "missing": 0, "categories": {"f": 14, "m": 13}, "other": 13,
        "unlisted": [{"value": "x", "records": 13}],
    }  # fmt: skip
    assert card["classes"] == {"counted": "records", "counts": {"healthy": 20, "ill": 20}}


def test_the_json_says_why_records_do_not_fit(tmp_path: Path) -> None:
    text = "patient_id,age,sex,target\na,60,f,ill\nb,50,m,ill\n"
    done = run_data(tmp_path, text, "--json", str(tmp_path / "card.json"))
    assert type(done.exception).__name__ == "OneClassOnly"
    assert "data card stays" in done.output, "with a file the card is shown all the same"
    card = json.loads((tmp_path / "card.json").read_text())
    assert (card["fits"], card["misfit"]["error"]) == (False, "OneClassOnly")
    assert (tmp_path / "card.json").stat().st_mode & 0o077 == 0, "exact figures of private records"


def test_the_json_of_images_counts_pixels(tmp_path: Path) -> None:
    words = hospital(tmp_path, example_plan(), "data/scans.npz")
    rng = np.random.default_rng(0)
    inputs = np.where(rng.random((80, 1, 28, 28)) < 0.89, 2.0, rng.normal(0, 1, (80, 1, 28, 28))).astype(np.float32)
    records = Records(inputs, np.arange(80) % 2, tuple(f"p{n}" for n in range(80)))
    write_images(tmp_path / "beta" / "data" / "scans.npz", records)
    card = json.loads(CliRunner().invoke(app, [*words, "--json", "-"]).stdout)
    assert list(card["images"]) == [
        "shape", "smallest", "largest", "pixels", "below_black", "above_white", "black", "white",
    ]  # fmt: skip
    assert card["images"]["pixels"] == 80 * 28 * 28
    assert [one["kind"] for one in card["warnings"]] == ["white"]


def test_words_of_a_strangers_plan_and_file_are_shown_and_never_obeyed(tmp_path: Path) -> None:
    values = wide_plan().model_dump(mode="json", exclude_none=True)
    values["data"]["columns"][1]["name"] = "s\x1b[2Jx"
    text = AGES_IN_MONTHS.replace("sex", "s\x1b[2Jx", 1).replace(",x,", ",\x1b[1A[red]x,")
    done = run_data(tmp_path, text, plan=parse_plan(values))
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "\\x1b[2Jx" in done.output


def test_a_simulation_warns_of_each_hospital_before_it_trains(tmp_path: Path) -> None:
    """From what a model sees: a site in another unit is found there too."""
    plan, rng, screen = wide_plan(), np.random.default_rng(0), Console(record=True, width=200, file=io.StringIO())

    def records(moved: float) -> Records:
        inputs = np.zeros((40, 5), dtype=np.float32)
        inputs[:, 0], inputs[:, 2] = np.clip(rng.normal(moved, 1, 40), -10, 10), 1
        return Records(inputs, np.arange(40) % 2, tuple(f"{moved}-{n}" for n in range(40)))

    sites: dict[str, tuple[Tier, Records]] = {name: ("small", records(0)) for name in ("alpha", "gamma")}
    sites["beta"] = ("small", records(55))
    public = PublicSet.of(records(0).inputs, None)
    fields = plan.data.model_dump(include={"kind", "classes"}) | {"columns": plan.data.columns}
    print_records(plan, StudyData(sites, public, (), records(0), fields), screen)
    told = [line for line in screen.export_text().splitlines() if line.startswith("warning")]
    assert len(told) == 1
    assert told[0].startswith("warning: beta: column age: the median is 180, 10 scales from the centre")
