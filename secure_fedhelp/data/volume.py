"""One image of slices in memory, and how its slices lie in space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: What to do about a file that the machine does not give out.
UNREADABLE = "See that it is there, and that this user may read it. Nothing was spent."


@dataclass(frozen=True, eq=False)
class Volume:
    """Slices of one image as raw values, and how they lie in space."""

    values: NDArray[np.float32]  # [rows, columns, slices]
    #: 4 x 4, from (row, column, slice, 1) to millimetres in the patient's axes right, anterior, superior (RAS, as
    #: NIfTI's); None where the file does not say.
    affine: NDArray[np.float64] | None
