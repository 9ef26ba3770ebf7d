"""One person in two spellings is one wherever patients are drawn, dealt, set aside, counted, compared or told of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.npz import write_arrays
from secure_fedhelp.data.partition import by_dirichlet, by_site, by_sizes, split, stratified_order
from secure_fedhelp.data.reading import Reading
from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import InvalidConfiguration, InvalidData, InvalidPartition
from secure_fedhelp.hospital.preparation import StudyRecords, _check_held_out, _seen_before
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.study_file import StudyFile
from secure_fedhelp.research.sweep.execute import _together
from secure_fedhelp.study.patients import canonical_patient
from secure_fedhelp.study.sections import Column, DataSection

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
REFUSE = Reading(spellings="refuse")
#: Each a person, in spellings of that person.
SPELLINGS = [(str(n), f"{n}.0", f"{n:04d}", f" {n}") for n in range(1, 41)]
HEADER = "patient_id,age,target\n"


def records(patients: list[str]) -> Records:
    inputs = np.arange(len(patients), dtype=np.float32)[:, None]
    return Records(inputs, np.arange(len(patients)) % 2, tuple(patients))


def spelt(rng: np.random.Generator, count: int) -> list[str]:
    """Records of forty people, each in a spelling drawn anew."""
    return [str(rng.choice(SPELLINGS[rng.integers(len(SPELLINGS))])) for _ in range(count)]


def table(tmp_path: Path, rows: str) -> Path:
    (tmp_path / "r.csv").write_text(HEADER + rows)
    return tmp_path / "r.csv"


# -- drawn and dealt ---------------------------------------------------------------------------------------------------


def test_records_know_one_spelling(tmp_path: Path) -> None:
    made = records(["17", "17.0", "0017", "A 12", "a12"])
    assert made.patients == ("17", "17", "17", "a12", "a12")
    assert [group.tolist() for group in made.by_patient] == [[0, 1, 2], [3, 4]]


Deal = Callable[[list[str], Any, np.random.Generator], list[Any]]
SHARES = {"a": 3.0, "b": 2.0, "c": 1.0}
DEALS: dict[str, Deal] = {
    "split": lambda p, c, rng: list(split(p, c, (8, 6, 7), rng)),
    "sizes": lambda p, c, rng: list(by_sizes(p, c, SHARES, rng).values()),
    "dirichlet": lambda p, c, rng: list(by_dirichlet(p, c, SHARES, 0.5, rng).values()),
    "order": lambda p, c, rng: list(stratified_order(p, c, rng)),
}


@pytest.mark.parametrize("way", DEALS)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_nobody_is_in_two_parts_under_two_spellings(way: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients, classes = spelt(rng, 90), rng.integers(2, size=90)
    parts = DEALS[way](patients, classes, np.random.default_rng(1))
    held = [{canonical_patient(patients[at]) for at in part} for part in parts]
    assert sum(map(len, held)) == len(set.union(*held))
    assert sorted(at for part in parts for at in part) == list(range(90))
    plainly = DEALS[way]([canonical_patient(p) for p in patients], classes, np.random.default_rng(1))
    assert all(one.tolist() == two.tolist() for one, two in zip(parts, plainly, strict=True))


def test_a_patient_at_two_sites_under_two_spellings_is_found() -> None:
    with pytest.raises(InvalidPartition, match="patient '17' has records at 'a' and at 'b'"):
        by_site(["17", "0017"], ["a", "b"])
    with pytest.raises(InvalidPartition, match="a would have 1 patients, and 2 are needed"):
        by_site(["17", "0017", "18"], ["a", "a", "b"], 2)


def test_a_pool_of_hospitals_keeps_their_patients_apart() -> None:
    """Patient 1 of hospital small-1 is not patient 11 of hospital small-, nor anybody of another hospital."""
    hospitals = {"small-1": ("small", records(["1", "11"])), "small-11": ("small", records(["1", "11"]))}
    assert _together(SimpleNamespace(hospitals=hospitals)).n_patients == 4  # type: ignore[arg-type]


# -- told, or refused --------------------------------------------------------------------------------------------------


def test_two_spellings_in_a_table_are_one_patient_and_the_card_says_so(tmp_path: Path) -> None:
    path = table(tmp_path, "17,30,ill\n18,31,ill\n17.0,32,ill\n0018,33,ill\n0017,34,ill\n19,35,healthy\n")
    loaded = load_records(path, TABLE)
    assert loaded.records.n_patients == 3
    (note,) = loaded.notes
    assert note == ("r.csv: 2 patient(s) in more than one spelling, each counted as one: line 2 '17' and line 4 '17.0'")
    words = r"line 2 '17' and line 4 '17\.0' are two spellings of one patient, and 1 more"
    with pytest.raises(InvalidData, match=words) as raised:
        load_records(path, TABLE, reading=REFUSE)
    assert 'spellings = "merge"' in raised.value.hint


def test_one_spelling_is_nothing_to_tell(tmp_path: Path) -> None:
    path = table(tmp_path, "0017,30,ill\n 0017 ,31,ill\n18,32,ill\n")
    assert load_records(path, TABLE).notes == load_records(path, TABLE, reading=REFUSE).notes == ()


def test_two_exports_pasted_together_are_found(tmp_path: Path) -> None:
    rows = "".join(f"{n},{30 + n},ill\n" for n in range(20))
    again = "".join(f"{n:04d},{30 + n}.0,ill\n" for n in range(20))
    with pytest.raises(InvalidData, match=r"line 22: the same record of the same patient as line 2 \(19 more"):
        load_records(table(tmp_path, rows + again), TABLE)


def npz(tmp_path: Path, patients: list[str], images: Any) -> Path:
    arrays = {"images": images, "labels": np.arange(len(patients)) % 2, "patients": np.asarray(patients)}
    write_arrays(tmp_path / "scans.npz", arrays)
    return tmp_path / "scans.npz"


def index(tmp_path: Path, rows: str) -> Path:
    for name in ("a", "b"):
        values = np.arange(4, dtype=np.uint8).reshape(2, 2) * (2 if name == "b" else 1)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    if not (tmp_path / "link.png").exists():
        (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "index.csv").write_text("file,patient_id,target\n" + rows)
    return tmp_path / "index.csv"


def pairs(tmp_path: Path, named: str | None, stems: tuple[str, str] = ("a", "b")) -> Path:
    for stem in stems:
        for part in ("images", "masks"):
            (tmp_path / "set" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.eye(2, dtype=np.uint8)).save(tmp_path / "set" / part / f"{stem}.png")
    if named:
        (tmp_path / "set" / "patients.csv").write_text("file,patient_id\n" + named)
    return tmp_path / "set"


def of_images(tmp_path: Path, kind: str) -> tuple[Path, DataSection, str]:
    if kind == "npz":
        images = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
        return npz(tmp_path, ["17", "17.0"], images), IMAGES, "record 0 '17' and record 1 '17.0'"
    if kind == "index":
        return index(tmp_path, "a.png,17,ill\nb.png,17.0,healthy\n"), IMAGES, "line 2 '17' and line 3 '17.0'"
    masks = IMAGES.model_copy(update={"task": "segmentation"})
    if kind == "pairs":
        return pairs(tmp_path, "a,17\nb,17.0\n"), masks, "line 2 '17' and line 3 '17.0'"
    return pairs(tmp_path, None, ("p07", "p7")), masks, "image 'p07' 'p07' and image 'p7' 'p7'"


@pytest.mark.parametrize("kind", ["npz", "index", "pairs", "names of pairs"])
def test_images_are_counted_by_the_same_rule(tmp_path: Path, kind: str) -> None:
    path, data, example = of_images(tmp_path, kind)
    loaded = load_records(path, data)
    assert loaded.records.n_patients == 1
    assert any(
        note.endswith(f"1 patient(s) in more than one spelling, each counted as one: {example}")
        for note in loaded.notes
    )
    with pytest.raises(InvalidData, match="two spellings of one patient"):
        load_records(path, data, reading=REFUSE)


@pytest.mark.parametrize("again", ["./a.png", "sub/../a.png", "link.png", "{folder}/a.png", "a.png "])
def test_an_image_listed_again_under_another_path_and_spelling_is_found(tmp_path: Path, again: str) -> None:
    (tmp_path / "sub").mkdir()
    path = index(tmp_path, f"a.png,17,ill\nb.png,18,healthy\n{again.format(folder=tmp_path)},17.0,ill\n")
    with pytest.raises(InvalidData, match="line 4: the same image as line 2"):
        load_records(path, IMAGES)


def test_copies_of_a_patients_images_are_told(tmp_path: Path) -> None:
    words = "1 image(s) are the same as another of their patient"

    def told(loaded: Loaded) -> bool:
        return any(words in note for note in loaded.notes)

    assert told(load_records(index(tmp_path, "a.png,17,ill\nb.png,17,ill\ncopy.png,17.0,ill\n"), IMAGES))
    assert not told(load_records(index(tmp_path, "a.png,17,ill\ncopy.png,18,ill\n"), IMAGES))
    images = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)[[0, 1, 0, 0]]
    assert told(load_records(npz(tmp_path, ["17", "18", "0017", "19"], images), IMAGES))
    black = np.zeros((2, 1, 2, 2), dtype=np.uint8)
    arrays = {"images": black, "labels": np.zeros(2, dtype=np.int64), "patients": np.asarray(["1", "1"])}
    write_arrays(tmp_path / "black.npz", arrays)
    assert not told(load_records(tmp_path / "black.npz", IMAGES)), "the ends of a volume are all black"


# -- set aside ---------------------------------------------------------------------------------------------------------


def test_a_held_out_or_measured_patient_who_is_trained_on_is_found(tmp_path: Path) -> None:
    private = records([f"{n:04d}" for n in range(20)])
    with pytest.raises(InvalidData, match="1 patient.s. are in the training records too"):
        _check_held_out(records(["7.0", *(f"other-{n}" for n in range(10))]), private, tmp_path / "held.csv")
    assert _seen_before(records(["7.0", "other"]), private) == (
        "  note: 1 patient(s) of the test records are in the training records too: figures say too much",
    )
    assert _seen_before(records(["other"]), private) == ()
    both = StudyRecords(private, None, None, records(["7.0", "other"]))  # type: ignore[arg-type]
    assert len(both.patients) == 21, "the budget is about each of them once"


# -- research ----------------------------------------------------------------------------------------------------------


def own(
    tmp_path: Path, people: list[str], outcome: Callable[[int], str] = lambda n: "ab"[n % 2], **data: Any
) -> StudyFile:
    rng = np.random.default_rng(5)
    rows = [f"{name},{rng.normal():.6f},{outcome(at)},{'xyz'[at % 3]}" for at, name in enumerate(people)]
    (tmp_path / "own.csv").write_text("who,age,outcome,site\n" + "\n".join(rows) + "\n")
    values = {
        "name": "own",
        "data": {"path": str(tmp_path / "own.csv"), "target": "outcome", "patient": "who", **data},
        "parts": {"public": 20, "reference": 20, "test": 30},
        "partition": {"kind": "sizes", "shares": {"north": 2, "south": 1, "west": 1}},
    }
    return StudyFile.model_validate(values)


def test_a_simulation_sets_whole_people_aside(tmp_path: Path) -> None:
    people = [form.format(n) for n in range(150) for form in ("{}", "{:04d}")]
    data = study_data(own(tmp_path, people), None)
    parts = [*data.references, data.test, *(held for _, held in data.hospitals.values())]
    held = [set(part.patients) for part in parts]
    assert sum(map(len, held)) == len(set.union(*held)) == 130
    assert all(len(part) == 2 * part.n_patients for part in parts)
    assert any("150 patient(s) in more than one spelling" in note for note in data.notes)
    with pytest.raises(InvalidData, match=r"own.csv: line 2 '0' and line 3 '0000' are two spellings"):
        study_data(own(tmp_path, people, reading={"spellings": "refuse"}), None)


def test_a_simulation_finds_who_is_at_two_sites_under_two_spellings(tmp_path: Path) -> None:
    people = [str(n) for n in range(300)]
    people[299], people[1] = "0298", "298"
    file = own(tmp_path, people).model_dump() | {"partition": {"kind": "site"}}

    def deal_all() -> None:
        for seed in range(20):  # it may be set aside with one seed
            study_data(StudyFile.model_validate(file | {"seed": seed}), None)

    with pytest.raises(InvalidPartition, match="'298' has records at"):
        deal_all()


def test_classes_that_are_one_number_are_one(tmp_path: Path) -> None:
    people = [f"p{n}" for n in range(300)]
    one = study_data(own(tmp_path, people, lambda n: ("0", "1")[n % 2]), None)
    two = study_data(own(tmp_path, people, lambda n: ("0", "1", "0.0", "01")[n % 4]), None)
    assert one.data_section_fields["classes"] == two.data_section_fields["classes"] == ("0", "1")
    assert one.public.sha256 == two.public.sha256
    listed = study_data(own(tmp_path, people, lambda n: ("0", "1", "0.0", "01")[n % 4], classes=("0", "1")), None)
    assert set(listed.test.labels.tolist()) == {0, 1}
    with pytest.raises(InvalidConfiguration, match="classes: '1' and '1.0' are one number"):
        study_data(own(tmp_path, people, classes=("1", "1.0")), None)
    with pytest.raises(
        InvalidData, match="own.csv, column 'outcome': '1' and '001' are one number, and '001' is a code"
    ):
        study_data(own(tmp_path, people, lambda n: ("0", "1", "0", "001")[n % 4]), None)


def test_a_table_with_commas_is_read_as_the_study_file_says(tmp_path: Path) -> None:
    people = [f"p{n}" for n in range(300)]
    plain = study_data(own(tmp_path, people), None)
    german = own(tmp_path, people, reading={"separator": ";", "decimal": ","})
    path = tmp_path / "own.csv"
    path.write_text(path.read_text().replace(",", ";").replace(".", ","))
    read = study_data(german, None)
    assert (read.public.sha256, read.data_section_fields) == (plain.public.sha256, plain.data_section_fields)
    with pytest.raises(InvalidData, match='with separator = ";"'):
        study_data(
            StudyFile.model_validate(german.model_dump() | {"data": german.data.model_dump() | {"reading": None}}), None
        )  # type: ignore[union-attr]
