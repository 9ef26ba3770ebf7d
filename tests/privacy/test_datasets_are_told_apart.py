"""A budget belongs to patients: the same ones cannot have it twice under another name, and others need not share it."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from ledgers import fixed_key, open_ledger, spend

from secure_fedhelp.errors import LedgerInvalid, StorageError
from secure_fedhelp.privacy.datasets import KEY_PURPOSE, PatientBook
from secure_fedhelp.study.patients import canonical_patient

KEY = fixed_key().derive(KEY_PURPOSE)
PATIENTS = [f"patient-{number}" for number in range(20)]


def book(folder: Path, key: bytes = KEY) -> PatientBook:
    return PatientBook(folder / "ledger.jsonl", key)


def test_the_same_patients_have_the_same_fingerprint_in_any_order_and_number_of_records(tmp_path: Path) -> None:
    first = book(tmp_path).enter(PATIENTS)
    assert book(tmp_path).enter([*reversed(PATIENTS), *PATIENTS]) == first
    assert book(tmp_path).apart(first) == frozenset()
    assert book(tmp_path).patients(first) == 20


def test_one_patient_in_common_is_enough_to_share_the_budget(tmp_path: Path) -> None:
    opened = book(tmp_path)
    mine = opened.enter(PATIENTS)
    grown = opened.enter([*PATIENTS, "another"])
    overlapping = opened.enter([PATIENTS[0], "stranger"])
    others = opened.enter(["stranger", "further"])
    assert len({mine, grown, overlapping, others}) == 4
    again = book(tmp_path)
    assert again.apart(mine) == again.apart(grown) == {others}
    assert again.apart(overlapping) == frozenset()
    assert again.apart(others) == {mine, grown}


def test_what_the_book_does_not_know_counts_as_the_same_patients(tmp_path: Path) -> None:
    mine = book(tmp_path).enter(PATIENTS)
    others = book(tmp_path).enter(["stranger"])
    (tmp_path / "ledger.jsonl.patients").unlink()
    assert book(tmp_path).enter(PATIENTS) == mine
    assert others not in book(tmp_path).apart(mine)
    assert book(tmp_path).apart(others) == frozenset()
    assert book(tmp_path).patients(others) is None


def test_the_book_names_nobody_and_another_key_makes_other_fingerprints(tmp_path: Path) -> None:
    mine = book(tmp_path).enter(PATIENTS)
    content = (tmp_path / "ledger.jsonl.patients").read_bytes()
    assert mine.encode() not in content
    assert all(patient.encode() not in content for patient in PATIENTS)
    assert (tmp_path / "ledger.jsonl.patients").stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    assert book(tmp_path / "other", fixed_key(1).derive(KEY_PURPOSE)).enter(PATIENTS) != mine


@pytest.mark.parametrize(
    ("one", "two"),
    [("17", "17.0"), ("17", "0017"), ("A12", "a12"), ("A 12", "A12"), ("Zo\u00eb", "Zoe\u0308"), ("A12", "A\u200b12")],
)
def test_one_person_spelt_two_ways_is_one(one: str, two: str, tmp_path: Path) -> None:
    opened = book(tmp_path)
    first, second = opened.enter([one, "x"]), opened.enter([two, "y"])
    assert opened.apart(first) == opened.apart(second) == frozenset()


@given(st.text(max_size=12) | st.text("00179.aAé -_\u200b\u0301\u00b4", max_size=12))
def test_the_spelling_of_a_spelling_is_itself(identifier: str) -> None:
    once = canonical_patient(identifier)
    assert canonical_patient(once) == once
    assert canonical_patient(f" {identifier}\u200b") == once, "blanks and what nobody sees name nobody else"


@given(st.text(max_size=12) | st.text("0179.aA -_", max_size=12))
def test_the_rule_is_the_one_that_old_books_follow(identifier: str) -> None:
    """Version 0.4.0's, step by step, wherever it had one spelling of its own spelling."""
    once = rule_of_0_4_0(identifier)
    if rule_of_0_4_0(once) == once:
        assert canonical_patient(identifier) == once


def rule_of_0_4_0(identifier: str) -> str:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", identifier).casefold())
    kept = "".join(c for c in plain if not c.isspace() and unicodedata.category(c) not in ("Cc", "Cf"))
    kept = re.sub(r"^(\d+)\.0+$", r"\1", kept)
    return re.sub(r"(?<!\d)0+(?=\d)", "", kept)


@pytest.mark.parametrize("former", [str(b"P1"), str(b"P0017"), '"P1"', '"P0017"'], ids=str)
def test_patients_whom_an_earlier_version_spelled_otherwise_have_no_second_budget(former: str, tmp_path: Path) -> None:
    """It read a binary column of Parquet as Python spells bytes, and took quotes behind a blank for a part of the text.

    Its book knows these patients by that spelling.
    """
    identifier = former.removeprefix("b").strip("'\"")
    earlier = book(tmp_path).enter([former, "x"])
    forget_former(tmp_path)
    again = book(tmp_path)
    now = again.enter([identifier, "y"])
    assert again.apart(now) == again.apart(earlier) == frozenset()
    assert book(tmp_path).apart(now) == book(tmp_path).apart(earlier) == frozenset(), "on the disk too"
    others = again.enter(["somebody", "else"])
    assert again.apart(others) == {now, earlier}


def forget_former(folder: Path) -> None:
    """The book as version 0.4.0 wrote it."""
    path = folder / "ledger.jsonl.patients"
    opened = book(folder)
    sealed, seal = path.read_bytes(), AESGCM(opened._seal_key)
    record = json.loads(seal.decrypt(sealed[:12], sealed[12:], b"secure-fedhelp/patient-book/1"))
    del record["former"]
    path.write_bytes(
        sealed[:12] + seal.encrypt(sealed[:12], json.dumps(record).encode(), b"secure-fedhelp/patient-book/1")
    )


@pytest.mark.parametrize(("one", "two"), [("17", "170"), ("1.70", "17"), ("a1", "a10"), ("0", "00.5"), ("7", "7.5")])
def test_different_numbers_stay_different(one: str, two: str) -> None:
    assert canonical_patient(one) != canonical_patient(two)


def test_a_ledger_that_was_deleted_or_put_back_has_not_spent_less(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with open_ledger(path) as ledger:
        spend(ledger, 0)
        book(tmp_path).follow(ledger)
        older = path.read_bytes()
        spend(ledger, 1)
        book(tmp_path).follow(ledger)
        book(tmp_path).follow(ledger)
    newest = path.read_bytes()
    for content in (older, b""):
        path.write_bytes(content)
        with open_ledger(path) as ledger, pytest.raises(LedgerInvalid, match="do not go on from the 2"):
            book(tmp_path).follow(ledger)
    path.write_bytes(newest)
    with open_ledger(path) as ledger:
        book(tmp_path).follow(ledger)


def test_a_damaged_or_foreign_book_is_refused_by_name(tmp_path: Path) -> None:
    book(tmp_path).enter(PATIENTS)
    path = tmp_path / "ledger.jsonl.patients"
    good = path.read_bytes()
    for bad in (b"", good[:-1], good[:20] + bytes([good[20] ^ 1]) + good[21:]):
        path.write_bytes(bad)
        with pytest.raises(LedgerInvalid, match="patients is damaged"):
            book(tmp_path)
    path.write_bytes(good)
    with pytest.raises(LedgerInvalid, match="another signing key"):
        book(tmp_path, fixed_key(1).derive(KEY_PURPOSE))
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError):
        book(tmp_path)


def test_a_data_set_has_patients(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without patients"):
        book(tmp_path).enter([])


@given(st.sets(st.text(max_size=8), min_size=1, max_size=6), st.sets(st.text(max_size=8), min_size=1, max_size=6))
def test_apart_is_exactly_no_patient_in_common(
    tmp_path_factory: pytest.TempPathFactory, one: set[str], two: set[str]
) -> None:
    opened = book(tmp_path_factory.mktemp("book"))
    first, second = opened.enter(one), opened.enter(two)
    left, right = {canonical_patient(p) for p in one}, {canonical_patient(p) for p in two}
    assert (first == second) == (left == right)
    assert (second in opened.apart(first)) == (first in opened.apart(second)) == (not left & right)


def test_derived_keys_differ_by_purpose_and_tell_nothing_of_the_key() -> None:
    key = fixed_key(7)
    assert key.derive("a") == key.derive("a") != key.derive("b")
    assert key.derive("a") != fixed_key(8).derive("a")
    assert len(key.derive("a")) == 32
    assert key.derive("a") not in key.to_private_bytes()
