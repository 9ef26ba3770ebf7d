"""Which DICOM objects are images that are understood; everything else is refused by its name, with what to do.

A list of what is known to be right, not of what is known to be wrong: a kind that is not here is refused. Kinds are SOP
classes of the standard (PS3.4, annex B.5; PS3.3 for the modules).
"""

from __future__ import annotations

from secure_fedhelp.data.dicom_tags import Frames, Tags
from secure_fedhelp.errors import InvalidData

#: More pixels than this in one plane, or voxels in one volume (2 GiB of float32), are refused before they are unpacked.
LARGEST_PLANE = 64 * 2**20
LARGEST_VOLUME = 2**29

DIRECTORY = "1.2.840.10008.1.3.10"
_ROOT = "1.2.840.10008.5.1.4.1.1."
CT = frozenset(_ROOT + last for last in ("2", "2.1", "2.2"))
PET = frozenset(_ROOT + last for last in ("128", "128.1", "130"))
DOSE = _ROOT + "481.2"
PARAMETRIC_MAP = _ROOT + "30"
_MR = frozenset(_ROOT + last for last in ("4", "4.1", "4.4"))
#: Classic and enhanced images whose samples are grey values of one picture, a slice or a frame.
IMAGES = (
    CT
    | PET
    | _MR
    | {DOSE, PARAMETRIC_MAP}
    | {
        _ROOT + last
        for last in (
            *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1"),  # radiography, mammography, intra-oral
            *("3", "3.1", "6", "6.1", "6.2", "6.3"),  # ultrasound, with retired kinds; photoacoustic
            *("5", "20"),  # nuclear medicine
            *("7", "7.2", "7.3"),  # secondary capture
            *("12.1", "12.1.1", "12.2", "12.2.1"),  # angiography and fluoroscopy
            *("13.1.1", "13.1.2", "13.1.3", "13.1.4", "13.1.5"),  # 3-D X-ray, tomosynthesis
            *("14.1", "14.2", "77.1.5.1", "77.1.5.2", "77.1.5.4"),  # optical coherence tomography, eyes
            *("77.1.1", "77.1.2", "77.1.4", "77.1.7", "77.1.8"),  # endoscopy, microscopy, photography, skin, confocal
            "481.1",  # radiotherapy
        )
    }
)
_CONVERT = "Export a grey image of it, with its values, or leave it out of the index. Nothing was spent."
_MASK = "Export its classes as a NIfTI volume, or as grey DICOM or PNG images of the class numbers. Nothing was spent."
_ONE_BY_ONE = "Name the image files that it lists, not the list. Nothing was spent."
_OTHERS = {
    DIRECTORY: ("a DICOMDIR, which lists files and is no image", _ONE_BY_ONE),
    _ROOT + "66.4": ("a segmentation object, whose frames are segments and not slices", _MASK),
    _ROOT + "7.1": ("an image of single bits", _MASK),
    _ROOT + "77.1.6": ("a whole-slide image, whose frames are tiles", "Export the fields that are meant as images."),
}
_PALETTES = ("RedPaletteColorLookupTableDescriptor", "SegmentedRedPaletteColorLookupTableData")
_FRAME_TYPES = (
    *(
        "CTImageFrameTypeSequence",
        "MRImageFrameTypeSequence",
        "PETFrameTypeSequence",
        "XAXRFFrameCharacteristicsSequence",
    ),
    *("XRay3DFrameTypeSequence", "USImageDescriptionSequence", "ParametricMapFrameTypeSequence"),
)
_GREY = ("MONOCHROME1", "MONOCHROME2")


def class_of(header: Tags) -> str:
    """The SOP class of an object, from its data set or else from the file's own head; InvalidData for none."""
    found = header.text("SOPClassUID")
    if not found and (meta := getattr(header.data, "file_meta", None)) is not None:
        found = Tags(meta, header.where).text("MediaStorageSOPClassUID")
    if not found:
        raise InvalidData(f"{header.where}: it does not say what kind of object it is (SOPClassUID)", _CONVERT)
    return found


def require_understood(header: Tags) -> Frames:
    """InvalidData, with the reason and what to do, for every object that is no understood grey image."""
    from pydicom.uid import UID

    where, kind = header.where, class_of(header)
    if kind in _OTHERS:
        raise InvalidData(f"{where}: {_OTHERS[kind][0]}", _OTHERS[kind][1])
    if kind not in IMAGES:
        name = UID(kind).name
        known = f"'{name}'" if name != kind else f"of the unknown kind {kind[:64]}"
        raise InvalidData(f"{where}: {known}, which is not among the images that are read", _CONVERT)
    if kind in _MR and "MOSAIC" in header.texts("ImageType"):  # its place and size are of the whole sheet, of no slice
        hint = "Export its slices one by one (by the scanner's own software, or as NIfTI with dcm2niix)."
        raise InvalidData(f"{where}: a mosaic, all slices of a volume side by side in one picture", hint)
    _require_sizes(header)
    _require_grey(header)
    frames = Frames(header)
    rows, columns = header.whole("Rows") or 0, header.whole("Columns") or 0
    if rows * columns > LARGEST_PLANE or rows * columns * frames.count > LARGEST_VOLUME:
        size = f"{rows} x {columns} pixels, {frames.count} frames"
        most = f"at most {LARGEST_PLANE} pixels a frame and {LARGEST_VOLUME} in all"
        raise InvalidData(f"{where}: {size}; {most}", "Export the part that is meant, or fewer frames.")
    _require_plain_values(header, frames)
    return frames


def _require_grey(header: Tags) -> None:
    where, photometric, samples = (
        header.where,
        header.text("PhotometricInterpretation"),
        header.whole("SamplesPerPixel"),
    )
    grey = "Convert it to a grey image (MONOCHROME2) before the study, in every hospital alike. Nothing was spent."
    if photometric == "PALETTE COLOR":
        raise InvalidData(f"{where}: in colour by a palette (PALETTE COLOR): its numbers are no grey values", grey)
    if photometric not in _GREY or samples not in (None, 1):
        what = f"{photometric or 'no PhotometricInterpretation'}, {samples or 'no'} samples a pixel"
        raise InvalidData(f"{where}: in colour, or not known to be grey ({what})", grey)
    if any(header.values(keyword) for keyword in _PALETTES):
        raise InvalidData(f"{where}: some of its values are colours of a supplemental palette", grey)
    shape = header.text("PresentationLUTShape")
    if shape not in ("", "IDENTITY" if photometric == "MONOCHROME2" else "INVERSE"):
        reason = f"{where}: {photometric} with the PresentationLUTShape {shape}; which end is white, nobody can tell"
        raise InvalidData(reason, "Export it again with one statement of it. Nothing was spent.")


def _require_sizes(header: Tags) -> None:
    for keyword in ("Rows", "Columns"):
        if (header.whole(keyword) or 0) < 1:
            raise InvalidData(f"{header.where}: no {keyword}, so it has no pixels, or is damaged", _CONVERT)


def _require_plain_values(header: Tags, frames: Frames) -> None:
    """InvalidData where a table stands between the stored numbers and their values, or colours in a frame."""
    where = header.where
    if header.items("ModalityLUTSequence"):
        hint = "Export it with the table applied, or with a slope and an intercept. Nothing was spent."
        raise InvalidData(f"{where}: a modality LUT stands between stored numbers and values, which is not read", hint)
    presented = {header.text("PixelPresentation")}
    for keyword in _FRAME_TYPES:
        presented |= {group.text("PixelPresentation") for group in frames.groups(keyword) if group is not None}
    if colours := presented - {"", "MONOCHROME"}:
        raise InvalidData(f"{where}: presented in colour (PixelPresentation {min(colours)})", _CONVERT)
    for group in {2 * number + 0x6000 for number in range(16)}:
        bit = header.data.get((group, 0x0102))
        stored = header.whole("BitsStored")
        embedded = (group, 0x3000) not in header.data and (group, 0x0100) in header.data
        if embedded and bit is not None and stored is not None and bit.value and int(bit.value) < stored:
            reason = f"{where}: an overlay lies within the bits of its values (bit {bit.value} of {stored})"
            raise InvalidData(reason, "Export it without the overlay. Nothing was spent.")
