"""Image files of every kind: PNG pairs, DICOM, NIfTI, MedMNIST's layout; upright, by public constants, or refused."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from secure_fedhelp.data import bitmap, volumes
from secure_fedhelp.data.images import load_images, load_public, write_images, write_public
from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.nifti import read_nifti
from secure_fedhelp.data.records import PublicSet, Records
from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import InvalidData, InvalidValue, MissingColumn, MissingExtra, UnknownCategory
from secure_fedhelp.study.sections import DataSection

DATA = DataSection(
    dataset="scans",
    kind="image",
    classes=("normal", "ill"),
    input_shape=(1, 4, 6),
    public_sha256="0" * 64,
    public_records=3,
)
#: Rises along the rows and down the columns, so that a turned or mirrored image is another one.
RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
MASK = (RAMP > 100).astype(np.uint8)


def grey(values: np.ndarray[Any, Any], low: float = 0.0, high: float = 255.0) -> np.ndarray[Any, Any]:
    """What the model should see of raw values, written out by itself."""
    return np.asarray(((np.clip(values, low, high) - low) / (high - low) - 0.5) / 0.25, dtype=np.float32)


def png(path: Path, values: np.ndarray[Any, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def dicom(path: Path, values: np.ndarray[Any, Any], number: int = 1, **tags: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = values.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation, file.InstanceNumber = 1, "MONOCHROME2", number
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation = 15, 1
    file.PixelSpacing, file.ImagePositionPatient = [1.0, 1.0], [0.0, 0.0, float(number)]
    file.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    file.PixelData = values.astype("<i2").tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)
    return path


def index(tmp_path: Path, text: str, **change: Any) -> Loaded:
    (tmp_path / "index.csv").write_text(text)
    return load_records(tmp_path / "index.csv", DATA.model_copy(update=change))


HEADER = "file,patient_id,target\n"


def test_pngs_of_an_index_come_out_upright_and_scaled(tmp_path: Path) -> None:
    png(tmp_path / "one.png", RAMP)
    found = index(tmp_path, HEADER + "one.png,a,ill\n").records
    np.testing.assert_allclose(found.inputs[0, 0], grey(RAMP), atol=1e-6)
    assert (found.labels.tolist(), found.patients) == ([1], ("a",))


def test_deep_and_coloured_pngs(tmp_path: Path) -> None:
    png(tmp_path / "deep.png", RAMP.astype(np.uint16) * 100)
    found = index(tmp_path, HEADER + "deep.png,a,ill\n", intensity=(1000.0, 20000.0)).records
    np.testing.assert_allclose(found.inputs[0, 0], grey(RAMP * 100.0, 1000, 20000), atol=1e-6)
    png(tmp_path / "rgb.png", np.stack([RAMP, RAMP // 2, RAMP // 3], axis=-1))
    found = index(tmp_path, HEADER + "rgb.png,a,ill\n", input_shape=(3, 4, 6)).records
    np.testing.assert_allclose(found.inputs[0, 2], grey(RAMP // 3), atol=1e-6)
    with pytest.raises(InvalidData, match="channels"):
        index(tmp_path, HEADER + "deep.png,a,ill\n", input_shape=(3, 4, 6))


def test_images_are_resized_to_the_plans_shape(tmp_path: Path) -> None:
    png(tmp_path / "large.png", np.repeat(np.repeat(RAMP, 8, axis=0), 8, axis=1))
    found = index(tmp_path, HEADER + "large.png,a,ill\n").records
    assert found.inputs.shape == (1, 1, 4, 6)
    np.testing.assert_allclose(found.inputs[0, 0], grey(RAMP), atol=0.35)
    assert np.corrcoef(found.inputs.ravel(), RAMP.ravel())[0, 1] > 0.995


def test_a_dicom_file_is_rescaled_as_it_says_and_windowed_as_the_plan_says(tmp_path: Path) -> None:
    dicom(tmp_path / "ct.dcm", RAMP, RescaleSlope="10", RescaleIntercept="-1000")
    found = index(tmp_path, HEADER + "ct.dcm,a,ill\n", intensity=(-1000.0, 400.0)).records
    np.testing.assert_allclose(found.inputs[0, 0], grey(RAMP * 10.0 - 1000, -1000, 400), atol=1e-5)


def test_a_negative_dicom_is_turned_by_the_plans_constants(tmp_path: Path) -> None:
    dicom(tmp_path / "film.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")
    found = index(tmp_path, HEADER + "film.dcm,a,ill\n").records
    np.testing.assert_allclose(found.inputs[0, 0], grey(255.0 - RAMP), atol=1e-5)


def test_slices_of_a_dicom_series_follow_their_instance_numbers(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        dicom(tmp_path / "series" / f"{9 - number}.dcm", RAMP // number, number)
    text = "file,slice,patient_id,target\nseries,0,a,ill\nseries,2,a,normal\n"
    found = index(tmp_path, text).records
    np.testing.assert_allclose(found.inputs[:, 0], grey(np.stack([RAMP, RAMP // 3])), atol=1e-5)
    assert found.n_patients == 1


def test_slices_and_masks_of_nifti_volumes(tmp_path: Path) -> None:
    volume = np.stack([RAMP, RAMP // 2], axis=-1).swapaxes(0, 1).astype(np.float32)  # x first, as NIfTI keeps it
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "mr.nii.gz")
    nibabel.save(nibabel.Nifti1Image((volume > 100).astype(np.uint8), np.eye(4)), tmp_path / "organ.nii")
    text = "file,slice,mask,patient_id\nmr.nii.gz,0,organ.nii,a\nmr.nii.gz,1,organ.nii,a\n"
    found = index(tmp_path, text).records
    np.testing.assert_allclose(found.inputs[1, 0], grey(RAMP // 2), atol=1e-5)
    np.testing.assert_array_equal(found.labels, np.stack([RAMP > 100, RAMP // 2 > 100]))
    assert found.masked


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (HEADER + "no.png,a,ill\n", InvalidData, "no.png"),
        (HEADER + "one.png,a,dead\n", UnknownCategory, "line 2, column 'target'"),
        (HEADER + "one.png,,ill\n", InvalidValue, "no patient identifier"),
        (HEADER + ",a,ill\n", InvalidValue, "column 'file'"),
        (HEADER + "one.png,a,ill\none.png,b,ill\n", InvalidData, "line 3: the same image as line 2"),
        ("file,slice,patient_id,target\none.png,,a,ill\none.png,0,b,ill\n", InvalidData, "line 3: the same image as"),
        ("file,patient_id\none.png,a\n", MissingColumn, "'target'"),
        ("file,target\none.png,ill\n", MissingColumn, "'patient_id'"),
        (HEADER + "junk.png,a,ill\n", InvalidData, "readable PNG"),
        (HEADER + "junk.dcm,a,ill\n", InvalidData, "junk.dcm"),
        (HEADER + "junk.nii,a,ill\n", InvalidData, "junk.nii"),
        (HEADER + "gif.png,a,ill\n", InvalidData, "readable PNG"),
        (HEADER + "rgb.dcm,a,ill\n", InvalidData, "colour"),
        ("file,slice,patient_id,target\nmr.nii,,a,ill\n", InvalidData, "name one in the column 'slice'"),
        ("file,slice,patient_id,target\nmr.nii,2,a,ill\n", InvalidData, "no slice 2"),
        ("file,slice,patient_id,target\nmr.nii,-1,a,ill\n", InvalidValue, "'slice': '-1'"),
        ("file,mask,patient_id\none.png,wide.png,a\n", InvalidData, "pixels"),
        ("file,mask,patient_id\none.png,one.png,a\n", InvalidValue, "class numbers"),
    ],
)
def test_each_fault_of_an_index_is_named(tmp_path: Path, text: str, error: type[InvalidData], words: str) -> None:
    png(tmp_path / "one.png", RAMP)
    png(tmp_path / "wide.png", np.zeros((4, 8), dtype=np.uint8))
    Image.fromarray(RAMP).save(tmp_path / "gif.png", format="GIF")
    colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    depth = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    dicom(tmp_path / "rgb.dcm", RAMP, PixelData=RAMP.repeat(3).tobytes(), **colours, **depth)
    for name in ("junk.png", "junk.dcm", "junk.nii"):
        (tmp_path / name).write_bytes(b"junk" * 100)
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 4, 2)), np.eye(4)), tmp_path / "mr.nii")
    with pytest.raises(error, match=words) as raised:
        index(tmp_path, text)
    assert type(raised.value) is error
    assert raised.value.hint != InvalidData.default_hint or error is not InvalidData


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("scans\\one.png", "/ between folders"),
        ("C:\\scans\\one.png", "/ between folders"),
        ("ONE.PNG", "There is 'one.png'"),
        ("link.png", "a link that leads to no file"),
        ("two.png", "relative to the folder of the index"),
    ],
)
@pytest.mark.parametrize("column", ["file", "mask"])
def test_a_file_that_is_not_there_is_told_with_its_row_and_with_what_to_do(
    tmp_path: Path, column: str, name: str, words: str
) -> None:
    png(tmp_path / "one.png", MASK)
    (tmp_path / "link.png").symlink_to("gone.png")
    row = {"file": "one.png", "mask": "one.png", column: name}
    with pytest.raises(InvalidData, match=f"line 2, column '{column}': no such file") as raised:
        index(tmp_path, f"file,mask,patient_id\n{row['file']},{row['mask']},a\n")
    assert words in raised.value.hint


def test_an_index_that_was_shuffled_reads_each_volume_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume is unpacked as a whole for each of its slices, if they are not read together."""
    opened: list[str] = []

    def counted(path: Path) -> Volume:
        opened.append(path.name)
        return read_nifti(path)

    monkeypatch.setattr(volumes, "read_nifti", counted)
    for number, name in enumerate(("v.nii", "w.nii", "mask.nii")):
        slices = [MASK if name == "mask.nii" else RAMP.astype(np.int16) + 10 * at + number for at in range(6)]
        stored = np.stack([plane.T for plane in slices], axis=-1)
        nibabel.save(nibabel.Nifti1Image(stored.astype(np.int16), np.eye(4)), tmp_path / name)
    order = [3, 0, 5, 1, 4, 2]
    rows = "".join(f"{file},{at},mask.nii,{file}{at}\n" for at in order for file in ("v.nii", "w.nii"))
    found = index(tmp_path, "file,slice,mask,patient_id\n" + rows).records
    assert sorted(opened) == ["mask.nii", "v.nii", "w.nii"]
    right = [grey(RAMP.astype(float) + 10 * at + number) for at in order for number in (0, 1)]
    np.testing.assert_allclose(found.inputs[:, 0], right, atol=1e-5)
    assert found.patients == tuple(f"{file}{at}" for at in order for file in ("v.nii", "w.nii"))


@pytest.mark.parametrize(("file", "package"), [("ct.dcm", "pydicom"), ("mr.nii", "nibabel")])
def test_without_the_extra_the_error_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, package: str
) -> None:
    dicom(tmp_path / "ct.dcm", RAMP)
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 4, 1)), np.eye(4)), tmp_path / "mr.nii")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingExtra, match=package) as raised:
        index(tmp_path, HEADER + f"{file},a,ill\n")
    assert "[imaging]" in raised.value.hint
    assert pydicom.dcmread(tmp_path / "ct.dcm").Rows == 4


def test_a_png_that_unpacks_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"\x89PNG\r\n\x1a\n"

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    size = (50_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(head + chunk(b"IHDR", size + b"\x08\x00\x00\x00\x00") + chunk(b"IDAT", b""))
    with pytest.raises(InvalidData, match="bomb"):
        index(tmp_path, HEADER + "bomb.png,a,ill\n")
    png(tmp_path / "one.png", RAMP)
    monkeypatch.setattr(bitmap, "LARGEST_PIXELS", 20)
    with pytest.raises(InvalidData, match="6 x 4 pixels"):
        index(tmp_path, HEADER + "one.png,a,ill\n")


# --- pairs ----------------------------------------------------------------------------------------------------------


def pairs(tmp_path: Path) -> Path:
    for number, (stem, mask) in enumerate((("a1", MASK), ("a2", MASK * 255), ("b1", 1 - MASK))):
        png(tmp_path / "set" / "images" / f"{stem}.png", RAMP + np.uint8(number))
        png(tmp_path / "set" / "masks" / f"{stem}.png", mask)
    return tmp_path / "set"


def test_pairs_of_images_and_masks(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    loaded = load_records(folder, DATA)
    np.testing.assert_array_equal(loaded.records.labels, np.stack([MASK, MASK, 1 - MASK]))
    assert loaded.records.masked
    assert loaded.records.n_patients == 3
    assert "each image counts as a patient" in loaded.notes[0]
    (folder / "patients.csv").write_text("file,patient_id\na1,a\na2,a\nb1,b\n")
    loaded = load_records(folder, DATA)
    assert loaded.records.patients == ("a", "a", "b")
    assert loaded.notes == ()


def test_an_image_of_two_patients_is_told_wherever_it_is_read(tmp_path: Path) -> None:
    """Who counts as two patients is protected half as well."""
    folder = pairs(tmp_path)
    png(folder / "images" / "b1.png", RAMP)
    (folder / "patients.csv").write_text("file,patient_id\na1,a\na2,a\nb1,b\n")
    words = "1 image(s) are of more than one patient, records 0 and 2 among them"
    assert any(words in note for note in load_records(folder, DATA).notes)
    rows = "set/images/a1.png,a,ill\nset/images/a2.png,a,ill\nset/images/b1.png,b,normal\n"
    assert any(words in note for note in index(tmp_path, HEADER + rows).notes)


def test_masks_keep_their_classes_when_they_are_resized(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    found = load_records(folder, DATA.model_copy(update={"input_shape": (1, 7, 5)})).records
    assert found.labels.shape == (3, 7, 5)
    assert set(np.unique(found.labels)) == {0, 1}


def test_patients_csv_names_images_with_their_endings_or_without(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    for part in ("images", "masks"):
        (folder / part / "b1.png").rename(folder / part / "b.png.png")
    (folder / "patients.csv").write_text("file,patient_id\na1.png,a\na2,a\nb.png,b\n")
    assert load_records(folder, DATA).records.patients == ("a", "a", "b")
    (folder / "patients.csv").write_text("file,patient_id\na1.png,a\na1,b\na2,a\nb.png,b\n")
    with pytest.raises(InvalidData, match="line 3: 'a1' is named already, line 2"):
        load_records(folder, DATA)
    (folder / "patients.csv").write_text("file,patient_id\nimages/a1.png,a\n")
    with pytest.raises(InvalidData, match="no patient for 'a2', and 1 more") as refused:
        load_records(folder, DATA)
    assert "with or without their endings" in refused.value.hint


def test_halves_of_pairs_are_named(tmp_path: Path) -> None:
    folder = pairs(tmp_path)
    (folder / "patients.csv").write_text("file,patient_id\na1,a\na2,a\n")
    with pytest.raises(InvalidData, match="no patient for 'b1'"):
        load_records(folder, DATA)
    (folder / "masks" / "a2.png").unlink()
    with pytest.raises(InvalidData, match="no mask for 'a2'"):
        load_records(folder, DATA)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="no image files"):
        load_records(tmp_path / "empty", DATA)


def test_masks_round_trip_as_npz_and_as_a_public_set(tmp_path: Path) -> None:
    masked = DATA.model_copy(update={"task": "segmentation"})
    records = load_records(pairs(tmp_path), masked).records
    write_images(tmp_path / "m.npz", records)
    found = load_images(tmp_path / "m.npz", masked)
    np.testing.assert_array_equal(found.labels, records.labels)
    assert found.take([2]).labels.shape == (1, 4, 6)
    public = PublicSet.of(records.inputs, records.labels)
    write_public(tmp_path / "p.npz", public)
    fixed = masked.model_copy(update={"public_sha256": public.sha256})
    np.testing.assert_array_equal(load_public(tmp_path / "p.npz", fixed).labels, records.labels)
    flipped = PublicSet.of(records.inputs, 1 - records.labels)
    assert flipped.sha256 != public.sha256


def test_masks_of_another_size_are_refused() -> None:
    inputs = np.zeros((2, 1, 4, 6), dtype=np.float32)
    with pytest.raises(InvalidData, match="labels of shape"):
        Records(inputs, np.zeros((2, 6, 4), dtype=np.int64), ("a", "b"))


# --- MedMNIST -------------------------------------------------------------------------------------------------------


def medmnist(tmp_path: Path, **change: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, count in (("train", 5), ("val", 2), ("test", 3)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 4, 6), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count, dtype=np.uint8)[:, None] % 2
    arrays = {name: value for name, value in (arrays | change).items() if value is not None}
    np.savez(tmp_path / "mnist.npz", **arrays)
    return tmp_path / "mnist.npz"


def test_medmnists_layout_is_recognised(tmp_path: Path) -> None:
    path = medmnist(tmp_path)
    open_part, test_part = load_records(path, DATA), load_records(path, DATA, "test")
    assert (len(open_part.records), len(test_part.records)) == (7, 3)
    assert open_part.records.inputs.shape == (7, 1, 4, 6)
    assert open_part.records.labels.tolist() == [0, 1, 0, 1, 0, 0, 1]
    assert "each distinct image counts as one" in open_part.notes[0]
    assert not set(open_part.records.patients) & set(test_part.records.patients)


def test_a_copy_of_an_image_is_the_same_patient_wherever_it_is(tmp_path: Path) -> None:
    image = np.full((1, 4, 6), 7, dtype=np.uint8)
    train = np.concatenate([image, image, image + 1])
    path = medmnist(
        tmp_path, train_images=train, train_labels=np.asarray([[0], [0], [1]]), test_images=image.repeat(3, 0)
    )
    found = load_records(path, DATA).records
    assert found.patients[0] == found.patients[1] != found.patients[2]
    assert set(load_records(path, DATA, "test").records.patients) == {found.patients[0]}


def test_patients_that_are_given_are_taken(tmp_path: Path) -> None:
    named = {"train_patients": np.asarray(list("aabbc")), "val_patients": np.asarray(["c", "d"])}
    loaded = load_records(medmnist(tmp_path, **named), DATA)
    assert loaded.records.patients == tuple("aabbccd")
    assert loaded.notes == ()
    with pytest.raises(InvalidData, match="named in one of"):
        load_records(medmnist(tmp_path, train_patients=named["train_patients"]), DATA)


def test_colours_come_first_and_volumes_are_refused(tmp_path: Path) -> None:
    colours = np.zeros((3, 4, 6, 3), dtype=np.uint8)
    colours[..., 2] = 255
    found = load_records(
        medmnist(tmp_path, test_images=colours), DATA.model_copy(update={"input_shape": (3, 4, 6)}), "test"
    )
    assert found.records.inputs[0, :, 0, 0].tolist() == [-2.0, -2.0, 2.0]
    with pytest.raises(InvalidData, match="2-D"):
        load_records(medmnist(tmp_path, test_images=np.zeros((3, 4, 6, 4), dtype=np.uint8)), DATA, "test")
    with pytest.raises(InvalidData, match="one class an image"):
        load_records(medmnist(tmp_path, test_labels=np.zeros((3, 14), dtype=np.uint8)), DATA, "test")


def test_a_loader_tells_how_far_it_is(tmp_path: Path) -> None:
    for path in (medmnist(tmp_path), pairs(tmp_path)):
        told: list[tuple[int, int]] = []
        load_records(path, DATA, progress=lambda what, done, total, told=told: told.append((done, total)))  # type: ignore[misc]
        assert told[0][0] == 0
        assert told[-1][0] == told[-1][1] > 0
        assert told == sorted(told)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ([{"SeriesInstanceUID": "1.2.3"}, {"SeriesInstanceUID": "1.2.4"}], "more than one DICOM series"),
        ([{}, {"InstanceNumber": 1}], "the instance number of 1.dcm"),
        ([{}, {"InstanceNumber": None}], "without an instance number"),
    ],
    ids=["two-series", "one-number-twice", "no-number"],
)
def test_slices_that_would_be_counted_otherwise_than_in_the_index_are_refused(
    tmp_path: Path, tags: list[dict[str, Any]], words: str
) -> None:
    """Slices of a localiser among those of a scan: each mask would be of another image, and nobody would see it."""
    for number, changed in enumerate(tags, 1):
        dicom(tmp_path / "series" / f"{number}.dcm", RAMP // number, number, **changed)
    with pytest.raises(InvalidData, match=words):
        index(tmp_path, "file,slice,patient_id,target\nseries,0,a,ill\n")


def test_endings_in_capitals_are_the_same_format(tmp_path: Path) -> None:
    dicom(tmp_path / "CT.DCM", RAMP)
    np.testing.assert_allclose(index(tmp_path, HEADER + "CT.DCM,a,ill\n").records.inputs[0, 0], grey(RAMP), atol=1e-5)


@pytest.mark.parametrize("shift", [500.0, -4000.0])
def test_an_image_that_the_intensity_would_blank_is_refused(tmp_path: Path, shift: float) -> None:
    """Deep images without an intensity of their own would all be white, and train something."""
    dicom(tmp_path / "ct.dcm", RAMP, RescaleSlope="1", RescaleIntercept=str(shift))
    with pytest.raises(InvalidValue, match="all beyond the intensity of 0 to 255"):
        index(tmp_path, HEADER + "ct.dcm,a,ill\n")


def test_a_black_image_is_an_image(tmp_path: Path) -> None:
    png(tmp_path / "black.png", np.zeros((4, 6), dtype=np.uint8))
    assert (index(tmp_path, HEADER + "black.png,a,ill\n").records.inputs == -2.0).all()


def test_no_image_of_a_folder_is_left_out_without_a_word(tmp_path: Path) -> None:
    for part, values in (("images", RAMP), ("masks", (RAMP > 100).astype(np.uint8))):
        for name in ("one.png", "two.PNG"):
            png(tmp_path / "scans" / part / name, values)
    folder = tmp_path / "scans"
    data = DATA.model_copy(update={"task": "segmentation"})
    assert len(load_records(folder, data).records) == 2
    (folder / "images" / "Thumbs.db").write_text("x")
    assert len(load_records(folder, data).records) == 2, "what is no image is nobody's loss"
    png(folder / "images" / "two.png", RAMP)
    with pytest.raises(InvalidData, match="the same name as two"):
        load_records(folder, data)
    (folder / "images" / "two.png").unlink()
    Image.fromarray(RAMP.astype(np.uint8)).save(folder / "images" / "three.jpg")
    with pytest.raises(InvalidData, match="no mask for .three."):
        load_records(folder, data)
