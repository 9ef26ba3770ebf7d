"""NIfTI-1 and NIfTI-2 through nibabel's headers: raw values as the file scales them, and where they lie.

What is understood is listed here; everything else is refused by name. The header is judged before a voxel is read or
unpacked, so that a small file cannot claim the machine's memory. Source: the comments of nifti1.h and nifti2.h (NIfTI
Data Format Working Group).
"""

from __future__ import annotations

import gzip
import importlib.util
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.geometry import is_flat, orientation, turned
from secure_fedhelp.data.volume import UNREADABLE, Volume
from secure_fedhelp.errors import FedHelpError, InvalidData, MissingExtra
from secure_fedhelp.study.reading import VOLUME, open_bounded

#: More voxels than this are refused before they are read: 2 GiB of float32.
LARGEST_VOXELS = 2**29
#: A header and its extensions end before this byte.
_LARGEST_OFFSET = 64 * 2**20
#: Bytes of a packed file that hold its header.
_LOOKED_AT = 2**16
_GZIP = b"\x1f\x8b"
#: (size of the header, where its magic is, magic) to whether the voxels are in the same file.
_MAGIC = {
    (348, 344, b"n+1\0"): True,
    (348, 344, b"ni1\0"): False,
    (540, 4, b"n+2\0\r\n\x1a\n"): True,
    (540, 4, b"ni2\0\r\n\x1a\n"): False,
}
#: Data types that are read: whole numbers of 8 to 64 bits with and without a sign, and floats of 32 and 64 bits.
_NUMBERS = frozenset({2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280})
_OTHER_TYPES = {
    1: "single bits",
    32: "complex numbers",
    128: "colours (RGB)",
    1536: "floats of 128 bits",
    1792: "complex numbers",
    2048: "complex numbers",
    2304: "colours (RGBA)",
}
#: Intents whose voxels are one number each: none, statistics (2 to 24), estimate, label, neuroname, no dimension.
_INTENTS = frozenset({0, *range(2, 25), 1001, 1002, 1003, 1011})
_AGAIN = "Export or fetch it again from its source. Nothing was spent."
_ONE_NUMBER = "Save what is meant as a volume of two or three axes, with one number a voxel. Nothing was spent."
_SMALLER = "Save the part that is meant, or coarser voxels, in every hospital alike. Nothing was spent."
#: Codes of the unit of length, to millimetres; a file that names none means millimetres.
_MILLIMETRES = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI (packed by gzip or not, or the header of a pair), by its content; raises OSError."""
    return _magic(first_bytes(path)) is not None


def first_bytes(path: Path, length: int = 540) -> bytes:
    """The first bytes of a file, unpacked where gzip packed it; raises OSError."""
    with open_bounded(path, VOLUME) as file:
        start = file.read(_LOOKED_AT)
    if start.startswith(_GZIP):
        try:
            return zlib.decompressobj(wbits=31).decompress(start, length)
        except zlib.error:
            return b""
    return start[:length]


def pixels_of(path: Path) -> Path:
    """Where the voxels of a NIfTI file are: in itself, or beside the header of a pair (``.img``, ``.img.gz``)."""
    found = _magic(first_bytes(path))
    if found is None or _MAGIC[found]:
        return path
    stem = path.name.removesuffix(".gz")
    stem = stem[: -len(".hdr")] if stem.lower().endswith(".hdr") else stem
    beside = [path.with_name(stem + ending) for ending in (".img", ".img.gz", ".IMG")]
    for candidate in beside:
        if candidate.is_file():
            return candidate
    raise InvalidData(
        f"{path}: the header of a pair whose image {beside[0].name} is missing", "Put it beside the header."
    )


def is_half(path: Path) -> bool:
    """Whether a file has the voxels of a pair whose header lies beside it."""
    stem, _, ending = path.name.removesuffix(".gz").rpartition(".")
    beside = (path.with_name(stem + end) for end in (".hdr", ".hdr.gz", ".HDR"))
    return ending.lower() == "img" and any(pixels_of(header) == path for header in beside if header.is_file())


def read_nifti(path: Path) -> Volume:
    """The volume of a NIfTI file; rows run along the second stored axis, columns along the first, slices the third.

    Raises MissingExtra without nibabel, and InvalidData, with the reason, for what is not understood.
    """
    if importlib.util.find_spec("nibabel") is None:
        raise MissingExtra(f"{path.name}: NIfTI files need nibabel, of the extra 'imaging'")
    from nibabel.spatialimages import HeaderDataError

    try:
        header = _header(path)
        shape = _shape(header, path.name)
        _require_numbers(header, path.name)
        slope, intercept = _scale(header, path.name)
        affine = _affine(header, shape, path.name)
        values = _values(header, shape, path, slope, intercept)
    except FedHelpError:
        raise
    except EOFError as error:
        raise InvalidData(f"{path}: ends before its last voxel", _AGAIN) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InvalidData(f"{path}: damaged, gzip cannot unpack it ({error})", _AGAIN) from error
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}", UNREADABLE) from error
    except (HeaderDataError, ValueError, ArithmeticError) as error:
        raise InvalidData(f"{path}: a NIfTI header that contradicts itself: {error}", _AGAIN) from error
    if not np.isfinite(values).all():
        count = int(values.size - np.isfinite(values).sum())
        hint = "Replace them by the value of the background, in every hospital alike. Nothing was spent."
        raise InvalidData(f"{path.name}: {count} of {values.size} voxels are NaN or infinite", hint)
    return Volume(values, affine)


def _magic(start: bytes) -> tuple[int, int, bytes] | None:
    for size, place, magic in _MAGIC:
        whole = len(start) >= size and start[place : place + len(magic)] == magic
        if whole and size in (struct.unpack("<i", start[:4])[0], struct.unpack(">i", start[:4])[0]):
            return size, place, magic
    return None


def _header(path: Path) -> Any:
    """nibabel's header, unmended: its own checks would repair some faults and write others to the terminal."""
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

    start = first_bytes(path)
    found = _magic(start)
    if found is None:
        raise InvalidData(f"{path.name}: no NIfTI file", _AGAIN)
    size, together = found[0], _MAGIC[found]
    kinds = {348: (Nifti1PairHeader, Nifti1Header), 540: (Nifti2PairHeader, Nifti2Header)}
    kind: Any = kinds[size][together]
    return kind(binaryblock=start[:size], check=False)


def _shape(header: Any, name: str) -> tuple[int, int, int]:
    """Voxels along the three axes; InvalidData for more axes, for none, and for more voxels than are read."""
    dim = [int(number) for number in header["dim"]]
    axes, rest = dim[1 : dim[0] + 1], dim[4 : dim[0] + 1]
    if not 2 <= dim[0] <= 7 or min(axes) < 1:
        raise InvalidData(
            f"{name}: dimensions {dim[: max(dim[0], 0) + 1]}; an image has two axes or three", _ONE_NUMBER
        )
    if (intent := int(header["intent_code"])) not in _INTENTS:
        what = header.get_intent()[0] or f"code {intent}"
        raise InvalidData(f"{name}: its intent is '{what}', which is no image of one number a voxel", _ONE_NUMBER)
    if any(size > 1 for size in rest):
        kind = f"{rest[0]} points in time" if rest[0] > 1 else "several numbers a voxel"
        hint = "Save the volume that is meant as a file of its own."
        raise InvalidData(f"{name}: {' x '.join(map(str, axes))} voxels, so {kind}; one volume is read", hint)
    x, y, z = (*axes, 1)[:3]
    if x * y * z > LARGEST_VOXELS:
        raise InvalidData(f"{name}: {x} x {y} x {z} voxels, at most {LARGEST_VOXELS} in all", _SMALLER)
    return x, y, z


def _require_numbers(header: Any, name: str) -> None:
    if (code := int(header["datatype"])) not in _NUMBERS:
        what = _OTHER_TYPES.get(code, f"of the unknown type {code}")
        raise InvalidData(f"{name}: its voxels are {what}, which are not read", _ONE_NUMBER)


def _scale(header: Any, name: str) -> tuple[float, float]:
    """Slope and intercept of the stored numbers; a slope of 0 (or none) says that they are the values themselves."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(intercept):
        said = f"a slope of {slope:g} with an intercept of {intercept:g} (scl_slope, scl_inter)"
        raise InvalidData(f"{name}: {said}", _AGAIN)
    return slope, intercept


def _affine(header: Any, shape: tuple[int, int, int], name: str) -> NDArray[np.float64] | None:
    """From (row, column, slice, 1) to millimetres, or None where neither qform nor sform is set.

    Where both are set the sform is taken, as nibabel does; InvalidData where the two mirror or turn one another.
    nibabel would make up axes where neither is set, and leaves metres and micrometres as they are.
    """
    if header["pixdim"][0] == 0:  # the standard: 0 stands for 1
        header["pixdim"][0] = 1
    found: dict[str, NDArray[np.float64]] = {}
    for form in ("sform", "qform"):
        if header[f"{form}_code"] > 0:
            matrix = np.asarray(getattr(header, f"get_{form}")(), dtype=np.float64)
            if not np.isfinite(matrix).all() or is_flat(matrix, shape):
                raise InvalidData(f"{name}: its {form} has axes of no length, or all in one plane", _SET_AGAIN)
            found[form] = matrix
    if not found:
        return None
    if len(found) == 2 and turned(found["sform"], found["qform"], shape):
        both = " and ".join(f"{orientation(matrix)} by its {form}" for form, matrix in found.items())
        raise InvalidData(f"{name}: {both}; which one is so, nobody can tell", _SET_AGAIN)
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MILLIMETRES:
        raise InvalidData(f"{name}: lengths in an unknown unit (code {unit} in xyzt_units)", _SET_AGAIN)
    affine = (found["sform"] if "sform" in found else found["qform"])[:, [1, 0, 2, 3]]
    affine[:3] *= _MILLIMETRES[unit]
    return affine


_SET_AGAIN = "Export it again from its source, with one statement of how it lies. Nothing was spent."


def _values(
    header: Any, shape: tuple[int, int, int], path: Path, slope: float, intercept: float
) -> NDArray[np.float32]:
    """float32 [rows, columns, slices], scaled in double precision slice by slice."""
    from nibabel.volumeutils import array_from_file

    pixels, offset, kind = pixels_of(path), int(header.get_data_offset()), header.get_data_dtype()
    if not 0 <= offset <= _LARGEST_OFFSET or (pixels == path and offset < header.sizeof_hdr):
        raise InvalidData(f"{path.name}: its voxels would begin at byte {offset} (vox_offset)", _AGAIN)
    with open_bounded(pixels, VOLUME) as file:
        packed = file.read(2) == _GZIP
        file.seek(0)
        if not packed and pixels.stat().st_size < offset + int(np.prod(shape)) * kind.itemsize:
            raise EOFError
        source: Any = gzip.GzipFile(fileobj=file) if packed else file
        stored = array_from_file(shape, kind, source, offset, order="F", mmap=not packed)
        if packed:
            source.read(1)  # at the end gzip compares its checksum
    values = np.empty((shape[1], shape[0], shape[2]), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what no float32 holds is refused as infinite
        for number in range(shape[2]):
            plane = stored[:, :, number].T
            values[:, :, number] = plane if (slope, intercept) == (1, 0) else plane * np.float64(slope) + intercept
    return values
