"""Vessels in photographs of the retina, from four centres with visibly different cameras.

DRIVE (Staal et al., IEEE TMI 2004), STARE (Hoover et al., IEEE TMI 2000), CHASE_DB1 (Fraz et al., IEEE TBME 2012) and
HRF (Budai et al., 2013), read from one NPZ with ``images`` uint8 [n, 256, 256, 3], ``vessel_fraction`` uint8
[n, 256, 256] (255 where all of a pixel is vessel), ``centre`` and ``names``. They are averaged down to 64 by 64 pixels:
a processor without an accelerator then trains a U-Net on them record by record.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.images import normalise
from secure_fedhelp.data.loaded import Progress, silent
from secure_fedhelp.data.npz import read_arrays
from secure_fedhelp.data.records import Labels, Records
from secure_fedhelp.study.sections import Tier

FILE = "retina_vessels_256.npz"
#: In the order of the file's numbers.
CENTRES: tuple[tuple[str, Tier], ...] = (("drive", "large"), ("stare", "small"), ("chase", "small"), ("hrf", "large"))
SIDE = 64
#: A pixel is vessel if at least this much of it is: vessels are thinner than a pixel here, and a half would lose most.
SMALLEST_SHARE = 0.25


def read_retina(path: Path, progress: Progress = silent) -> tuple[Records, Labels]:
    """All records, and the number of the centre of each; InvalidData if the file is another."""
    keys = ("images", "vessel_fraction", "centre", "names")
    stored = read_arrays(path, keys, progress=progress)
    images, vessels, centre, names = (stored[key] for key in keys)
    inputs = normalise(np.moveaxis(np.round(_shrink(images)).astype(np.uint8), -1, 1))
    masks = (_shrink(vessels) / 255 >= SMALLEST_SHARE).astype(np.int64)
    patients = tuple(_patient(CENTRES[number][0], str(name)) for number, name in zip(centre, names, strict=True))
    return Records(inputs, masks, patients), centre.astype(np.int64)


def _patient(centre: str, name: str) -> str:
    """CHASE_DB1 has both eyes of each child (``Image_01L``, ``Image_01R``); elsewhere an image is a person."""
    stem = name.rpartition(".")[0]
    return f"{centre}-{re.sub('[LR]$', '', stem) if centre == 'chase' else stem}"


def _shrink(images: NDArray[np.uint8]) -> NDArray[Any]:
    """Means over squares, of [n, height, width, ...]."""
    n, side = images.shape[:2]
    squares = images.reshape(n, SIDE, side // SIDE, SIDE, side // SIDE, *images.shape[3:])
    return np.asarray(squares.mean(axis=(2, 4)))
