"""What a file is, by its content: an ending is a name, and names are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast, get_args

from secure_fedhelp.data.dicom import is_dicom
from secure_fedhelp.data.nifti import is_nifti
from secure_fedhelp.data.volume import UNREADABLE
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.reading import VOLUME, open_bounded

Format = Literal["PNG", "JPEG", "DICOM", "NIfTI"]
EMPTY = "an empty file"
#: So are the files of office programs.
ZIP = "packed as ZIP"
READ = "PNG, JPEG, DICOM or NIfTI"
_STARTS: tuple[tuple[bytes, str], ...] = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"))
#: First bytes of image formats that are not read, for an error that names them.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", "a GIF"),
    *((start, "a TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (b"\xff\x0a", "a JPEG XL file"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL file"),
    (b"8BPS", "a Photoshop file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file, as MINC 2 is"),
    (b"CDF\1", "a netCDF file, as MINC 1 is"),
    (b"NRRD0", "an NRRD"),
    (b"ObjectType", "a MetaImage"),
    (b"\0\0\0\x01", "a FreeSurfer MGH volume"),
    (b"\x8aMNG", "an MNG"),
    *((b"P%d\n" % number, "a portable anymap") for number in range(1, 8)),
    (b"# === DATA DESCRIPTION FILE", "a Philips PAR file"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", ZIP),
    (b"BZh", "packed by bzip2"),
    (b"\xfd7zXZ", "packed by xz"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd"),
    (b"\x1f\x8b", "packed by gzip, with no NIfTI inside"),
)
#: Length of a NIfTI-1 or Analyze header, the longest that is looked at.
_HEADER = 348
#: Endings that promise an image: such a file is named where its content is none, instead of being left out.
ENDINGS = (
    *(
        ".png",
        ".jpg",
        ".jpeg",
        ".dcm",
        ".dicom",
        ".nii.gz",
        ".nii",
        ".hdr.gz",
        ".hdr",
        ".gz",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
    ),
    *(".webp", ".npy", ".ima", ".jpe", ".jfif"),
)


def format_of(path: Path) -> Format:
    """The format of a file that is read, or DICOM for a folder, which is a series; InvalidData names any other."""
    found = _format(path)
    for name in get_args(Format):
        if found == name:
            return cast(Format, name)
    what = f"{found}; " if found == EMPTY else f"by its content {found}; " if found else "by its content "
    hint = "Convert it without loss, or take it away."
    if found == EMPTY:
        hint = "Export or fetch it again. Nothing was spent."
    elif found.startswith("packed"):
        hint = "Unpack it. Nothing was spent."
    if path.suffix.lower() == ".img":
        hint = f"If it is half of a NIfTI pair, name its header: {path.with_suffix('.hdr').name}."
    raise InvalidData(f"{path}: {what}not a readable {READ}", hint)


def promises_image(path: Path) -> bool:
    """Whether a file is an image by its content, read or not, or says by its ending that it is one."""
    return path.name.lower().endswith(ENDINGS) or _format(path) not in ("", EMPTY, ZIP)


def stem_of(path: Path) -> str:
    """A file's name without the ending of an image; names such as 1.2.840.17 have none."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.name


def _format(path: Path) -> str:
    """A format that is read, words for another one, or nothing for what is no image."""
    if path.is_dir():
        return "DICOM"
    try:
        if path.exists() and not path.is_file():
            raise InvalidData(f"{path}: no regular file", UNREADABLE)
        # A DICOM file may begin with the first bytes of a TIFF, for programs that read either.
        if is_dicom(path):
            return "DICOM"
        if is_nifti(path):
            return "NIfTI"
        with open_bounded(path, VOLUME) as file:
            start = file.read(_HEADER)
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or error}", UNREADABLE) from error
    for first, name in (*_STARTS, *_OTHERS):
        if start.startswith(first):
            return name
    if not start:
        return EMPTY
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP"
    if start[:2] == b"BM" and start[6:10] == b"\0\0\0\0":
        return "a Windows bitmap"
    if start[4:8] == b"ftyp":
        return "a HEIF or AVIF"
    if len(start) == _HEADER and start[:4] in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        return "an Analyze 7.5 header, which does not say which side is left"
    return ""
