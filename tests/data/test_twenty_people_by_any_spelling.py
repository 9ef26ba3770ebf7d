"""The same twenty people in every spelling and type of an export: one count, one fingerprint, one budget."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ledgers import channels, fixed_key, open_ledger
from PIL import Image
from plans import example_plan

from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.npz import write_arrays
from secure_fedhelp.data.reading import MARKS, STANDARD, Reading
from secure_fedhelp.errors import BudgetExhausted, InvalidData, InvalidValue
from secure_fedhelp.privacy.datasets import KEY_PURPOSE, PatientBook
from secure_fedhelp.privacy.mechanisms import planned_event
from secure_fedhelp.privacy.release import Budget, ReleaseGate
from secure_fedhelp.study.sections import Column, DataSection

PEOPLE = range(7, 27)
TABLE = DataSection(
    dataset="clinic",
    kind="table",
    classes=("healthy", "ill"),
    input_shape=(1,),
    columns=(Column(name="age", kind="numeric", center=50.0, scale=10.0),),
    public_sha256="0" * 64,
    public_records=1,
)
IMAGES = TABLE.model_copy(update={"kind": "image", "input_shape": (1, 2, 2), "columns": ()})
GERMAN = Reading(separator=";", decimal=",", thousands=".")
KEY = fixed_key().derive(KEY_PURPOSE)


def csv(folder: Path, identifiers: list[str], separator: str = ",") -> Path:
    path = folder / "records.csv"
    rows = [separator.join((name, str(30 + at), "ill")) for at, name in enumerate(identifiers)]
    path.write_text("\n".join([separator.join(("patient_id", "age", "target")), *rows]) + "\n", encoding="utf-8")
    return path


def parquet(folder: Path, identifiers: pa.Array, store: bool = True) -> Path:
    path = folder / "records.parquet"
    ages = [30.0 + at for at in range(len(identifiers))]
    table = pa.table({"patient_id": identifiers, "age": ages, "target": ["ill"] * len(ages)})
    pq.write_table(table, path, store_schema=store)
    return path


def npz(folder: Path, identifiers: np.ndarray[Any, Any]) -> Path:
    path, count = folder / "scans.npz", len(identifiers)
    images = np.arange(count * 4, dtype=np.uint8).reshape(count, 1, 2, 2)
    write_arrays(path, {"images": images, "labels": np.zeros(count, dtype=np.int64), "patients": identifiers})
    return path


def index(folder: Path, identifiers: list[str]) -> Path:
    for at in range(len(identifiers)):
        Image.fromarray(np.full((2, 2), at, dtype=np.uint8)).save(folder / f"{at}.png")
    path = folder / "index.csv"
    path.write_text("file,patient_id,target\n" + "".join(f"{at}.png,{n},ill\n" for at, n in enumerate(identifiers)))
    return path


def pairs(folder: Path, identifiers: list[str]) -> Path:
    for at in range(len(identifiers)):
        for part in ("images", "masks"):
            (folder / "set" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2), at % 2, dtype=np.uint8)).save(folder / "set" / part / f"{at}.png")
    named = "".join(f"{at},{name}\n" for at, name in enumerate(identifiers))
    (folder / "set" / "patients.csv").write_text("file,patient_id\n" + named)
    return folder / "set"


def spelt(form: str) -> list[str]:
    return [form.format(number) for number in PEOPLE]


#: As CSV writes them.
SPELLINGS: dict[str, tuple[list[str], Reading]] = {
    "whole": (spelt("{}"), STANDARD),
    "a float's": (spelt("{}.0"), STANDARD),
    "six places": (spelt("{}.000000"), STANDARD),
    "a point alone": (spelt("{}."), STANDARD),
    "padded": (spelt("{:04d}"), STANDARD),
    "padded to ten": (spelt("{:010d}"), STANDARD),
    "padded float": (spelt("{:06.1f}"), STANDARD),
    "blanks before": (spelt("   {}"), STANDARD),
    "blanks behind": (spelt("{}   "), STANDARD),
    "a no-break space": (spelt("{}\u00a0"), STANDARD),
    "a byte-order mark": (spelt("\ufeff{}"), STANDARD),
    "a zero-width space": (spelt("{}\u200b"), STANDARD),
    "a zero byte": (spelt("{}\x00"), STANDARD),
    "quotes": (spelt('"{}"'), STANDARD),
    "plus": (spelt("+{}"), STANDARD),
    "full width": ([str(n).translate({48 + d: 0xFF10 + d for d in range(10)}) for n in PEOPLE], STANDARD),
    "two spellings by turns": ([f"{n:05d}" if n % 2 else f"{n}.0" for n in PEOPLE], STANDARD),
    "semicolons": (spelt("{}"), GERMAN),
    "decimal comma": (spelt("{},0"), GERMAN),
    "tabs": (spelt("{}"), Reading(separator="tab")),
    "bars": (spelt("{}"), Reading(separator="bar")),
}


def texts(kind: pa.DataType, form: str = "{}") -> pa.Array:
    return (
        pa.array(spelt(form)).cast(kind)
        if not pa.types.is_fixed_size_binary(kind)
        else pa.array([text.ljust(kind.byte_width, "\0").encode() for text in spelt(form)], kind)
    )


def decimals(kind: pa.DataType) -> pa.Array:
    return pa.array([Decimal(n) for n in PEOPLE], kind)


#: As Parquet holds them; each with and without the schema of Arrow, which other programs do not write.
TYPES: dict[str, pa.Array] = {
    "string": texts(pa.string()),
    "padded string": texts(pa.string(), "{:05d}"),
    "string of floats": texts(pa.string(), "{}.0"),
    "large_string": texts(pa.large_string()),
    "string_view": texts(pa.string_view()),
    "dictionary of text": texts(pa.string()).dictionary_encode(),
    "binary": texts(pa.binary()),
    "large_binary": texts(pa.large_binary()),
    "binary_view": texts(pa.binary_view()),
    "fixed_size_binary": texts(pa.binary(8)),
    "dictionary of bytes": texts(pa.binary()).dictionary_encode(),
    **{str(kind): pa.array(list(PEOPLE), kind) for kind in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(kind): pa.array(list(PEOPLE), kind) for kind in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    **{str(kind): decimals(kind) for kind in (pa.decimal32(5, 0), pa.decimal64(12, 0), pa.decimal128(38, 0))},
    **{str(kind): decimals(kind) for kind in (pa.decimal256(76, 0), pa.decimal128(20, 2), pa.decimal128(38, 18))},
    "double": pa.array([float(n) for n in PEOPLE], pa.float64()),
    "float": pa.array([float(n) for n in PEOPLE], pa.float32()),
    "half": pa.array(np.asarray(PEOPLE, dtype=np.float16)),
    "dictionary of integers": pa.array(list(PEOPLE)).dictionary_encode(),
}
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    **{kind: np.asarray(PEOPLE).astype(kind) for kind in ("u1", "i1", "<i2", ">i4", "<u4", "<i8", ">u8")},
    **{kind: np.asarray(PEOPLE).astype(kind) for kind in ("<f2", "<f4", ">f8", "S8", "U8")},
}

Case = tuple[Callable[[Path], Path], DataSection, Reading]
IN_CSV: dict[str, Case] = {
    f"csv, {name}": (partial(csv, identifiers=spellings, separator=MARKS[r.separator]), TABLE, r)
    for name, (spellings, r) in SPELLINGS.items()
}
IN_PARQUET: dict[str, Case] = {
    f"parquet, {name}, {'with' if store else 'without'} Arrow's schema": (
        partial(parquet, identifiers=column, store=store),
        TABLE,
        STANDARD,
    )
    for name, column in TYPES.items()
    for store in (True, False)
}
IN_ARRAYS: dict[str, Case] = {
    f"npz, {name}": (partial(npz, identifiers=array), IMAGES, STANDARD) for name, array in ARRAYS.items()
}
OF_FILES: dict[str, Case] = {
    f"{make.__name__}, {form}": (partial(make, identifiers=spelt(form)), data, STANDARD)
    for make, data in ((index, IMAGES), (pairs, IMAGES.model_copy(update={"task": "segmentation"})))
    for form in ("{}", "{:04d}", "{}.0")
}
CASES = IN_CSV | IN_PARQUET | IN_ARRAYS | OF_FILES


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("first")
    people = load_records(csv(folder, spelt("{}")), TABLE).records.patients
    return PatientBook(folder / "ledger.jsonl", KEY).enter(people)


def test_there_are_at_least_forty() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", CASES)
def test_they_are_twenty_and_have_one_fingerprint(tmp_path: Path, fingerprint: str, name: str) -> None:
    make, data, reading = CASES[name]
    records = load_records(make(tmp_path), data, reading=reading).records
    assert records.n_patients == len(set(records.patients)) == 20
    assert set(records.patients) == set(spelt("{}"))
    assert PatientBook(tmp_path / "ledger.jsonl", KEY).enter(records.patients) == fingerprint


def test_they_have_one_budget_in_all_of_them_together(tmp_path: Path) -> None:
    """A study has spent what the policy allows for life; no other spelling of its patients is given anything more."""
    plan = example_plan(study__name="first")
    spent, path = planned_event(plan.privacy["large"]), tmp_path / "ledger.jsonl"
    with open_ledger(path) as ledger:
        book = PatientBook(path, KEY)
        first = book.enter(spelt("{}"))
        ledger.release(
            [spent],
            study=plan.hash,
            round=0,
            delta=1e-4,
            dataset=first,
            channels=channels(),
            noise_source="system",
        )
        limit = ReleaseGate(ledger, plan, "alpha", Budget(first)).lifetime_spent() + 1e-6
        for number, (make, data, reading) in enumerate(CASES.values()):
            (tmp_path / str(number)).mkdir()
            people = load_records(make(tmp_path / str(number)), data, reading=reading).records.patients
            name = book.enter([*people, f"somebody-{number}"])  # nor with one patient more
            gate = ReleaseGate(ledger, example_plan(), "alpha", Budget(name, limit, book.apart(name)))
            with pytest.raises(BudgetExhausted, match="lifetime_epsilon"):
                gate.check_affordable(0)
        other = book.enter(["others"])
        ReleaseGate(ledger, example_plan(), "alpha", Budget(other, limit, book.apart(other))).check_affordable(0)


@pytest.mark.parametrize("name", ["string", "binary", "int64", "uint64", "decimal128(20, 2)"])
def test_long_identifiers_lose_no_digit(tmp_path: Path, name: str) -> None:
    """Eighteen digits, as national numbers have: two that differ in the last are two people."""
    long = [123456789012345670 + at for at in range(10)]
    values = {
        "string": pa.array(map(str, long)),
        "binary": pa.array([str(n).encode() for n in long]),
        "int64": pa.array(long),
        "uint64": pa.array(long, pa.uint64()),
        "decimal128(20, 2)": pa.array([Decimal(n) for n in long], pa.decimal128(20, 2)),
    }
    records = load_records(parquet(tmp_path, values[name]), TABLE).records
    assert records.patients == tuple(map(str, long))


def test_a_uuid_is_its_text(tmp_path: Path) -> None:
    people = [UUID(int=number * 2**90 + 1) for number in PEOPLE]
    one = load_records(parquet(tmp_path, pa.array([p.bytes for p in people], pa.uuid())), TABLE).records
    two = load_records(csv(tmp_path, [str(p).upper() for p in people]), TABLE).records
    assert one.patients == two.patients
    assert one.n_patients == 20


#: What cannot name a patient exactly, and the words of its refusal.
REFUSED: dict[str, tuple[pa.Array, str]] = {
    "bigger doubles": (
        pa.array([1.0, float(2**53)]),
        r"row 2, column 'patient_id': 9007199254740992\.0 is no whole number below 2\^53, so a float of 64 bits",
    ),
    "negative bigger doubles": (pa.array([-1e17]), r"row 1, column 'patient_id': -1e\+17 is no whole number below"),
    "bigger floats": (
        pa.array([2.0**24], pa.float32()),
        r"row 1, .*no whole number below 2\^24, so a float of 32 bits",
    ),
    "bigger halfs": (pa.array(np.asarray([2048], dtype=np.float16)), r"no whole number below 2\^11, so a float of 16"),
    "fractions": (pa.array([7.0, 7.5]), r"row 2, column 'patient_id': 7\.5 is no whole number"),
    "infinity": (pa.array([float("inf")]), "row 1, column 'patient_id': inf is no whole number"),
    "not a number": (pa.array([1.0, float("nan")]), "row 2, column 'patient_id': no patient identifier"),
    "null": (pa.array(["a", None]), "row 2, column 'patient_id': no patient identifier"),
    "nothing but nulls": (pa.array([None], pa.null()), "row 1, column 'patient_id': no patient identifier"),
    "decimal fractions": (
        pa.array([Decimal("7.00"), Decimal("7.50")], pa.decimal128(9, 2)),
        r"row 2, column 'patient_id': 7\.50 is no whole number",
    ),
    "bytes that are no text": (
        pa.array([b"p1", b"\xff\xfe"]),
        r"row 2, column 'patient_id': b'\\xff\\xfe' is no UTF-8 text",
    ),
    "hashes as bytes": (pa.array([bytes(range(200, 216))], pa.binary(16)), "row 1, column 'patient_id': .*no UTF-8"),
    "truth": (pa.array([True, False]), "column 'patient_id': the Parquet type bool names no patient"),
    "lists": (pa.array([["p1"], ["p2"]]), "column 'patient_id': the Parquet type list<element: string> names no"),
    "structs": (pa.array([{"id": 1}]), "column 'patient_id': the Parquet type struct<id: int64> names no patient"),
    "maps": (pa.array([[("id", 1)]], pa.map_(pa.string(), pa.int64())), "the Parquet type map<.*> names no patient"),
    "dates": (pa.array([1, 2], pa.date32()), r"column 'patient_id': the Parquet type date32\[day\] names no patient"),
    "times": (pa.array([1], pa.time64("us")), r"the Parquet type time64\[us\] names no patient"),
    "timestamps": (pa.array([1, 2], pa.timestamp("ns")), r"the Parquet type timestamp\[ns\] names no patient"),
    "durations": (pa.array([1, 2], pa.duration("s")), r"the Parquet type duration\[s\] names no patient"),
    "text of a rounded number": (pa.array(["1.23457E+11"]), "'1.23457E.11' is a number in exponent notation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_types_that_name_nobody_exactly_are_refused_by_name(tmp_path: Path, name: str) -> None:
    column, words = REFUSED[name]
    with pytest.raises(InvalidData, match=words):
        load_records(parquet(tmp_path, column), TABLE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.23457E+11", "'1.23457E.11' is a number in exponent notation, which may be rounded"),
        ("1e+05", "exponent notation"),
        ("1.2345678E7", "exponent notation"),
        ("9007199254740992.0", r"was a floating-point number, which rounds 2\^53 and more"),
        ('"17,0"', "'17,0' is a number with a mark that is read only with decimal = \",\""),
        ('"1,234"', 'decimal = "." and thousands = "," or with decimal = ","'),
        ("b'p1'", "'b'p1'|\"b'p1'\" is a program's way"),
        ('"=""0017"""', "is a program's way to write an identifier"),
        ("\u0661\u0667", "has digits that are not 0 to 9"),
        ("", "no patient identifier"),
        ("?", "no patient identifier but '\\?'"),
        ("NA", "no patient identifier but 'NA'"),
        ("NULL", "no patient identifier but 'NULL'"),
        ("nan", "no patient identifier but 'nan'"),
        ("\u200b", "no patient identifier"),
    ],
)
def test_texts_that_name_nobody_exactly_are_refused_with_their_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidValue, match=r"records\.csv, line 3, column 'patient_id': .*" + words):
        load_records(csv(tmp_path, ["17", text]), TABLE)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.asarray([0.5, 1.0]), r"record 0: patients must be text or integers, and 0\.5 is no whole number"),
        (np.asarray([1.0, 2.0**24], dtype=np.float32), r"record 1: .*2\^24"),
        (np.asarray([1.0, np.nan]), "record 1, column 'patients': no patient identifier"),
        (np.asarray([b"p1", b"\xff"]), "record 1: .*no UTF-8 text"),
        (np.asarray([True, False]), "one list of text or integers, not bool"),
        (np.asarray([[1], [2]]), "one list of text or integers"),
        (np.asarray([1, 2], dtype="M8[D]"), "one list of text or integers"),
        (np.asarray([1, 2], dtype=np.complex64), "one list of text or integers"),
        (np.asarray([1, 2], dtype=np.longdouble), "one list of text or integers"),
    ],
)
def test_arrays_that_name_nobody_exactly_are_refused(tmp_path: Path, array: np.ndarray[Any, Any], words: str) -> None:
    with pytest.raises(InvalidData, match=words):
        load_records(npz(tmp_path, array), IMAGES)
