"""Quotes behind blanks, empty rows, NA, raw bytes: what programs add to a table is understood or refused, not taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.errors import InvalidData, InvalidValue, UnknownCategory
from secure_fedhelp.study.sections import Column, DataSection

DATA = DataSection(
    dataset="clinic",
    kind="table",
    classes=("healthy", "ill"),
    input_shape=(6,),
    columns=(
        Column(name="age", kind="numeric", missing_indicator=True),
        Column(name="sex", kind="categorical", categories=("f", "m"), other=True, missing_indicator=True),
    ),
    public_sha256="0" * 64,
    public_records=1,
)
HEADER = "patient_id,age,sex,target\n"
PLAIN = HEADER + "a,1,f,ill\n17,2,m,healthy\n"


def read(tmp_path: Path, text: str, reading: Reading = STANDARD) -> Loaded:
    (tmp_path / "r.csv").write_text(text, encoding="utf-8", newline="")
    return load_records(tmp_path / "r.csv", DATA, reading=reading)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('patient_id, age, sex, target\n"a", "1", "f", "ill"\n"17", "2", "m", "healthy"\n', id="all"),
        pytest.param('age,patient_id,sex,target\n1, "a",f, "ill"\n2, "17", "m",healthy\n', id="some"),
        pytest.param(PLAIN + ",,,\n,,,\n", id="empty rows of a spreadsheet"),
        pytest.param(PLAIN + "\n   \n \t\n", id="blank lines"),
        pytest.param("patient_id,age,sex,target,\na,1,f,ill,\n17,2,m,healthy,\n", id="a comma behind the last"),
        pytest.param("\ufeff" + PLAIN.replace("\n", "\r\n"), id="a spreadsheet's"),
        pytest.param(PLAIN.replace("\n", "\r"), id="lines of an old Mac"),
    ],
)
def test_blanks_and_empty_rows_change_nobody(tmp_path: Path, text: str) -> None:
    plain, found = read(tmp_path, PLAIN), read(tmp_path, text)
    assert found.records.patients == plain.records.patients == ("a", "17")
    np.testing.assert_array_equal(found.records.inputs, plain.records.inputs)
    np.testing.assert_array_equal(found.records.labels, plain.records.labels)


@pytest.mark.parametrize(
    "identifier",
    [
        *("'a'", "'17'", '"""a"""', "\u201ca\u201d", "\u2018a\u2019", "\u00aba\u00bb", "[17]", "['a']", '"(17,)"'),
        *("np.int64(17)", "Decimal('17')", "UUID('0a')", "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}"),
    ],
)
def test_an_identifier_in_quotes_or_brackets_is_no_other_person(tmp_path: Path, identifier: str) -> None:
    with pytest.raises(InvalidValue, match="line 2, column 'patient_id': .* is a program's way to write an identifier"):
        read(tmp_path, HEADER + f"{identifier},1,f,ill\nb,2,m,healthy\n")


@pytest.mark.parametrize("identifier", ["a(2)", "17'b", "p-1[x", "1.2.840.113619", "\u00e9va", "k.a.17"])
def test_identifiers_with_marks_are_taken(tmp_path: Path, identifier: str) -> None:
    assert read(tmp_path, HEADER + f"{identifier},1,f,ill\nb,2,m,healthy\n").records.n_patients == 2


@pytest.mark.parametrize("nobody", ["#REF!", "#VALUE!", "#NA", "1.#QNAN", "--", "####", "unknown", "inf", "nil", "\\N"])
def test_what_programs_write_for_nothing_is_nobody(tmp_path: Path, nobody: str) -> None:
    with pytest.raises(InvalidValue, match="no patient identifier but"):
        read(tmp_path, HEADER + f"{nobody},1,f,ill\nb,2,m,healthy\n")


@pytest.mark.parametrize("text", ['"he said \\"no\\" twice"', '"ok" ', '"5" tube', '"never closed'])
def test_quotes_that_are_no_csv_are_named_with_their_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidData, match=r"r\.csv, line [23]: ") as refused:
        read(tmp_path, "patient_id,age,sex,target,remark\na,1,f,ill,x\nb,2,m,healthy," + text + "\n")
    assert "a quote mark is written twice" in refused.value.hint


# -- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.binary(), pa.binary(4), pa.large_binary(), pa.binary_view()], ids=str)
def test_bytes_of_numbers_are_no_text_and_two_of_them_not_one_person(tmp_path: Path, kind: pa.DataType) -> None:
    """UTF-8 all of it, and the same person twice if control characters were left out."""
    people = pa.array([b"\0\0\x01A", b"\0\0\x02A"], kind)
    table = pa.table({"patient_id": people, "age": [1, 2], "sex": ["f", "m"], "target": ["ill", "healthy"]})
    pq.write_table(table, tmp_path / "r.parquet")
    with pytest.raises(InvalidValue, match=r"row 1, column 'patient_id': .* are bytes and no text"):
        load_records(tmp_path / "r.parquet", DATA)


@pytest.mark.parametrize("name", ["records.PARQUET", "records.pq", "records", "records.csv"])
def test_a_parquet_file_is_one_by_any_name(tmp_path: Path, name: str) -> None:
    table = pa.table({"patient_id": ["a"], "age": [1], "sex": ["f"], "target": ["ill"]})
    pq.write_table(table, tmp_path / "r.parquet")
    shutil.move(tmp_path / "r.parquet", tmp_path / name)
    assert load_records(tmp_path / name, DATA).records.patients == ("a",)


# -- missing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NA", "N/A", "NULL", "NaN", "nan", ".", "\\N", "#N/A", "<NA>"])
def test_a_word_for_missing_is_neither_a_number_nor_another_category(tmp_path: Path, word: str) -> None:
    for row, error in ((f"a,{word},f,ill", InvalidValue), (f"a,1,{word},ill", UnknownCategory)):
        with pytest.raises(error, match="line 2, column") as refused:
            read(tmp_path, HEADER + row + "\nb,2,m,healthy\n")
        assert 'missing = ["' in refused.value.hint, "the refusal names the setting"
    loaded = read(tmp_path, HEADER + f"a,{word},{word},ill\nb,2,m,healthy\n", Reading(missing=(word,)))
    assert loaded.records.inputs[0].tolist() == [0, 1, 0, 0, 0, 1]
    assert loaded.missing == {"age": 1, "sex": 1}


def test_a_number_for_missing_is_that_number_however_it_is_written(tmp_path: Path) -> None:
    reading = Reading(missing=("-999", "unknown"), decimal=",", separator=";")
    text = "patient_id;age;sex;target\na;-999,0;unknown;ill\nb;-999;m;ill\nc;-99,9;f;healthy\n"
    loaded = read(tmp_path, text, reading)
    assert loaded.missing == {"age": 2, "sex": 1}
    assert loaded.records.inputs[:, 0].tolist() == [0, 0, -10]
    columns = {"patient_id": ["a", "b"], "age": [-999.0, 5.0], "sex": ["f", "m"], "target": ["ill", "healthy"]}
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    assert load_records(tmp_path / "r.parquet", DATA, reading=Reading(missing=("-999",))).missing["age"] == 1


def test_a_number_for_missing_is_no_patients(tmp_path: Path) -> None:
    loaded = read(tmp_path, HEADER + "9,1,f,ill\nb,9,m,healthy\n", Reading(missing=("9",)))
    assert loaded.records.patients == ("9", "b")
    assert loaded.missing == {"age": 1, "sex": 0}


def test_a_category_that_the_plan_lists_is_no_missing_value(tmp_path: Path) -> None:
    columns = (DATA.columns[0], Column(name="sex", kind="categorical", categories=("NA", "m"), other=True))
    plan = DATA.model_copy(update={"columns": columns, "input_shape": (5,)})
    (tmp_path / "r.csv").write_text(HEADER + "a,1,NA,ill\nb,2,m,healthy\n")
    assert load_records(tmp_path / "r.csv", plan).records.inputs[0].tolist() == [1, 0, 1, 0, 0]


@pytest.mark.parametrize("text", ["f\u200b", "\u200b", "f\x07"])
def test_what_cannot_be_seen_makes_no_other_category(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnknownCategory, match="line 2, column 'sex'"):
        read(tmp_path, HEADER + f"a,1,{text},ill\nb,2,m,healthy\n")
