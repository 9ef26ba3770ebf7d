"""One image file, or an image and its mask, as raw values: by content, on one grid, with what is to be told of them."""

from __future__ import annotations

from pathlib import Path

from secure_fedhelp.data.formats import Format, format_of
from secure_fedhelp.data.geometry import seen_as
from secure_fedhelp.data.loaded import Odd, Tones
from secure_fedhelp.data.notes import Notes
from secure_fedhelp.data.pictures import PICTURES, Raw, read_picture, read_picture_mask, tones
from secure_fedhelp.data.suspicion import of_image
from secure_fedhelp.data.volumes import VolumeReader, slice_of
from secure_fedhelp.errors import InvalidData
from secure_fedhelp.study.sections import DataSection


class ImageFiles:
    """Reads the files of one data set, which lies in ``folder``, one after another."""

    def __init__(self, folder: Path, data: DataSection) -> None:
        self._folder, self._data, self._volumes = folder, data, VolumeReader(data.intensity)
        self.notes, self.tones = Notes(), Tones()
        #: Images that stand out, by what is odd about them; a volume of which a slice does is there once.
        self.odd: dict[Odd, dict[str, None]] = {}

    def image(self, path: Path, number: int | None, where: str) -> Raw:
        """float32 [C, H, W] of slice ``number`` of a file; ``where`` names it for a person. Raises InvalidData."""
        with self.notes.hears(self._name(path)):
            form = format_of(path)
            if form in PICTURES:
                _require_no_slice(number, path, where)
            return self._image(path, form, number, where, masked=False)

    def pair(self, path: Path, mask: Path, number: int | None, where: str) -> tuple[Raw, Raw]:
        """float32 [C, H, W] of an image and [H, W] of its mask, pixel on pixel. Raises InvalidData.

        ``number`` counts slices of the image; of the mask where the image is one picture.
        """
        with self.notes.hears(self._name(path)):
            form, mask_form = format_of(path), format_of(mask)
            if form in PICTURES and mask_form in PICTURES:
                _require_no_slice(number, path, where)
            raw = self._image(path, form, number, where, masked=True)
            if mask_form in PICTURES:
                found, as_stored = read_picture_mask(mask, mask_form), form not in PICTURES
            elif form in PICTURES:
                found, as_stored = slice_of(self._volumes.mask(mask, mask_form), number, mask.name), True
            else:
                moved = self._volumes.mask_of(path, form, mask, mask_form, where)
                found, as_stored = slice_of(moved, number, mask.name), moved.affine is None
        if found.shape != raw.shape[1:]:
            sizes = " for an image of ".join(f"{rows} x {columns}" for rows, columns in (found.shape, raw.shape[1:]))
            raise InvalidData(f"{where}: a mask of {sizes} pixels (rows x columns)", _ONE_SIZE)
        if as_stored:
            self.notes.add(_AS_STORED, self._name(mask))
        return raw, found

    def _image(self, path: Path, form: Format, number: int | None, where: str, *, masked: bool) -> Raw:
        if form in PICTURES:
            raw = whole = read_picture(path, form, self._data, masked=masked)
        elif self._data.input_shape[0] != 1:
            raise InvalidData(f"{where}: {path.name} has one channel, the plan says {self._data.input_shape[0]}", _GREY)
        else:
            volume = self._volumes.image(path, form)
            raw, whole = slice_of(volume, number, path.name)[None], volume.values
            self.notes.lies(None if volume.affine is None else seen_as(volume.affine), self._name(path))
        found = tones(raw, self._data.intensity)
        self.tones += found
        if (odd := of_image(raw, whole, found, self._data)) is not None:
            self.odd.setdefault(odd, {})[self._name(path)] = None
        return raw

    def _name(self, path: Path) -> str:
        """Short, and not shared by two files, as a file's last name may be."""
        return str(path.relative_to(self._folder) if path.is_relative_to(self._folder) else path)


def _require_no_slice(number: int | None, path: Path, where: str) -> None:
    if number:
        raise InvalidData(f"{where}: no slice {number} in {path.name}, which is one picture", _ONE_PICTURE)


_ONE_SIZE = (
    "Bring the mask to the size of its image, by nearest neighbours, with the tool that made it. Nothing was spent."
)
_ONE_PICTURE = "Leave the column 'slice' empty for pictures. Nothing was spent."
_GREY = "DICOM and NIfTI are read for plans of one channel; for colours save PNGs. Nothing was spent."
_AS_STORED = (
    "masks are taken as stored, pixel on pixel, since they or their images say nothing of how they lie in space"
)
