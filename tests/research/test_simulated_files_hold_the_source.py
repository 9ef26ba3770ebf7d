"""What a simulated hospital's table holds is what the source held: nothing is filled in, nothing is spelled anew."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from clinics import Row, patients, study, write
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.rows import read_rows
from secure_fedhelp.data.tables import load_table, read_table, write_table
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.research.catalog import StudyData, prepare
from secure_fedhelp.research.demo_setup import create_run_folder, write_hospitals, write_rows
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import build_plan, study_plan
from secure_fedhelp.study.plan import StudyPlan


def files(folder: Path, plan: StudyPlan, data: StudyData) -> dict[str, Path]:
    """The file of each hospital's records, and under an empty name one of the test parts."""
    run = create_run_folder(folder / "run", overwrite=False)
    write_hospitals(run, plan, data, [])
    found = {name: run.hospital(name).root / "data" / "records.csv" for name in data.hospitals}
    return found | {"": run.hospital(next(iter(found))).root / "data" / "test.csv"}


def test_missing_stays_missing_and_spelling_is_kept(tmp_path: Path) -> None:
    def odd(number: int, row: Row) -> None:
        if number % 10 == 0:
            row |= {"age": "6.10e1 ", "grade": "mid ", "follow_up": "0071"}
        row["remark"] = 'he said "ill",\r\nand left'

    source = patients(change=odd)
    write(tmp_path, source)
    numeric = ", ".join(f'{{ name = "{name}", kind = "numeric", scale = 9 }}' for name in ("age", "follow_up"))
    file = study(tmp_path, f'exclude = ["remark"]\ncolumns = [{numeric}]\n')
    data = study_data(file, None)
    plan, by_patient = study_plan(file, data), {row["who"]: row for row in source}
    for name, path in files(tmp_path, plan, data).items():
        records = data.hospitals[name][1] if name else data.test
        with path.open(newline="", encoding="utf-8") as opened:
            rows = list(csv.DictReader(opened))
        assert [row["who"] for row in rows] == list(records.patients)
        assert all(row == by_patient[row["who"]] for row in rows), "columns that nobody takes are there too"
        loaded = read_table(path, plan.data)
        assert loaded.missing["age"] == sum(by_patient[who]["age"] == "?" for who in records.patients) > 0
        assert loaded.records.inputs.tobytes() == records.inputs.tobytes()
        assert loaded.records.labels.tolist() == records.labels.tolist()


@pytest.mark.parametrize("dataset", ["breast-cancer", "heart"])
def test_records_of_the_catalog_are_the_same_to_the_last_bit(dataset: str, tmp_path: Path, shared_data: Path) -> None:
    """As they were read, and as a file of decoded values gave them: so published results stay what they are."""
    data = prepare(dataset, shared_data, 1)
    plan = build_plan(dataset, data, 1, 3.0, 1)
    for name, path in files(tmp_path, plan, data).items():
        records = data.hospitals[name][1] if name else data.test
        loaded = read_table(path, plan.data)
        write_table(tmp_path / "decoded.csv", records, plan.data)
        decoded = load_table(tmp_path / "decoded.csv", plan.data)
        assert loaded.records.inputs.tobytes() == records.inputs.tobytes() == decoded.inputs.tobytes()
        assert loaded.records.labels.tolist() == records.labels.tolist()
        assert loaded.records.patients == records.patients
        if dataset == "heart" and name:
            assert sum(loaded.missing.values()) > 0, "holes are there to be counted"


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_every_text_comes_back(tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    rows = [{"one": one, "two": two} for one, two in values]
    write_rows(path, rows)
    # Blanks before a value are no part of it, and a row of nothing else is none.
    kept = [{name: text.lstrip(" ") for name, text in row.items()} for row in rows if "".join(row.values()).strip()]
    if kept:
        assert [row for _, row in read_rows(path, None, patient=None)] == kept


def test_how_the_source_is_written_goes_with_its_text(tmp_path: Path) -> None:
    """A hospital that reads 61,5 by the usual settings would refuse its own records."""
    source = patients(change=lambda number, row: row.update(age=row["age"].replace(".", ",")))
    write(tmp_path, source)
    path = tmp_path / "own.csv"
    with path.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.DictReader(opened))
    with path.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    file = study(tmp_path, '[data.reading]\nseparator = ";"\ndecimal = ","\n')
    data = study_data(file, None)
    plan = study_plan(file, data)
    for name in files(tmp_path, plan, data).keys() - {""}:
        folder = HospitalFolder(tmp_path / "run" / "hospitals" / name)
        loaded = load_records(folder.root / "data" / "records.csv", plan.data, reading=folder.config().reading)
        assert loaded.records.inputs.tobytes() == data.hospitals[name][1].inputs.tobytes()
