"""NIfTI files of every kind: the values that were put in, where they lie, or a named refusal."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from secure_fedhelp.data import nifti
from secure_fedhelp.data.formats import format_of
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.nifti import is_nifti, pixels_of, read_nifti
from secure_fedhelp.data.picture_sets import files_of
from secure_fedhelp.errors import FedHelpError, InvalidData
from secure_fedhelp.study.sections import DataSection

#: [x, y, z], no two sides alike and no two voxels equal.
STORED = np.arange(24).reshape(2, 3, 4)
#: As it must come out: rows along y, columns along x.
ROWS = STORED.swapaxes(0, 1).astype(np.float32)
SFORM = np.asarray([[-2.0, 0, 0, 30], [0, 3.0, 0, -40], [0, 0, 4.0, 50], [0, 0, 0, 1]])
Array = np.ndarray[Any, Any]


def header(values: Array = STORED, kind: str = "<i2", cls: Any = Nifti1Header, **fields: Any) -> Any:
    """A header of a single file whose sform is :data:`SFORM`; ``fields`` are its raw fields, set last."""
    made = cls(endianness=kind[0] if kind[0] in "<>" else "<")
    made.set_data_shape(values.shape)
    made.set_data_dtype(np.dtype(kind))
    made.set_sform(SFORM, 1)
    made["magic"] = cls().single_magic
    made["vox_offset"], made["xyzt_units"] = made.sizeof_hdr + 4, 2
    for name, value in fields.items():
        made[name] = value
    return made


def single(values: Array = STORED, kind: str = "<i2", cls: Any = Nifti1Header, **fields: Any) -> bytes:
    """The bytes of a file: header, no extensions, and the voxels with the first axis running fastest."""
    return bytes(header(values, kind, cls, **fields).binaryblock) + b"\0\0\0\0" + values.astype(kind).tobytes(order="F")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


FLOATS = np.linspace(-1.5, 2.25, 24).reshape(2, 3, 4)
RIGHT: dict[str, tuple[bytes, Array]] = {
    **{
        f"{order}{kind}": (single(kind=order + kind), ROWS)
        for order in "<>"
        for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
    },
    "negative whole numbers": (single(STORED - 100), ROWS - 100),
    "unsigned beyond the signed": (single(STORED + 65000, "<u2"), ROWS + 65000),
    "fractions": (single(FLOATS, "<f4"), FLOATS.swapaxes(0, 1)),
    "fractions in double": (single(FLOATS, ">f8"), FLOATS.swapaxes(0, 1)),
    "slope and intercept": (single(scl_slope=0.5, scl_inter=-1024), ROWS * 0.5 - 1024),
    "negative slope": (single(scl_slope=-2, scl_inter=3), ROWS * -2 + 3),
    "slope of fractions": (single(FLOATS, "<f4", scl_slope=10, scl_inter=1), FLOATS.swapaxes(0, 1) * 10 + 1),
    "slope 0 is none": (single(scl_slope=0, scl_inter=7), ROWS),
    "slope NaN is none": (single(scl_slope=np.nan, scl_inter=np.nan), ROWS),
    "intercept alone": (single(scl_slope=1, scl_inter=5), ROWS + 5),
    "NIfTI-2": (single(cls=Nifti2Header), ROWS),
    "NIfTI-2, big-endian, scaled": (single(kind=">i4", cls=Nifti2Header, scl_slope=2, scl_inter=0), ROWS * 2),
    "two axes": (single(STORED[:, :, 0]), ROWS[:, :, :1]),
    "a fourth axis of one": (single(STORED[..., None]), ROWS),
    "seven axes, four of one": (single(STORED.reshape(2, 3, 4, 1, 1, 1, 1)), ROWS),
    "a header extension": (
        bytes(header(vox_offset=368).binaryblock)
        + b"\1\0\0\0"
        + b"\x10\0\0\0\x06\0\0\0comment "
        + STORED.astype("<i2").tobytes("F"),
        ROWS,
    ),
    "statistics (an intent of one number a voxel)": (single(intent_code=5), ROWS),
    "bytes after the last voxel": (single() + b"more", ROWS),
    "quaternion factor 0": (single(sform_code=0, qform_code=1, pixdim=[0, 2, 3, 4, 1, 1, 1, 1]), ROWS),
}


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_values_are_those_that_were_put_in(tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]) -> None:
    """Under a name that says nothing: the content decides."""
    data, wanted = RIGHT[kind]
    path = write(tmp_path / "IM0001", pack(data))
    assert format_of(path) == "NIfTI"
    found = read_nifti(path).values
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


REFUSED: dict[str, tuple[bytes, str]] = {
    "points in time": (single(np.zeros((2, 3, 4, 5))), "5 points in time"),
    "a vector a voxel": (single(np.zeros((2, 3, 4, 1, 3))), "several numbers a voxel"),
    "a vector by intent": (single(intent_code=1007), "intent is 'vector'"),
    "a quaternion by intent": (single(intent_code=1010), "intent is 'quaternion'"),
    "a surface by intent": (single(intent_code=1009), "intent is 'triangle'"),
    "CIFTI": (single(intent_code=3001), "no image of one number a voxel"),
    "colours": (single(datatype=128, bitpix=24), r"colours \(RGB\)"),
    "colours and alpha": (single(datatype=2304, bitpix=32), r"colours \(RGBA\)"),
    "complex": (single(kind="<c8"), "complex numbers"),
    "complex in double": (single(kind="<c16"), "complex numbers"),
    "bits": (single(datatype=1, bitpix=1), "single bits"),
    "quadruple": (single(datatype=1536, bitpix=128), "128 bits"),
    "unknown type": (single(datatype=77), "unknown type 77"),
    "NaN": (single(np.where(STORED == 5, np.nan, 1.0), "<f4"), "1 of 24 voxels are NaN"),
    "infinity": (single(np.where(STORED > 21, np.inf, 1.0), "<f8"), "2 of 24 voxels are NaN or infinite"),
    "beyond float32": (single(np.full((2, 3, 4), 1e200), "<f8"), "24 of 24 voxels are NaN or infinite"),
    "an intercept of NaN": (single(scl_slope=2, scl_inter=np.nan), "slope of 2 with an intercept of nan"),
    "one axis": (single(STORED[:, 0, 0]), "two axes or three"),
    "no voxels": (single(dim=[3, 2, 0, 4, 1, 1, 1, 1]), "two axes or three"),
    "a negative side": (single(dim=[3, 2, -3, 4, 1, 1, 1, 1]), "two axes or three"),
    "nine axes": (single(dim=[9, 2, 3, 4, 1, 1, 1, 1]), "two axes or three"),
    "larger than memory": (single(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "at most 536870912 in all"),
    "NIfTI-2, larger than a number": (
        single(cls=Nifti2Header, dim=[3, 2**40, 2**40, 2**40, 1, 1, 1, 1]),
        "at most 536870912 in all",
    ),
    "truncated": (single()[:-1], "ends before its last voxel"),
    "an offset within the header": (single(vox_offset=0), "begin at byte 0"),
    "an offset far away": (single(vox_offset=2**40), "begin at byte 1099511627776"),
    "a negative offset": (single(vox_offset=-8), "begin at byte -8"),
    "a flat sform": (single(srow_x=[0, 0, 0, 0]), "sform has axes of no length"),
    "a sform in one plane": (single(srow_x=[1, 1, 0, 0], srow_y=[0, 0, 1, 0], srow_z=[0, 0, 0, 0]), "all in one plane"),
    "a sform of NaN": (single(srow_x=[np.nan, 0, 0, 0]), "sform has axes"),
    "quaternions that turn nothing": (single(sform_code=0, qform_code=1, quatern_b=3), "contradicts itself"),
    "a quaternion factor of 3": (
        single(sform_code=0, qform_code=1, pixdim=[3, 1, 1, 1, 1, 1, 1, 1]),
        "contradicts itself",
    ),
    "qform and sform that mirror": (
        single(qform_code=1, pixdim=[1, 2, 3, 4, 1, 1, 1, 1]),  # R by the qform, L by the sform
        "LAS by its sform and RAS by its qform",
    ),
    "a unit that nobody knows": (single(xyzt_units=6), "unknown unit"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    data, words = REFUSED[kind]
    with pytest.raises(InvalidData, match=words) as raised:
        read_nifti(write(tmp_path / "scan.nii", data))
    assert "Error" not in raised.value.message
    assert "scan.nii" in raised.value.message
    assert raised.value.hint != InvalidData.default_hint  # which does not say what is to be done


NOISE = np.random.default_rng(0).integers(0, 30000, (8, 9, 10))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(single(NOISE))[:-20], "ends before its last voxel"),
        (gzip.compress(single(NOISE))[:-8] + b"\0" * 8, "gzip cannot unpack it"),
    ],
)
def test_a_damaged_package_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(InvalidData, match=words):
        read_nifti(write(tmp_path / "scan.nii.gz", data))


@pytest.mark.parametrize("pack", [None, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("cls", [Nifti1Header, Nifti2Header])
def test_a_pair_is_read_by_its_header(tmp_path: Path, cls: Any, pack: Any) -> None:
    magic = {Nifti1Header: b"ni1", Nifti2Header: b"ni2\0\r\n\x1a\n"}[cls]
    path = write(tmp_path / "scan.hdr", bytes(header(cls=cls, magic=magic, vox_offset=0).binaryblock))
    with pytest.raises(InvalidData, match=r"scan\.img is missing"):
        read_nifti(path)
    voxels = STORED.astype("<i2").tobytes("F")
    image = tmp_path / ("scan.img.gz" if pack else "scan.img")
    write(image, pack(voxels) if pack else voxels)
    assert (format_of(path), pixels_of(path)) == ("NIfTI", image)
    np.testing.assert_array_equal(read_nifti(path).values, ROWS)
    (tmp_path / "index.csv").write_text("file,patient_id,target\nscan.hdr,p1,ill\n")
    assert set(files_of(tmp_path / "index.csv").values()) == {tmp_path / "index.csv", path, image}
    with pytest.raises(InvalidData) as raised:
        format_of(image.rename(tmp_path / "other.img"))
    assert "name its header" in raised.value.hint


@pytest.mark.parametrize("pack", ["", ".gz"], ids=["plain", "gzip"])
def test_the_voxels_of_a_pair_are_no_image_of_their_own_in_a_folder(tmp_path: Path, pack: str) -> None:
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        nibabel.save(nibabel.Nifti1Pair(STORED[..., :1].astype(np.int16) % 2, np.eye(4)), tmp_path / part / "a.hdr")
        for half in (tmp_path / part).iterdir():
            if pack:
                write(half.with_name(half.name + pack), gzip.compress(half.read_bytes()))
                half.unlink()
    data = DataSection(
        dataset="scans", kind="image", task="segmentation", classes=("no", "yes"),
        input_shape=(1, *ROWS.shape[:2]), public_sha256="0" * 64, public_records=1,
    )  # fmt: skip
    (found,) = load_records(tmp_path, data).records.labels
    np.testing.assert_array_equal(found, ROWS[..., 0] % 2)


def affine_of(tmp_path: Path, **fields: Any) -> Any:
    return read_nifti(write(tmp_path / "scan.nii", single(**fields))).affine


def test_places_are_in_millimetres_whatever_the_unit(tmp_path: Path) -> None:
    row, column, number = 2, 1, 3
    wanted = SFORM @ (column, row, number, 1)
    for unit, factor in {0: 1, 2: 1, 1: 1000, 3: 0.001, 2 + 8: 1}.items():
        found = affine_of(tmp_path, xyzt_units=unit) @ (row, column, number, 1)
        np.testing.assert_allclose(found[:3], wanted[:3] * factor, rtol=1e-6)


def test_a_qform_alone_says_where_voxels_are(tmp_path: Path) -> None:
    turned = {"quatern_d": 1.0, "qoffset_x": 5.0, "pixdim": [-1, 2, 3, 4, 1, 1, 1, 1]}  # by 180 degrees about z
    found = affine_of(tmp_path, sform_code=0, qform_code=1, **turned)
    np.testing.assert_allclose(found @ (2, 1, 3, 1), [5 - 2, -6, -12, 1], atol=1e-6)


def test_no_axes_are_made_up_where_a_file_names_none(tmp_path: Path) -> None:
    assert affine_of(tmp_path, sform_code=0, qform_code=0) is None


def test_the_sform_is_taken_where_the_qform_is_only_a_little_off(tmp_path: Path) -> None:
    """As after a registration to a template: nibabel's rule."""
    made = header()
    made.set_qform(np.diag([-2.0, 3.0, 4.0, 1.0]), 1)
    found = read_nifti(
        write(tmp_path / "scan.nii", bytes(made.binaryblock) + b"\0" * 4 + STORED.astype("<i2").tobytes("F"))
    )
    assert found.affine is not None
    np.testing.assert_allclose(found.affine[:, [1, 0, 2, 3]], SFORM)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.hdr", bytes(header(magic=b"").binaryblock), "Analyze 7.5"),
        ("a.nii", bz2.compress(single()), "packed by bzip2"),
        ("a.nii.gz", gzip.compress(b"no image"), "packed by gzip, with no NIfTI inside"),
        ("a.nii", b"", "an empty file; not a readable PNG, JPEG, DICOM or NIfTI"),
        ("a.zip", b"PK\3\4" + b"\0" * 400, "packed as ZIP"),
        ("a.nii", single()[:200], "not a readable"),
    ],
)
def test_relatives_of_nifti_are_named(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    path = write(tmp_path / name, data)
    assert not is_nifti(path)
    with pytest.raises(InvalidData, match=words):
        format_of(path)


def test_a_large_claim_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "scan.nii.gz", gzip.compress(single()))
    monkeypatch.setattr(nifti, "LARGEST_VOXELS", 23)
    monkeypatch.setattr(nifti, "_values", lambda *_: pytest.fail("read"))
    with pytest.raises(InvalidData, match="2 x 3 x 4 voxels, at most 23"):
        read_nifti(path)


def test_nibabels_own_files_are_read_right_or_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(nibabel.__file__).parent / "tests" / "data"
    right, refused = [], dict[str, str]()
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            continue
        try:
            form = format_of(path)
            if form != "NIfTI":
                continue  # DICOM has tests of its own
            found = read_nifti(path)
        except FedHelpError as error:
            refused[path.name] = error.message
            continue
        theirs: Any = nibabel.load(path)
        np.testing.assert_allclose(found.values, theirs.get_fdata().swapaxes(0, 1).astype(np.float32), rtol=1e-6)
        assert found.affine is not None
        np.testing.assert_allclose(found.affine[:, [1, 0, 2, 3]], theirs.affine)
        right.append(path.name)
    with capsys.disabled():
        print(f"\nnibabel {nibabel.__version__}: {len(right)} files read right, {len(refused)} refused by name")
    assert all(name in message and "Error" not in message for name, message in refused.items())
    volumes = {path.name for path in folder.glob("*.nii*")}
    assert volumes <= {*right, *refused}
    print(right, *refused.values(), sep="\n")
    assert right == ["anatomical.nii", "reoriented_anat_moved.nii", "standard.nii.gz"]
    assert len(refused) > 60
