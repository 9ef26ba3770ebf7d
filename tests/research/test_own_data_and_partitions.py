"""Study files with data of one's own, or hospitals of one's own: nothing fitted to private records, faults named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from rich.console import Console

from secure_fedhelp.data.checks import check_records
from secure_fedhelp.data.tables import load_table, read_table
from secure_fedhelp.errors import (
    FedHelpError,
    InvalidConfiguration,
    InvalidData,
    InvalidPartition,
    InvalidValue,
    MissingColumn,
    UnknownCategory,
)
from secure_fedhelp.research.catalog import StudyData, prepare
from secure_fedhelp.research.demo_setup import create_run_folder, write_hospitals
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.simulation import run_simulation
from secure_fedhelp.research.study_file import StudyFile, load_study
from secure_fedhelp.research.sweep.execute import execute
from secure_fedhelp.research.sweep.runs import expand
from secure_fedhelp.study.methods import FedHelp
from secure_fedhelp.study.plan import parse_plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PARTS = "[parts]\npublic = 20\nreference = 20\ntest = 40\n"
SITES = '[partition]\nkind = "site"\ncolumn = "clinic"\nlarge = ["north-end"]\n'


def study(tmp_path: Path, text: str) -> StudyFile:
    (tmp_path / "study.toml").write_text('name = "own"\n' + text)
    return load_study(tmp_path / "study.toml")


def table(tmp_path: Path, change: dict[int, dict[str, Any]] | None = None) -> Path:
    """300 patients, every third with two records, at three clinics; ``change`` replaces values of some rows."""
    rng, rows = np.random.default_rng(0), []
    for number in range(300):
        clinic = ("North End", "south", "west")[number % 3]
        for _ in range(1 + (number % 3 == 0)):
            age, grade = rng.normal(60, 10), rng.choice(["low", "mid", "high"])
            outcome = "ill" if age + rng.normal(0, 5) > 60 else "well"
            rows.append(
                {"who": f"p{number}", "age": f"{age:.5f}", "grade": grade, "clinic": clinic, "outcome": outcome}
            )
    for place, values in (change or {}).items():
        rows[place] |= values
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "own.csv"


def own(path: str = "own.csv", more: str = "", partition: str = SITES) -> str:
    return f'[data]\npath = "{path}"\ntarget = "outcome"\npatient = "who"\n{more}{PARTS}{partition}'


def no_patient_in_two_parts(data: StudyData) -> None:
    parts = [*data.references, data.test, *(records for _, records in data.hospitals.values())]
    patients = [patient for part in parts for patient in set(part.patients)]
    assert len(patients) == len(set(patients))
    public = {row.tobytes() for row in data.public.inputs}
    assert not public & {row.tobytes() for part in parts for row in part.inputs}


def test_a_table_with_sites_becomes_a_study(tmp_path: Path) -> None:
    table(tmp_path)
    file = study(tmp_path, own())
    data = study_data(file, None)
    assert {name: tier for name, (tier, _) in data.hospitals.items()} == {
        "north-end": "large",
        "south": "small",
        "west": "small",
    }
    no_patient_in_two_parts(data)
    plan = study_plan(file, data)
    assert plan.data.classes == ("ill", "well")
    assert [(column.name, column.kind) for column in plan.data.columns] == [
        ("age", "numeric"),
        ("grade", "categorical"),
    ]
    assert plan.data.input_shape == (5,)  # one more for a grade that is not listed
    for name, (_, records) in data.hospitals.items():
        check_records(records, plan, name)


def test_parquet_gives_the_same_study(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(table(tmp_path)), tmp_path / "own.parquet")
    one, two = (study_data(study(tmp_path, own(path)), None) for path in ("own.csv", "own.parquet"))
    assert one.public.sha256 == two.public.sha256
    assert one.data_section_fields == two.data_section_fields


def test_the_schema_follows_from_the_public_part_alone(tmp_path: Path) -> None:
    """Every private and every test value is moved, and no constant of the plan moves with them."""
    table(tmp_path)
    before = study_data(study(tmp_path, own()), None)
    lines = (tmp_path / "own.csv").read_text().splitlines()
    held = {row for _, records in before.hospitals.values() for row in records.patients} | set(before.test.patients)
    for number, line in enumerate(lines[1:], 1):
        cells = line.split(",")
        if cells[0] in held:
            cells[1] = str(float(cells[1]) + 30)
            lines[number] = ",".join(cells)
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    after = study_data(study(tmp_path, own()), None)
    assert after.data_section_fields == before.data_section_fields
    name = next(iter(after.hospitals))
    assert not np.array_equal(after.hospitals[name][1].inputs, before.hospitals[name][1].inputs)


@pytest.mark.parametrize(
    ("added", "words"),
    [
        (["{}"], r"^own\.csv, line 402: the same record of the same patient as line 20$"),
        (["{}", "{}"], r"as line 20 \(1 more like it\)"),
        ([" {}0"], "as line 20"),  # the same patient, and the same age in another spelling
    ],
)
def test_a_record_that_is_there_twice_is_told_before_anything_starts(
    tmp_path: Path, added: list[str], words: str
) -> None:
    """A hospital refuses its file for it: unsaid here, plain runs would go through and deployed ones end half-way."""
    lines = table(tmp_path).read_text().splitlines()
    who, age, *rest = lines[19].split(",")
    for line in added:
        lines.append(",".join([*line.format(f"{who},{age}").split(","), *rest]))
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    file = study(tmp_path, own())
    for start in (lambda: study_data(file, None), lambda: execute(expand(file, ["local"], [3.0], 1, False, None)[0])):
        with pytest.raises(InvalidData, match=words) as raised:
            start()
        assert "Keep one of them" in raised.value.hint


def test_a_table_that_can_be_planned_can_be_loaded_by_every_hospital(tmp_path: Path) -> None:
    """Records of a patient that differ in what the model is not shown are one and the same at a hospital."""
    same = {"grade": "low", "outcome": "ill"}
    table(tmp_path, {0: {"age": "200000", **same}, 1: {"age": "1e6", **same}})  # both of p0
    with pytest.raises(InvalidData, match="line 3: the same record of the same patient as line 2"):
        study_data(study(tmp_path, own()), None)
    columns = 'columns = [{ name = "age", kind = "numeric" }]'
    table(tmp_path, {0: {"age": "-0.0", **same}, 1: {"age": "0", **same}})  # written for a hospital both are 0.0
    with pytest.raises(InvalidData, match="line 3: the same record of the same patient as line 2"):
        study_data(study(tmp_path, own(more=columns + "\n")), None)
    table(tmp_path)
    file = study(tmp_path, own())
    data = study_data(file, None)
    plan, run = study_plan(file, data), create_run_folder(tmp_path / "run", overwrite=False)
    write_hospitals(run, plan, data, [])
    for name, (_, records) in data.hospitals.items():
        read = load_table(run.hospital(name).root / "data" / "records.csv", plan.data)
        assert read.patients == records.patients
        assert read.inputs.tobytes() == records.inputs.tobytes()


@pytest.mark.parametrize("kind", ["sizes", "dirichlet"])
def test_hospitals_by_sizes_and_by_mixtures(tmp_path: Path, kind: str) -> None:
    table(tmp_path)
    alpha = "alpha = 0.2\n" if kind == "dirichlet" else ""
    shares = f'[partition]\nkind = "{kind}"\n{alpha}shares = {{ one = 4, two = 2, three = 1 }}\nlarge = ["one"]\n'
    file = study(tmp_path, own(partition=shares))
    data = study_data(file, None)
    no_patient_in_two_parts(data)
    found = {name: records.n_patients for name, (_, records) in data.hospitals.items()}
    total = sum(found.values())
    for name, share in {"one": 4 / 7, "two": 2 / 7, "three": 1 / 7}.items():
        assert abs(found[name] - share * total) <= 3
    assert {h.name: h.tier for h in study_plan(file, data).hospitals} == {
        "one": "large",
        "two": "small",
        "three": "small",
    }


IMAGE = '[data]\npath = "own.npz"\nclasses = ["well", "ill"]\n'
EQUAL = '[partition]\nkind = "sizes"\nshares = { a = 1, b = 1, c = 1 }\n'


def scans(count: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    return {"images": images, "labels": np.arange(count) % 2, "patients": np.arange(count) // 2}


def test_an_image_set_with_sites(tmp_path: Path) -> None:
    arrays = scans(400)
    np.savez(tmp_path / "own.npz", **arrays, clinic=np.asarray(["e", "f", "g"])[arrays["patients"] % 3])
    file = study(tmp_path, IMAGE + PARTS + SITES.replace("north-end", "e"))
    data = study_data(file, None)
    no_patient_in_two_parts(data)
    assert list(data.hospitals) == ["e", "f", "g"]
    assert {int(p) % 3 for p in data.hospitals["f"][1].patients} == {1}
    assert study_plan(file, data).data.input_shape == (1, 8, 8)


def medmnist(patients: int = 160) -> dict[str, Any]:
    arrays = scans(patients + 80)
    cuts = {"train": slice(0, patients), "val": slice(patients, patients + 20), "test": slice(patients + 20, None)}
    layout = {f"{part}_images": arrays["images"][cut] for part, cut in cuts.items()}
    return layout | {f"{part}_labels": arrays["labels"][cut, None] for part, cut in cuts.items()}


def test_sites_stay_with_their_records_where_a_copy_of_a_test_image_is_left_out(tmp_path: Path) -> None:
    layout, sites = medmnist(), np.asarray(["e", "f", "g"])[np.arange(180) % 3]
    layout["train_images"][5] = layout["test_images"][3]
    np.savez(tmp_path / "own.npz", **layout, clinic=sites)
    file = study(tmp_path, IMAGE + "[parts]\npublic = 20\nreference = 20\n" + SITES.replace("north-end", "e"))
    data = study_data(file, None)
    images = np.concatenate([layout["train_images"], layout["val_images"]])
    site_of = {image.tobytes(): site for image, site in zip(images, sites, strict=True)}
    for name, (_, records) in data.hospitals.items():
        seen = np.round((records.inputs[:, 0] * 0.25 + 0.5) * 255).astype(np.uint8)
        assert {site_of[image.tobytes()] for image in seen} == {name}


@pytest.mark.parametrize("named", [160, 181, 239, 241])
def test_other_than_one_site_a_record_is_refused(tmp_path: Path, named: int) -> None:
    np.savez(tmp_path / "own.npz", **medmnist(), clinic=np.asarray(["e", "f", "g"])[np.arange(named) % 3])
    file = study(tmp_path, IMAGE + "[parts]\npublic = 20\nreference = 20\n" + SITES.replace("north-end", "e"))
    with pytest.raises(InvalidData, match=f"names {named} sites for 180 or 240 records"):
        study_data(file, None)
    np.savez(tmp_path / "own.npz", **scans(400), clinic=np.asarray(["e", "f", "g"])[np.arange(400 + named) % 3])
    file = study(tmp_path, IMAGE + PARTS + SITES.replace("north-end", "e"))
    with pytest.raises(InvalidData, match=f"names {400 + named} sites for 400 records"):
        study_data(file, None)


@pytest.mark.parametrize("named", [np.asarray("e"), np.asarray([b"e", b"f", b"g"] * 60), np.zeros((180, 1))])
def test_sites_are_one_list_of_names(tmp_path: Path, named: Any) -> None:
    """Bytes would become hospitals of the name b'e'."""
    np.savez(tmp_path / "own.npz", **medmnist(), clinic=named)
    file = study(tmp_path, IMAGE + "[parts]\npublic = 20\nreference = 20\n" + SITES.replace("north-end", "e"))
    with pytest.raises(InvalidData, match="must be one list of text or integers"):
        study_data(file, None)


@pytest.mark.parametrize(("side", "pool"), [(16, 4), (18, 2), (17, 1)])
def test_answers_on_own_masks_are_pooled_as_far_as_their_sides_allow(tmp_path: Path, side: int, pool: int) -> None:
    """Nobody wrote the pooling that a plan would be refused for."""
    np.savez(tmp_path / "own.npz", **lesions(240, side))
    file = study(tmp_path, IMAGE + PARTS + EQUAL)
    assert study_plan(file, study_data(file, None)).options(FedHelp).logit_pool == pool


def test_a_medmnist_file_keeps_its_test_part(tmp_path: Path) -> None:
    arrays = scans(240)
    cuts = {"train": slice(0, 160), "val": slice(160, 180), "test": slice(180, 240)}
    layout = {f"{part}_images": arrays["images"][cut] for part, cut in cuts.items()}
    layout |= {f"{part}_labels": arrays["labels"][cut, None] for part, cut in cuts.items()}
    layout["train_images"][5] = layout["test_images"][3]  # a copy of a test image: the same patient
    np.savez(tmp_path / "own.npz", **layout)
    data = study_data(study(tmp_path, IMAGE + "[parts]\npublic = 20\nreference = 20\n" + EQUAL), None)
    assert len(data.test) == 60
    no_patient_in_two_parts(data)
    kept = (
        sum(len(records) for _, records in data.hospitals.values()) + sum(map(len, data.references)) + len(data.public)
    )
    assert kept == 179
    with pytest.raises(InvalidConfiguration, match="test part of its own"):
        study_data(study(tmp_path, IMAGE + PARTS + EQUAL), None)


MASKS = '[data]\npath = "own.npz"\nclasses = ["tissue", "lesion"]\n'


def lesions(count: int, side: int = 16) -> dict[str, Any]:
    """Bright squares on noise, in every image but each fourth; two images a patient."""
    rng, masks = np.random.default_rng(2), np.zeros((count, side, side), dtype=np.uint8)
    for number in range(count):
        if number % 4:
            top, left = rng.integers(0, side - 5, 2)
            masks[number, top : top + 5, left : left + 5] = 1
    images = (rng.integers(0, 100, masks.shape) + 150 * masks).astype(np.uint8)
    return {"images": images, "masks": masks, "patients": np.arange(count) // 2}


def layout(arrays: dict[str, Any], target: str, cuts: dict[str, slice]) -> dict[str, Any]:
    """The same as MedMNIST has it: no patients, and a test part."""
    return {f"{part}_{what}": arrays[what][cut] for part, cut in cuts.items() for what in ("images", target)}


CUTS = {"train": slice(0, 160), "val": slice(160, 180), "test": slice(180, 240)}


def test_images_with_masks_become_a_segmentation(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **lesions(240))
    file = study(tmp_path, "rounds = 1\n" + MASKS + PARTS + EQUAL)
    data = study_data(file, None)
    no_patient_in_two_parts(data)
    plan = study_plan(file, data)
    assert (plan.data.task, plan.data.classes) == ("segmentation", ("tissue", "lesion"))
    assert (plan.model.small, plan.options(FedHelp).logit_pool) == ("unet-small", 4)
    for name, (_, records) in data.hospitals.items():
        check_records(records, plan, name)
        assert records.labels.shape == (len(records), 16, 16)
        assert 0.2 < (records.labels.max(axis=(1, 2)) == 0).mean() < 0.3, "images with no lesion are everywhere alike"


def test_masks_in_medmnists_layout_keep_their_test_part(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **layout(lesions(240), "masks", CUTS))
    data = study_data(study(tmp_path, MASKS + "[parts]\npublic = 20\nreference = 20\n" + EQUAL), None)
    assert data.test.labels.shape == (60, 16, 16)
    assert data.data_section_fields["task"] == "segmentation"
    no_patient_in_two_parts(data)


def test_hospitals_may_differ_in_how_many_images_have_something_to_find(tmp_path: Path) -> None:
    arrays = lesions(400)
    arrays["patients"] = np.arange(400)
    np.savez(tmp_path / "own.npz", **arrays)
    mixtures = EQUAL.replace('"sizes"', '"dirichlet"\nalpha = 0.1')
    data = study_data(study(tmp_path, MASKS + PARTS + mixtures), None)
    empty = [(records.labels.max(axis=(1, 2)) == 0).mean() for _, records in data.hospitals.values()]
    assert max(empty) - min(empty) > 0.3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": np.zeros(240, dtype=int)}, "has 'labels' and 'masks'"),
        ({"masks": np.zeros((240, 8, 8), dtype=int)}, "labels of shape"),
        ({"masks": np.zeros((240, 16), dtype=int)}, "3-dimensional"),
        ({"masks": np.full((240, 16, 16), 255)}, "label 255 of record 0 is not below 2"),
        ({"masks": np.zeros((240, 16, 16))}, "a mask of integers"),
    ],
)
def test_masks_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "own.npz", **(lesions(240) | change))
    with pytest.raises(InvalidData, match=words):
        study_data(study(tmp_path, MASKS + PARTS + EQUAL), None)


def test_masks_in_medmnists_layout_that_do_not_fit_are_named(tmp_path: Path) -> None:
    parts = "[parts]\npublic = 20\nreference = 20\n"
    arrays = layout(lesions(240), "masks", CUTS)
    for change, words in (
        ({"train_labels": np.zeros((160, 1), dtype=int)}, "give one of them"),
        ({"val_masks": np.zeros((20, 16), dtype=int)}, r"masks of shape \(20, 16\)"),
    ):
        np.savez(tmp_path / "own.npz", **(arrays | change))
        with pytest.raises(InvalidData, match=words):
            study_data(study(tmp_path, MASKS + parts + EQUAL), None)


def test_a_mask_study_trains_a_round_at_every_hospital(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **lesions(240))
    short = "[learning]\nwarm_steps = 1\npublic_steps = 1\npupil_steps = 1\npersonal_steps = 1\n"
    weak = "[public]\nlabelled = false\nrecords = 6\n[teacher]\nrecords = 8\n"
    file = study(tmp_path, "rounds = 1\n" + MASKS + PARTS + EQUAL + short + weak)
    (run,) = expand(file, ["fedhelp"], [3.0], 1, False, None)
    found = execute(run).hospitals
    assert {(h.hospital, h.model) for h in found} == {(n, m) for n in "abc" for m in ("shared", "personal")}
    assert all(0 <= h.metrics["dice"] <= 1 for h in found)


def test_classes_of_a_table_cannot_come_from_labels_that_nobody_has(tmp_path: Path) -> None:
    table(tmp_path)
    bare = "[public]\nlabelled = false\n"
    with pytest.raises(InvalidConfiguration, match="name them in"):
        study_data(study(tmp_path, own() + bare), None)
    data = study_data(study(tmp_path, own(more='classes = ["well", "ill"]\n') + bare), None)
    assert data.public.labels is None


def test_another_public_set_leaves_columns_and_records_as_they_are(tmp_path: Path) -> None:
    """Centres and scales are those of [parts] public, whoever is public then: or no two studies could be paired."""
    table(tmp_path)
    usual = study_data(study(tmp_path, own()), None)
    for text in ("records = 3", "records = 60", "share = 0.1", 'hospital = "south"'):
        data = study_data(study(tmp_path, own() + f"[public]\n{text}\n"), None)
        no_patient_in_two_parts(data)
        assert data.data_section_fields["columns"] == usual.data_section_fields["columns"]
        np.testing.assert_array_equal(data.test.inputs, usual.test.inputs)
        for name, (_, records) in data.hospitals.items():
            assert set(records.patients) <= set(usual.hospitals[name][1].patients)


def test_another_partition_of_a_data_set_of_the_catalog(tmp_path: Path) -> None:
    text = 'dataset = "breast-cancer"\n[partition]\nkind = "dirichlet"\nalpha = 0.3\n'
    file = study(tmp_path, text)
    data, usual = study_data(file, None), prepare("breast-cancer", None, 1)
    assert data.public.sha256 == usual.public.sha256, "only the hospitals differ"
    no_patient_in_two_parts(data)

    def spread(found: StudyData) -> float:
        return float(np.std([records.labels.mean() for _, records in found.hospitals.values()]))

    assert spread(data) > 3 * spread(usual)
    plan = study_plan(file, data)
    for name, (_, records) in data.hospitals.items():
        check_records(records, plan, name)
    with pytest.raises(InvalidPartition, match="name no site"):
        study_data(study(tmp_path, 'dataset = "breast-cancer"\n[partition]\nkind = "site"\n'), None)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('dataset = "heart"\n' + IMAGE + PARTS + EQUAL, InvalidConfiguration, "either a dataset or"),
        ("", InvalidConfiguration, "either a dataset or"),
        (IMAGE + EQUAL, InvalidConfiguration, r"\[parts\]"),
        (IMAGE + PARTS, InvalidConfiguration, r"\[partition\]"),
        ('dataset = "heart"\n' + PARTS, InvalidConfiguration, r"\[parts\]"),
        ('[data]\npath = "own.npz"\n' + PARTS + EQUAL, InvalidConfiguration, "have to be named"),
        ('[data]\npath = "own.xlsx"\n' + PARTS + EQUAL, InvalidConfiguration, "own.xlsx"),
        (own(partition=EQUAL.replace("sizes", "random")), InvalidConfiguration, "partition"),
        (own(partition=EQUAL.replace("sizes", "dirichlet")), InvalidConfiguration, "alpha"),
        (own(partition=EQUAL + "alpha = 1\n"), InvalidConfiguration, "alpha"),
        (own(partition=EQUAL + 'large = ["z"]\n'), InvalidConfiguration, "without a share: z"),
        (own(partition=EQUAL.replace(", c = 1", "")), InvalidConfiguration, "shares"),
        (own(partition=EQUAL.replace("c = 1", "c = 0.001")), InvalidPartition, "c would have"),
        (own(partition=EQUAL + "minimum_patients = 200\n"), InvalidPartition, "200 are needed"),
        (own(partition=SITES.replace("north-end", "east")), InvalidPartition, "'east' is none of"),
        (own(partition=SITES.replace("clinic", "ward")), MissingColumn, "'ward'"),
        (own("absent.csv"), InvalidData, "absent.csv"),
        (own().replace("test = 40", "test = 400"), InvalidPartition, "there are 300"),
        (own().replace("test = 40", ""), InvalidConfiguration, "no test part"),
        (own().replace('"who"', '"nobody"'), MissingColumn, "'nobody'"),
        (own(more='classes = ["ill", "dead"]\n'), UnknownCategory, "'well' is none of ill, dead"),
    ],
)
def test_each_fault_of_a_study_file_is_named(tmp_path: Path, text: str, error: type[FedHelpError], words: str) -> None:
    table(tmp_path)
    with pytest.raises(error, match=words) as raised:
        study_data(study(tmp_path, text), None)
    assert type(raised.value) is error


def test_values_that_the_public_part_does_not_know_are_named(tmp_path: Path) -> None:
    table(tmp_path, {17: {"grade": "extreme"}})
    grade = '{ name = "grade", kind = "categorical", categories = ["low", "mid", "high"] }'
    with pytest.raises(UnknownCategory, match="'extreme'") as raised:
        study_data(study(tmp_path, own(more=f"columns = [{grade}]\n")), None)
    assert str(raised.value).count("own.csv") == 1
    assert "data.columns" in raised.value.hint
    columns = 'columns = [{ name = "age", kind = "numeric", center = 60, scale = 10 }]\ncolumns_only = true\n'
    assert study_data(study(tmp_path, own(more=columns)), None).data_section_fields["input_shape"] == (1,)


def test_a_category_that_the_public_part_lacks_fails_with_no_seed(tmp_path: Path) -> None:
    """Whichever patients a seed makes public, ``extreme`` is read: listed where it is among them, else as other."""
    table(tmp_path, {number: {"grade": "extreme"} for number in (17, 30, 31, 200)})
    seen = set()
    for seed in range(12):
        file = study(tmp_path, own()).model_copy(update={"seed": seed})
        data = study_data(file, None)
        grade = study_plan(file, data).data.columns[1]
        assert grade.other
        seen.add("extreme" in grade.categories)
        everybody = [*(r for _, r in data.hospitals.values()), *data.references, data.test]
        ones = sum(int((records.inputs[:, 1:].sum(axis=1) == 1).sum()) for records in everybody)
        assert ones == sum(map(len, everybody)), "each record has one grade, listed or other"
    assert seen == {True, False}


def test_a_column_with_holes_in_the_public_part_gets_an_indicator(tmp_path: Path) -> None:
    """A fifth of the ages are missing: the plan says so, and the hospital's card counts them in its own file."""
    table(tmp_path, {number: {"age": ""} for number in range(0, 400, 5)})
    file = study(tmp_path, own())
    data = study_data(file, None)
    plan = study_plan(file, data)
    age, grade = plan.data.columns
    assert (age.missing_indicator, grade.missing_indicator) == (True, False)
    assert data.public.inputs[:, 1].any()
    run = create_run_folder(tmp_path / "run", overwrite=False)
    write_hospitals(run, plan, data, [])
    for name, (_, records) in data.hospitals.items():
        loaded = read_table(run.hospital(name).root / "data" / "records.csv", plan.data)
        assert loaded.missing["age"] == int(records.inputs[:, 1].sum()) > len(records) / 10
        np.testing.assert_allclose(loaded.records.inputs, records.inputs, atol=2e-6)


def test_text_among_numbers_is_told_with_its_file(tmp_path: Path) -> None:
    table(tmp_path, {17: {"age": "old"}})
    with pytest.raises(InvalidValue, match=r"^own\.csv, line 19.*'age'") as raised:
        study_data(study(tmp_path, own()), None)
    assert "data.columns" in raised.value.hint


def test_patients_at_two_sites_and_sites_of_one_name_are_refused(tmp_path: Path) -> None:
    for change, words in (
        ({number: {"clinic": "west"} for number in range(0, 100, 4)}, "has records at"),
        ({1: {"clinic": "South"}}, "would have one name"),
        ({1: {"clinic": "?!"}}, "no site's name"),
    ):
        table(tmp_path, change)
        with pytest.raises(InvalidPartition, match=words):
            study_data(study(tmp_path, own()), None)


def test_delta_stays_below_one_over_the_patients_of_the_largest_hospital(tmp_path: Path) -> None:
    rows = ["who,age,outcome", *(f"p{n},{n % 97},{'ill' if n % 3 else 'well'}" for n in range(40_000))]
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    file = study(tmp_path, own(partition=EQUAL))
    plan = study_plan(file, study_data(file, None))
    assert all(section.delta < 1 / 13_000 for section in plan.privacy.values())


def test_networks_of_ones_own_choice(tmp_path: Path) -> None:
    table(tmp_path)
    file = study(tmp_path, own() + '[model]\nsmall = "mlp-8"\nlarge = "mlp-16"\n')
    assert study_plan(file, study_data(file, None)).model.small == "mlp-8"


def test_the_example_makes_a_study() -> None:
    file = load_study(EXAMPLES / "own-table.toml")
    data = study_data(file, None)
    plan = study_plan(file, data)
    assert [h.tier for h in plan.hospitals] == ["large", "large", "small", "small"]
    for name, (_, records) in data.hospitals.items():
        check_records(records, plan, name)


def test_the_dirichlet_example_makes_a_study(shared_data: Path) -> None:
    file = load_study(EXAMPLES / "pneumonia-dirichlet.toml")
    data = study_data(file, shared_data)
    plan = study_plan(file, data)
    for name, (_, records) in data.hospitals.items():
        check_records(records, plan, name)
    assert len(data.test) == 624


def test_where_hospitals_are_as_they_are_each_is_judged_on_its_own_patients_too(tmp_path: Path) -> None:
    """Telling sites apart can be much of a score on everybody's patients, and is of no use to any of them."""
    table(tmp_path)
    many = own().replace("test = 40", "test = 100")
    file = study(tmp_path, "rounds = 1\n" + many + '[model]\nsmall = "mlp-4"\nlarge = "mlp-8"\n')
    data = study_data(file, None)
    assert data.home.keys() == {"north-end", "south", "west"}
    clinics = {f"p{number}": ("north-end", "south", "west")[number % 3] for number in range(300)}
    for name, records in data.home.items():
        assert {clinics[patient] for patient in records.patients} == {name}
    assert sorted(p for r in data.home.values() for p in r.patients) == sorted(data.test.patients)
    for contender in ("fedavg", "local", "pooled"):
        (run,) = expand(file, [contender], [3.0], 1, False, None)
        found = execute(run).hospitals
        if contender == "pooled":
            assert len({h.metrics["auroc"] for h in found}) == 1 < len({h.metrics["home_auroc"] for h in found})
        assert all(h.metrics.keys() == found[0].metrics.keys() >= {"auroc", "home_auroc"} for h in found)
        for h in found:
            assert h.home is not None
            assert h.home.patients == data.home[h.hospital].n_patients
            assert min(h.home.classes.values()) >= 10
    (few,) = expand(study(tmp_path, "rounds = 1\n" + own()), ["local"], [3.0], 1, False, None)
    assert not any("home_auroc" in h.metrics for h in execute(few).hospitals), "of fewer than ten it would be chance"
    dealt = study(tmp_path, own(partition='[partition]\nkind = "sizes"\nminimum_patients = 3\n'))
    assert study_data(dealt, None).home == {}, "all have patients of one pool"


@pytest.mark.end
def test_a_study_on_a_table_of_ones_own_runs(tmp_path: Path) -> None:
    table(tmp_path)
    file = study(tmp_path, "rounds = 2\n" + own() + '[model]\nsmall = "mlp-4"\nlarge = "mlp-8"\n')
    data = study_data(file, None)
    values = study_plan(file, data).model_dump(mode="json")
    values["learning"] |= {"pupil_steps": 1, "personal_steps": 1, "warm_steps": 1, "public_steps": 1}
    plan, run = parse_plan(values), create_run_folder(tmp_path / "run", overwrite=False)
    run_simulation(run, plan, data, Console(quiet=True))
    assert all((run.hospital(name).models / "personal.pt").exists() for name in data.hospitals)


@pytest.mark.parametrize("missing", ["", "?"])
def test_a_record_without_a_target_is_no_class_of_its_own(tmp_path: Path, missing: str) -> None:
    table(tmp_path, {18: {"outcome": missing}, 40: {"outcome": missing}})
    with pytest.raises(InvalidValue, match=r"own\.csv, line 20: no 'outcome', and 1 more"):
        study_data(study(tmp_path, own()), None)


def test_words_among_numbers_are_missing_values_in_disguise(tmp_path: Path) -> None:
    """With NA each number would be a category of its own."""
    table(tmp_path, {number: {"age": "NA"} for number in range(0, 400, 5)})
    with pytest.raises(InvalidData, match="column 'age' has numbers, and 'NA' among them"):
        study_data(study(tmp_path, own()), None)


def test_images_of_two_patients_that_are_one_image_are_told(tmp_path: Path) -> None:
    arrays = scans(200)
    arrays["images"][7] = arrays["images"][120]
    np.savez(tmp_path / "own.npz", **arrays)
    notes = study_data(study(tmp_path, IMAGE + PARTS + EQUAL), None).notes
    assert any("1 image(s) are of more than one patient" in note for note in notes)
