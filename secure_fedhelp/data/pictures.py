"""One image or mask as the plan's arrays: read from a PNG through Pillow, scaled by public constants, resized.

Nothing here is fitted to the records: ``intensity`` and ``input_shape`` are the plan's, so preparing an image reveals
nothing and costs nothing. Resizing does not keep the ratio of the sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secure_fedhelp.data.images import CENTER, SCALE
from secure_fedhelp.data.records import Inputs, Labels
from secure_fedhelp.errors import FedHelpError, InvalidData, InvalidValue
from secure_fedhelp.study.sections import DataSection

#: More pixels than this are refused before they are unpacked (a whole-slide image is cut into tiles first).
LARGEST_PIXELS = 64 * 2**20
Raw = NDArray[np.float32]
#: Modes of a grey PNG whose values are no 8-bit ones: taken as they are, the plan's ``intensity`` says what they mean.
_DEEP = ("I", "I;16", "I;16B", "I;16L", "F")


def read_png(path: Path, channels: int) -> Raw:
    """float32 [channels, H, W] of a PNG, one channel (grey) or three (red, green, blue); raises InvalidData."""
    with _open(path) as image:
        if channels == 1:
            array = np.asarray(image if image.mode in _DEEP else image.convert("L"), dtype=np.float32)[None]
        elif channels == 3 and image.mode not in _DEEP:
            array = np.moveaxis(np.asarray(image.convert("RGB"), dtype=np.float32), -1, 0)
        else:
            raise InvalidData(f"{path.name}: an image of mode {image.mode} has no {channels} channels")
    return array


def read_png_mask(path: Path) -> Raw:
    """float32 [H, W] of a mask: the stored numbers, not their colours; raises InvalidData."""
    with _open(path) as image:
        if image.mode not in (*_DEEP, "1", "L", "P"):
            raise InvalidData(f"{path.name}: a mask has one number a pixel, not {image.mode}")
        return np.asarray(image, dtype=np.float32)


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
    classes = len(data.classes)
    if classes == 2 and not np.isin(raw, (0, 255), invert=True).any():
        raw = np.asarray(raw / 255, dtype=np.float32)
    wrong = ~np.isin(raw, np.arange(classes))
    if wrong.any():
        raise InvalidValue(f"{name}: {raw[wrong][0]:g} in the mask is none of the {classes} class numbers")
    _, height, width = data.input_shape
    return _resize(raw, width, height, Image.Resampling.NEAREST).astype(np.int64)


def _resize(channel: NDArray[Any], width: int, height: int, how: Image.Resampling) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32))
    return np.asarray(image.resize((width, height), how), dtype=np.float32)


def _open(path: Path) -> Image.Image:
    """A PNG, unpacked; no other format is tried, so that a file cannot choose its own reader."""
    try:
        image = Image.open(path, formats=["PNG"])
        if image.width * image.height > LARGEST_PIXELS:
            image.close()
            raise InvalidData(f"{path.name}: {image.width} x {image.height} pixels, at most {LARGEST_PIXELS} in all")
        image.load()
    except FedHelpError:
        raise
    except OSError as error:
        raise InvalidData(f"{path}: {error.strerror or 'not a readable PNG'}") from error
    except Exception as error:  # a malformed chunk: Pillow raises many kinds
        raise InvalidData(f"{path.name}: not a readable PNG ({type(error).__name__})") from error
    return image
