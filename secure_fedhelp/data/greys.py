"""How the pixels of images lie between black and white, for the data card."""

from __future__ import annotations

import numpy as np

from secure_fedhelp.data.images import CENTER, SCALE
from secure_fedhelp.data.loaded import Tones
from secure_fedhelp.data.records import Inputs

#: Black and white as a model sees them.
BLACK, WHITE = (0.0 - CENTER) / SCALE, (1.0 - CENTER) / SCALE
#: Resizing rounds; a grey step of eight bits is fifteen times this.
_NEAR = 1e-3
#: Images that are compared at a time, and pixels that a percentile is taken of.
_IMAGES, _SAMPLED = 256, 1_000_000


def count_tones(inputs: Inputs) -> Tones:
    """Of images as a model sees them: those of an array are taken as they are, so what is beyond is not cut."""
    found = Tones()
    for start in range(0, len(inputs), _IMAGES):
        part = inputs[start : start + _IMAGES]
        below, above = int((part < BLACK - _NEAR).sum()), int((part > WHITE + _NEAR).sum())
        black, white = int((part <= BLACK + _NEAR).sum()), int((part >= WHITE - _NEAR).sum())
        found += Tones(part.size, below, above, black, white)
    return found


def grey_ends(inputs: Inputs) -> tuple[float, float]:
    """The first and the last percentile of all pixels, black being 0 and white 1; of every so many, where there are
    many."""
    pixels = inputs.reshape(-1)
    low, high = np.quantile(pixels[:: max(1, pixels.size // _SAMPLED)], (0.01, 0.99))
    return float(low) * SCALE + CENTER, float(high) * SCALE + CENTER
