"""An image and its mask in space: brought to one grid by flips and orders of axes, or refused with both geometries."""

from __future__ import annotations

import warnings
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, ornt_transform
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from secure_fedhelp.data import volumes
from secure_fedhelp.data.geometry import describe, onto_grid, orientation
from secure_fedhelp.data.loaded import Loaded
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.sections import DataSection

Array = np.ndarray[Any, Any]
DATA = DataSection(
    dataset="scans",
    kind="image",
    task="segmentation",
    classes=("background", "lesion"),
    input_shape=(1, 5, 4),
    public_sha256="0" * 64,
    public_records=3,
)
#: Every order of three axes and every direction of each, as nibabel writes it: (axis, direction) of each stored axis.
ORIENTATIONS = [
    np.asarray([*zip(order, signs, strict=True)])
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
PLAIN = ORIENTATIONS[0]
#: Voxels of 1 x 1.5 x 3 mm, a little oblique: turned by 10 degrees about the axis from foot to head.
TURN = np.asarray([[0.98480775, -0.17364818, 0], [0.17364818, 0.98480775, 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3], AFFINE[:3, 3] = TURN @ np.diag([1.0, 1.5, 3.0]), (-20, 31, 7)


def lesion() -> Array:
    """[4, 5, 6] of a body without any symmetry."""
    found = np.zeros((4, 5, 6), dtype=np.uint8)
    found[0, 1, 1:5] = found[0:3, 2, 2] = found[1, 2:5, 3] = found[3, 0, 5] = 1
    return found


def turned(values: Array, affine: Array, to: Array) -> tuple[Array, Array]:
    """The same voxels in the same places, stored with other axes: nibabel's own rule, and not ours."""
    change = ornt_transform(PLAIN, to)
    return apply_orientation(values, change), affine @ inv_ornt_aff(change, values.shape)


def save(path: Path, values: Array, affine: Array | None, to: Array = PLAIN) -> Path:
    stored, where = (values, affine) if affine is None else turned(values, affine, to)
    nibabel.save(nibabel.Nifti1Image(stored, where), path)
    return path


def index(folder: Path, rows: list[tuple[str, int | str, str]], **change: Any) -> Loaded:
    lines = [f"{file},{number},{mask},p1" for file, number, mask in rows]
    (folder / "index.csv").write_text("\n".join(["file,slice,mask,patient_id", *lines]) + "\n")
    return load_records(folder / "index.csv", DATA.model_copy(update=change))


def dice(loaded: Loaded) -> float:
    """Between what is bright in the images and what the masks name."""
    bright, named = loaded.records.inputs[:, 0] > 0, loaded.records.labels == 1
    return float(2 * (bright & named).sum() / (bright.sum() + named.sum()))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image and its mask, each in all orientations."""
    folder = tmp_path_factory.mktemp("scans")
    for number, to in enumerate(ORIENTATIONS):
        save(folder / f"image{number}.nii", lesion() * np.int16(200), AFFINE, to)
        save(folder / f"mask{number}.nii", lesion(), AFFINE, to)
    return folder


def shape_of(path: Path) -> tuple[int, int, int]:
    x, y, z = nibabel.load(path).shape  # type: ignore[attr-defined]
    return y, x, z


@pytest.mark.parametrize("number", range(48))
def test_a_lesion_lies_under_its_mask_in_all_orientations(scans: Path, number: int) -> None:
    """The mask is turned against the image, and, in the same 48 cases, the image against the mask."""
    slices = [("image0.nii", z, f"mask{number}.nii") for z in range(6)]
    found = index(scans, slices)
    assert dice(found) == 1.0
    np.testing.assert_array_equal(found.records.labels, lesion().transpose(2, 1, 0))  # slices of the image's grid
    rows, columns, depth = shape_of(scans / f"image{number}.nii")
    back = index(scans, [(f"image{number}.nii", z, "mask0.nii") for z in range(depth)], input_shape=(1, rows, columns))
    assert dice(back) == 1.0
    assert back.records.labels.sum() == lesion().sum()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ORIENTATIONS),
    st.sampled_from(ORIENTATIONS),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.lists(st.floats(-1, 1), min_size=9, max_size=9),
)
def test_any_two_orientations_of_any_grid_are_brought_together(
    one: Array, other: Array, shape: tuple[int, int, int], oblique: list[float]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(np.reshape(oblique, (3, 3)) + 2 * np.eye(3))[0] @ np.diag([0.5, 1.25, 4])
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    image, mask = (Volume(*turned(values, affine, to)) for to in (one, other))
    np.testing.assert_array_equal(onto_grid(mask, image, "row 1"), image.values)


SHIFTED = AFFINE.copy()
SHIFTED[:3, 3] += (0.3, 0, 0)
WIDER = AFFINE @ np.diag([1.05, 1, 1, 1])
TILTED = np.eye(4)
TILTED[:3, :3] = TURN
TILTED = TILTED @ AFFINE
ELSEWHERE = {
    "shifted by a third of a voxel": (lesion(), SHIFTED),
    "voxels of another size": (lesion(), WIDER),
    "turned by ten degrees": (lesion(), TILTED),
    "the identity that a script wrote": (lesion(), np.eye(4)),
    "mirrored in its header alone": (lesion(), np.diag([-1.0, 1, 1, 1]) @ AFFINE),
    "fewer slices": (lesion()[:, :, :5], AFFINE),
    "a header that says nothing": (lesion(), None),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_mask_that_lies_elsewhere_is_refused_with_both_geometries(scans: Path, tmp_path: Path, kind: str) -> None:
    values, affine = ELSEWHERE[kind]
    (tmp_path / "image.nii").symlink_to(scans / "image0.nii")
    save(tmp_path / "mask.nii", values, affine)
    with pytest.raises(InvalidData, match="do not lie on one grid") as raised:
        index(tmp_path, [("image.nii", 0, "mask.nii")])
    assert "Image: RAS, 4 x 5 x 6 voxels of 1 x 1.5 x 3 mm, origin (-20.0, 31.0, 7.0) mm" in raised.value.message
    depth = values.shape[2]
    assert ("a corner is" in raised.value.message) == (affine is not None and values.shape == lesion().shape)
    words = f"4 x 5 x {depth} voxels" + (", which says nothing of how it lies" if affine is None else " of 1")
    assert words in raised.value.message.split("Mask: ")[1]


def test_rounding_of_headers_is_no_difference(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "image.nii").symlink_to(scans / "image0.nii")
    save(tmp_path / "mask.nii", lesion(), AFFINE + 1e-4 * np.vstack([np.ones((3, 4)), np.zeros((1, 4))]))
    assert dice(index(tmp_path, [("image.nii", 2, "mask.nii")])) == 1.0


def test_one_slice_has_no_thickness_to_disagree_about(tmp_path: Path) -> None:
    """Its third axis may have any length, or none."""
    save(tmp_path / "image.nii", lesion()[:, :, 2:3] * np.int16(200), AFFINE)
    save(tmp_path / "mask.nii", lesion()[:, :, 2:3], AFFINE @ np.diag([1, 1, 7, 1]), ORIENTATIONS[3])
    assert dice(index(tmp_path, [("image.nii", "", "mask.nii")])) == 1.0


def test_files_that_say_nothing_are_taken_as_stored_and_it_is_said(tmp_path: Path) -> None:
    save(tmp_path / "image.nii", lesion() * np.int16(200), None)
    save(tmp_path / "mask.nii", lesion(), None)
    found = index(tmp_path, [("image.nii", z, "mask.nii") for z in range(6)])
    assert dice(found) == 1.0
    (told,) = (note for note in found.notes if "masks are taken as stored" in note)
    assert "mask.nii" in told
    save(tmp_path / "mask.nii", lesion()[:, ::-1, :4], None)
    with pytest.raises(InvalidData, match="do not lie on one grid"):
        index(tmp_path, [("image.nii", 2, "mask.nii")])


def test_a_picture_of_a_slice_is_taken_as_stored_and_it_is_said(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "image.nii").symlink_to(scans / "image0.nii")
    Image.fromarray(lesion()[:, :, 2].T).save(tmp_path / "mask.png")
    found = index(tmp_path, [("image.nii", 2, "mask.png")])
    assert dice(found) == 1.0
    assert sum("as stored, pixel on pixel" in note for note in found.notes) == 1
    (tmp_path / "mask.nii").symlink_to(scans / "mask0.nii")
    Image.fromarray(lesion()[:, :, 3].T * 200).save(tmp_path / "image.png")
    found = index(tmp_path, [("image.png", 3, "mask.nii")])
    assert dice(found) == 1.0
    assert "as stored, pixel on pixel" in found.notes[0]


def test_a_card_says_how_volumes_lie_and_warns_where_they_differ(scans: Path) -> None:
    one = index(scans, [("image0.nii", z, "mask0.nii") for z in range(3)])
    assert len(one.notes) == 1
    assert "RAS" in one.notes[0]
    assert not one.turned
    two = index(scans, [("image0.nii", 0, "mask0.nii"), ("image0.nii", 1, "mask0.nii"), ("image4.nii", 0, "mask0.nii")])
    assert not two.notes
    assert two.turned.startswith("volumes lie in different ways")
    assert "RAS: 1 of them, image0.nii" in two.turned
    assert "LAS: 1 of them, image4.nii" in two.turned


def test_volumes_that_say_nothing_of_their_place_may_be_turned(tmp_path: Path) -> None:
    for name, affine in (("known", AFFINE), ("unknown", None)):
        save(tmp_path / f"{name}.nii", lesion(), affine)
    rows = [(f"{name}.nii", 1, f"{name}.nii") for name in ("known", "unknown")]
    assert "so some may be mirrored or turned. RAS: 1 of them" in index(tmp_path, rows, intensity=(0.0, 1.0)).turned


@pytest.mark.parametrize("to", ORIENTATIONS)
def test_orientations_have_the_names_that_nibabel_gives(to: Array) -> None:
    _, affine = turned(lesion(), AFFINE, to)
    assert orientation(affine) == "".join(aff2axcodes(affine))


def test_a_grid_in_words() -> None:
    axial = np.asarray([[0, -0.7, 0, 120], [-0.7, 0, 0, 90.25], [0, 0, 3, -60], [0, 0, 0, 1]])  # rows run backwards
    words = "LPS, 6 x 5 x 4 voxels of 0.7 x 0.7 x 3 mm, origin (120.0, 90.2, -60.0) mm right, anterior, superior"
    assert describe(Volume(np.zeros((5, 6, 4), dtype=np.float32), axial)) == words


def test_a_yes_or_no_mask_that_its_header_scales_is_its_class_numbers(scans: Path, tmp_path: Path) -> None:
    """0 and 255 with a slope of 1/255, which no float holds exactly: common, and not quite 1."""
    (tmp_path / "image.nii").symlink_to(scans / "image0.nii")
    mask = nibabel.Nifti1Image(lesion() * np.uint8(255), AFFINE)
    mask.header.set_slope_inter(1 / 255, 0)
    nibabel.save(mask, tmp_path / "mask.nii")
    stored = bytearray((tmp_path / "mask.nii").read_bytes())
    stored[352:] = (lesion() * np.uint8(255)).tobytes(order="F")
    stored[112:116] = np.float32(1 / 255).tobytes()
    (tmp_path / "mask.nii").write_bytes(stored)
    assert dice(index(tmp_path, [("image.nii", 2, "mask.nii")])) == 1.0


def test_the_libraries_warnings_are_said_once_on_the_card(scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = volumes.read_nifti

    def noisy(path: Path) -> Volume:
        for _ in range(90):
            warnings.warn("an odd value", stacklevel=2)
        for number in range(7):
            warnings.warn(f"of kind {number}", stacklevel=2)
        return read(path)

    monkeypatch.setattr(volumes, "read_nifti", noisy)
    with warnings.catch_warnings(record=True) as heard:
        found = index(scans, [("image0.nii", z, "mask0.nii") for z in range(3)])
    assert not heard
    assert found.notes[-1].startswith(
        "the readers of image files warn: 'an odd value' (180 times, first at image0.nii)"
    )
    assert found.notes[-1].endswith("'of kind 3' (2 times, first at image0.nii); and 3 others")


def dicom_series(folder: Path, values: Array, kind: str) -> None:
    """[x, y, z] as a CT of axial slices, first voxel at (20, -31, 7) of DICOM's axes left, posterior, superior."""
    folder.mkdir()
    study = generate_uid()
    for number in range(values.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.SeriesInstanceUID, file.FrameOfReferenceUID, file.InstanceNumber = study, study, number + 1
        file.Modality, file.Rows, file.Columns = kind, values.shape[1], values.shape[0]
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
        file.RescaleSlope, file.RescaleIntercept = "1", "0"
        file.PixelSpacing, file.ImageOrientationPatient = [1.5, 1.0], [1, 0, 0, 0, 1, 0]
        file.ImagePositionPatient, file.SliceThickness = [20, -31, 7 + 3 * number], "3"
        file.PixelData = values[:, :, number].T.astype("<i2").tobytes()
        file.save_as(folder / f"{generate_uid()}", enforce_file_format=True)


IN_DICOM = np.asarray([[-1.0, 0, 0, -20], [0, -1.5, 0, 31], [0, 0, 3, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("to", ORIENTATIONS[::5])
def test_a_dicom_series_and_a_nifti_mask_are_brought_together(tmp_path: Path, to: Array) -> None:
    """And the other way round, the mask a series."""
    dicom_series(tmp_path / "image", lesion() * np.int16(200), "CT")
    save(tmp_path / "mask.nii.gz", lesion(), IN_DICOM, to)
    found = index(tmp_path, [("image", z, "mask.nii.gz") for z in range(6)])
    assert dice(found) == 1.0
    np.testing.assert_array_equal(found.records.labels, lesion().transpose(2, 1, 0))
    dicom_series(tmp_path / "mask", lesion(), "CT")
    save(tmp_path / "image.nii", lesion() * np.int16(200), IN_DICOM, to)
    rows, columns, depth = shape_of(tmp_path / "image.nii")
    found = index(tmp_path, [("image.nii", z, "mask") for z in range(depth)], input_shape=(1, rows, columns))
    assert dice(found) == 1.0
    save(tmp_path / "mask.nii.gz", lesion(), np.diag([-1.0, 1, 1, 1]) @ IN_DICOM, to)
    with pytest.raises(InvalidData, match="Image: LPS, 4 x 5 x 6 voxels of 1 x 1.5 x 3 mm"):
        index(tmp_path, [("image", 0, "mask.nii.gz")])
