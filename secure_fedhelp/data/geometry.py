"""Where an image and its mask lie in space: in words, and the mask brought to the image's grid or refused.

Pure: no files. A *grid* is a shape and an affine of ``volume.py``, from (row, column, slice, 1) to millimetres right,
anterior, superior. Words name columns first, then rows, then slices, as viewers do: an axial CT is "LPS".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.volume import Volume
from secure_fedhelp.errors import InvalidData

#: How far a corner of the mask may lie from its corner of the image, in sides of the image's smallest voxel: what
#: rounding of headers makes, far less than would move a border.
TOLERANCE = 0.1
_TOWARDS = ("LR", "PA", "IS")
Affine = NDArray[np.float64]
Values = NDArray[np.float32]


def orientation(matrix: Affine) -> str:
    """Towards which side each axis (the matrix's first three columns) mostly runs: R or L, A or P, S or I."""
    steps = matrix[:3, :3]
    lengths = np.linalg.norm(steps, axis=0)
    along = steps / np.where(lengths > 0, lengths, 1)
    best = max(permutations(range(3)), key=lambda order: sum(abs(along[side, axis]) for axis, side in enumerate(order)))
    return "".join(_TOWARDS[side][int(along[side, axis] >= 0)] for axis, side in enumerate(best))


def seen_as(affine: Affine) -> str:
    """The orientation of columns, rows and slices, as a viewer would name it."""
    return orientation(affine[:, [1, 0, 2, 3]])


def is_flat(matrix: Affine, shape: Sequence[int]) -> bool:
    """Whether axes of more than one voxel have no length or lie in one plane; an axis of one voxel says nothing."""
    steps = matrix[:3, [axis for axis, size in enumerate(shape) if size > 1]]
    lengths = np.linalg.norm(steps, axis=0)
    if not (lengths > 0).all():
        return True
    return bool(steps.shape[1] and np.linalg.svd(steps / lengths, compute_uv=False).min() < 1e-3)


def turned(one: Affine, other: Affine, shape: Sequence[int]) -> bool:
    """Whether an axis of more than one voxel runs another way in ``other``: by more than 45 degrees."""
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    lengths = np.linalg.norm(one[:3, axes], axis=0) * np.linalg.norm(other[:3, axes], axis=0)
    return bool(((one[:3, axes] * other[:3, axes]).sum(axis=0) < np.sqrt(0.5) * lengths).any())


def describe(volume: Volume) -> str:
    """A volume's grid for a person: orientation, voxels, their size, and where the first one lies."""
    rows, columns, slices = volume.values.shape
    size = f"{columns} x {rows} x {slices} voxels"
    if volume.affine is None:
        return f"{size}, which says nothing of how it lies"
    sides = np.linalg.norm(volume.affine[:3, [1, 0, 2]], axis=0)
    first = ", ".join(f"{value:.1f}" for value in volume.affine[:3, 3].round(1) + 0.0)  # minus zero is zero
    return (
        f"{seen_as(volume.affine)}, {size} of {' x '.join(f'{side:.3g}' for side in sides)} mm, origin ({first}) "
        "mm right, anterior, superior"
    )


def onto_grid(mask: Volume, image: Volume, where: str) -> Values:
    """The mask's values on the image's grid, [rows, columns, slices].

    Two grids are one where a flip or another order of the axes is all that differs; then values are only moved, never
    mixed. Where neither file says how it lies, equal shapes are taken as stored. Raises InvalidData with both grids.
    """
    off = ""
    if image.affine is None and mask.affine is None:
        if image.values.shape == mask.values.shape:
            return mask.values
    elif image.affine is not None and mask.affine is not None:
        grids = _candidates(mask.values, mask.affine, image.values.shape)
        if grids:
            apart = [_apart(affine, image.affine, image.values.shape) for _, affine in grids]
            nearest = int(np.argmin(apart))
            if apart[nearest] <= TOLERANCE * _smallest_side(image.affine, image.values.shape):
                return grids[nearest][0]
            off = f" However it is turned, a corner is {apart[nearest]:.3g} mm off."
    raise InvalidData(
        f"{where}: image and mask do not lie on one grid. Image: {describe(image)}. Mask: {describe(mask)}.{off}",
        "Bring the mask to the image's grid with the tool that made it (by nearest neighbours). Nothing was spent.",
    )


def _candidates(values: Values, affine: Affine, shape: tuple[int, ...]) -> list[tuple[Values, Affine]]:
    """The values with their axes in every order and direction that gives ``shape``, and the affine of each."""
    found = []
    for order in permutations(range(3)):
        ordered = values.transpose(order)
        if ordered.shape != shape:
            continue
        for flips in product((False, True), repeat=3):
            axes = tuple(axis for axis in range(3) if flips[axis])
            matrix = affine[:, [*order, 3]]
            for axis in axes:
                matrix[:, 3] += matrix[:, axis] * (shape[axis] - 1)
                matrix[:, axis] *= -1
            found.append((np.flip(ordered, axes), matrix))
    return found


def _apart(one: Affine, other: Affine, shape: tuple[int, ...]) -> float:
    """Millimetres between the two places of a corner, at the corner where they are furthest apart."""
    corners = np.asarray([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))], dtype=np.float64)
    return float(np.linalg.norm(((one - other) @ corners.T)[:3], axis=0).max())


def _smallest_side(affine: Affine, shape: tuple[int, ...]) -> float:
    """Of the axes with more than one voxel: the size of a single one says nothing that could differ."""
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    return float(min((side for side, size in zip(sides, shape, strict=True) if size > 1), default=1.0))
