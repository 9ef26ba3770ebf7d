"""Tables: a hospital's export is never what the schema says, and each fault must be named with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secure_fedhelp.data.encoding import LARGEST_STANDARDISED
from secure_fedhelp.data.records import Records
from secure_fedhelp.data.tables import load_table, write_table
from secure_fedhelp.errors import InvalidData, InvalidValue, MissingColumn, UnknownCategory
from secure_fedhelp.study.sections import Column, DataSection

COLUMNS = (
    Column(name="age", kind="numeric", center=50.0, scale=10.0),
    Column(name="sex", kind="categorical", categories=("f", "m")),
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
HEADER = "patient_id,age,sex,grade,target\n"


def load(tmp_path: Path, text: str, data: DataSection = DATA) -> Records:
    path = tmp_path / "records.csv"
    path.write_bytes(text.encode("utf-8-sig"))
    return load_table(path, data)


def test_numbers_are_standardised_by_public_constants_and_categories_one_hot(tmp_path: Path) -> None:
    found = load(tmp_path, HEADER + "a, 60 ,m,2,ill\nb,45,f,3.0,healthy\n")
    assert found.inputs.tolist() == [[1.0, 0, 1, 0, 1, 0], [-0.5, 1, 0, 0, 0, 1]]
    assert found.labels.tolist() == [1, 0]
    assert found.patients == ("a", "b")
    assert found.inputs.dtype == np.float32


@pytest.mark.parametrize("missing", ["", "?", "  "])
def test_a_missing_value_becomes_the_public_centre(tmp_path: Path, missing: str) -> None:
    found = load(tmp_path, HEADER + f"a,{missing},{missing},1,ill\n")
    assert found.inputs.tolist() == [[0.0, 0, 0, 1, 0, 0]]


def test_a_unit_mistake_cannot_swallow_the_gradient(tmp_path: Path) -> None:
    assert load(tmp_path, HEADER + "a,1e30,m,1,ill\n").inputs[0, 0] == LARGEST_STANDARDISED


def test_columns_may_come_in_any_order_with_others_between(tmp_path: Path) -> None:
    found = load(tmp_path, "target,note,grade,sex,age,patient_id\nill,x,1,m,50,a\n")
    assert found.inputs.tolist() == [[0.0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("patient_id,age,grade,target\na,1,1,ill\n", MissingColumn, "'sex'"),
        ("age,sex,grade,target\n1,m,1,ill\n", MissingColumn, "'patient_id'"),
        ("", MissingColumn, "'patient_id'"),
        (HEADER + "a,old,m,1,ill\n", InvalidValue, "line 2, column 'age': 'old'"),
        (HEADER + "a,inf,m,1,ill\n", InvalidValue, "column 'age'"),
        (HEADER + "a,nan,m,1,ill\n", InvalidValue, "column 'age'"),
        (HEADER + "a,1,x,1,ill\n", UnknownCategory, "line 2, column 'sex': 'x' is none of f, m"),
        (HEADER + "a,1,m,1.5,ill\n", UnknownCategory, "'grade'"),
        (HEADER + "a,1,m,1,dead\n", UnknownCategory, "'target'"),
        (HEADER + "a,1,m,1,\n", UnknownCategory, "'target'"),
        (HEADER + " ,1,m,1,ill\n", InvalidValue, "no patient identifier"),
        (HEADER, InvalidData, "no records"),
        (HEADER + "a,1,m,1\n", InvalidData, "line 2: 4 values, not 5"),
        (HEADER + "a,1,m,1,ill\nb,1,m,1,ill\na,1,m,1,ill\n", InvalidData, "line 4.*line 2"),
        ("patient_id,age,age,sex,grade,target\na,1,1,m,1,ill\n", InvalidData, "two columns are called 'age'"),
        (HEADER + 'a,"1,m,1,ill\n', InvalidData, "records.csv"),
    ],
)
def test_each_fault_is_named_with_its_place(tmp_path: Path, text: str, error: type[InvalidData], words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        load(tmp_path, text)
    assert type(raised.value) is error


def test_two_records_of_one_patient_are_welcome(tmp_path: Path) -> None:
    found = load(tmp_path, HEADER + "a,1,m,1,ill\na,2,m,1,ill\n\n")
    assert len(found) == 2
    assert found.n_patients == 1


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="nowhere.csv"):
        load_table(tmp_path / "nowhere.csv", DATA)
    path = tmp_path / "latin.csv"
    path.write_bytes(HEADER.encode() + b"\xff,1,m,1,ill\n")
    with pytest.raises(InvalidData, match=r"latin\.csv"):
        load_table(path, DATA)


def test_a_plan_whose_shape_contradicts_its_columns_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="6 features"):
        load(tmp_path, HEADER + "a,1,m,1,ill\n", DATA.model_copy(update={"input_shape": (7,)}))


@given(
    st.lists(
        st.tuples(st.floats(-9, 9, width=32), st.sampled_from([-1, 0, 1]), st.integers(0, 2), st.integers(0, 1)),
        min_size=1,
        max_size=20,
    )
)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]]) -> None:
    inputs = np.zeros((len(rows), 6), dtype=np.float32)
    for i, (age, sex, grade, _) in enumerate(rows):
        inputs[i, 0] = age
        if sex >= 0:
            inputs[i, 1 + int(sex)] = 1
        inputs[i, 3 + int(grade)] = 1
    labels = np.asarray([row[3] for row in rows], dtype=np.int64)
    wanted = Records(inputs, labels, tuple(f"p{i}" for i in range(len(rows))))
    path = tmp_path_factory.mktemp("table") / "t.csv"
    write_table(path, wanted, DATA)
    assert path.stat().st_mode & 0o077 == 0, "private records must not be readable by others"
    found = load_table(path, DATA)
    np.testing.assert_allclose(found.inputs, wanted.inputs, atol=2e-6)
    assert found.labels.tolist() == wanted.labels.tolist()
    assert found.patients == wanted.patients
