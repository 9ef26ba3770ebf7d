"""Numbers: a hospital's and not Python's, written as a setting says and never guessed; codes are no numbers."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from secure_fedhelp.data.encoding import category, encode
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.numbers import declared, exact, one_spelling, plain, same_number
from secure_fedhelp.data.reading import STANDARD, Reading
from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidData, InvalidValue, UnknownCategory
from secure_fedhelp.research.schema import infer_column
from secure_fedhelp.study.sections import Column, DataSection

GERMAN = Reading(separator=";", decimal=",", thousands=".")
DATA = DataSection(
    dataset="clinic",
    kind="table",
    classes=("1", "2"),
    input_shape=(3,),
    columns=(
        Column(name="dose", kind="numeric"),
        Column(name="stage", kind="categorical", categories=("1.5", "2")),
    ),
    public_sha256="0" * 64,
    public_records=1,
)


def load(tmp_path: Path, text: str, reading: Reading = STANDARD) -> Records:
    path = tmp_path / "records.csv"
    path.write_text(text, encoding="utf-8")
    return load_records(path, DATA, reading=reading).records


# -- the grammar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("-1", -1), ("+1", 1), ("1.5", 1.5), ("1.", 1), (".5", 0.5), ("-.5", -0.5), ("007", 7), (" 2.50 ", 2.5)],
)
def test_what_is_a_number(text: str, value: float) -> None:
    assert declared(text) == value
    assert exact(text) == Decimal(str(value))


@pytest.mark.parametrize(
    "text",
    [
        *("7_1", "inf", "-Infinity", "nan", "NaN", "0x1f", "1e", "e5", ".", "+", "-", "", "1 2", "1-2", "--1", "1.2.3"),
        *("1,5", "1'000", "1/2", "5 mg", "<5", "1e5.0", "1d3", "True", "1j"),
        *("\u0661", "\uff11", "1\u00b2", "\u00bd", "\u22121"),
    ],
)
def test_what_is_none(text: str) -> None:
    assert declared(text) is exact(text) is plain(text) is None


@pytest.mark.parametrize(
    ("text", "value"), [("1e5", 1e5), ("1.5E-3", 1.5e-3), ("2E+2", 200), (".5e1", 5), ("1e-400", 0)]
)
def test_an_exponent_only_where_the_column_is_declared(text: str, value: float) -> None:
    assert declared(text) == value
    assert exact(text) is plain(text) is None


@pytest.mark.parametrize("text", ["0{}123", "-0{}500", "00{}123", "0{}123{}456"])
@pytest.mark.parametrize("thousands", [".", ",", " ", "'"])
def test_a_fraction_is_no_group_of_thousands(text: str, thousands: str) -> None:
    """``0,123`` in a file whose thousands have commas was written by a program with a decimal comma: no 123."""
    reading = Reading.model_validate({"decimal": "," if thousands == "." else ".", "thousands": thousands})
    assert declared(text.replace("{}", thousands), reading) is None


def test_a_number_beyond_all_numbers_is_none() -> None:
    assert declared("1e999") is declared("9" * 400) is None


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_every_way_of_writing_a_number_gives_that_number(number: Decimal) -> None:
    english = f"{number:,f}"
    marks = str.maketrans(",.", ".,")
    assert exact(f"{number:f}") == exact(english, Reading(thousands=",")) == number
    assert exact(english.translate(marks), GERMAN) == exact(f"{number:f}".translate(marks), GERMAN) == number
    french = english.translate(str.maketrans(",.", "\u202f,"))
    assert exact(french, Reading(decimal=",", thousands=" ")) == number
    assert declared(english, Reading(thousands=",")) == declared(f"{number:f}") == float(number)


@given(st.text("0123456789.,'e+- ", max_size=9), st.sampled_from([STANDARD, GERMAN, Reading(thousands="'")]))
def test_no_text_is_two_numbers(text: str, reading: Reading) -> None:
    """Declared or not, by the plain spelling or by the value: the same number, and the one that Python has for it."""
    number = plain(text, reading)
    if number is None:
        assert exact(text, reading) is None
        return
    assert exact(text, reading) == Decimal(number)
    assert declared(text, reading) == float(number)
    assert plain(number) == number


# -- settings ----------------------------------------------------------------------------------------------------------


def test_a_file_is_read_as_the_settings_say(tmp_path: Path) -> None:
    text = "patient_id;dose;stage;target\na;1.234,5;1,5;1,0\nb;-0,25;2;02\n"
    found = load(tmp_path, text, GERMAN)
    assert found.inputs.tolist() == [[10.0, 1, 0], [-0.25, 0, 1]]
    assert found.labels.tolist() == [0, 1]
    for mark in ("\t", "|"):
        again = load(tmp_path, text.replace(";", mark), Reading(separator=mark, decimal=",", thousands="."))  # type: ignore[arg-type]
        np.testing.assert_array_equal(again.inputs, found.inputs)


def test_a_spreadsheets_line_with_the_separator_is_no_header(tmp_path: Path) -> None:
    text = "sep=;\npatient_id;dose;stage;target\na;1;2;1\n"
    assert len(load(tmp_path, text, Reading(separator=";"))) == 1
    with pytest.raises(InvalidData, match='with separator = ";" they would be'):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "reading", "words"),
    [
        ("patient_id;dose;stage;target\na;1;2;1\n", STANDARD, 'separator = ","; with separator = ";"'),
        ('"patient_id";"dose";"stage";"target"\n"a";"1";"2";"1"\n', STANDARD, 'with separator = ";"'),
        ("patient_id;a,b;dose;stage;target\na;1;1;2;1\n", STANDARD, 'with separator = ";"'),
        ("patient_id\tdose\tstage\ttarget\na\t1\t2\t1\n", STANDARD, 'with separator = "tab"'),
        ("patient_id|dose|stage|target\na|1|2|1\n", STANDARD, 'with separator = "bar"'),
        ("patient_id,dose,stage,target\na,1,2,1\n", GERMAN, 'separator = ";"; with separator = ","'),
        ('patient_id,dose,stage,target\na,"1,5",2,1\n', STANDARD, "line 2, column 'dose': '1,5'.*decimal = \",\""),
        (
            'patient_id,dose,stage,target\na,"1,234",2,1\n',
            STANDARD,
            'decimal = "." and thousands = "," or with decimal = ","',
        ),
        ('patient_id,dose,stage,target\na,"1.234,5",2,1\n', STANDARD, 'decimal = "," and thousands = "."'),
        ("patient_id,dose,stage,target\na,1'234,2,1\n", STANDARD, 'decimal = "." and thousands = "\'"'),
        ("patient_id,dose,stage,target\na,1 234,2,1\n", STANDARD, 'decimal = "." and thousands = " "'),
        ("patient_id;dose;stage;target\na;1.5;2;1\n", Reading(separator=";", decimal=","), 'only with decimal = "."'),
        ("patient_id,dose,stage,target\na,1,5,2,1\n", STANDARD, "line 2: 5 values, not 4"),
    ],
)
def test_nothing_is_guessed_and_the_refusal_names_the_setting(
    tmp_path: Path, text: str, reading: Reading, words: str
) -> None:
    with pytest.raises(InvalidData, match=words) as raised:
        load(tmp_path, text, reading)
    assert "[reading]" in raised.value.hint


@pytest.mark.parametrize("values", [{"separator": "."}, {"decimal": ";"}, {"decimal": ",", "thousands": ","}, {"x": 1}])
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Reading.model_validate(values)


# -- classes and categories --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1", "1.0", "01", "+1", "1.", " 1.00 "])
def test_a_class_is_the_number_however_it_is_spelt(text: str) -> None:
    assert category(text, ("2", "1"), "here") == 1
    assert category(text, ("2.0", "1.0"), "here") == 1


@pytest.mark.parametrize(
    ("text", "categories"),
    [
        ("7", ("007", "012")),
        ("7.0", ("007", "012")),
        ("07", ("007", "012")),
        ("1e50", ("1E50", "5A11")),
        ("1E50", ("1E5", "5A11")),
        ("1E0", ("1", "2")),
        ("1_0", ("10", "2")),
        ("nan", ("NaN", "1")),
        ("1.0", ("1", "01")),
        ("1.00", ("1", "1.0")),
    ],
)
def test_codes_stay_codes(text: str, categories: tuple[str, ...]) -> None:
    with pytest.raises(UnknownCategory, match="here: .* is none of"):
        category(text, categories, "here")
    assert [category(name, categories, "here") for name in categories] == list(range(len(categories)))


def test_a_name_is_not_its_number_in_another_spelling() -> None:
    """In a file with thousands marks 1.500 is not the category 1.500 of a plan, which has a point."""
    assert category("1,5", ("1.500", "2"), "here", GERMAN) == 0
    with pytest.raises(UnknownCategory):
        category("1.500", ("1.500", "2"), "here", GERMAN)


def test_an_other_takes_no_value_that_is_listed_in_another_spelling() -> None:
    numbers = Column(name="stage", kind="categorical", categories=("1.5", "2"), other=True)
    assert encode("1.50", numbers, "here") == [1, 0, 0]
    assert encode("3", numbers, "here") == encode("x", numbers, "here") == [0, 0, 1]
    with pytest.raises(InvalidValue, match="here, column 'stage': '1,5' is a number only with decimal = \",\""):
        encode("1,5", numbers, "here")
    assert encode("1,5", numbers, "here", GERMAN) == [1, 0, 0]
    codes = Column(name="stage", kind="categorical", categories=("007", "012"), other=True)
    assert encode("013", codes, "here") == encode("8", codes, "here") == [0, 0, 1]
    for damaged in ("7", "7.0", "12"):
        with pytest.raises(UnknownCategory, match=f"'{damaged}' is none of 007, 012"):
            encode(damaged, codes, "here")


def test_names_that_are_one_number_get_one_spelling() -> None:
    assert one_spelling(["1", "1.0", "2.0", "x", "1.00"], "here") == ["1", "1", "2.0", "x", "1"]
    assert one_spelling(["1,5", "1,50", "2"], "here", GERMAN) == ["1.5", "1.5", "2"]
    assert one_spelling(["1E50", "1e50", "5A11"], "here") == ["1E50", "1e50", "5A11"]
    assert one_spelling(["007", "012"], "here") == ["007", "012"]
    with pytest.raises(InvalidData, match="here: '007' and '7' are one number, and '007' is a code"):
        one_spelling(["007", "7"], "here")
    assert one_spelling(["007", "7"], "here", listed=True) == ["007", "7"]
    assert same_number(("1", "x", "1.0")) == ("1", "1.0")
    assert same_number(("1", "2")) is same_number(("007", "7")) is None


# -- inferred schemas --------------------------------------------------------------------------------------------------


def test_an_inferred_column_is_numeric_if_all_are_numbers() -> None:
    column = infer_column("dose", ["1", "2.5", "", "-3"])
    assert (column.kind, round(column.center, 4)) == ("numeric", 0.1667)
    assert infer_column("dose", ["1,5", "2.000,5"], GERMAN).center == 1001.0


def test_ages_and_hours_with_a_zero_before_them_are_numbers() -> None:
    assert infer_column("age", ["07", "12", "00", "88"]).kind == "numeric"


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        (["1E50", "2E60", "1E50"], ("1E50", "2E60")),
        (["7_1", "7_2"], ("7_1", "7_2")),
        (["0012", "3400"], ("0012", "3400")),
        (["a", "1", "1.0", "b", "c"], ("1", "a", "b", "c")),
        (["0x1f", "inf"], ("0x1f", "inf")),
    ],
)
def test_codes_are_categories(values: list[str], categories: tuple[str, ...]) -> None:
    assert infer_column("code", values).categories == categories


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["1,5", "2,5"], "has '1,5', a number only with decimal = \",\""),
        (["1.5", "2", "1e-05"], "has numbers, and '1e-05' among them"),
        (["007", "7", "8"], "'007' and '7' are one number, and '007' is a code"),
        (["1", "2", "NA"], "has numbers, and 'NA' among them"),
    ],
)
def test_what_may_be_either_is_refused(values: list[str], words: str) -> None:
    with pytest.raises(InvalidData, match="column 'x' ?.*" + words.replace("(", r"\(")):
        infer_column("x", values)


# -- Parquet -----------------------------------------------------------------------------------------------------------


def parquet(tmp_path: Path, **columns: Any) -> Path:
    usual = {"patient_id": ["a", "b"], "dose": [1.0, 2.0], "stage": ["1.5", "2"], "target": ["1", "2"]}
    pq.write_table(pa.table(usual | columns), tmp_path / "records.parquet")
    return tmp_path / "records.parquet"


@pytest.mark.parametrize("reading", [STANDARD, GERMAN])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 1]),
        pa.array([0, 1], pa.int8()),
        pa.array([0, 1], pa.uint64()),
        pa.array([False, True]),
        pa.array([Decimal("0.00"), Decimal("1.00")], pa.decimal128(20, 2)),
        pa.array(np.asarray([0.0, 1.0], dtype=np.float16)),
        pa.array([0.0, 1.0], pa.float32()),
        pa.array(["0", "1"]),
        pa.array([b"0", b"1"]),
        pa.array([b"0", b"1"], pa.binary(1)),
        pa.array(["0", "1"]).dictionary_encode(),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else value.separator,
)
def test_a_column_of_numbers_is_exactly_the_numbers(tmp_path: Path, column: pa.Array, reading: Reading) -> None:
    found = load_records(parquet(tmp_path, dose=column), DATA, reading=reading).records
    assert found.inputs[:, 0].tolist() == [0.0, 1.0]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5, unique=True))
def test_doubles_come_through_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    from secure_fedhelp.data.parquet import read_parquet

    path = tmp_path_factory.mktemp("p") / "t.parquet"
    pq.write_table(pa.table({"x": values}), path)
    for reading in (STANDARD, Reading(decimal=",")):
        texts = [row["x"] for _, row in read_parquet(path, ["x"], None, reading=reading)]
        assert [declared(text, reading) for text in texts] == values
        assert all(plain(text, reading) is not None for text in texts), "no exponent: an inferred column has none"


def test_small_floats_are_the_values_that_they_hold(tmp_path: Path) -> None:
    halves = np.asarray([0.1, -0.3], dtype=np.float16)
    found = load_records(parquet(tmp_path, dose=pa.array(halves)), DATA).records
    assert found.inputs[:, 0].tolist() == halves.astype(np.float64).tolist()


@pytest.mark.parametrize("reading", [STANDARD, GERMAN])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5, 2.0]),
        pa.array([1.5, 2.0], pa.float32()),
        pa.array(np.asarray([1.5, 2.0], dtype=np.float16)),
        pa.array([Decimal("1.50"), Decimal("2.00")]),
        pa.array([b"1.5", b"2"]),
        pa.array(["1.5", "2"]).dictionary_encode(),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else value.separator,
)
def test_categories_and_classes_by_any_type(tmp_path: Path, column: pa.Array, reading: Reading) -> None:
    found = load_records(parquet(tmp_path, stage=column, target=[1.0, 2.0]), DATA, reading=reading).records
    assert found.inputs[:, 1:].tolist() == [[1, 0], [0, 1]]
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["dose", "stage", "target"])
@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([[1], [2]]), "list<element: int64>"),
        (pa.array([{"a": 1}, {"a": 2}]), "struct<a: int64>"),
        (pa.array([1, 2], pa.timestamp("ns")), r"timestamp\[ns\]"),
        (pa.array([1, 2], pa.date32()), r"date32\[day\]"),
        (pa.array([1, 2], pa.duration("s")), r"duration\[s\]"),
        (pa.array(["{}", "{}"], pa.json_()), "extension<arrow.json>"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_types_are_refused_by_column_and_type(tmp_path: Path, name: str, column: pa.Array, kind: str) -> None:
    with pytest.raises(InvalidData, match=f"column '{name}': the Parquet type {kind} is not read"):
        load_records(parquet(tmp_path, **{name: column}), DATA)
    assert len(load_records(parquet(tmp_path, remark=column), DATA).records) == 2, "what the plan does not name is left"


def test_bytes_that_are_no_text_are_refused_with_their_row(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"row 2, column 'stage': b'\\xff' is no UTF-8 text"):
        load_records(parquet(tmp_path, stage=[b"2", b"\xff"]), DATA)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_in_a_column_of_doubles_is_refused_with_its_row(tmp_path: Path, value: float) -> None:
    with pytest.raises(InvalidValue, match="row 2, column 'dose'"):
        load_records(parquet(tmp_path, dose=[1.0, value]), DATA)
