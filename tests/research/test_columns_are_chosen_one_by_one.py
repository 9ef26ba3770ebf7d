"""Which columns of a table are learnt from: what is left out is left out by name, and nothing else is."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clinics import Row, patients, study, write
from rich.console import Console

from secure_fedhelp.errors import (
    FedHelpError,
    InvalidConfiguration,
    InvalidData,
    InvalidValue,
    MissingColumn,
    UnknownCategory,
)
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.cohort import cohort_of
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.records_table import print_cohort
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.target import require_classes

AGE = 'columns = [{ name = "age", kind = "numeric", center = 50, scale = 20 }]\n'


def names(data: StudyData) -> list[str]:
    return [column.name for column in data.data_section_fields["columns"]]


def said(data: StudyData) -> str:
    text = io.StringIO()
    print_cohort("own", cohort_of(data), Console(file=text, width=2000, highlight=False))
    return text.getvalue()


def test_naming_one_column_drops_no_other(tmp_path: Path) -> None:
    write(tmp_path, patients())
    usual, changed = (study_data(study(tmp_path, data), None) for data in ("", AGE))
    assert names(usual) == names(changed) == ["age", "grade", "follow_up"]
    one, two = (data.data_section_fields["columns"] for data in (usual, changed))
    assert (two[0].center, two[0].scale) == (50, 20) != (one[0].center, one[0].scale)
    assert one[1:] == two[1:], "the others are inferred as ever"
    assert "age (number, centre 50, scale 20" in said(changed)
    assert "by the study file); grade" in said(changed)
    assert "columns_only = true" in said(changed), "an earlier version took no other column"


def test_only_these_columns_is_said_in_so_many_words(tmp_path: Path) -> None:
    write(tmp_path, patients())
    data = study_data(study(tmp_path, AGE + "columns_only = true\n"), None)
    assert names(data) == ["age"]
    assert "Columns not taken, 2: grade, follow_up." in said(data)
    assert "note:" not in said(data)


def test_what_is_known_after_the_outcome_is_excluded(tmp_path: Path) -> None:
    """Follow-up time tells who died."""
    write(tmp_path, patients())
    data = study_data(study(tmp_path, 'exclude = ["follow_up"]\n'), None)
    assert names(data) == ["age", "grade"]
    assert "Columns taken to predict outcome, 2: age" in said(data)
    assert "Columns not taken, 1: follow_up." in said(data)


def test_an_excluded_column_may_hold_anything(tmp_path: Path) -> None:
    def remark(number: int, row: Row) -> None:
        row["remark"] = f"seen on day {number}, NA" if number % 3 else "12"

    write(tmp_path, patients(change=remark))
    with pytest.raises(FedHelpError, match="'remark'"):
        study_data(study(tmp_path), None)
    assert "remark" not in names(study_data(study(tmp_path, 'exclude = ["remark"]\n'), None))


def test_a_parquet_column_that_no_table_can_hold_may_be_excluded(tmp_path: Path) -> None:
    rows = [{**row, "visits": [1, 2]} for row in patients()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "own.parquet")

    def of(data: str) -> StudyFile:
        own = study(tmp_path, data)
        assert own.data is not None
        return own.model_copy(update={"data": own.data.model_copy(update={"path": tmp_path / "own.parquet"})})

    with pytest.raises(InvalidData, match="'visits'"):
        study_data(of(""), None)
    data = study_data(of('exclude = ["visits"]\n'), None)
    assert names(data) == ["age", "grade", "follow_up"]
    assert "Columns not taken, 1: visits." in said(data)


def test_all_columns_that_cannot_be_taken_are_named_at_once(tmp_path: Path) -> None:
    def remarks(number: int, row: Row) -> None:
        row |= {"remark": f"seen on day {number}", "ward": "", "address": f"{number} Main Street"}

    write(tmp_path, patients(change=remarks))
    with pytest.raises(
        InvalidData,
        match=r"^own\.csv: column 'remark' has 30 different words in 30 .*'ward' has no value.*'address' has",
    ) as raised:
        study_data(study(tmp_path), None)
    assert "exclude" in raised.value.hint


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        ('exclude = ["folow_up"]\n', MissingColumn, "no column 'folow_up'"),
        ('exclude = ["age", "grade", "follow_up"]\n', InvalidConfiguration, "no column is left"),
        ('exclude = ["outcome"]\n', InvalidConfiguration, "'outcome', the target"),
        ('exclude = ["age"]\n' + AGE, InvalidConfiguration, "both name 'age'"),
        ("columns_only = true\n", InvalidConfiguration, "none is"),
        (AGE.replace("age", "outcome"), InvalidConfiguration, "'outcome', the target"),
        (AGE.replace("age", "who"), InvalidConfiguration, "'who', the patient"),
        (AGE.replace("age", "weight"), MissingColumn, "no column 'weight'"),
        (AGE.replace("}]", "}, { name = 'age', kind = 'numeric' }]"), InvalidConfiguration, "'age' twice"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(
    tmp_path: Path, data: str, error: type[FedHelpError], words: str
) -> None:
    write(tmp_path, patients())
    with pytest.raises(error, match=words):
        study_data(study(tmp_path, data), None)


def test_images_have_no_columns_to_exclude(tmp_path: Path) -> None:
    text = 'name = "a"\n[data]\npath = "a.npz"\nclasses = ["x", "y"]\nexclude = ["b"]\n'
    (tmp_path / "study.toml").write_text(text + '[parts]\npublic = 1\nreference = 1\n[partition]\nkind = "sizes"\n')
    from secure_fedhelp.research.study_file import load_study

    with pytest.raises(InvalidConfiguration, match="no columns"):
        load_study(tmp_path / "study.toml")


@pytest.mark.parametrize(
    ("values", "classes", "words"),
    [
        ([f"{n / 7:.3f}" for n in range(100)], (), "looks continuous: 100 different numbers, 0 to 14.143"),
        ([f"{n / 7:.3f}" for n in range(100)], ("low", "high"), "looks continuous: 100"),
        ([f"{n},5" for n in range(12)], (), "looks continuous: 12 different numbers"),
        ([str(n) for n in range(21)], (), "looks continuous: 21"),
        (["1", "1.0", "1e0"] * 9 + ["2"], (), None),
        ([str(n) for n in range(20)], (), None),
        ([f"{n}.5" for n in range(10)], (), None),
        ([*[str(n) for n in range(30)], "unknown"], (), "looks continuous: 30 different numbers"),
        ([str(n) for n in range(30)], tuple(str(n) for n in range(30)), None),
        ([str(n) for n in range(30)], tuple(str(n) for n in range(29)), None),  # that one is told by its name
        ([f"Smith {n}" for n in range(60)], (), "60 different values"),
        ([f"C{n}.1" for n in range(50)], (), None),
    ],
)
def test_a_measurement_is_no_class(values: list[str], classes: tuple[str, ...], words: str | None) -> None:
    if words is None:
        require_classes(values, "outcome", "own.csv", classes)
        return
    with pytest.raises(InvalidValue, match=words) as raised:
        require_classes(values, "outcome", "own.csv", classes)
    assert raised.value.message.startswith("own.csv: the target 'outcome'")


def test_a_continuous_target_is_called_one_and_not_listed_as_a_hundred_classes(tmp_path: Path) -> None:
    def score(number: int, row: Row) -> None:
        row["outcome"] = f"{number * 0.37:.2f}"

    write(tmp_path, patients(change=score))
    with pytest.raises(InvalidValue, match="looks continuous: 400 different numbers") as raised:
        study_data(study(tmp_path), None)
    assert "Cut it" in raised.value.hint
    assert len(raised.value.message) < 150


def test_a_class_that_is_not_named_is_told_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, patients())
    with pytest.raises(UnknownCategory, match="'well' is none of ill, dead"):
        study_data(study(tmp_path, 'classes = ["ill", "dead"]\n'), None)
