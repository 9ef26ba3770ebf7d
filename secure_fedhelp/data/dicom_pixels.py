"""The stored numbers of a DICOM file, frame by frame: transfer syntaxes that are read, and what is checked before.

Sizes and depths that the header, the length of the data and each compressed frame declare must agree before a decoder
sees a byte: decoders are C and trust what they are told. Unused high bits are cut off (PS3.5, 8.1.1).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.dicom_codestream import Codestream, is_whole, jpeg, jpeg2000
from secure_fedhelp.data.dicom_tags import Tags
from secure_fedhelp.errors import InvalidData, MissingExtra

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
#: A file may be so much longer than its pixels: 256 MiB of header, thumbnails and what stands behind.
_REST = 2**28
_AGAIN = "Export or fetch the file again. Nothing was trained and nothing was spent."
_FROM_SOURCE = "Export it again from its source, with all tags of its pixels, or leave it out. Nothing was spent."
_RECODE = "Save it uncompressed (Explicit VR Little Endian), for instance with DCMTK or GDCM. Nothing was spent."


@dataclass(frozen=True)
class _Codec:
    """How one transfer syntax is unpacked by imagecodecs, whose codecs all have free licences."""

    #: The function of imagecodecs.
    name: str
    #: What a frame says of itself, and the start-of-frame markers that it may have; JPEG 2000 has none.
    header: Callable[[bytes], Codestream | None]
    processes: tuple[int, ...] = (0,)
    lossless: bool = True


RLE, _JPEG = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4."
_CODECS = {
    _JPEG + "50": _Codec("jpeg8_decode", jpeg, (0xC0,), lossless=False),
    _JPEG + "51": _Codec("jpeg8_decode", jpeg, (0xC0, 0xC1), lossless=False),
    _JPEG + "57": _Codec("jpeg8_decode", jpeg, (0xC3,)),
    _JPEG + "70": _Codec("jpeg8_decode", jpeg, (0xC3,)),
    _JPEG + "80": _Codec("jpegls_decode", jpeg, (0xF7,)),
    _JPEG + "81": _Codec("jpegls_decode", jpeg, (0xF7,), lossless=False),
    _JPEG + "90": _Codec("jpeg2k_decode", jpeg2000),
    _JPEG + "91": _Codec("jpeg2k_decode", jpeg2000, lossless=False),
    _JPEG + "201": _Codec("jpeg2k_decode", jpeg2000),
    _JPEG + "202": _Codec("jpeg2k_decode", jpeg2000),
    _JPEG + "203": _Codec("jpeg2k_decode", jpeg2000, lossless=False),
}
#: Every transfer syntax that is read.
SYNTAXES = (*_NATIVE, RLE, *_CODECS)
_KINDS = {"PixelData": (8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}
_NEEDED = (
    *(
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "NumberOfFrames",
        "BitsAllocated",
        "BitsStored",
    ),
    *("HighBit", "PixelRepresentation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", *_KINDS),
)


def syntax_of(header: Tags) -> str:
    """The UID of the transfer syntax; as the file is in fact written where it does not name one."""
    meta = getattr(header.data, "file_meta", None)
    named = Tags(meta, header.where).text("TransferSyntaxUID") if meta is not None else ""
    if named:
        return named
    implicit, little = header.data.original_encoding
    return BIG_ENDIAN if not little else IMPLICIT if implicit else EXPLICIT


def stored_frames(path: Path, header: Tags, count: int) -> Iterator[NDArray[Any]]:
    """[rows, columns] of whole numbers or floats for each of ``count`` frames. Raises InvalidData or MissingExtra."""
    from pydicom import dcmread

    syntax = _known(syntax_of(header), header.where)
    if path.stat().st_size > (header.whole("Rows") or 0) * (header.whole("Columns") or 0) * count * 8 + _REST:
        raise InvalidData(f"{header.where}: far longer than the pixels that it declares", _AGAIN)
    data = dcmread(path, force=True, specific_tags=list(_NEEDED))
    keyword = _element(Tags(data, header.where))
    _require_depth(Tags(data, header.where), keyword)
    data.NumberOfFrames, data.SamplesPerPixel = count, 1
    if syntax in _NATIVE:
        _require_length(data, keyword, count, header.where)
        return _decoded(data, syntax, header.where)
    packed = _packed_frames(data, count, header.where)
    if syntax == RLE:
        return _decoded(data, syntax, header.where)
    streams = [_checked(frame, data, syntax, header.where) for frame in packed]
    return (_unpacked(*pair, data, syntax, header.where) for pair in zip(packed, streams, strict=True))


def _known(syntax: str, where: str) -> str:
    """The syntax, if it is read and its decoder installed."""
    if syntax not in SYNTAXES:
        raise InvalidData(f"{where}: its transfer syntax is {_words(syntax)}, which is not read", _RECODE)
    if syntax in _CODECS and importlib.util.find_spec("imagecodecs") is None:
        hint = "pip install imagecodecs (it is of the extra 'imaging': pip install 'secure-fedhelp[imaging]')"
        raise MissingExtra(f"{where}: compressed as {_words(syntax)}; its decoder imagecodecs is not installed", hint)
    return syntax


def _words(syntax: str) -> str:
    from pydicom.uid import UID

    name = UID(syntax).name
    return f"'{name}' ({syntax})" if name != syntax else f"the unknown {syntax[:64]}"


def _element(data: Tags) -> str:
    found = [keyword for keyword in _KINDS if keyword in data.data]
    if len(found) != 1:
        raise InvalidData(f"{data.where}: {'no pixel data' if not found else 'pixel data of several kinds'}", _AGAIN)
    return found[0]


def _require_depth(data: Tags, keyword: str) -> None:
    """InvalidData for bits that contradict one another, or of which a number cannot be made."""
    where, allocated = data.where, data.whole("BitsAllocated")
    if allocated not in _KINDS[keyword]:
        raise InvalidData(f"{where}: {allocated or 'no'} bits a pixel ({keyword}, BitsAllocated)", _RECODE)
    if keyword != "PixelData":
        return
    stored, high, signed = data.whole("BitsStored"), data.whole("HighBit"), data.whole("PixelRepresentation")
    if stored is None or not 1 <= stored <= allocated or high not in (None, stored - 1):
        named = {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": high}
        bits = ", ".join(f"{keyword} {'absent' if value is None else value}" for keyword, value in named.items())
        raise InvalidData(f"{where}: {bits}: where the numbers lie, nobody can tell", _FROM_SOURCE)
    if signed not in (0, 1):
        said = "absent" if signed is None else signed
        raise InvalidData(f"{where}: PixelRepresentation is {said}: whether numbers have a sign is open", _FROM_SOURCE)


def _require_length(data: Dataset, keyword: str, count: int, where: str) -> None:
    if data[keyword].is_undefined_length:
        raise InvalidData(f"{where}: compressed pixels in a file that says they are not (TransferSyntaxUID)", _AGAIN)
    pixels = bytes(data[keyword].value or b"")
    frame = data.Rows * data.Columns * data.BitsAllocated // 8
    if len(pixels) < frame * count:
        reason = f"{len(pixels)} bytes of pixels, {frame * count} are declared ({count} frames)"
        raise InvalidData(f"{where}: ends before its last pixel: {reason}", _AGAIN)
    if len(rest := pixels[frame * count :]) > 1 and (len(rest) >= frame or any(rest)):
        reason = f"{len(rest)} bytes of pixels more than the declared {frame * count}; {count} frames (NumberOfFrames)"
        raise InvalidData(f"{where}: {reason}", _AGAIN)


def _decoded(data: Dataset, syntax: str, where: str) -> Iterator[NDArray[Any]]:
    """Plain frames and run lengths, by pydicom itself; it cuts off unused bits."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    frames = get_decoder(UID(syntax)).iter_array(data, raw=True)
    try:
        yield from (array for array, _ in frames)
    except Exception as error:  # many kinds, some of them about decoders
        raise InvalidData(f"{where}: {_NOT_UNPACKED} ({_words(syntax)})", _AGAIN) from error


def _unpacked(frame: bytes, stream: Codestream, data: Dataset, syntax: str, where: str) -> NDArray[Any]:
    """One compressed frame, which was looked at before."""
    import imagecodecs

    codec, size = _CODECS[syntax], 1 if stream.bits <= 8 else 2 if stream.bits <= 16 else 4
    try:
        array = np.asarray(getattr(imagecodecs, codec.name)(frame))
    except Exception as error:  # each codec has an error of its own
        raise InvalidData(f"{where}: {_NOT_UNPACKED} ({_words(syntax)})", _AGAIN) from error
    if array.shape != (data.Rows, data.Columns) or array.dtype.itemsize != size or array.dtype.kind not in "ui":
        raise InvalidData(f"{where}: {_NOT_UNPACKED} ({_words(syntax)})", _AGAIN)
    signed = bool(data.PixelRepresentation)
    if stream.signed is None:
        array = array.view(f"i{size}" if signed else f"u{size}")
    # Ringing of a lossy frame may pass the largest number of BitsStored: without its upper bits it would turn black.
    as_stored = codec.lossless or (signed and stream.signed is None)
    return _cut(array, data.BitsStored) if as_stored else array


_NOT_UNPACKED = "its pixels cannot be unpacked: damaged, or not what the transfer syntax says"


def _packed_frames(data: Dataset, count: int, where: str) -> list[bytes]:
    from pydicom.encaps import generate_frames

    table = data.get("ExtendedOffsetTable"), data.get("ExtendedOffsetTableLengths")
    if not data["PixelData"].is_undefined_length:
        raise InvalidData(f"{where}: plain pixels in a file that says they are compressed (TransferSyntaxUID)", _AGAIN)
    try:
        offsets = (table[0], table[1]) if table[0] and table[1] else None
        frames = list(generate_frames(data.PixelData, number_of_frames=count, extended_offsets=offsets))
    except Exception as error:  # lengths and offsets that lead nowhere
        raise InvalidData(f"{where}: its compressed frames cannot be told apart: {error}", _AGAIN) from error
    if len(frames) != count:
        raise InvalidData(f"{where}: {len(frames)} compressed frames, {count} are declared (NumberOfFrames)", _AGAIN)
    return frames


def _checked(frame: bytes, data: Dataset, syntax: str, where: str) -> Codestream:
    """What a frame says of itself; InvalidData unless it is whole, and of the size and depth that the header says."""
    codec, signed = _CODECS[syntax], bool(data.PixelRepresentation)
    found = codec.header(frame)
    if found is None or found.process not in codec.processes or (found.is_sequential and found.bits not in (8, 12)):
        raise InvalidData(f"{where}: its pixels are not {_words(syntax)}, as it says", _AGAIN)
    if not is_whole(frame):
        raise InvalidData(f"{where}: a compressed frame ends before its end mark", _AGAIN)
    if (found.rows, found.columns, found.samples) != (data.Rows, data.Columns, 1):
        said = f"{data.Rows} x {data.Columns} pixels by its header, {found.rows} x {found.columns} and "
        raise InvalidData(f"{where}: {said}{found.samples} colours by its compressed frame", _AGAIN)
    # A sign is in the highest of BitsStored, which is a bit of the frame, and alone its highest where bits get lost.
    no_sign = signed and found.signed is None and found.bits != data.BitsStored
    shown_only = found.bits <= 8 < data.BitsStored  # a picture for the screen in place of the values
    if (
        found.bits > data.BitsAllocated
        or shown_only
        or (no_sign and (found.bits < data.BitsStored or not codec.lossless))
    ):
        said = f"{data.BitsStored} of {data.BitsAllocated} bits by its header, {found.bits} by its compressed frame"
        raise InvalidData(f"{where}: {said}", _RECODE)
    if found.signed not in (None, signed):
        said = "with a sign by its header, without by" if signed else "without a sign by its header, with one by"
        raise InvalidData(f"{where}: numbers {said} its compressed frame", _RECODE)
    return found


def _cut(array: NDArray[Any], stored: int) -> NDArray[Any]:
    """Numbers of so many bits, with their sign, whatever stands in the bits above."""
    unused = max(8 * array.dtype.itemsize - stored, 0)
    return np.asarray((array << unused) >> unused) if unused else array
