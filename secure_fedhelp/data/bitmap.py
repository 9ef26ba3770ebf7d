"""PNG and JPEG as stored numbers: depth, palette and what else decides what a number means, or a named refusal.

Pillow unpacks what it keeps whole; it would cut PNGs of 16 bits in colour or with alpha to 8 and stretch those of 2
and 4 bits, so these go through pypng. Colour profiles and gamma (gAMA, sRGB, iCCP, sBIT) are ignored: numbers stay as
they are.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import png
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from secure_fedhelp.errors import FedHelpError, InvalidData
from secure_fedhelp.study.reading import PICTURE, read_bounded

#: More pixels than this are refused before they are unpacked (a whole-slide image is cut into tiles first).
LARGEST_PIXELS = 64 * 2**20
_EXIF_ORIENTATION = 0x0112
#: Bytes that are unpacked at a time to be counted.
_STEP = 2**20
#: First column and row of each pass of an interlaced PNG, and how many columns and rows to the next.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: Markers of JPEG's kinds, by the byte after FF, that are read: baseline, extended, progressive, and both arithmetic.
_JPEG_READ = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_JPEG_OTHERS = {0xC3: "a lossless JPEG", 0xCB: "a lossless JPEG", 0xF7: "a JPEG-LS file"}
_PNG = "Save it as PNG, in grey or in red, green and blue, with all of its bits. Nothing was spent."
_AGAIN = "It is damaged: export or fetch it again, or leave it out. Nothing was spent."
_SMALLER = "Cut it into tiles, or save it smaller, in every hospital alike. Nothing was spent."
#: uint8, or uint16 where a number has 16 bits.
Pixels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Bitmap:
    """``values`` [rows, columns, planes] as stored: one plane of grey values or indices, or red, green and blue."""

    values: Pixels
    #: Bits of a stored number: the largest is 2**depth - 1.
    depth: int
    #: uint8 [entries, 3], the colours that indices stand for; None where the numbers are the values.
    palette: NDArray[np.uint8] | None = None
    #: Whether the file says how transparent each pixel is (``alpha``), and whether it says "not at all".
    alpha: bool = False
    opaque: bool = True
    #: How the picture must be turned to be seen upright (EXIF's orientation, 1 to 8); 1 is as stored.
    turn: int = 1
    lossy: bool = False


def read_png(path: Path) -> Bitmap:
    """A PNG of any colour type and depth; raises InvalidData."""
    return _read(path, _png, "PNG")


def read_jpeg(path: Path) -> Bitmap:
    """A JPEG of 8 bits, grey or in three colours; raises InvalidData."""
    return _read(path, _jpeg, "JPEG")


def upright(bitmap: Bitmap) -> Bitmap:
    """The picture turned as its EXIF orientation says."""
    values, turn = bitmap.values, bitmap.turn
    if turn >= 5:  # 5 to 8 have their sides exchanged
        values = values.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        values = values[::-1]
    if turn in (2, 3, 6, 7):
        values = values[:, ::-1]
    return replace(bitmap, values=np.ascontiguousarray(values), turn=1)


def _read(path: Path, read: Any, kind: str) -> Bitmap:
    try:
        found: Bitmap = read(read_bounded(path, PICTURE), path.name)
    except FedHelpError:
        raise
    except Exception as error:  # damage: Pillow and pypng raise many kinds
        reason = getattr(error, "strerror", None) or " ".join(str(part) for part in error.args)
        if not reason or isinstance(error, UnidentifiedImageError):  # whose text is an object's address
            reason = "its parts contradict one another"
        raise InvalidData(f"{path}: not a readable {kind}: {reason}", _AGAIN) from error
    return found


def _png(data: bytes, name: str) -> Bitmap:
    reader = png.Reader(bytes=data)
    reader.preamble()
    _require_size(reader.width, reader.height, name)
    _require_whole(data, reader, name)
    # Pillow keeps these as they are; of the others it would change the numbers.
    if reader.bitdepth == 8 or reader.colormap or (reader.bitdepth, reader.planes) in ((1, 1), (16, 1)):
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            turn = _turn(image)
            values = np.asarray(image)
    else:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            turn = _turn(image)
        values = np.stack([np.asarray(row) for row in png.Reader(bytes=data).read()[2]])
    values = np.asarray(values.reshape(reader.height, reader.width, reader.planes))
    values = values.astype(np.uint16 if reader.bitdepth == 16 else np.uint8, copy=False)
    plain = replace(_transparency(values, reader), turn=turn)
    if not reader.colormap:
        return plain
    palette = np.asarray([entry[:3] for entry in reader.palette()], dtype=np.uint8)
    if values.max() >= len(palette):
        raise InvalidData(f"{name}: index {values.max()} of a palette of {len(palette)} colours", _AGAIN)
    return replace(plain, palette=palette)


def _transparency(values: Pixels, reader: Any) -> Bitmap:
    """The values without their alpha plane, and whether anything of them can be looked through."""
    depth, full = reader.bitdepth, 2**reader.bitdepth - 1
    if reader.alpha:
        opaque = bool((values[..., -1] == full).all())
        return Bitmap(np.ascontiguousarray(values[..., :-1]), depth, alpha=True, opaque=opaque)
    if reader.colormap:
        alphas = np.full(256, 255, dtype=np.int64)
        for index, entry in enumerate(reader.palette()):
            alphas[index] = entry[3] if len(entry) == 4 else 255
        return Bitmap(values, depth, opaque=bool((alphas[values] == 255).all()))
    if reader.transparent is not None:  # one grey value or colour that nothing is drawn for
        return Bitmap(values, depth, opaque=not (values == np.asarray(reader.transparent)).all(axis=-1).any())
    return Bitmap(values, depth)


def _require_whole(data: bytes, reader: Any, name: str) -> None:
    """InvalidData for an animation; ValueError unless as much is packed as the header says: Pillow fills the rest."""
    most = sum(
        -(-columns * reader.planes * reader.bitdepth // 8) * rows + rows  # each row begins with the byte of its filter
        for columns, rows in _passes(reader)
        if columns
    )
    unpack, left, found = zlib.decompressobj(), b"", 0
    for kind, body in png.Reader(bytes=data).chunks():  # to the end, and every checksum is compared
        if kind == b"acTL":
            raise InvalidData(f"{name}: an animated PNG; one picture a file is read", _PNG)
        left = left + body if kind == b"IDAT" else b""
        while left and found <= most and not unpack.eof:
            found += len(unpack.decompress(left, _STEP))
            left = unpack.unconsumed_tail
    if not left:
        found += len(unpack.flush())  # the end of a run that the last step cut
    if found != most:
        what = "less" if found < most else "more"
        raise ValueError(f"{what} is packed in it than its header says")


def _passes(reader: Any) -> list[tuple[int, int]]:
    """Columns and rows of each picture that is stored: one, or Adam7's seven (ISO 15948, 8.2)."""
    if not reader.interlace:
        return [(reader.width, reader.height)]
    return [(-(-(reader.width - x) // right), -(-(reader.height - y) // down)) for x, y, right, down in _ADAM7]


def _jpeg(data: bytes, name: str) -> Bitmap:
    kind, depth, planes = _frame(data)
    if kind not in _JPEG_READ:
        raise InvalidData(f"{name}: {_JPEG_OTHERS.get(kind, 'a hierarchical JPEG')}, which is not read", _PNG)
    if depth != 8:
        raise InvalidData(f"{name}: a JPEG of {depth} bits; 8 are read", _PNG)
    if planes not in (1, 3):
        raise InvalidData(f"{name}: a JPEG of {planes} inks (CMYK or YCCK); grey or red, green and blue are read", _PNG)
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        _require_size(image.width, image.height, name)
        image.load()
        values = np.asarray(image).reshape(image.height, image.width, planes)
        return Bitmap(values, 8, turn=_turn(image), lossy=True)


def _frame(data: bytes) -> tuple[int, int, int]:
    """Of a JPEG's frame header: the kind's marker, bits a value, and components. ITU-T T.81, annex B."""
    place = 2
    while place + 9 < len(data):
        if data[place] != 0xFF:
            break
        marker = data[place + 1]
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:  # fill, or a marker that stands alone
            place += 1 if marker == 0xFF else 2
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return marker, data[place + 4], data[place + 9]
        if marker in (0xD9, 0xDA):  # the end, or pixels without a frame
            break
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    raise ValueError("it ends before it says what it holds")


def _turn(image: Image.Image) -> int:
    turn = image.getexif().get(_EXIF_ORIENTATION, 1)
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _require_size(width: int, height: int, name: str) -> None:
    if width * height > LARGEST_PIXELS:
        raise InvalidData(f"{name}: {width} x {height} pixels, at most {LARGEST_PIXELS} in all", _SMALLER)
