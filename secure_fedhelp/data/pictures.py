"""One image or mask as the plan's arrays: raw values of a PNG or JPEG, scaled by public constants, resized.

Nothing here is fitted to the records: ``intensity`` and ``input_shape`` are the plan's, so preparing an image reveals
nothing and costs nothing. Resizing does not keep the ratio of the sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secure_fedhelp.data.bitmap import Bitmap, read_jpeg, read_png, upright
from secure_fedhelp.data.formats import Format
from secure_fedhelp.data.images import CENTER, SCALE
from secure_fedhelp.data.loaded import Tones
from secure_fedhelp.data.records import Inputs, Labels
from secure_fedhelp.errors import InvalidData, InvalidValue
from secure_fedhelp.study.sections import DataSection

Raw = NDArray[np.float32]
#: Formats whose files are one picture, and say nothing of how it lies in space.
PICTURES: tuple[Format, ...] = ("PNG", "JPEG")
#: Weights of red, green and blue in a grey value, in 65536ths (ITU-R BT.601).
_LUMA = np.asarray([19595, 38470, 7471], dtype=np.int64)
#: How far a stored number may lie from the class that it means: what a scale in a file's header makes of whole numbers.
_NEARLY = 1e-3


def read_picture(path: Path, form: Format, data: DataSection, *, masked: bool) -> Raw:
    """float32 [channels, H, W] of a PNG or JPEG in the plan's channels: stored numbers, a palette's as colours.

    A picture that says how it must be turned is turned, unless a mask belongs to it, of which nobody knows whether it
    was drawn before or after. Raises InvalidData or InvalidValue.
    """
    bitmap = _read(path, form)
    if not bitmap.opaque:
        raise InvalidData(f"{path.name}: pixels that can be looked through; what is behind them, nobody says", _FLATTEN)
    if masked and bitmap.turn != 1:
        raise InvalidData(f"{path.name}: to be turned before it is seen (EXIF orientation {bitmap.turn})", _TURN)
    depth = bitmap.depth if bitmap.palette is None else 8  # a palette's colours have 8 bits, whatever its indices have
    if data.intensity[1] > (white := 2**depth - 1):
        raise InvalidValue(
            f"{path.name}: {depth} bits a value, so {white} at most; the plan's white is {data.intensity[1]:g}",
            "Save all images with the depth that the plan's [data] intensity is meant for. Nothing was spent.",
        )
    return np.moveaxis(_in_channels(upright(bitmap), data.input_shape[0], path.name), -1, 0).astype(np.float32)


def read_picture_mask(path: Path, form: Format) -> Raw:
    """float32 [H, W] of a mask: the stored class numbers, of a palette the indices; raises InvalidData."""
    bitmap = _read(path, form)
    if bitmap.lossy:
        raise InvalidData(
            f"{path.name}: a mask as JPEG, which blurs class numbers", "Save masks as PNG, from their source."
        )
    if bitmap.alpha or bitmap.values.shape[2] != 1:
        what = "colours" if bitmap.values.shape[2] == 3 else "grey values"
        alpha = " and transparency" if bitmap.alpha else ""
        raise InvalidData(f"{path.name}: a mask has one number a pixel, not {what}{alpha}", _CLASSES)
    if bitmap.turn != 1:
        raise InvalidData(f"{path.name}: to be turned before it is seen (EXIF orientation {bitmap.turn})", _TURN)
    if bitmap.palette is not None and _contradicts(bitmap.values, bitmap.palette):
        reason = f"{path.name}: a palette of greys in another order than its numbers; which are the classes?"
        raise InvalidData(reason, "Save it as grey values, without a palette. Nothing was spent.")
    return bitmap.values[..., 0].astype(np.float32)


_CLASSES = (
    "Save the mask with a class number in each pixel: grey levels such as 0, 128, 255 become 0, 1, 2, and of "
    "probabilities the likeliest class. Nothing was spent."
)
_FLATTEN = "Save it without transparency, before the background that is meant. Nothing was spent."
_TURN = "Turn image and mask for good, so that both are stored upright, and save them without it. Nothing was spent."


def tones(raw: Raw, intensity: tuple[float, float]) -> Tones:
    """How raw values lie against black and white, before :func:`fit_image` cuts them."""
    low, high = intensity
    return Tones(raw.size, *(int(np.count_nonzero(cut)) for cut in (raw < low, raw > high, raw <= low, raw >= high)))


def fit_image(raw: Raw, data: DataSection, name: str) -> Inputs:
    """[channels, H, W] of raw values to the plan's shape: ``intensity`` to black and white, cut, resized bilinearly.

    Raises InvalidValue, naming the image, where nothing of it would be left: all of it beyond one end of the intensity.
    """
    low, high = data.intensity
    _, height, width = data.input_shape
    if raw.min() < raw.max() and (raw.max() <= low or raw.min() >= high):
        reason = f"{name}: values from {raw.min():g} to {raw.max():g}, all beyond the intensity of {low:g} to {high:g}"
        raise InvalidValue(reason, "Give [data] intensity the raw values that are black and white (docs/data.md).")
    grey = (np.clip(raw, low, high) - low) / (high - low)
    resized = [_resize(channel, width, height, Image.Resampling.BILINEAR) for channel in grey]
    return np.asarray((np.stack(resized) - CENTER) / SCALE, dtype=np.float32)


def fit_mask(raw: Raw, data: DataSection, name: str) -> Labels:
    """[H, W] of class numbers to the plan's height and width by nearest neighbours; InvalidValue for no class.

    With two classes, 0 and 255 are taken as 0 and 1: that is how many programs save a yes-or-no mask.
    """
    classes, whole = len(data.classes), np.rint(raw)
    raw = np.where(np.abs(raw - whole) < _NEARLY, whole, raw).astype(np.float32)
    if classes == 2 and not np.isin(raw, (0, 255), invert=True).any():
        raw = np.asarray(raw / 255, dtype=np.float32)
    wrong = ~np.isin(raw, np.arange(classes))
    if wrong.any():
        numbers = f"the {classes} class numbers, 0 to {classes - 1}"
        raise InvalidValue(f"{name}: {raw[wrong][0]:g} in the mask is none of {numbers}", _CLASSES)
    _, height, width = data.input_shape
    return _resize(raw, width, height, Image.Resampling.NEAREST).astype(np.int64)


def _resize(channel: NDArray[Any], width: int, height: int, how: Image.Resampling) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32))
    return np.asarray(image.resize((width, height), how), dtype=np.float32)


def _read(path: Path, form: Format) -> Bitmap:
    return read_png(path) if form == "PNG" else read_jpeg(path)


def _in_channels(bitmap: Bitmap, channels: int, name: str) -> NDArray[Any]:
    """[H, W, channels]: colours of a palette, grey out of colours, three equal channels out of 8-bit grey."""
    values: NDArray[Any] = bitmap.values
    if bitmap.palette is not None:
        values = bitmap.palette[values[..., 0]]
    planes = values.shape[2]
    if channels == planes:
        return values
    if channels == 1:  # 0.5 is added before cutting: the same rounding as Pillow's, for 16 bits too
        return (values.astype(np.int64) @ _LUMA + 2**15 >> 16)[..., None]
    if channels == 3 and bitmap.depth <= 8:
        return values.repeat(3, axis=2)
    planes_of = f"{planes} {'channel' if planes == 1 else 'channels'} of {bitmap.depth} bits"
    raise InvalidData(
        f"{name}: an image of {planes_of}; the plan has {channels} channels",
        "Save it with the plan's channels; grey of up to 8 bits is taken for three. Nothing was spent.",
    )


def _contradicts(values: NDArray[Any], palette: NDArray[np.uint8]) -> bool:
    """Whether the colours in use are all grey, and do not rise with their indices."""
    used = palette[np.unique(values)].astype(np.int64)
    return bool((used == used[:, :1]).all() and (np.diff(used[:, 0]) <= 0).any())
