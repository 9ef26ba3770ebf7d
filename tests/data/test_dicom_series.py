"""A folder is one stack of slices in their order, or it is refused with the name of the slice that does not belong."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicoms import AXIAL, STORED, change, image, place, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from secure_fedhelp.data.dicom import read_dicom
from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import InvalidData

LOW, HIGH = -1000.0, 400.0


def series(folder: Path, slices: Sequence[dict[str, Any]]) -> Path:
    """One file a slice; the n-th has STORED + n for its numbers, and lies at 3 n mm, if ``slices`` do not say other."""
    for number, tags in enumerate(slices):
        file = image(STORED + number, **({"InstanceNumber": number + 1} | place(3 * number) | tags))
        save(folder / f"IM{number:04}", file)
    return folder


def read(path: Path) -> Volume:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_dicom(path, (LOW, HIGH))


def order(volume: Volume) -> list[float]:
    """Which file each slice came from."""
    return [float(value) - float(STORED[0, 0]) for value in volume.values[0, 0]]


def test_slices_lie_where_their_files_say(tmp_path: Path) -> None:
    found = read(series(tmp_path / "ct", [{}] * 4))
    assert order(found) == [0, 1, 2, 3]
    np.testing.assert_allclose(
        found.affine, [[0, -0.8, 0, 10], [-0.5, 0, 0, -20], [0, 0, 3, 0], [0, 0, 0, 1]], atol=1e-9
    )


def test_slices_from_head_to_foot_keep_the_order_of_their_numbers(tmp_path: Path) -> None:
    found = read(series(tmp_path / "ct", [place(-3 * n) for n in range(4)]))
    assert order(found) == [0, 1, 2, 3]
    assert found.affine is not None
    np.testing.assert_allclose(found.affine[:, 2], [0, 0, -3, 0])


def test_a_tilted_gantry_keeps_its_shear(tmp_path: Path) -> None:
    tilted = [{"ImagePositionPatient": [0.0, 0.7 * n, 2.5 * n]} for n in range(4)]
    found = read(series(tmp_path / "ct", tilted))
    assert found.affine is not None
    np.testing.assert_allclose(found.affine[:, 2], [0, -0.7, 2.5, 0], atol=1e-9)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.permutations(range(4)),
    st.sampled_from([AXIAL, [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1], [0.6, 0.8, 0, 0, 0, -1]]),
    st.sampled_from([1, -1]),
)
def test_each_pixel_lies_where_the_standard_says(
    tmp_path_factory: pytest.TempPathFactory, names: list[int], along: list[float], way: int
) -> None:
    """Equation C.7.6.2.1-1 of PS3.3, written out for one pixel of each slice; DICOM's left and back are minus ours."""
    folder = tmp_path_factory.mktemp("series")
    row, column = np.asarray(along[:3], dtype=float), np.asarray(along[3:], dtype=float)
    origins = [np.array([5.0, -7, 11]) + way * 2.5 * number * np.cross(row, column) for number in range(4)]
    for number, name in enumerate(names):
        tags = place(0, along=along) | {"ImagePositionPatient": list(origins[number]), "InstanceNumber": 10 * number}
        save(folder / f"{name}.dcm", image(STORED + number, **tags))
    found = read(folder)
    assert order(found) == [0, 1, 2, 3]
    for number, origin in enumerate(origins):
        patient = origin + row * 0.8 * 4 + column * 0.5 * 2  # column 4 of row 2; 0.8 mm from column to column
        assert found.affine is not None
        np.testing.assert_allclose(
            (found.affine @ [2, 4, number, 1])[:3], patient * [-1, -1, 1], atol=1e-9, err_msg=str(along)
        )


def test_negatives_and_slopes_are_of_each_slice(tmp_path: Path) -> None:
    tags = [
        {"RescaleSlope": "2", "RescaleIntercept": "-10"},
        {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "1", "RescaleIntercept": "0"},
        {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "0.5", "RescaleIntercept": "0"},
    ]
    found = read(series(tmp_path / "ct", tags)).values
    right = [STORED * 2.0 - 10, LOW + HIGH - (STORED + 1), LOW + HIGH - (STORED + 2) * 0.5]
    np.testing.assert_allclose(np.moveaxis(found, -1, 0), right, rtol=1e-6)


def test_without_any_instance_numbers_slices_follow_one_another_along_their_normal(tmp_path: Path) -> None:
    places = [place(z) | {"InstanceNumber": None} for z in (6, 0, 9, 3)]
    found = read(series(tmp_path / "ct", places))
    assert order(found) == [1, 3, 0, 2]
    assert found.affine is not None
    np.testing.assert_allclose(found.affine[2, 2:], [3, 0])


def test_without_places_slices_follow_their_instance_numbers(tmp_path: Path) -> None:
    tags = [{"ImagePositionPatient": None, "InstanceNumber": number} for number in (30, 10, 20)]
    found = read(series(tmp_path / "cr", tags))
    assert order(found) == [1, 2, 0]
    assert found.affine is None


def test_what_lies_beside_a_series_is_no_slice(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", [{}] * 3)
    for name in (".DS_Store", "notes.txt", "Thumbs.db"):
        (folder / name).write_bytes(b"x" * 300)
    listing = image(STORED, SOPClassUID=uid.MediaStorageDirectoryStorage, PixelData=..., Rows=...)
    save(folder / "DICOMDIR", listing)
    assert order(read(folder)) == [0, 1, 2]


def test_a_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    found = read(series(tmp_path / "ct", [{}]))
    assert found.values.shape == (4, 5, 1)
    assert found.affine is not None


def extra(folder: Path, stored: Any = STORED + 9, **tags: Any) -> None:
    save(folder / "XX", image(stored, **({"InstanceNumber": 9} | place(12) | tags)))


def again(folder: Path, tags: Sequence[dict[str, Any]]) -> None:
    """The slices of a folder with other tags, those of each."""
    for path, other in zip(sorted(folder.iterdir()), tags, strict=True):
        save(path, change(dcmread(path), **other))


HU = {"RescaleSlope": "1", "RescaleIntercept": "-1024"}


SAGITTAL = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0]
#: What is wrong with a folder of four slices, how it came to be, and words of the refusal.
WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "two series": (lambda f: extra(f, SeriesInstanceUID="1.2.3.5"), "more than one DICOM series"),
    "two patients": (lambda f: extra(f, PatientID="q"), "PatientID of XX and IM0000 differ"),
    "two studies": (lambda f: extra(f, StudyInstanceUID="1.9"), "StudyInstanceUID"),
    "two frames of reference": (lambda f: extra(f, FrameOfReferenceUID="1.9"), "FrameOfReferenceUID"),
    "two units": (lambda f: extra(f, RescaleType="US"), "RescaleType of XX"),
    "two kinds": (lambda f: extra(f, SOPClassUID=uid.SecondaryCaptureImageStorage), "SOPClassUID"),
    "another size": (lambda f: extra(f, STORED[:3]), "Rows of XX"),
    "another orientation": (lambda f: extra(f, **place(12, along=SAGITTAL)), "XX has .* of another orientation"),
    "another spacing": (
        lambda f: extra(f, **place(12, (0.5, 0.9))),
        "XX has columns of another orientation or spacing",
    ),
    "a localizer": (lambda f: extra(f, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer among slices"),
    "a missing slice": (lambda f: (f / "IM0002").unlink(), "a slice is missing between"),
    "a slice beside the line": (
        lambda f: extra(f, ImagePositionPatient=[-8.0, 20.0, 12.0]),
        "off even steps on one line",
    ),
    "a slice twice": (lambda f: (f / "copy").write_bytes((f / "IM0001").read_bytes()), "a copy of IM0001"),
    "two at one place": (lambda f: extra(f, **place(9)), "IM0003 and XX lie at one place"),
    "numbers that are not in order": (
        lambda f: extra(f, InstanceNumber=0),
        "the order of the slices is not how they lie",
    ),
    "a number twice": (lambda f: extra(f, InstanceNumber=2), "XX: the instance number of IM0001"),
    "no number": (lambda f: extra(f, InstanceNumber=None), "XX: a slice without an instance number, among others"),
    "no place": (lambda f: extra(f, ImagePositionPatient=None), "XX: it does not say where it lies"),
    "several frames": (lambda f: extra(f, np.stack([STORED, STORED])), "XX: 2 frames, in a series of 5 files"),
    "a slice in colour": (lambda f: extra(f, PhotometricInterpretation="PALETTE COLOR"), "XX: in colour by a palette"),
    "a report": (lambda f: extra(f, SOPClassUID=uid.BasicTextSRStorage), "XX: 'Basic Text SR"),
    "a damaged slice": (lambda f: (f / "IM0002").write_bytes((f / "IM0002").read_bytes()[:-8]), "IM0002: ends before"),
    "an empty slice": (lambda f: (f / "IM0002.dcm").write_bytes(b""), "IM0002.dcm: no DICOM by its content"),
    "a slice that says nothing of its scale": (
        lambda f: again(f, [HU, HU, {"RescaleSlope": None, "RescaleIntercept": None}, HU]),
        "IM0002 has no RescaleIntercept, IM0000 has -1024",
    ),
    "a slice without an intercept": (
        lambda f: again(f, [HU, HU, {"RescaleSlope": "1", "RescaleIntercept": None}, HU]),
        "IM0002 has no RescaleIntercept, IM0000 has -1024",
    ),
    "two times, one after the other": (
        lambda f: again(f, [place(0), place(3), place(0), place(3)]),
        "IM0000 and IM0002 lie at one place",
    ),
    "a folder within": (lambda f: (f / "more").mkdir(), "a folder within a series"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_folder_that_is_no_stack_of_one_series_is_refused(tmp_path: Path, what: str) -> None:
    folder = series(tmp_path / "ct", [{}] * 4)
    make, words = WRONG[what]
    make(folder)
    with pytest.raises(InvalidData, match=words) as raised:
        read(folder)
    assert raised.value.hint != InvalidData.default_hint


def test_slices_without_numbers_and_places_have_no_order(tmp_path: Path) -> None:
    folder = series(tmp_path / "cr", [{"ImagePositionPatient": None, "InstanceNumber": None}] * 2)
    with pytest.raises(InvalidData, match="without instance numbers that do not say where they lie"):
        read(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidData, match="no DICOM files in this folder"):
        read(tmp_path / "empty")


def test_a_gap_is_named_where_it_is(tmp_path: Path) -> None:
    """The slice that is furthest off even steps lies in the middle, wherever the gap is."""
    places = [place(3.0 * n) for n in (*range(9), 10)]
    with pytest.raises(InvalidData, match="a slice is missing between IM0008 and IM0009"):
        read(series(tmp_path / "ct", places))


def test_slices_in_the_wrong_order_are_not_called_copies(tmp_path: Path) -> None:
    """However far apart two that follow one another lie."""
    places = [place(0.1 * n) for n in (0, 299, *range(1, 299))]
    with pytest.raises(InvalidData, match="IM0002 lies before IM0001"):
        read(series(tmp_path / "ct", places))


def test_rounded_places_are_even_steps(tmp_path: Path) -> None:
    places = [place(round(0.6667 * n, 2)) for n in range(40)]
    assert len(order(read(series(tmp_path / "ct", places)))) == 40


def test_an_item_that_is_empty_is_none() -> None:
    from secure_fedhelp.data.dicom_tags import Tags

    assert Tags(change(Dataset(), ModalityLUTSequence=[]), "x").items("ModalityLUTSequence") == ()
