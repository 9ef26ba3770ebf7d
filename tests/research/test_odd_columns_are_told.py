"""Numbers of rows, NA, codes, numbers with marks, two spellings of a word: told before they are learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clinics import SITES, Row, patients, study, write

from secure_fedhelp.errors import InvalidData, InvalidPartition, InvalidValue
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.cohort import cohort_of
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.schema import infer_column, suspected_codes
from secure_fedhelp.research.study_file import load_study


def names(data: StudyData) -> list[str]:
    return [column.name for column in data.data_section_fields["columns"]]


def rows_with(column: str, values: list[str]) -> list[Row]:
    def change(number: int, row: Row) -> None:
        row[column] = values[number % len(values)]

    return patients(change=change)


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 12", "__index_level_0__", "...1"])
def test_numbers_of_rows_are_not_learnt_from(tmp_path: Path, name: str) -> None:
    """Programs write them as a column that nobody has named; in a file that is sorted they tell the outcome."""
    write(tmp_path, [{name: str(number), **row} for number, row in enumerate(patients())])
    data = study_data(study(tmp_path), None)
    assert names(data) == ["age", "grade", "follow_up"]
    assert cohort_of(data).excluded == (name or "(no name)",)
    if name:
        said = study(tmp_path, f'columns = [{{ name = "{name}", kind = "numeric" }}]\n')
        assert name in names(study_data(said, None)), "who says that it is a column has it"


def test_an_index_in_parquet_is_not_learnt_from(tmp_path: Path) -> None:
    rows = patients()
    columns = {name: pa.array([row[name] for row in rows]) for name in rows[0]}
    pq.write_table(pa.table({**columns, "__index_level_0__": pa.array(range(len(rows)))}), tmp_path / "own.parquet")
    study(tmp_path)
    text = (tmp_path / "study.toml").read_text().replace("own.csv", "own.parquet")
    (tmp_path / "study.toml").write_text(text)
    assert names(study_data(load_study(tmp_path / "study.toml"), None)) == ["age", "grade", "follow_up"]


def test_empty_columns_behind_the_last_are_none(tmp_path: Path) -> None:
    write(tmp_path, patients())
    lines = (tmp_path / "own.csv").read_text().splitlines()
    (tmp_path / "own.csv").write_text("\n".join(line + ",," for line in lines))
    assert names(study_data(study(tmp_path), None)) == ["age", "grade", "follow_up"]


@pytest.mark.parametrize("word", ["NA", "nan", "NULL", ".", "#N/A"])
def test_a_word_for_missing_is_no_class(tmp_path: Path, word: str) -> None:
    write(tmp_path, rows_with("outcome", ["ill", "well", "ill", "well", word]))
    with pytest.raises(InvalidValue, match=rf"own\.csv, line 6: no 'outcome' but '{word}', and 79 more"):
        study_data(study(tmp_path), None)


def test_a_class_that_is_listed_is_one(tmp_path: Path) -> None:
    write(tmp_path, rows_with("outcome", ["ill", "NA", "ill", "NA", "NA"]))
    assert study_data(study(tmp_path, 'classes = ["NA", "ill"]\n'), None).data_section_fields["classes"] == (
        "NA",
        "ill",
    )


@pytest.mark.parametrize("word", ["NA", "NULL", "nan"])
def test_a_word_for_missing_is_no_category_and_the_setting_makes_it_missing(tmp_path: Path, word: str) -> None:
    write(tmp_path, rows_with("grade", ["low", "high", word]))
    with pytest.raises(InvalidData, match=f"column 'grade' has words, and '{word}' among them") as refused:
        study_data(study(tmp_path), None)
    assert f'missing = ["{word}"]' in refused.value.hint
    data = study_data(study(tmp_path, f'reading = {{ missing = ["{word}"] }}\n'), None)
    grade = next(column for column in data.data_section_fields["columns"] if column.name == "grade")
    assert grade.categories == ("high", "low")
    assert grade.missing_indicator


@pytest.mark.parametrize("words", [("True", "TRUE"), ("yes", "Yes"), ("m", "M")])
def test_one_word_in_two_spellings_is_not_two(tmp_path: Path, words: tuple[str, str]) -> None:
    write(tmp_path, rows_with("outcome", ["well", *words]))
    with pytest.raises(
        InvalidData, match=f"'outcome': '{words[0]}' and '{words[1]}' are the same word in other letters"
    ):
        study_data(study(tmp_path), None)
    with pytest.raises(InvalidData, match="the same word in other letters"):
        infer_column("grade", ["x", *words] * 4)
    write(tmp_path, rows_with("outcome", ["well", *words]))
    listed = study(tmp_path, f'classes = ["well", "{words[0]}", "{words[1]}"]\n')
    assert len(study_data(listed, None).data_section_fields["classes"]) == 3, "blood groups K and k are two"


@pytest.mark.parametrize(
    "values",
    [
        ["<0.01", "<0.01", "<0.01", "0.5"],
        ["<0.01"],
        ["1%", "2%", "15 %"],
        ["\u20ac1", "\u20ac 2.50", "3"],
        ["5$", "6$"],
        ["> 1,000", "7", ">5"],
        ["\u226590", "85", "\u226590"],
    ],
)
def test_numbers_with_a_mark_are_no_categories(values: list[str]) -> None:
    with pytest.raises(
        InvalidData, match="has '.*', a number with a mark|a number only with|numbers, and '.*' among them"
    ):
        infer_column("lactate", values * 4)


@pytest.mark.parametrize(
    "values", [["<65", ">=65"], ["<30", "30-60", ">60"], ["1.2.3", "1.2.4"], ["01.02.2020", "03.02.2020"], ["A1", "2"]]
)
def test_groups_and_codes_are_categories(values: list[str]) -> None:
    assert infer_column("group", values * 4).categories == tuple(sorted(set(values)))


def test_a_site_that_says_nothing_is_no_hospital(tmp_path: Path) -> None:
    write(tmp_path, rows_with("clinic", ["north", "south", "east", "NA"]))
    with pytest.raises(InvalidPartition, match="'NA' is no site's name"):
        study_data(study(tmp_path), None)
    data = study_data(study(tmp_path, top='hospitals = ["north", "south", "east"]\n', partition=SITES), None)
    assert "records without a site, of 100 patients" in cohort_of(data).left_out


@pytest.mark.parametrize(("code", "times"), [("-999", 8), ("-999", 1), ("9999", 3), ("999.0", 2)])
def test_a_code_for_missing_in_the_public_part_is_told(code: str, times: int) -> None:
    """It makes centre and scale, which then hide it from every data card."""
    values = [f"{value:.1f}" for value in np.random.default_rng(0).normal(60, 12, 60)]
    assert suspected_codes("age", [*values, *[code] * times]) == [(float(code), times)]


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_columns_have_no_codes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = (rng.normal(60, 12, 60), rng.lognormal(2, 1, 60), rng.integers(0, 2, 60), rng.poisson(0.3, 60))
    for values in columns:
        assert suspected_codes("x", [f"{value:.3f}" for value in values]) == []


def test_the_code_stands_on_the_page(tmp_path: Path) -> None:
    write(tmp_path, rows_with("follow_up", [*(str(n) for n in range(40, 59)), "-999"]))
    notes = " ".join(cohort_of(study_data(study(tmp_path), None)).notes)
    assert "column 'follow_up': -999 comes" in notes
    assert 'missing = ["-999"]' in notes
    told = cohort_of(study_data(study(tmp_path, 'reading = { missing = ["-999"] }\n'), None)).notes
    assert told == ()


@pytest.mark.parametrize(
    ("mean", "spread"),
    [(1_700_000_000, 40_000), (101_325, 40), (2019.5, 0.3), (1_234_567, 300), (60, 12), (1e-9, 1e-10)],
)
def test_a_centre_is_in_the_middle_of_the_public_values(mean: float, spread: float) -> None:
    """Four digits of a time in seconds are ten scales off: every value would be cut."""
    values = np.random.default_rng(0).normal(mean, spread, 60)
    column = infer_column("x", [format(value, ".15f") for value in values])
    assert abs(column.center - values.mean()) <= 0.1 * column.scale
    assert column.scale == pytest.approx(values.std(), rel=1e-3)


@pytest.mark.parametrize("value", ["5", "123456", "12345.678", "-98765432.1", "0"])
def test_a_constant_is_its_own_centre(value: str) -> None:
    column = infer_column("x", [value] * 30)
    assert column.center == pytest.approx(float(value), abs=0.1)


@pytest.mark.parametrize("site", ["\u041a\u0438\u0435\u0432", "\u6771\u4eac"])
def test_a_site_in_another_script_is_told_what_a_name_is(tmp_path: Path, site: str) -> None:
    write(tmp_path, rows_with("clinic", ["north", "south", "east", site]))
    with pytest.raises(InvalidPartition, match=f"'{site}' makes no hospital's name, which has letters from a to z"):
        study_data(study(tmp_path), None)


def test_a_study_file_that_listed_its_columns_is_told_how_to_leave_out_the_others(tmp_path: Path) -> None:
    """Up to 0.4.0 others were not taken; now one that nobody can learn from ends the study."""
    write(tmp_path, [{**row, "remark": f"seen {number}"} for number, row in enumerate(patients())])
    listed = 'columns = [{ name = "age", kind = "numeric" }]\n'
    with pytest.raises(InvalidData, match="column 'remark' has 30 different words") as refused:
        study_data(study(tmp_path, listed), None)
    assert "columns_only = true" in refused.value.hint
    assert names(study_data(study(tmp_path, listed + "columns_only = true\n"), None)) == ["age"]
