"""Folders and indices of image files in a study file: read as hospitals read them, and known by all their files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from secure_fedhelp.data.checks import check_records
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.picture_sets import NO_PATIENTS
from secure_fedhelp.data.records import Records
from secure_fedhelp.errors import DataChanged, FedHelpError, InvalidConfiguration, InvalidData, MissingColumn
from secure_fedhelp.hospital.folder import HospitalFolder
from secure_fedhelp.research.catalog import StudyData
from secure_fedhelp.research.own_data import study_data
from secure_fedhelp.research.plans import study_plan
from secure_fedhelp.research.records_table import print_records
from secure_fedhelp.research.simulation import simulate
from secure_fedhelp.research.study_file import StudyFile, load_study
from secure_fedhelp.research.sweep.data_file import data_sha256, require_unchanged
from secure_fedhelp.research.sweep.execute import execute
from secure_fedhelp.research.sweep.runs import expand

PARTS = "[parts]\npublic = 12\nreference = 12\ntest = 20\n"
EQUAL = '[partition]\nkind = "sizes"\nshares = { a = 1, b = 1, c = 1 }\n'
SITES = '[partition]\nkind = "site"\ncolumn = "clinic"\nlarge = ["north"]\n'
SKEWED = EQUAL.replace('"sizes"', '"dirichlet"\nalpha = 0.3')
CLINICS = ("north", "south", "west")
PATIENTS, SIDE = 120, 16


def scan(number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Noise with a bright square in two of three images, and where it is."""
    rng, mask = np.random.default_rng(number), np.zeros((SIDE, SIDE), dtype=np.uint8)
    if number % 3:
        top, left = rng.integers(0, SIDE - 5, 2)
        mask[top : top + 5, left : left + 5] = 1
    return (rng.integers(0, 100, mask.shape) + 150 * mask).astype(np.uint8), mask


def pairs(folder: Path, clinics: bool = True) -> None:
    """Two images a patient, but for every fifth patient one."""
    rows = ["file,who,clinic" if clinics else "file,who"]
    for patient in range(PATIENTS):
        for visit in range(1 if patient % 5 == 0 else 2):
            image, mask = scan(2 * patient + visit)
            stem = f"s{patient:03d}-{visit}"
            for part, values in (("images", image), ("masks", 255 * mask)):
                (folder / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(folder / part / f"{stem}.png")
            rows.append(f"{stem},p{patient}" + f",{CLINICS[patient % 3]}" * clinics)
    (folder / "patients.csv").write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")


def volumes(folder: Path) -> None:
    """An index of slices of NIfTI volumes, one volume a patient."""
    rows = ["file,slice,who,finding,clinic"]
    folder.mkdir(exist_ok=True)
    for patient in range(PATIENTS):
        images = [scan(3 * patient + number) for number in range(3)]
        volume = np.stack([10.0 * image.T for image, _ in images], axis=-1).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / f"v{patient}.nii")
        for number in (0, 1) if patient % 2 else (1, 2):
            finding = "ill" if images[number][1].any() else "well"
            rows.append(f"v{patient}.nii,{number},p{patient},{finding},{CLINICS[patient % 3]}")
    (folder / "index.csv").write_text("\n".join(rows) + "\n")


def study(tmp_path: Path, text: str) -> StudyFile:
    (tmp_path / "study.toml").write_text('name = "own"\nrounds = 1\n' + text)
    return load_study(tmp_path / "study.toml")


def data_of(path: str, more: str = "", shape: str = "[1, 16, 16]") -> str:
    words = 'patient = "who"\nclasses = ["well", "ill"]\n'
    return f'[data]\npath = "{path}"\n{words}input_shape = {shape}\n{more}'


FOLDER = data_of("scans")
INDEX = data_of("scans/index.csv", 'target = "finding"\nintensity = [0.0, 2550.0]\n')


def everybody(data: StudyData) -> dict[str, Records]:
    (reference,) = data.references
    return {name: records for name, (_, records) in data.hospitals.items()} | {"-t": data.test, "-r": reference}


@pytest.mark.parametrize(("text", "write", "masked"), [(FOLDER, pairs, True), (INDEX, volumes, False)])
@pytest.mark.parametrize("partition", [EQUAL, SITES, SKEWED])
def test_image_files_become_the_records_that_a_hospital_would_read(
    tmp_path: Path, text: str, write: Any, masked: bool, partition: str
) -> None:
    write(tmp_path / "scans")
    file = study(tmp_path, text + PARTS + partition)
    data = study_data(file, None)
    plan = study_plan(file, data)
    assert plan.data.masked == masked
    assert (plan.data.patient_id, plan.data.input_shape) == ("who", (1, SIDE, SIDE))
    for name, (_, records) in data.hospitals.items():
        check_records(records, plan, name)
    assert file.data is not None
    read = load_records(file.data.path, plan.data).records  # with the plan that hospitals would have
    known = {(p, i.tobytes(), t.tobytes()) for p, i, t in zip(read.patients, read.inputs, read.labels, strict=True)}
    found = everybody(data)
    for records in found.values():
        for record in zip(records.patients, records.inputs, records.labels, strict=True):
            assert (record[0], record[1].tobytes(), record[2].tobytes()) in known
    people = [patient for records in found.values() for patient in set(records.patients)]
    assert len(people) == len(set(people)) == PATIENTS - 12, "each patient is whole, in one part"
    if partition == SITES:
        assert set(data.hospitals) == set(CLINICS) == set(data.home)
        for name in CLINICS:
            assert {CLINICS[int(who[1:]) % 3] for who in data.hospitals[name][1].patients} == {name}


def test_an_index_in_parquet_and_a_mask_a_slice(tmp_path: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    volumes(tmp_path / "scans")
    one = study_data(study(tmp_path, INDEX + PARTS + EQUAL), None)
    table = pyarrow.csv.read_csv(tmp_path / "scans" / "index.csv")
    pyarrow.parquet.write_table(table, tmp_path / "scans" / "index.parquet")
    two = study_data(study(tmp_path, INDEX.replace("index.csv", "index.parquet") + PARTS + EQUAL), None)
    assert one.public.sha256 == two.public.sha256
    pairs(tmp_path / "pairs")
    rows = ["file,mask,who"]
    rows += [f"images/{at.name},masks/{at.name},{at.stem[:4]}" for at in sorted((tmp_path / "pairs/images").iterdir())]
    (tmp_path / "pairs" / "index.csv").write_text("\n".join(rows) + "\n")
    masked = study_data(study(tmp_path, data_of("pairs/index.csv") + PARTS + EQUAL), None)
    assert masked.data_section_fields["task"] == "segmentation"


@pytest.mark.parametrize(("text", "write"), [(FOLDER, pairs), (INDEX, volumes)])
def test_a_change_of_any_file_makes_other_runs(tmp_path: Path, text: str, write: Any) -> None:
    write(tmp_path / "scans")
    file = study(tmp_path, text + PARTS + EQUAL)
    before, (run,) = data_sha256(file), expand(file, ["fedhelp"], [3.0], 1, False, None)
    for victim in sorted(at for at in (tmp_path / "scans").rglob("*") if at.is_file())[::40]:
        kept = victim.read_bytes()
        victim.write_bytes(kept + b"\n")
        assert data_sha256(file) != before, victim
        with pytest.raises(DataChanged):
            require_unchanged(file, before)
        assert expand(file, ["fedhelp"], [3.0], 1, False, None)[0].id != run.id
        victim.write_bytes(kept)
        assert data_sha256(file) == before
    (tmp_path / "scans").rename(tmp_path / "elsewhere")
    moved = study(tmp_path, text.replace("scans", "elsewhere") + PARTS + EQUAL)
    assert expand(moved, ["fedhelp"], [3.0], 1, False, None)[0].id == run.id, "by their contents, and not by the place"


def test_a_file_of_a_dicom_series_counts_too(tmp_path: Path) -> None:
    series = tmp_path / "scans" / "ct"
    series.mkdir(parents=True)
    for number in range(3):
        (series / f"{number}.dcm").write_bytes(bytes([number]))
    (tmp_path / "scans" / "index.csv").write_text("file,slice,who,finding\nct,0,a,ill\nct,1,a,well\n")
    file = study(tmp_path, INDEX + PARTS + EQUAL)
    before = data_sha256(file)
    (series / "2.dcm").rename(series / "3.dcm")
    assert data_sha256(file) != before
    (series / "3.dcm").rename(series / "2.dcm")
    assert data_sha256(file) == before


def test_files_behind_a_link_count_and_what_is_never_read_does_not(tmp_path: Path) -> None:
    """A sweep's own folder may lie beside the images; and an image store is often linked, not copied."""
    pairs(tmp_path / "scans")
    (tmp_path / "scans" / "images").rename(tmp_path / "store")
    (tmp_path / "scans" / "images").symlink_to(tmp_path / "store", target_is_directory=True)
    file = study(tmp_path, FOLDER + PARTS + EQUAL)
    before = data_sha256(file)
    (tmp_path / "scans" / "runs").mkdir()
    (tmp_path / "scans" / "runs" / "asked.json").write_text("[]")
    (tmp_path / "scans" / "images" / "Thumbs.db").write_text("x")
    assert data_sha256(file) == before
    victim = min((tmp_path / "store").glob("*.png"))
    victim.write_bytes(victim.read_bytes() + b"\n")
    assert data_sha256(file) != before


def test_a_listed_file_that_is_missing_is_told_with_its_list(tmp_path: Path) -> None:
    volumes(tmp_path / "scans")
    (tmp_path / "scans" / "v7.nii").unlink()
    with pytest.raises(InvalidData, match="v7.nii") as raised:
        data_sha256(study(tmp_path, INDEX + PARTS + EQUAL))
    assert raised.value.hint == "index.csv lists it."


def test_an_image_is_of_one_patient_however_it_is_named(tmp_path: Path) -> None:
    """Else one image could be in training and in test, or move to another patient unseen."""
    volumes(tmp_path / "scans")
    index = tmp_path / "scans" / "index.csv"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([*lines, "./" + lines[5].replace("p2", "p77")]) + "\n")
    with pytest.raises(InvalidData, match="the same image as line 6"):
        study_data(study(tmp_path, INDEX + PARTS + EQUAL), None)
    pairs(tmp_path / "pairs")
    with (tmp_path / "pairs" / "patients.csv").open("a") as file:
        file.write("s003-0,p44,west\n")
    with pytest.raises(InvalidData, match=r"'s003-0' is named already, line \d+"):
        study_data(study(tmp_path, FOLDER.replace("scans", "pairs") + PARTS + SITES), None)


def test_what_the_loader_says_of_the_files_is_shown(tmp_path: Path) -> None:
    pairs(tmp_path / "scans")
    (tmp_path / "scans" / "patients.csv").unlink()
    file = study(tmp_path, FOLDER + PARTS + EQUAL)
    data, text = study_data(file, None), io.StringIO()
    print_records(study_plan(file, data), data, Console(file=text, width=200))
    assert NO_PATIENTS in text.getvalue()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('[data]\npath = "scans"\nclasses = ["a", "b"]\n', InvalidConfiguration, "input_shape = "),
        (data_of("own.npz"), InvalidConfiguration, "leave it out"),
        (data_of("scans", shape="[2, 16, 16]"), InvalidConfiguration, "data.input_shape"),
        (data_of("scans", shape="[1, 16]"), InvalidConfiguration, "data.input_shape"),
        (data_of("scans", "intensity = [9.0, 9.0]\n"), InvalidConfiguration, "intensity"),
        ('[data]\npath = "own.csv"\nintensity = [0.0, 9.0]\n', InvalidConfiguration, "intensity"),
        (data_of("scans").replace('classes = ["well", "ill"]\n', ""), InvalidConfiguration, "have to be named"),
        (data_of("nowhere"), InvalidData, "no such folder"),
        (data_of("nowhere.csv"), InvalidData, "nowhere.csv"),
        (data_of("scans").replace("who", "nobody"), MissingColumn, "'nobody'"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, text: str, error: type[FedHelpError], words: str) -> None:
    pairs(tmp_path / "scans")
    with pytest.raises(error, match=words):
        study_data(study(tmp_path, text + PARTS + EQUAL), None)


def test_pairs_without_the_sites_that_a_partition_goes_by(tmp_path: Path) -> None:
    pairs(tmp_path / "scans", clinics=False)
    with pytest.raises(MissingColumn, match="'clinic'"):
        study_data(study(tmp_path, FOLDER + PARTS + SITES), None)
    file = study(tmp_path, FOLDER.replace("scans", "gone") + PARTS + SITES)
    with pytest.raises(InvalidData, match="gone"):
        expand(file, ["fedhelp"], [3.0], 1, False, None)


@pytest.mark.end
def test_pairs_are_simulated_as_they_run_in_plain(tmp_path: Path) -> None:
    pairs(tmp_path / "scans")
    short = "[learning]\nwarm_steps = 1\npublic_steps = 1\npupil_steps = 1\npersonal_steps = 1\n"
    file = study(tmp_path, FOLDER + PARTS + SITES + short)
    summary = simulate(file, None, tmp_path / "run", False, Console(quiet=True))
    assert {h.name for h in summary.hospitals if h.status == "contributed"} == set(CLINICS)
    assert HospitalFolder(tmp_path / "run" / "hospitals" / "north").config().records == "data/records.npz"
    (run,) = expand(file, ["fedhelp"], [3.0], 1, False, None)
    plain = {h.hospital: h.metrics["dice"] for h in execute(run).hospitals if h.model == "shared"}
    for hospital in summary.hospitals:
        assert hospital.study_model is not None
        assert hospital.study_model.dice == pytest.approx(plain[hospital.name], abs=0.01)
