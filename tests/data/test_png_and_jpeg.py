"""PNG and JPEG of every kind: the numbers that were put in, or a named refusal. Files are written here byte by byte."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from secure_fedhelp.data import bitmap
from secure_fedhelp.data.bitmap import read_png
from secure_fedhelp.data.formats import format_of
from secure_fedhelp.data.loaded import Loaded, Tones
from secure_fedhelp.data.loading import load_records
from secure_fedhelp.data.pictures import read_picture, read_picture_mask
from secure_fedhelp.errors import InvalidData, InvalidValue
from secure_fedhelp.study.sections import DataSection

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
PLANES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


def png_of(values: Array, colour: int, depth: int, *before: bytes, after: bytes = b"") -> bytes:
    """A PNG of [rows, columns, planes] with the chunks ``before`` its pixels, by the standard (ISO 15948)."""
    rows, columns = values.shape[:2]
    flat = values.reshape(rows, -1)
    if depth == 16:
        lines = flat.astype(">u2").view(np.uint8).reshape(rows, -1)
    else:
        bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(rows, -1).astype(np.uint8), axis=1)
    head = columns.to_bytes(4, "big") + rows.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
    packed = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    body = b"".join(before) + chunk(b"IDAT", packed) + after
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def numbers(colour: int, depth: int) -> Array:
    """[4, 5, planes], of all sizes that the depth allows, with both ends."""
    found = RNG.integers(0, 2**depth, (4, 5, PLANES[colour]))
    found[0, 0], found[3, 4] = 0, 2**depth - 1
    return found


def seen(data: bytes, depth: int, channels: int, tmp_path: Path) -> Array:
    """Raw values of an image under a plan whose white is the largest number of the depth, [channels, rows, columns]."""
    (tmp_path / "IM1").write_bytes(data)
    plan = section(channels, intensity=(0.0, float(2**depth - 1)))
    return read_picture(tmp_path / "IM1", format_of(tmp_path / "IM1"), plan, masked=False)


def section(channels: int = 1, **change: Any) -> DataSection:
    return DataSection(
        dataset="scans",
        kind="image",
        classes=("normal", "ill"),
        input_shape=(channels, 4, 5),
        public_sha256="0" * 64,
        public_records=3,
    ).model_copy(update=change)


def opaque(values: Array, depth: int) -> Array:
    return np.concatenate([values, np.full_like(values[..., :1], 2**depth - 1)], axis=-1)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("colour", "depth", "alpha"),
    [
        *((GREY, depth, False) for depth in (1, 2, 4, 8, 16)),
        *((colour, depth, alpha) for colour, alpha in ((RGB, False), (RGB, True), (GREY, True)) for depth in (8, 16)),
    ],
)
def test_numbers_of_every_depth_are_those_that_were_put_in(
    tmp_path: Path, colour: int, depth: int, alpha: bool, interlaced: bool
) -> None:
    """Grey and colours, with an alpha that hides nothing and without, row by row and interlaced."""
    values = numbers(colour, depth)
    stored = opaque(values, depth) if alpha else values
    if interlaced:
        writer, file = (
            png.Writer(5, 4, greyscale=colour == GREY, alpha=alpha, bitdepth=depth, interlace=True),
            io.BytesIO(),
        )
        writer.write_array(file, stored.ravel().tolist())
        data = file.getvalue()
    else:
        data = png_of(stored, colour + 4 * alpha, depth)
    found = seen(data, depth, PLANES[colour], tmp_path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.moveaxis(values, -1, 0))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_stands_for_its_colours_in_an_image_and_for_its_indices_in_a_mask(tmp_path: Path, depth: int) -> None:
    values = numbers(PALETTE, depth)
    colours = RNG.integers(0, 256, (2**depth, 3)).astype(np.uint8)
    data = png_of(values, PALETTE, depth, chunk(b"PLTE", colours.tobytes()))
    np.testing.assert_array_equal(seen(data, 8, 3, tmp_path), np.moveaxis(colours[values[..., 0]], -1, 0))
    np.testing.assert_array_equal(read_picture_mask(tmp_path / "IM1", "PNG"), values[..., 0])
    greys = np.sort(RNG.choice(256, 2**depth, replace=False)).astype(np.uint8)
    data = png_of(values, PALETTE, depth, chunk(b"PLTE", greys.repeat(3).tobytes()))
    np.testing.assert_array_equal(seen(data, 8, 1, tmp_path)[0], greys[values[..., 0]])
    np.testing.assert_array_equal(read_picture_mask(tmp_path / "IM1", "PNG"), values[..., 0])


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_mask_keeps_its_class_numbers_at_every_depth(tmp_path: Path, depth: int) -> None:
    values = numbers(GREY, depth)
    (tmp_path / "mask").write_bytes(png_of(values, GREY, depth))
    np.testing.assert_array_equal(read_picture_mask(tmp_path / "mask", "PNG"), values[..., 0])


def test_grey_and_colour_go_into_the_channels_of_the_plan(tmp_path: Path) -> None:
    values = numbers(RGB, 8)
    as_grey = np.asarray(Image.fromarray(values.astype(np.uint8)).convert("L"))  # ITU-R BT.601, as Pillow rounds it
    np.testing.assert_array_equal(seen(png_of(values, RGB, 8), 8, 1, tmp_path)[0], as_grey)
    deep = numbers(RGB, 16)
    luma = deep @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(seen(png_of(deep, RGB, 16), 16, 1, tmp_path)[0], luma, atol=1.5)
    equal = numbers(GREY, 16).repeat(3, axis=2)
    np.testing.assert_array_equal(seen(png_of(equal, RGB, 16), 16, 1, tmp_path)[0], equal[..., 0])
    grey = numbers(GREY, 8)
    np.testing.assert_array_equal(
        seen(png_of(grey, GREY, 8), 8, 3, tmp_path), grey.repeat(3, axis=2).transpose(2, 0, 1)
    )


def test_gamma_profiles_and_a_transparent_colour_that_is_not_used_change_nothing(tmp_path: Path) -> None:
    values = numbers(GREY, 8)
    values[values == 77] = 78
    notes = [chunk(b"gAMA", (45455).to_bytes(4, "big")), chunk(b"sRGB", b"\0"), chunk(b"tRNS", b"\0\x4d")]
    np.testing.assert_array_equal(seen(png_of(values, GREY, 8, *notes), 8, 1, tmp_path)[0], values[..., 0])


FULL, HALF = numbers(GREY, 8), numbers(GREY_ALPHA, 8)
THREE = chunk(b"PLTE", bytes(range(9)))
INDICES = RNG.integers(0, 3, (4, 5, 1))
INDICES[0, :3, 0] = 0, 1, 2
WHOLE = png_of(FULL, GREY, 8)
EXIF = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0%c\0\0\0\0\0\0"


def jpeg(mode: str = "L", **options: Any) -> bytes:
    file = io.BytesIO()
    shape = (4, 5) if mode == "L" else (4, 5, len(mode))
    Image.fromarray(RNG.integers(0, 256, shape).astype(np.uint8), mode).save(file, format="JPEG", quality=95, **options)
    return file.getvalue()


def frame(marker: int = 0xC0, depth: int = 8, planes: int = 1) -> bytes:
    """A JPEG whose frame header says something else."""
    data = bytearray(jpeg())
    place = data.index(b"\xff\xc0")
    data[place + 1], data[place + 4], data[place + 9] = marker, depth, planes
    return bytes(data)


REFUSED: dict[str, tuple[bytes, str]] = {
    "grey with alpha": (png_of(HALF, GREY_ALPHA, 8), "looked through"),
    "grey with alpha of 16 bits": (png_of(numbers(GREY_ALPHA, 16), GREY_ALPHA, 16), "looked through"),
    "colours with alpha": (png_of(numbers(RGBA, 8), RGBA, 8), "looked through"),
    "colours with alpha of 16 bits": (png_of(numbers(RGBA, 16), RGBA, 16), "looked through"),
    "a transparent grey": (png_of(FULL, GREY, 8, chunk(b"tRNS", b"\0\0")), "looked through"),
    "a transparent colour": (png_of(numbers(RGB, 16), RGB, 16, chunk(b"tRNS", b"\0" * 6)), "looked through"),
    "a palette with a transparent entry": (
        png_of(INDICES, PALETTE, 2, THREE, chunk(b"tRNS", b"\x80")),
        "looked through",
    ),
    "an index beyond its palette": (png_of(INDICES + 1, PALETTE, 2, THREE), "index 3 of a palette of 3 colours"),
    "a palette that is missing": (png_of(INDICES, PALETTE, 2), "not a readable PNG"),
    "an animation": (png_of(FULL, GREY, 8, chunk(b"acTL", b"\0\0\0\2\0\0\0\0")), "animated"),
    "a byte changed": (WHOLE[:60] + bytes([WHOLE[60] ^ 1]) + WHOLE[61:], "not a readable PNG: Checksum error"),
    "cut short": (WHOLE[:-30], "not a readable PNG"),
    "without its end": (WHOLE[:-12], "not a readable PNG"),
    "a header alone": (WHOLE[:33], "not a readable PNG"),
    "a size of nothing": (WHOLE[:16] + b"\0" * 8 + WHOLE[24:], "not a readable PNG"),
    "a depth that PNG does not have": (png_of(FULL, GREY, 7), "not a readable PNG"),
    "rows that are missing": (
        WHOLE[:33] + png_of(FULL[:2], GREY, 8)[33:],
        "not a readable PNG",
    ),
    "four inks": (jpeg("CMYK"), "4 inks"),
    "a JPEG of 12 bits": (frame(0xC1, depth=12), "JPEG of 12 bits"),
    "a lossless JPEG": (frame(0xC3), "lossless JPEG"),
    "a JPEG-LS": (frame(0xF7), "JPEG-LS"),
    "a hierarchical JPEG": (frame(0xC5), "hierarchical JPEG"),
    "a JPEG of two components": (frame(planes=2), "2 inks"),
    "a JPEG cut short": (jpeg()[:-12], "not a readable JPEG: image file is truncated"),
    "a JPEG without pixels": (jpeg()[:12] + b"\xff\xd9", "not a readable JPEG"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    data, words = REFUSED[kind]
    with pytest.raises(InvalidData, match=words) as raised:
        seen(data, 8, 1, tmp_path)
    assert "Error" not in raised.value.message
    assert " at 0x" not in raised.value.message
    assert "IM1" in raised.value.message
    assert raised.value.hint != InvalidData.default_hint  # which does not say what is to be done


GREYS_AGAINST_THEIR_NUMBERS = chunk(b"PLTE", bytes([255] * 3 + [0] * 3 + [128] * 3))
MASKS: dict[str, tuple[bytes, str]] = {
    "a JPEG": (jpeg(), "blurs class numbers"),
    "colours": (png_of(numbers(RGB, 8), RGB, 8), "not colours"),
    "grey values and alpha": (png_of(opaque(FULL, 8), GREY_ALPHA, 8), "not grey values and transparency"),
    "a palette of greys that fall": (png_of(INDICES, PALETTE, 2, GREYS_AGAINST_THEIR_NUMBERS), "which are the classes"),
    "turned": (png_of(INDICES, GREY, 2, chunk(b"eXIf", EXIF % 3)), "EXIF orientation 3"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_whose_numbers_are_no_classes_is_refused(tmp_path: Path, kind: str) -> None:
    data, words = MASKS[kind]
    (tmp_path / "mask").write_bytes(data)
    with pytest.raises(InvalidData, match=words):
        read_picture_mask(tmp_path / "mask", format_of(tmp_path / "mask"))


@pytest.mark.parametrize("number", [128, 255, 3])
def test_grey_levels_in_a_mask_are_told_to_become_class_numbers(tmp_path: Path, number: int) -> None:
    (tmp_path / "image.png").write_bytes(WHOLE)
    (tmp_path / "mask.png").write_bytes(png_of(INDICES // 2 * number, GREY, 8))
    data = section(classes=("background", "liver", "tumour"), task="segmentation")
    with pytest.raises(InvalidValue, match=f"{number} in the mask is none of the 3 class numbers, 0 to 2") as raised:
        index(tmp_path, "file,mask,patient_id\nimage.png,mask.png,p1\n", data)
    assert "128, 255 become 0, 1, 2" in raised.value.hint


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photograph_is_turned_as_it_says_unless_a_mask_belongs_to_it(tmp_path: Path, turn: int) -> None:
    values = numbers(GREY, 8)
    (tmp_path / "IM1").write_bytes(png_of(values, GREY, 8, chunk(b"eXIf", EXIF % turn)))
    turns: dict[int, Callable[[Array], Array]] = {
        1: lambda v: v, 2: np.fliplr, 3: lambda v: np.rot90(v, 2), 4: np.flipud,
        5: np.transpose, 6: lambda v: np.rot90(v, -1), 7: lambda v: np.rot90(v, 2).T, 8: np.rot90,
    }  # fmt: skip
    found = read_picture(tmp_path / "IM1", "PNG", section(), masked=False)
    np.testing.assert_array_equal(found[0], turns[turn](values[..., 0]))
    if turn == 1:
        np.testing.assert_array_equal(read_picture(tmp_path / "IM1", "PNG", section(), masked=True), found)
    else:
        with pytest.raises(InvalidData, match=f"EXIF orientation {turn}"):
            read_picture(tmp_path / "IM1", "PNG", section(), masked=True)


@pytest.mark.parametrize(
    ("mode", "options"), [("L", {}), ("RGB", {}), ("RGB", {"progressive": True}), ("L", {"optimize": True})]
)
def test_jpegs_are_read_as_any_viewer_would(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    data = jpeg(mode, **options)
    theirs = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(seen(data, 8, len(mode), tmp_path), np.atleast_3d(theirs).transpose(2, 0, 1))


def test_an_ending_decides_nothing(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(jpeg())
    assert format_of(tmp_path / "photo.png") == "JPEG"
    (tmp_path / "photo.dcm").write_bytes(WHOLE)
    assert format_of(tmp_path / "photo.dcm") == "PNG"


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_a_picture_that_could_never_be_white_is_refused(tmp_path: Path, depth: int) -> None:
    """Of 8 bits under a plan for 16, or of 4 under one for 8: nearly black, and it would train something."""
    (tmp_path / "IM1").write_bytes(png_of(numbers(GREY, depth), GREY, depth))
    with pytest.raises(InvalidData, match=f"{depth} bits a value, so {2**depth - 1} at most; the plan's white is 4095"):
        read_picture(tmp_path / "IM1", "PNG", section(intensity=(0.0, 4095.0)), masked=False)


def test_more_than_its_header_says_is_never_unpacked(tmp_path: Path) -> None:
    """Sixteen bits go through a reader that would take what comes."""
    honest = png_of(numbers(RGB, 16), RGB, 16)
    start, end = honest.index(b"IDAT") - 4, honest.index(b"IEND") - 4
    bomb = honest[:start] + chunk(b"IDAT", zlib.compress(b"\0" * 10**7)) + honest[end:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(InvalidData, match="more is packed in it than its header says"):
        read_png(tmp_path / "bomb.png")


@pytest.mark.parametrize("columns", [1023, 1024, 4095, 2**20 - 1, 2**20])
def test_long_runs_are_counted_to_their_end(tmp_path: Path, columns: int) -> None:
    """One run of zeros that is unpacked in steps of a mebibyte."""
    values = np.zeros((max(3 * 2**20 // columns, 1), columns, 1), dtype=np.uint8)
    (tmp_path / "black.png").write_bytes(png_of(values, GREY, 8))
    assert not read_png(tmp_path / "black.png").values.any()


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(WHOLE)
    monkeypatch.setattr(bitmap, "PICTURE", replace(bitmap.PICTURE, largest=10))
    with pytest.raises(InvalidData, match="an image file has at most 10"):
        read_png(tmp_path / "a.png")


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([(GREY, 2), (GREY, 4), (RGB, 16), (GREY, 16), (RGB, 8)]),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0),
)
def test_any_size_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, kind: tuple[int, int], rows: int, columns: int, seed: int
) -> None:
    colour, depth = kind
    values = np.random.default_rng(seed).integers(0, 2**depth, (rows, columns, PLANES[colour]))
    path = tmp_path_factory.getbasetemp() / "any.png"
    path.write_bytes(png_of(values, colour, depth))
    np.testing.assert_array_equal(read_png(path).values, values)


# --- folders and indexes --------------------------------------------------------------------------------------------


def index(folder: Path, text: str, data: DataSection) -> Loaded:
    (folder / "index.csv").write_text(text)
    return load_records(folder / "index.csv", data)


def test_a_mask_of_three_classes_in_four_bits(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(WHOLE)
    (tmp_path / "mask.png").write_bytes(png_of(INDICES, GREY, 4))
    data = section(classes=("background", "liver", "tumour"), task="segmentation")
    found = index(tmp_path, "file,mask,patient_id\nimage.png,mask.png,p1\n", data)
    np.testing.assert_array_equal(found.records.labels[0], INDICES[..., 0])


def test_what_the_intensity_cuts_is_counted_before_it_is_cut(tmp_path: Path) -> None:
    values = np.asarray([0, 10, 20, 30, 200, 65535] + [100] * 14).reshape(4, 5, 1)
    (tmp_path / "a.png").write_bytes(png_of(values, GREY, 16))
    (tmp_path / "b.png").write_bytes(png_of(values[::-1], GREY, 16))
    found = index(tmp_path, "file,patient_id,target\na.png,p1,ill\nb.png,p2,normal\n", section(intensity=(20.0, 200.0)))
    assert found.tones == Tones(pixels=40, below=4, above=2, black=6, white=4)
    assert found.notes == ()


def test_a_folder_of_pairs_is_read_by_content(tmp_path: Path) -> None:
    """Images may be PNG, JPEG or without ending, in one folder; what is no image is left out."""
    for stem, name, data in (("a", "a.jpg", jpeg()), ("b", "b", WHOLE), ("1.2.840.7", "1.2.840.7", WHOLE)):
        for part, file, content in (("images", name, data), ("masks", f"{stem}.png", png_of(INDICES % 2, GREY, 1))):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / file).write_bytes(content)
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 9)
    (tmp_path / "images" / "list.xlsx").write_bytes(b"PK\3\4" + b"\0" * 400)
    (tmp_path / "images" / "_SUCCESS").touch()
    found = load_records(tmp_path, section(task="segmentation"))
    assert found.records.patients == ("1.2.840.7", "a", "b")
    np.testing.assert_array_equal(found.records.labels, np.stack([INDICES[..., 0] % 2] * 3))
    (tmp_path / "masks" / "a.png").write_bytes(jpeg())
    with pytest.raises(InvalidData, match="blurs class numbers"):
        load_records(tmp_path, section(task="segmentation"))
    (tmp_path / "masks" / "a.png").write_bytes(png_of(INDICES % 2, GREY, 1))
    (tmp_path / "images" / "c.tif").write_bytes(b"II*\0" + b"\0" * 40)
    (tmp_path / "masks" / "c.png").write_bytes(WHOLE)
    with pytest.raises(InvalidData, match=r"c\.tif: by its content a TIFF"):
        load_records(tmp_path, section(task="segmentation"))


def test_a_slice_of_a_picture_is_no_slice(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(WHOLE)
    text = "file,slice,patient_id,target\nimage.png,{},p1,ill\n"
    assert len(index(tmp_path, text.format(0), section()).records) == 1
    with pytest.raises(InvalidData, match="no slice 3 in image.png"):
        index(tmp_path, text.format(3), section())
    (tmp_path / "mask.png").write_bytes(png_of(INDICES // 2, GREY, 8))
    text = "file,slice,mask,patient_id\nimage.png,{},mask.png,p1\n"
    data = section(task="segmentation")
    assert len(index(tmp_path, text.format(0), data).records) == 1
    with pytest.raises(InvalidData, match="no slice 3 in image.png"):
        index(tmp_path, text.format(3), data)
