"""A column that says train and test decides, in every kind of data; a patient is never in two parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clinics import PARTS, Row, patients, study, write
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import FedHelpError, InvalidConfiguration, InvalidPartition, InvalidValue, MissingColumn
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.official import WORDS, cut_parts, read_split
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.study_file import Parts, load_study

SPLIT = 'split = "fold"\n'
DRAWN = "[parts]\npublic = 30\nreference = 40\n"


def part_of(number: int) -> str:
    return "Test " if number % 5 == 0 else ("train", "VAL")[number % 2]


def with_folds(number: int, row: Row) -> None:
    row["fold"] = part_of(number)


def numbers(records: Records) -> set[int]:
    return {int(patient[1:]) for patient in records.patients}


def hospitals_of(data: StudyData) -> set[int]:
    return {number for _, records in data.hospitals.values() for number in numbers(records)}


def test_an_official_test_part_is_the_test_part_under_every_seed(tmp_path: Path) -> None:
    write(tmp_path, patients(change=with_folds))
    wanted = {number for number in range(400) if number % 5 == 0}
    for seed in (1, 2, 3):
        data = study_data(study(tmp_path, SPLIT, f"seed = {seed}\n", DRAWN), None)
        assert numbers(data.test) == wanted
        assert not hospitals_of(data) & wanted
        assert len(data.public) == 30
        assert data.references[0].n_patients == 40
        assert "fold" not in [column.name for column in data.data_section_fields["columns"]], "it says who is tested on"


def test_all_parts_may_be_official(tmp_path: Path) -> None:
    def fold(number: int, row: Row) -> None:
        row["fold"] = ("test", "public", "reference", "train", "train", "train", "development", "dev")[number % 8]

    write(tmp_path, patients(480, change=fold))
    data = study_data(study(tmp_path, SPLIT, parts=""), None)
    assert numbers(data.test) == set(range(0, 480, 8))
    assert numbers(data.references[0]) == set(range(2, 480, 8))
    assert len(data.public) == 60
    assert hospitals_of(data) == {n for n in range(480) if n % 8 > 2}


@pytest.mark.parametrize(
    ("data", "parts", "change", "error", "words"),
    [
        (SPLIT, PARTS, {}, InvalidConfiguration, "'fold' of own.csv names the test part, and .parts. asks for 80"),
        (SPLIT, "", {}, InvalidConfiguration, "no public part of its own in 'fold'"),
        (SPLIT, DRAWN, {3: "rest", 7: "rest", 9: ""}, InvalidValue, r"line 5: 'rest' .* in all 'rest' \(2\), '' \(1\)"),
        (SPLIT, DRAWN, {9: ""}, InvalidValue, "line 11: '' of 'fold' is no part"),
        (SPLIT, DRAWN, {9: "1"}, InvalidValue, "'1' of 'fold' is no part"),
        (SPLIT, DRAWN, dict.fromkeys(range(400), "test"), InvalidPartition, "no record is left for the hospitals"),
        (SPLIT.replace("fold", "part"), DRAWN, {}, MissingColumn, "no column 'part'"),
        (SPLIT, DRAWN.replace("30", "3000"), {}, InvalidPartition, "patients to set aside"),
    ],
)  # fmt: skip
def test_words_that_are_no_parts_and_parts_that_are_said_twice_are_refused(
    tmp_path: Path, data: str, parts: str, change: dict[int, str], error: type[FedHelpError], words: str
) -> None:
    def fold(number: int, row: Row) -> None:
        row["fold"] = change.get(number, part_of(number))

    write(tmp_path, patients(change=fold))
    with pytest.raises(error, match=words):
        study_data(study(tmp_path, data, parts=parts), None)


@pytest.mark.parametrize(("one", "two"), [("p7", "p7"), ("17", "17.0"), ("A 12", "a12"), ("0017", "17")])
def test_a_patient_in_two_parts_is_refused_however_they_are_spelled(tmp_path: Path, one: str, two: str) -> None:
    def torn(number: int, row: Row) -> None:
        with_folds(number, row)
        row["who"] = {6: one, 10: two}.get(number, row["who"] + "x")

    write(tmp_path, patients(change=torn))
    with pytest.raises(FedHelpError) as raised:
        study_data(study(tmp_path, SPLIT, parts=DRAWN), None)
    assert "line 8" in raised.value.message
    assert "line 12" in raised.value.message


def pictures(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = np.arange(count) // 2 % 2
    images = rng.integers(0, 120, (count, 8, 8)) + 100 * labels[:, None, None]
    fold = np.where(np.arange(count) // 2 % 5 == 0, "test", "train")
    return {"images": images.astype(np.uint8), "labels": labels, "patients": np.arange(count) // 2, "fold": fold}


IMAGES = (
    'name = "own"\n[data]\npath = "{}"\nclasses = ["a", "b"]\nsplit = "fold"\n{}[parts]\npublic = 20\nreference = 20\n'
)
EQUAL = '[partition]\nkind = "sizes"\nshares = { a = 1, b = 1, c = 1 }\n'


def test_an_array_of_an_npz_splits_it(tmp_path: Path) -> None:
    arrays = pictures(400)
    np.savez(tmp_path / "own.npz", **arrays)
    (tmp_path / "study.toml").write_text(IMAGES.format("own.npz", "") + EQUAL)
    data = study_data(load_study(tmp_path / "study.toml"), None)
    assert set(data.test.patients) == {str(n) for n in range(200) if n % 5 == 0}
    arrays["fold"][1] = "train"  # of patient 0
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(InvalidPartition, match="record 2: patient '0' is in two parts"):
        study_data(load_study(tmp_path / "study.toml"), None)
    np.savez(tmp_path / "own.npz", **(arrays | {"fold": arrays["fold"][:-1]}))
    with pytest.raises(FedHelpError, match="'fold' names 399 parts for 400 records"):
        study_data(load_study(tmp_path / "study.toml"), None)


def test_a_column_of_an_index_splits_its_files(tmp_path: Path) -> None:
    arrays, lines = pictures(120), ["file,patient_id,target,fold"]
    for number, image in enumerate(arrays["images"]):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        target = "ab"[arrays["labels"][number]]
        lines.append(f"{number}.png,{arrays['patients'][number]},{target},{arrays['fold'][number]}")
    (tmp_path / "index.csv").write_text("\n".join(lines) + "\n")
    text = IMAGES.format("index.csv", "input_shape = [1, 8, 8]\n").replace("= 20", "= 8")
    (tmp_path / "study.toml").write_text(text + EQUAL)
    data = study_data(load_study(tmp_path / "study.toml"), None)
    assert set(data.test.patients) == {str(n) for n in range(60) if n % 5 == 0}


def test_a_column_of_patients_csv_splits_pairs_of_images_and_masks(tmp_path: Path) -> None:
    arrays, lines = pictures(120), ["file,patient_id,fold"]
    for part in ("images", "masks"):
        (tmp_path / "scans" / part).mkdir(parents=True)
    for number, image in enumerate(arrays["images"]):
        Image.fromarray(image).save(tmp_path / "scans" / "images" / f"{number}.png")
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[: 4 if arrays["labels"][number] else 0] = 1
        Image.fromarray(mask).save(tmp_path / "scans" / "masks" / f"{number}.png")
        lines.append(f"{number},{arrays['patients'][number]},{arrays['fold'][number]}")
    (tmp_path / "scans" / "patients.csv").write_text("\n".join(lines) + "\n")
    text = IMAGES.format("scans", "input_shape = [1, 8, 8]\n").replace("= 20", "= 8")
    (tmp_path / "study.toml").write_text(text + EQUAL)
    data = study_data(load_study(tmp_path / "study.toml"), None)
    assert set(data.test.patients) == {str(n) for n in range(60) if n % 5 == 0}


def test_medmnists_own_test_part_is_not_split_again(tmp_path: Path) -> None:
    arrays = pictures(200)
    stored = {f"{part}_{what}": arrays[what][:, None] if what == "labels" else arrays[what]
              for part in ("train", "val", "test") for what in ("images", "labels")}  # fmt: skip
    np.savez(tmp_path / "own.npz", **stored)
    (tmp_path / "study.toml").write_text(IMAGES.format("own.npz", "") + EQUAL)
    with pytest.raises(InvalidConfiguration, match="test part of its own"):
        study_data(load_study(tmp_path / "study.toml"), None)


@given(st.lists(st.tuples(st.sampled_from(sorted(WORDS)), st.integers(1, 3)), min_size=40, max_size=80))
def test_what_is_named_is_in_its_part_and_everybody_is_in_one(people: list[tuple[str, int]]) -> None:
    texts = [word for word, many in people for _ in range(many)]
    names = [f"p{number}" for number, (_, many) in enumerate(people) for _ in range(many)]
    named = read_split(texts, names, "fold", names)
    missing = [part for part in ("test", "public", "reference") if part not in named.parts]
    wanted = Parts(**dict.fromkeys(missing, 1))
    try:
        cut = cut_parts(names, np.zeros(len(names), dtype=np.int64), wanted, named, "own.csv", np.random.default_rng(1))
    except InvalidPartition:
        assert named.parts.count("hospitals") == 0 or len(missing) > 0
        return
    found = {"test": cut.test, "public": cut.public, "reference": cut.reference, "hospitals": cut.pool}
    assert sorted(i for at in found.values() for i in at) == list(range(len(names)))
    for number, part in enumerate(named.parts):
        if part != "hospitals":
            assert number in found[part]
