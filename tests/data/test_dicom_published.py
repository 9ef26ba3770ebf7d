"""pydicom's own test files: each is read with the values that pydicom gives by itself, or is refused by its name."""

from __future__ import annotations

import collections
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom.data
import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_modality_lut

from secure_fedhelp.data.dicom import is_dicom, read_dicom
from secure_fedhelp.errors import InvalidData

FOLDER = Path(pydicom.data.__file__).parent / "test_files"
LOW, HIGH = -1000.0, 400.0
#: Some pixels of files that pydicom alone cannot unpack, by row and column. GDCM 3.2.6 and CharLS 2.4 give them too.
PUBLISHED = {
    "JPEG-lossy.dcm": {(420, 140): 244, (230, 120): 95},
    "JPGExtended.dcm": {(420, 140): 244, (230, 120): 95},
    "JPEGLSNearLossless_08.dcm": {(0, 0): 255, (10, 3): 65, (20, 7): 15, (40, 9): 0},
    "JPEGLSNearLossless_16.dcm": {(0, 0): 65535, (10, 3): 16385, (20, 7): 1025, (40, 9): 5},
}
Array = np.ndarray[Any, Any]


def by_pydicom(path: Path) -> Array | None:
    """[frames, rows, columns] as pydicom unpacks and rescales it, negatives turned; None where it cannot."""
    data = dcmread(path, force=True)
    try:
        stored = data.pixel_array
    except (RuntimeError, NotImplementedError, AttributeError):
        return None
    values = np.asarray(apply_modality_lut(stored, data), dtype=np.float64).reshape(-1, data.Rows, data.Columns)
    return LOW + HIGH - values if data.PhotometricInterpretation == "MONOCHROME1" else values


def test_every_file_is_right_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    counts: collections.Counter[str] = collections.Counter()
    compared = 0
    for path in sorted(FOLDER.rglob("*")):
        if not path.is_file():
            continue
        if not is_dicom(path):
            counts["no DICOM"] += 1
            continue
        refused = ""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = np.moveaxis(read_dicom(path, (LOW, HIGH)).values, -1, 0)
            except InvalidData as error:
                refused = error.message
            counts["refused" if refused else "read"] += 1
            if refused:
                assert path.name in refused
                assert "Error" not in refused, refused
                continue
            right = by_pydicom(path)
        if right is not None:
            np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-6, err_msg=path.name)
            compared += 1
        for where, value in PUBLISHED.get(path.name, {}).items():
            assert found[0][where] == value, path.name
    with capsys.disabled():
        print(f"\npydicom's test files: {dict(counts)}, {compared} compared with pydicom")
    assert counts["read"] >= 47
    assert counts["read"] + counts["refused"] >= 166
    assert compared >= 42


@pytest.mark.parametrize("other", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm"])
def test_one_image_compressed_in_three_ways_is_one_image(other: str) -> None:
    plain = read_dicom(FOLDER / "MR_small.dcm", (LOW, HIGH))
    packed = read_dicom(FOLDER / other, (LOW, HIGH))
    np.testing.assert_array_equal(plain.values, packed.values)
    np.testing.assert_array_equal(plain.affine, packed.affine)


def test_a_frame_of_another_size_than_the_header_is_seen_before_it_is_unpacked() -> None:
    """The file's own codestream claims 3.7 thousand million columns."""
    path = FOLDER / "JPEG2000-embedded-sequence-delimiter.dcm"
    frame = next(generate_frames(dcmread(path).PixelData, number_of_frames=1))
    assert int.from_bytes(frame[8:12], "big") == 0xDDE00100
    with pytest.raises(InvalidData, match="3722445056"):
        read_dicom(path, (LOW, HIGH))
