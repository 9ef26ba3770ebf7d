"""The stored numbers of a DICOM file, frame by frame: transfer syntaxes that are read, and what is checked before.

Sizes and depths that the header, the length of the data and each compressed frame declare must agree before a decoder sees
a byte: decoders are C and trust what they are told. Unused high bits are cut off (PS3.5, 8.1.1).
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
from secure_fedhelp.errors import FedHelpError, InvalidData, MissingExtra

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED)
#: A file may be so much longer than its pixels: 256 MiB of header, thumbnails and what stands behind.
_REST = 2**28
_AGAIN = "Export or fetch the file again. Nothing was trained and nothing was spent."
_RECODE = "Save it uncompressed (Explicit VR Little Endian), for instance with DCMTK or GDCM. Nothing was spent."


@dataclass(frozen=True)
class _Codec:
    """How one transfer syntax is unpacked."""

    #: Name of pydicom's plugin, and the modules and packages that it needs.
    plugin: str
    needs: tuple[tuple[str, str], ...]
    #: What the frame says of itself, and the start-of-frame markers it may have; RLE says nothing.
    header: Callable[[bytes], Codestream | None] | None = None
    processes: tuple[int, ...] = (0,)
    lossless: bool = True


_GDCM = (("gdcm", "python-gdcm"),)
_OPENJPEG = (("pylibjpeg", "pylibjpeg"), ("openjpeg", "pylibjpeg-openjpeg"))
_JPEG, _LS, _2000 = "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.4."
_CODECS = {
    "1.2.840.10008.1.2.5": _Codec("pydicom", ()),
    _JPEG + "50": _Codec("pillow", (("PIL", "pillow"),), jpeg, (0xC0,), lossless=False),
    _JPEG + "51": _Codec("gdcm", _GDCM, jpeg, (0xC0, 0xC1), lossless=False),
    _JPEG + "57": _Codec("gdcm", _GDCM, jpeg, (0xC3,)),
    _JPEG + "70": _Codec("gdcm", _GDCM, jpeg, (0xC3,)),
    _LS + "80": _Codec("gdcm", _GDCM, jpeg, (0xF7,)),
    _LS + "81": _Codec("gdcm", _GDCM, jpeg, (0xF7,), lossless=False),
    _2000 + "90": _Codec("pylibjpeg", _OPENJPEG, jpeg2000),
    _2000 + "91": _Codec("pylibjpeg", _OPENJPEG, jpeg2000, lossless=False),
    _2000 + "201": _Codec("pylibjpeg", _OPENJPEG, jpeg2000),
    _2000 + "202": _Codec("pylibjpeg", _OPENJPEG, jpeg2000),
    _2000 + "203": _Codec("pylibjpeg", _OPENJPEG, jpeg2000, lossless=False),
}
#: Every transfer syntax that is read.
SYNTAXES = (*_NATIVE, *_CODECS)
_KINDS = {"PixelData": (8, 16, 32), "FloatPixelData": (32,), "DoubleFloatPixelData": (64,)}
_NEEDED = (
    *("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "BitsAllocated", "BitsStored"),
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
        return _decoded(data, syntax, "", header.where)
    return _unpacked(data, syntax, count, header.where)


def _known(syntax: str, where: str) -> str:
    """The syntax, if it is read and its decoder installed."""
    if syntax in _NATIVE:
        return syntax
    if syntax not in _CODECS:
        raise InvalidData(f"{where}: its transfer syntax is {_words(syntax)}, which is not read", _RECODE)
    for module, package in _CODECS[syntax].needs:
        if importlib.util.find_spec(module) is None:
            hint = f"pip install {package} (it is of the extra 'imaging': pip install 'secure-fedhelp[imaging]')"
            raise MissingExtra(f"{where}: compressed as {_words(syntax)}; its decoder {package} is not installed", hint)
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
        bits = f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}"
        raise InvalidData(f"{where}: {bits}: where the numbers lie, nobody can tell", _RECODE)
    if signed not in (0, 1):
        raise InvalidData(f"{where}: PixelRepresentation is {signed}: whether numbers have a sign is open", _RECODE)


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


def _decoded(data: Dataset, syntax: str, plugin: str, where: str, **options: Any) -> Iterator[NDArray[Any]]:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    frames = get_decoder(UID(syntax)).iter_array(data, raw=True, decoding_plugin=plugin, **options)
    try:
        yield from (array for array, _ in frames)
    except FedHelpError:
        raise
    except Exception as error:  # decoders raise many kinds, some of them about themselves
        words = "its pixels cannot be unpacked: damaged, or not what the transfer syntax says"
        raise InvalidData(f"{where}: {words} ({_words(syntax)})", _AGAIN) from error


def _unpacked(data: Dataset, syntax: str, count: int, where: str) -> Iterator[NDArray[Any]]:
    """Compressed frames, each of which is looked at before it is unpacked."""
    codec = _CODECS[syntax]
    packed = _packed_frames(data, count, where)
    streams = [_checked(frame, data, syntax, where) for frame in packed] if codec.header else []
    bits = max((stream.bits for stream in streams), default=data.BitsStored)
    if syntax == _JPEG + "51" and bits > 8:
        return (_twelve_bits(frame, data, where) for frame in packed)
    plugin = "pillow" if syntax == _JPEG + "51" else codec.plugin
    if codec.header is jpeg and not codec.lossless and codec.processes != (0xF7,):
        # Ringing may pass the largest number that BitsStored allows; cut off bits would make it black.
        return _decoded(data, syntax, plugin, where, correct_unused_bits=False)
    arrays = _decoded(data, syntax, plugin, where)
    return (_cut(array, data) for array in arrays) if codec.lossless and bits > data.BitsStored else arrays


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
    codec = _CODECS[syntax]
    found = codec.header(frame) if codec.header else None
    if found is None or found.process not in codec.processes:
        raise InvalidData(f"{where}: its pixels are not {_words(syntax)}, as it says", _AGAIN)
    if not is_whole(frame):
        raise InvalidData(f"{where}: a compressed frame ends before its end mark", _AGAIN)
    if (found.rows, found.columns, found.samples) != (data.Rows, data.Columns, 1):
        said = f"{data.Rows} x {data.Columns} pixels by its header, {found.rows} x {found.columns} and "
        raise InvalidData(f"{where}: {said}{found.samples} colours by its compressed frame", _AGAIN)
    signed, exact = bool(data.PixelRepresentation), found.bits == data.BitsStored
    fits = found.bits <= data.BitsAllocated and (found.bits > data.BitsAllocated - 8 or found.process in (0, 0xF7))
    if not fits or (signed and found.signed is None and found.bits < data.BitsStored) or (
        signed and not codec.lossless and found.signed is None and not exact
    ):
        said = f"{data.BitsStored} of {data.BitsAllocated} bits by its header, {found.bits} by its compressed frame"
        raise InvalidData(f"{where}: {said}", _RECODE)
    if found.signed not in (None, signed):
        said = "with a sign by its header, without by" if signed else "without a sign by its header, with one by"
        raise InvalidData(f"{where}: numbers {said} its compressed frame", _RECODE)
    return found


def _cut(array: NDArray[Any], data: Dataset) -> NDArray[Any]:
    """Numbers of BitsStored bits, with their sign, whatever stands in the bits above."""
    unused = 8 * array.dtype.itemsize - data.BitsStored
    return np.asarray((array << unused) >> unused)


def _twelve_bits(frame: bytes, data: Dataset, where: str) -> NDArray[Any]:
    """A frame of JPEG Extended with 12 bits, which pydicom 3 gives to no decoder of a free licence.

    GDCM's decoder reads it if told of 12 bits; told of the 16 that are allocated it writes an error and then tries again.
    """
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((data.Columns, data.Rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(_JPEG + "51")))
    image.SetPixelFormat(gdcm.PixelFormat(1, 12, 12, 11, 0))
    text = image.GetBuffer()
    buffer = b"" if text is None else text.encode("utf-8", "surrogateescape")
    if len(buffer) != data.Rows * data.Columns * 2:
        raise InvalidData(f"{where}: its pixels cannot be unpacked: damaged ({_words(_JPEG + '51')})", _AGAIN)
    array = np.frombuffer(buffer, dtype="<i2" if data.PixelRepresentation else "<u2").reshape(data.Rows, data.Columns)
    return _cut(array, data) if data.PixelRepresentation else array
