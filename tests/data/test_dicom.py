"""DICOM by kinds: the values that were put in by hand, to 1e-6, or a refusal that names what is not understood."""

from __future__ import annotations

import importlib.util
import io
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from dicoms import (
    LIES,
    STORED,
    change,
    compressed,
    enhanced,
    extended_jpeg,
    image,
    lossless_jpeg,
    place,
    placed,
    rescaled,
    save,
)
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset

from secure_fedhelp.data import dicom_files, dicom_kinds
from secure_fedhelp.data.dicom import is_dicom, read_dicom
from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import InvalidData, MissingExtra

Array = np.ndarray[Any, Any]
LOW, HIGH = -1000.0, 400.0
SMALL = (np.arange(20, dtype=np.uint8).reshape(4, 5) * 12).astype(np.uint8)
WORDS = STORED.astype(np.int64)
TWELVE = np.asarray(np.abs(WORDS) * 6 % 4096, dtype=np.uint16)
FILM = np.stack([STORED, STORED // 2, STORED + 3])
FLOATS = (STORED / 7).astype(np.float32)
JPEG = "1.2.840.10008.1.2.4."
#: STORED + 200 as HTJ2K, written by OpenJPH 0.26.3 (openjph.org), which is none of our decoders.
HTJ2K = bytes.fromhex(
    "ff4fff5100294000000000050000000400000000000000000000000500000004000000000000000000010f0101ff50000800020000000aff52000c00"
    "020001000504044001ff5c00132088909090909090909090909090888888ff64001700014f70656e4a50482056657220302e32362e332eff90000a00"
    "000000003b0001ff93c00026cbfd050774000000c00012802601877400a00009c03efbfc00823400a000154070e1e0fe000840775600ffd9"
)


def read(path: Path, intensity: tuple[float, float] | None = (LOW, HIGH)) -> Volume:
    """Whatever a library warns of is kept away: it is no part of the claim."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_dicom(path, intensity)


def dirty(stored: Array, bits: int) -> Array:
    """The same numbers in so many bits, with all bits above them set in every second pixel."""
    unsigned = stored.astype(np.uint16) & np.uint16((1 << bits) - 1)
    above = np.zeros_like(unsigned)
    above.flat[::2] = (0xFFFF << bits) & 0xFFFF
    return unsigned | above


def bits(stored: int, signed: int = 0) -> dict[str, int]:
    return {"BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": signed}


def bare(path: Path, file: FileDataset, syntax: str = uid.ExplicitVRLittleEndian) -> Path:
    """The data set alone, without preamble and head, as old exports are."""
    implicit = syntax == uid.ImplicitVRLittleEndian
    file.preamble = None
    buffer = io.BytesIO()
    Dataset(file).save_as(buffer, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    path.write_bytes(buffer.getvalue())
    return path


def flat_jpeg(tone: Array) -> tuple[bytes, Array]:
    """A baseline JPEG of blocks of 8 x 8 equal pixels, which at the finest quantisation is exact, and its pixels."""
    pixels = np.kron(tone, np.ones((8, 8), dtype=np.uint8)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100)
    return buffer.getvalue(), pixels


def packed(kind: str, *frames: Array) -> list[bytes]:
    """Frames by a lossless encoder of imagecodecs."""
    how: dict[str, Any] = {"jpegls": {}, "jpeg2k": {"codecformat": "j2k", "reversible": True}}[kind]
    return [bytes(getattr(imagecodecs, f"{kind}_encode")(frame, level=0, **how)) for frame in frames]


def run_lengths(path: Path, file: FileDataset) -> Path:
    file.set_original_encoding(False, True)
    file.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    file.compress(uid.RLELossless, generate_instance_uid=False)
    return save(path, file, uid.RLELossless)


Build = Callable[[Path], Path]
BE, IMPLICIT, DEFLATED = uid.ExplicitVRBigEndian, uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian
MAP, DOSE, PET = uid.ParametricMapStorage, uid.RTDoseStorage, uid.PositronEmissionTomographyImageStorage
HU = {"RescaleSlope": "2.5", "RescaleIntercept": "-1024"}
PER_FRAME = [rescaled(1, 0), rescaled(2, -5), rescaled(0.125, 0)]
EACH = np.stack([FILM[0], FILM[1] * 2.0 - 5, FILM[2] * 0.125])
_JPG, _PIXELS = flat_jpeg(np.array([[0, 50], [130, 255]], dtype=np.uint8))
_TONES = np.array([[0, 1, 2047], [2048, 3000, 4095]])
_DEEP = np.kron(_TONES, np.ones((8, 8), dtype=np.int64)).astype(np.uint16)
#: Wide enough for the five halvings of JPEG 2000.
BROAD = np.tile(TWELVE, (10, 9))[:37, :41]
SIGNED, BYTES = BROAD.astype(np.int16) * 7 - 9000, (BROAD // 16).astype(np.uint8)
#: Name, how the file is made, and its right values as [frames, rows, columns] or [rows, columns].
RIGHT: dict[str, tuple[Build, Any]] = {
    "signed 16 bits": (lambda p: save(p, image(STORED)), STORED),
    "unsigned 16 bits": (lambda p: save(p, image(TWELVE * 16)), TWELVE * 16),
    "unsigned 8 bits": (lambda p: save(p, image(SMALL)), SMALL),
    "signed 8 bits": (lambda p: save(p, image((SMALL // 2).astype(np.int8) - 100)), SMALL // 2 - 100.0),
    "odd number of 8-bit pixels": (lambda p: save(p, image(SMALL[:3, :3])), SMALL[:3, :3]),
    "unsigned 32 bits": (lambda p: save(p, image(WORDS.astype(np.uint32) % 2**24)), WORDS % 2**24),
    "signed 32 bits": (lambda p: save(p, image((WORDS * 1000).astype(np.int32))), WORDS * 1000),
    "12 of 16 bits": (lambda p: save(p, image(TWELVE, **bits(12))), TWELVE),
    "12 of 16 bits below garbage": (lambda p: save(p, image(dirty(TWELVE, 12), **bits(12))), TWELVE),
    "12 of 16 bits with a sign below garbage": (lambda p: save(p, image(dirty(STORED, 12), **bits(12, 1))), STORED),
    "10 of 16 bits, big endian, garbage": (
        lambda p: save(p, image(dirty(TWELVE % 1024, 10), **bits(10)), BE),
        TWELVE % 1024,
    ),
    "no HighBit": (lambda p: save(p, image(STORED, HighBit=...)), STORED),
    "big endian 16 bits": (lambda p: save(p, image(STORED), BE), STORED),
    "big endian 8 bits in words": (lambda p: save(p, image(SMALL), BE), SMALL),
    "big endian 32 bits": (lambda p: save(p, image((WORDS * 1000).astype(np.int32)), BE), WORDS * 1000),
    "implicit": (lambda p: save(p, image(STORED, **HU), IMPLICIT), STORED * 2.5 - 1024),
    "deflated": (lambda p: save(p, image(STORED, **HU), DEFLATED), STORED * 2.5 - 1024),
    "without a preamble": (lambda p: bare(p, image(STORED, **HU)), STORED * 2.5 - 1024),
    "without a preamble, implicit": (lambda p: bare(p, image(STORED, **HU), IMPLICIT), STORED * 2.5 - 1024),
    "float": (lambda p: save(p, image(FLOATS, SOPClassUID=MAP)), FLOATS),
    "double float": (lambda p: save(p, image(FLOATS.astype(np.float64), SOPClassUID=MAP)), FLOATS),
    "rescale": (lambda p: save(p, image(STORED, **HU)), STORED * 2.5 - 1024),
    "slope empty": (lambda p: save(p, image(STORED, RescaleSlope=None, RescaleIntercept="-1024")), STORED - 1024.0),
    "slope and intercept empty": (lambda p: save(p, image(STORED, RescaleSlope=None, RescaleIntercept="")), STORED),
    "empty optional tags": (
        lambda p: save(
            p, image(STORED, NumberOfFrames=None, InstanceNumber=None, PixelSpacing=None, WindowCenter=None)
        ),
        STORED,
    ),
    "window not applied": (lambda p: save(p, image(STORED, WindowCenter="40", WindowWidth="10")), STORED),
    "padding is a value": (lambda p: save(p, image(STORED, PixelPaddingValue=-200, **HU)), STORED * 2.5 - 1024),
    "negative": (lambda p: save(p, image(STORED, PhotometricInterpretation="MONOCHROME1")), LOW + HIGH - STORED),
    "negative, rescaled first": (
        lambda p: save(p, image(STORED, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE", **HU)),
        LOW + HIGH - (STORED * 2.5 - 1024),
    ),
    "overlay in unused bits": (
        lambda p: save(p, overlaid(image(dirty(TWELVE, 12), **bits(12)), 12)),
        TWELVE,
    ),
    "PET with a slope of its own": (
        lambda p: save(p, image(STORED, SOPClassUID=PET, Units="BQML", RescaleSlope="0.37")),
        STORED * 0.37,
    ),
    "dose": (
        lambda p: save(p, image(TWELVE, SOPClassUID=DOSE, DoseGridScaling="0.001", DoseUnits="GY")),
        TWELVE * 0.001,
    ),
    "enhanced, one frame, rescale in a group": (
        lambda p: save(p, enhanced(STORED[None], {}, [rescaled(1, -1024)])),
        STORED - 1024.0,
    ),
    "enhanced, shared rescale": (
        lambda p: save(p, enhanced(FILM, rescaled(2, 7), [{}, {}, {}])),
        FILM * 2.0 + 7,
    ),
    "enhanced, a rescale of each frame": (lambda p: save(p, enhanced(FILM, {}, PER_FRAME)), EACH),
    "enhanced, big endian": (lambda p: save(p, enhanced(FILM, {}, PER_FRAME), BE), EACH),
    "enhanced, empty group": (
        lambda p: save(p, enhanced(FILM, rescaled(None, None), [{}, {}, {}])),
        FILM,
    ),
    "enhanced negative": (
        lambda p: save(p, enhanced(FILM, {}, PER_FRAME, PhotometricInterpretation="MONOCHROME1")),
        LOW + HIGH - EACH,
    ),
    "several frames of secondary capture": (
        lambda p: save(
            p, image(FILM, SOPClassUID=uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage, RescaleIntercept="5")
        ),
        FILM + 5.0,
    ),
    "frames of 8 bits and an odd size": (
        lambda p: save(p, image(np.stack([SMALL[:3, :3], SMALL[1:, 1:4]]))),
        np.stack([SMALL[:3, :3], SMALL[1:, 1:4]]),
    ),
    "JPEG baseline": (lambda p: compressed(p, image(_PIXELS), [_JPG], JPEG + "50"), _PIXELS),
    "JPEG extended, 8 bits": (lambda p: compressed(p, image(_PIXELS), [_JPG], JPEG + "51"), _PIXELS),
    "JPEG in several fragments": (
        lambda p: compressed(p, image(_PIXELS), [_JPG], JPEG + "50", fragments_per_frame=3),
        _PIXELS,
    ),
    "JPEG lossless, first-order": (
        lambda p: compressed(p, image(WORDS.astype(np.uint16)), [lossless_jpeg(WORDS % 65536, 16)], JPEG + "70"),
        WORDS % 65536,
    ),
    "JPEG lossless with a sign": (
        lambda p: compressed(p, image(STORED, **HU), [lossless_jpeg(WORDS % 65536, 16)], JPEG + "70"),
        STORED * 2.5 - 1024,
    ),
    "JPEG lossless, 12 bits": (
        lambda p: compressed(p, image(TWELVE, **bits(12)), [lossless_jpeg(TWELVE, 12)], JPEG + "57"),
        TWELVE,
    ),
    "JPEG lossless, 12 bits with a sign": (
        lambda p: compressed(p, image(STORED, **bits(12, 1)), [lossless_jpeg(WORDS % 4096, 12)], JPEG + "70"),
        STORED,
    ),
    "JPEG lossless, 16 bits of which 12 count": (
        lambda p: compressed(p, image(TWELVE, **bits(12)), [lossless_jpeg(dirty(TWELVE, 12), 16)], JPEG + "70"),
        TWELVE,
    ),
    "JPEG lossless, 8 bits": (
        lambda p: compressed(p, image(SMALL), [lossless_jpeg(SMALL, 8)], JPEG + "57"),
        SMALL,
    ),
    "JPEG lossless, three frames and an offset table": (
        lambda p: compressed(
            p, image(FILM), [lossless_jpeg(f.astype(np.int64) % 65536, 16) for f in FILM], JPEG + "70"
        ),
        FILM,
    ),
    "JPEG lossless, three frames without an offset table": (
        lambda p: compressed(
            p, image(FILM), [lossless_jpeg(f.astype(np.int64) % 65536, 16) for f in FILM], JPEG + "70", has_bot=False
        ),
        FILM,
    ),
    "JPEG extended, 12 bits": (
        lambda p: compressed(p, image(_DEEP, **bits(12)), [extended_jpeg(_TONES)], JPEG + "51"),
        _DEEP,
    ),
    "JPEG extended, 12 bits with a sign": (
        lambda p: compressed(p, image(_DEEP.astype(np.int16), **bits(12, 1)), [extended_jpeg(_TONES)], JPEG + "51"),
        np.where(_DEEP > 2047, _DEEP.astype(float) - 4096, _DEEP),
    ),
    "JPEG-LS": (lambda p: compressed(p, image(TWELVE * 3), packed("jpegls", TWELVE * 3), JPEG + "80"), TWELVE * 3),
    "JPEG-LS with a sign": (
        lambda p: compressed(p, image(STORED, **HU), packed("jpegls", STORED.view(np.uint16)), JPEG + "80"),
        STORED * 2.5 - 1024,
    ),
    "JPEG-LS, 12 bits with a sign": (
        lambda p: compressed(
            p, image(STORED, **bits(12, 1)), packed("jpegls", STORED.view(np.uint16) % 4096), JPEG + "80"
        ),
        STORED,
    ),
    "JPEG-LS, 8 bits": (lambda p: compressed(p, image(SMALL), packed("jpegls", SMALL), JPEG + "81"), SMALL),
    "JPEG 2000": (lambda p: compressed(p, image(BROAD), packed("jpeg2k", BROAD), JPEG + "90"), BROAD),
    "JPEG 2000 with a sign": (lambda p: compressed(p, image(SIGNED), packed("jpeg2k", SIGNED), JPEG + "90"), SIGNED),
    "JPEG 2000, 8 bits, named as lossy": (
        lambda p: compressed(p, image(BYTES), packed("jpeg2k", BYTES), JPEG + "91"),
        BYTES,
    ),
    "JPEG 2000, 16 bits of which 12 count": (
        lambda p: compressed(p, image(BROAD, **bits(12)), packed("jpeg2k", dirty(BROAD, 12)), JPEG + "90"),
        BROAD,
    ),
    "high-throughput JPEG 2000": (
        lambda p: compressed(p, image(STORED.astype(np.uint16)), [HTJ2K], JPEG + "201"),
        STORED + 200,
    ),
    "high-throughput JPEG 2000, any": (
        lambda p: compressed(p, image(STORED.astype(np.uint16)), [HTJ2K], JPEG + "203"),
        STORED + 200,
    ),
    "run lengths": (lambda p: run_lengths(p, image(STORED, **HU)), STORED * 2.5 - 1024),
    "run lengths, three frames": (lambda p: run_lengths(p, image(FILM)), FILM),
}


def overlaid(file: FileDataset, bit: int) -> FileDataset:
    """An overlay in one of the bits of the pixels, as was done before 2004."""
    for element, kind, value in ((0x10, "US", 4), (0x11, "US", 5), (0x40, "CS", "G"), (0x100, "US", 16)):
        file.add_new((0x6000, element), kind, value)
    file.add_new((0x6000, 0x50), "SS", [1, 1])
    file.add_new((0x6000, 0x102), "US", bit)
    return file


@pytest.mark.parametrize("kind", RIGHT)
def test_a_kind_that_is_understood_has_the_values_that_were_put_in(tmp_path: Path, kind: str) -> None:
    make, right = RIGHT[kind]
    path = make(tmp_path / "IM0001")
    assert is_dicom(path)
    expected = np.moveaxis(np.atleast_3d(right) if np.ndim(right) == 3 else np.asarray(right)[None], 0, -1)
    found = read(path).values
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_masks_keep_their_class_numbers(tmp_path: Path) -> None:
    classes = SMALL // 60
    negative = save(tmp_path / "m1", image(classes, PhotometricInterpretation="MONOCHROME1", RescaleSlope=None))
    np.testing.assert_array_equal(read(negative, None).values[:, :, 0], classes)
    scaled = save(tmp_path / "m2", image(classes, RescaleIntercept="-1024"))
    with pytest.raises(InvalidData, match="a mask's numbers are classes"):
        read(scaled, None)


def lut() -> Dataset:
    return change(Dataset(), LUTDescriptor=[2, 0, 16], ModalityLUTType="HU", LUTData=b"\0\0\1\0")


def cut(path: Path, bytes_off: int) -> Path:
    path.write_bytes(path.read_bytes()[:-bytes_off])
    return path


def renamed(path: Path, was: str, named: str) -> Path:
    """The same file, saying that it has another transfer syntax."""
    whole = path.read_bytes()
    assert whole.count(was.encode()) == 1
    assert len(named) <= len(was)
    path.write_bytes(whole.replace(was.encode(), named.encode().ljust(len(was), b"\0")))
    return path


RED = {"RedPaletteColorLookupTableDescriptor": [4, 0, 16]}
LYING = lossless_jpeg(np.zeros((4, 6), dtype=np.int64), 16)
_TEXT = uid.BasicTextSRStorage
#: Name, how the file is made, and words of its refusal.
REFUSED: dict[str, tuple[Build, str]] = {
    "palette": (lambda p: save(p, image(SMALL, PhotometricInterpretation="PALETTE COLOR", **RED)), "palette"),
    "red, green, blue": (
        lambda p: save(p, image(SMALL, PhotometricInterpretation="RGB", SamplesPerPixel=3, PlanarConfiguration=0)),
        "in colour.*RGB",
    ),
    "luma and chroma": (
        lambda p: save(p, image(SMALL, PhotometricInterpretation="YBR_FULL", SamplesPerPixel=3, PlanarConfiguration=0)),
        "YBR_FULL",
    ),
    "no photometric interpretation": (
        lambda p: save(p, image(SMALL, PhotometricInterpretation=...)),
        "not known to be grey",
    ),
    "supplemental palette": (lambda p: save(p, image(STORED, **RED)), "supplemental palette"),
    "presented in colour": (lambda p: save(p, image(STORED, PixelPresentation="COLOR")), "PixelPresentation COLOR"),
    "a frame presented in colour": (
        lambda p: save(p, enhanced(FILM, {"MRImageFrameTypeSequence": {"PixelPresentation": "MIXED"}}, [{}] * 3)),
        "PixelPresentation MIXED",
    ),
    "shown the other way": (lambda p: save(p, image(STORED, PresentationLUTShape="INVERSE")), "which end is white"),
    "modality LUT": (lambda p: save(p, image(STORED, ModalityLUTSequence=[lut()])), "modality LUT"),
    "overlay among the values": (lambda p: save(p, overlaid(image(TWELVE), 15)), "an overlay lies within"),
    "report": (lambda p: save(p, image(SMALL, SOPClassUID=_TEXT)), "Basic Text SR"),
    "structures": (lambda p: save(p, image(SMALL, SOPClassUID=uid.RTStructureSetStorage)), "RT Structure Set"),
    "document": (lambda p: save(p, image(SMALL, SOPClassUID=uid.EncapsulatedPDFStorage)), "PDF"),
    "presentation": (
        lambda p: save(p, image(SMALL, SOPClassUID=uid.GrayscaleSoftcopyPresentationStateStorage)),
        "Presentation State",
    ),
    "waveform": (lambda p: save(p, image(SMALL, SOPClassUID=uid.TwelveLeadECGWaveformStorage)), "ECG"),
    "segmentation": (lambda p: save(p, image(SMALL, SOPClassUID=uid.SegmentationStorage)), "segmentation object"),
    "a mosaic of slices": (
        lambda p: save(
            p, image(STORED, SOPClassUID=uid.MRImageStorage, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
        ),
        "side by side",
    ),
    "one frame that says nothing of its scale": (
        lambda p: save(p, enhanced(FILM, {}, [rescaled(1, -1024), {}, rescaled(1, -1024)])),
        "frame 2 has no RescaleIntercept, frame 1 has -1024",
    ),
    "whole slide": (lambda p: save(p, image(SMALL, SOPClassUID=uid.VLWholeSlideMicroscopyImageStorage)), "whole-slide"),
    "private kind": (lambda p: save(p, image(SMALL, SOPClassUID="1.3.12.2.1107.5.9.1")), "unknown kind 1.3.12.2.1107"),
    "no kind": (lambda p: bare(p, image(SMALL, SOPClassUID=...)), "what kind of object"),
    "no rows": (lambda p: save(p, image(SMALL, Rows=...)), "no Rows"),
    "no columns": (lambda p: save(p, image(SMALL, Columns=None)), "no Columns"),
    "huge": (lambda p: save(p, image(SMALL, Rows=65535, Columns=65535)), "at most"),
    "huge number of frames": (lambda p: save(p, image(SMALL, NumberOfFrames=2**30)), "at most"),
    "no frames": (lambda p: save(p, image(SMALL, NumberOfFrames=0)), "0 frames"),
    "single bits": (lambda p: save(p, image(SMALL, BitsAllocated=1)), "1 bits a pixel"),
    "packed 12 bits": (lambda p: save(p, image(TWELVE, BitsAllocated=12, **bits(12))), "12 bits a pixel"),
    "more bits than there are": (lambda p: save(p, image(SMALL, **bits(12))), "BitsStored 12"),
    "numbers in the upper bits": (lambda p: save(p, image(TWELVE, BitsStored=12, HighBit=15)), "HighBit 15"),
    "sign unknown": (lambda p: save(p, image(TWELVE, PixelRepresentation=...)), "PixelRepresentation is absent"),
    "sign of no kind": (lambda p: save(p, image(TWELVE, PixelRepresentation=2)), "PixelRepresentation is 2"),
    "truncated": (lambda p: cut(save(p, image(STORED)), 10), "ends before its last pixel"),
    "truncated header": (lambda p: cut(save(p, image(STORED)), 120), "no |damaged|cannot be read"),
    "fewer frames than declared": (lambda p: save(p, image(FILM, NumberOfFrames=4)), "ends before its last pixel"),
    "more frames than declared": (lambda p: save(p, image(FILM, NumberOfFrames=2)), "bytes of pixels more"),
    "no pixels": (lambda p: save(p, image(STORED, PixelData=...)), "no pixel data"),
    "pixels of two kinds": (lambda p: save(p, image(STORED, FloatPixelData=b"\0" * 80)), "several kinds"),
    "groups of other frames": (lambda p: save(p, enhanced(FILM, {}, PER_FRAME[:2])), "functional groups of 2"),
    "rescale twice": (
        lambda p: save(p, enhanced(FILM, {}, PER_FRAME, RescaleSlope="3", RescaleIntercept="0")),
        "at its root",
    ),
    "rescale shared and own": (lambda p: save(p, enhanced(FILM, rescaled(3, 0), PER_FRAME)), "another one for frame 1"),
    "slope of nought": (lambda p: save(p, image(STORED, RescaleSlope="0")), "RescaleSlope is 0"),
    "slope of words": (lambda p: save(p, worded(image(STORED))), "RescaleSlope"),
    "slope of two numbers": (lambda p: save(p, image(STORED, RescaleSlope=["1", "2"])), "RescaleSlope is 1, 2"),
    "dose without a scale": (
        lambda p: save(p, image(TWELVE, SOPClassUID=DOSE, DoseUnits="GY")),
        "DoseGridScaling None",
    ),
    "dose relative to something": (
        lambda p: save(p, image(TWELVE, SOPClassUID=DOSE, DoseUnits="RELATIVE", DoseGridScaling="1")),
        "RELATIVE",
    ),
    "map with a mapping": (
        lambda p: save(
            p,
            image(
                FLOATS,
                SOPClassUID=MAP,
                RealWorldValueMappingSequence=[
                    change(Dataset(), RealWorldValueSlope=2.0, RealWorldValueIntercept=0.0),
                ],
            ),
        ),
        "not its values",
    ),
    "not a number": (lambda p: save(p, image(FLOATS * np.float32("nan"), SOPClassUID=MAP)), "NaN or infinite"),
    "beyond float32": (lambda p: save(p, image(STORED, RescaleSlope="1e38")), "NaN or infinite"),
    "video": (lambda p: compressed(p, image(SMALL), [b"\0\0\1\xba"], JPEG + "100"), "MPEG2"),
    "unknown transfer syntax": (
        lambda p: renamed(save(p, image(SMALL)), uid.ExplicitVRLittleEndian, "1.2.840.10008.9.99"),
        "the unknown 1.2.840.10008.9.99, which is not read",
    ),
    "plain, named as compressed": (
        lambda p: renamed(save(p, image(SMALL)), uid.ExplicitVRLittleEndian, uid.RLELossless),
        "plain pixels in a file",
    ),
    "compressed, named as plain": (
        lambda p: renamed(compressed(p, image(STORED), [LYING], JPEG + "70"), JPEG + "70", uid.ExplicitVRLittleEndian),
        "compressed pixels in a file",
    ),
    "lossy JPEG of 16 bits": (
        lambda p: compressed(
            p, image(_DEEP), [extended_jpeg(_TONES).replace(b"\x0b\x0c\0", b"\x0b\x10\0")], JPEG + "51"
        ),
        "are not 'JPEG Extended",
    ),
    "compressed by something else": (
        lambda p: compressed(p, image(_PIXELS), [_JPG], JPEG + "70"),
        "its pixels are not 'JPEG Lossless.*1.2.840.10008.1.2.4.70",
    ),
    "compressed and of another size": (
        lambda p: compressed(p, image(STORED), [LYING], JPEG + "70"),
        "4 x 6 and 1 colours",
    ),
    "compressed and cut off": (
        lambda p: compressed(p, image(TWELVE), [lossless_jpeg(TWELVE, 16)[:-8]], JPEG + "70"),
        "ends before its end mark",
    ),
    "compressed and short of frames": (
        lambda p: compressed(p, image(FILM, NumberOfFrames=2), [lossless_jpeg(TWELVE, 16)], JPEG + "70"),
        "frames",
    ),
    "compressed with other bits": (
        lambda p: compressed(p, image(TWELVE), [lossless_jpeg(SMALL, 8)], JPEG + "70"),
        "16 of 16 bits by its header, 8 by",
    ),
    "JPEG 2000 with another sign": (
        lambda p: compressed(p, image(BROAD), packed("jpeg2k", SIGNED), JPEG + "90"),
        "without a sign by its header",
    ),
    "JPEG 2000 of nothing": (lambda p: compressed(p, image(TWELVE), [b"\0" * 100], JPEG + "90"), "are not 'JPEG 2000"),
    "run lengths of nothing": (
        lambda p: compressed(p, image(TWELVE), [b"\0" * 100], uid.RLELossless),
        "cannot be unpacked",
    ),
}


def worded(file: FileDataset) -> FileDataset:
    """A slope that is no number, written past pydicom's own checks."""
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import Tag

    file[0x0028, 0x1053] = RawDataElement(Tag(0x0028, 0x1053), "DS", 4, b"two ", 0, False, True)
    return file


@pytest.mark.parametrize("kind", REFUSED)
def test_a_kind_that_is_not_understood_is_refused_by_its_name(tmp_path: Path, kind: str) -> None:
    make, words = REFUSED[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = make(tmp_path / "IM0001")
    assert is_dicom(path)
    with pytest.raises(InvalidData, match=words) as raised:
        read(path)
    assert "IM0001" in raised.value.message
    assert "Error" not in raised.value.message
    assert raised.value.hint != InvalidData.default_hint  # which does not say what is to be done


@pytest.mark.parametrize("last", ["50", "51", "57", "70", "80", "81", "90", "91", "201", "202", "203"])
def test_a_missing_decoder_is_named_with_the_syntax_and_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    path = compressed(tmp_path / "IM0001", image(STORED), [LYING], JPEG + last)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imagecodecs" else find(name))
    words = f"{re.escape(uid.UID(JPEG + last).name)}.*{re.escape(JPEG + last)}.*imagecodecs is not installed"
    with pytest.raises(MissingExtra, match=words) as raised:
        read(path)
    assert "pip install imagecodecs" in raised.value.hint


def test_a_deflated_file_is_measured_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "bomb", image(np.zeros((1000, 1000), dtype=np.int16)), DEFLATED)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(dicom_files, "LARGEST_DEFLATED", 2**20)
    with pytest.raises(InvalidData, match="unpacks to more than 1048576 bytes"):
        read(path)


def test_sizes_are_checked_before_pixels_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "IM0001", image(FILM))
    monkeypatch.setattr(dicom_kinds, "LARGEST_VOLUME", 59)
    monkeypatch.setattr("secure_fedhelp.data.dicom_series.stored_frames", None)
    with pytest.raises(InvalidData, match="4 x 5 pixels, 3 frames"):
        read(path)


def test_nothing_is_logged_or_printed_but_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """180 slices with one odd tag were 180 lines."""
    odd = image(TWELVE, **bits(12))
    odd.add_new(0x00080018, "UI", "1.2.03.not-a-uid")
    paths = [
        save(tmp_path / "plain", odd),
        compressed(tmp_path / "extended", image(_DEEP, **bits(12)), [extended_jpeg(_TONES)], JPEG + "51"),
        compressed(tmp_path / "lossless", odd, [lossless_jpeg(TWELVE, 12)], JPEG + "70"),
    ]
    caplog.clear()
    capfd.readouterr()
    for path in paths:
        read(path)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    damaged = compressed(tmp_path / "damaged", image(TWELVE), [b"\0" * 100], uid.RLELossless)
    caplog.clear()
    with pytest.raises(InvalidData):
        read(damaged)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_where_a_slice_lies_is_kept_in_the_axes_of_nifti(tmp_path: Path) -> None:
    found = read(save(tmp_path / "ct", image(STORED, **place(30)))).affine
    # One row further is 0.5 mm further back, one column 0.8 mm further left; right and front are positive.
    right = [[0, -0.8, 0, 10], [-0.5, 0, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(found, right, atol=1e-9)
    assert read(save(tmp_path / "cr", image(STORED))).affine is None


def test_frames_of_an_enhanced_stack_lie_one_behind_the_other(tmp_path: Path) -> None:
    own = [placed(number) for number in (9, 6, 3)]
    found = read(save(tmp_path / "ct", enhanced(FILM, LIES, own)))
    np.testing.assert_allclose(found.values[:, :, 1], FILM[1])
    assert found.affine is not None
    np.testing.assert_allclose(found.affine[:, 2], [0, 0, -3, 0])
    np.testing.assert_allclose(found.affine[:, 3], [10, -20, 9, 1])


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ((0, 3, 12), "a slice is missing between"),
        ((0, 6, 3), "lies before"),
        ((0, 3, 3), "at one place"),
    ],
)
def test_frames_that_are_no_stack_are_refused(tmp_path: Path, places: tuple[int, ...], words: str) -> None:
    path = save(tmp_path / "ct", enhanced(FILM, LIES, [placed(number) for number in places]))
    with pytest.raises(InvalidData, match=words) as raised:
        read(path)
    assert "emf2sf" in raised.value.hint  # of one file nothing can be listed one by one, or put into another folder


def test_frames_of_one_place_are_times_and_make_no_volume(tmp_path: Path) -> None:
    found = read(save(tmp_path / "mr", enhanced(FILM, LIES, [placed(5)] * 3)))
    assert found.affine is None
    np.testing.assert_allclose(np.moveaxis(found.values, -1, 0), FILM)


@pytest.mark.parametrize(
    "tags",
    [{"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, {"PixelSpacing": [0, 1]}, {"ImageOrientationPatient": [0] * 6}],
)
def test_axes_that_span_no_plane_are_refused(tmp_path: Path, tags: dict[str, Any]) -> None:
    with pytest.raises(InvalidData, match="no two axes"):
        read(save(tmp_path / "ct", image(STORED, **place(0) | tags)))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 128, b"\x89PNG\r\n\x1a\n" * 60, b"file,target\n" * 60, b"\x08\x00" * 100, b"\x02\x00\x10\x00" * 100],
)
def test_what_is_no_dicom_is_not_taken_for_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.dcm").write_bytes(content)
    assert not is_dicom(tmp_path / "x.dcm")


@pytest.mark.parametrize(
    "rest", [b"", b"junk" * 100, b"\x08\x00\x16\x00UI\xff\xff1.2", b"\xe0\x7f\x10\x00OW\0\0\xff\xff\xff\xff"]
)
def test_rubbish_after_the_mark_is_a_named_refusal(tmp_path: Path, rest: bytes) -> None:
    (tmp_path / "x").write_bytes(b"\0" * 128 + b"DICM" + rest)
    with pytest.raises(InvalidData, match=r"\bx\b"):
        read(tmp_path / "x")
    with pytest.raises(InvalidData, match="no such file"):
        read(tmp_path / "none")


def test_damage_anywhere_is_an_image_or_a_named_refusal(tmp_path: Path) -> None:
    """One byte in a hundred of an uncompressed file, and every length of it."""
    whole = save(
        tmp_path / "IM0001", enhanced(FILM, LIES | rescaled(2, 1), [placed(z) for z in (0, 3, 6)])
    ).read_bytes()
    rng = np.random.default_rng(7)
    for _ in range(150):
        damaged = bytearray(whole[: rng.integers(132, len(whole) + 1)])
        for place_of in rng.integers(132, len(damaged) + 1, size=rng.integers(0, 4)):
            damaged[min(place_of, len(damaged) - 1)] = rng.integers(256)
        (tmp_path / "IM0001").write_bytes(damaged)
        refused = ""
        try:
            assert np.isfinite(read(tmp_path / "IM0001").values).all()
        except InvalidData as error:
            refused = error.message
        assert "IM0001" in (refused or "IM0001")


def test_values_whose_unit_is_open_are_told_of_and_masks_are_not(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / "ct", image(STORED)),
        save(tmp_path / "pet", image(STORED, SOPClassUID=PET, Units="CNTS", RescaleSlope="1")),
        save(tmp_path / "said", enhanced(FILM, {}, [rescaled(1, 0)] * 3)),
    ]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for path in paths:
            read_dicom(path, (LOW, HIGH))
            read_dicom(path, None)
    assert [str(warning.message).split(":")[0].split(";")[0] for warning in told] == [
        "CT without a slope and an intercept",
        "PET values are in the unit of the file (CNTS)",
    ]


@pytest.mark.parametrize("spaces", ["", "  ", "    "])
def test_a_tag_of_spaces_is_an_empty_one(tmp_path: Path, spaces: str) -> None:
    path = save(tmp_path / "ct", image(STORED, RescaleSlope=None, RescaleIntercept="-1024", RescaleType=spaces))
    whole = path.read_bytes()
    empty = b"\x28\0\x53\x10DS\0\0"
    assert whole.count(empty) == 1
    length = len(spaces).to_bytes(2, "little")
    path.write_bytes(whole.replace(empty, empty[:6] + length + spaces.encode()))
    np.testing.assert_array_equal(read(path).values[:, :, 0], STORED - 1024)
