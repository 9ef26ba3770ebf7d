"""Parquet tables: the same schema, the same records and the same refusals as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secure_fedhelp.data import parquet
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.tables import load_table
from secure_fedhelp.errors import InvalidData, InvalidValue, MissingColumn, UnknownCategory
from secure_fedhelp.study import reading as bounds
from secure_fedhelp.study.sections import Column, DataSection

COLUMNS = (
    Column(name="age", kind="numeric", center=50.0, scale=10.0),
    Column(name="smokes", kind="categorical", categories=("0", "1")),
    Column(name="grade", kind="categorical", categories=("1", "2", "3")),
)
DATA = DataSection(
    dataset="clinic",
    kind="table",
    classes=("healthy", "ill"),
    input_shape=(6,),
    columns=COLUMNS,
    public_sha256="0" * 64,
    public_records=1,
)
GOOD: dict[str, list[Any]] = {
    "patient_id": [7, 7, 9],
    "age": [60.0, None, 45.5],
    "smokes": [True, False, None],
    "grade": [2, 3, 1],
    "target": ["ill", "ill", "healthy"],
    "remark": ["x", None, "not read"],
}


def parquet_file(tmp_path: Path, **change: list[Any] | None) -> Path:
    values = {name: column for name, column in (GOOD | change).items() if column is not None}
    path = tmp_path / "records.parquet"
    pq.write_table(pa.table(values), path)
    return path


def test_parquet_and_csv_give_the_same_records(tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text(
        "patient_id,age,smokes,grade,target\n7,60,1,2,ill\n7,,0,3,ill\n9,45.5,,1,healthy\n"
    )
    one, two = load_records(parquet_file(tmp_path), DATA), load_records(tmp_path / "records.csv", DATA)
    np.testing.assert_array_equal(one.records.inputs, two.records.inputs)
    np.testing.assert_array_equal(one.records.labels, two.records.labels)
    assert one.records.patients == two.records.patients == ("7", "7", "9")
    assert one.missing == two.missing == {"age": 1, "smokes": 1, "grade": 0}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"age": None}, MissingColumn, "no column 'age'"),
        ({"age": ["x", "1", "2"]}, InvalidValue, "row 1, column 'age': 'x' is not a finite number"),
        ({"age": [1.0, float("nan"), 2.0]}, InvalidValue, "row 2, column 'age'"),
        ({"grade": [1, 4, 2]}, UnknownCategory, "row 2, column 'grade': '4' is none of 1, 2, 3"),
        ({"target": ["ill", "ill", None]}, UnknownCategory, "row 3, column 'target'"),
        ({"patient_id": ["a", "", "b"]}, InvalidValue, "row 2, column 'patient_id': no patient"),
        ({name: column[:1] * 2 for name, column in GOOD.items()}, InvalidData, "row 2: the same record.*row 1"),
        ({name: [] for name in GOOD}, InvalidData, "no records"),
    ],
)
def test_each_fault_is_named_with_its_row(
    tmp_path: Path, change: dict[str, Any], error: type[InvalidData], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        load_table(parquet_file(tmp_path, **change), DATA)
    assert type(raised.value) is error


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    names = [*GOOD, "age"]
    table = pa.table([pa.array(GOOD[name]) for name in names], names=names)
    pq.write_table(table, tmp_path / "double.parquet")
    with pytest.raises(InvalidData, match="two columns are called 'age'"):
        load_table(tmp_path / "double.parquet", DATA)


def test_files_that_are_no_parquet_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="nowhere"):
        load_table(tmp_path / "nowhere.parquet", DATA)
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(InvalidData, match=r"junk\.parquet"):
        load_table(tmp_path / "junk.parquet", DATA)
    whole = parquet_file(tmp_path).read_bytes()
    for cut in (10, len(whole) // 2, len(whole) - 4):
        (tmp_path / "cut.parquet").write_bytes(whole[:cut])
        with pytest.raises(InvalidData, match=r"cut\.parquet"):
            load_table(tmp_path / "cut.parquet", DATA)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1" + bytes(60) + whole[64:])
    with pytest.raises(InvalidData):
        load_table(tmp_path / "torn.parquet", DATA)


def test_a_value_that_is_repeated_a_million_times_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has some bytes in the file, by the file's own figures too, and a million cells in memory."""
    monkeypatch.setattr(bounds, "_UNPACKED_FREELY", 2**20)
    again = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2**21, np.int8)), pa.array(["1.5"]))
    pq.write_table(pa.table({"patient_id": again, "age": again}), tmp_path / "bomb.parquet")
    assert pq.ParquetFile(tmp_path / "bomb.parquet").metadata.row_group(0).total_byte_size < 10_000
    with pytest.raises(InvalidData, match="more than 100 times as much"):
        parquet.read_parquet(tmp_path / "bomb.parquet", None, "patient_id")


def test_a_table_that_unpacks_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet_file(tmp_path)
    monkeypatch.setattr(parquet, "LARGEST_BYTES", 100)
    with pytest.raises(InvalidData, match="unpacks to"):
        load_table(path, DATA)
