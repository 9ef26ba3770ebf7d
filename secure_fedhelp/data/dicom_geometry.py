"""Where DICOM slices lie: one plane of each, and the affine of a stack of them.

DICOM's axes run towards the patient's left, back and head (LPS); ours, as NIfTI's, right, front, head (RAS). PS3.3,
C.7.6.2.1.1. All lengths in millimetres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.dicom_tags import Frames, Tags
from secure_fedhelp.errors import InvalidData

Vector = NDArray[np.float64]
#: How far slices may lie from equal steps on one line, in steps: what rounding of headers makes. A missing slice is 1.
TOLERANCE = 0.1
#: Differences of directions and spacings that are rounding.
_ROUNDING = 1e-3
#: A gap of so many usual steps is a slice that is not there, and no uneven stack.
_GAP = 1.5
#: What to do about slices that are no stack: of a folder, and of one file, of which no part can be listed.
ONE_BY_ONE = "List the files one by one in the index, or give each stack a folder of its own. Nothing was spent."
FRAME_BY_FRAME = (
    "Save its frames as classic files, one each (dcm4che's emf2sf does so). Then list those one by one, or give each "
    "stack a folder of its own. Nothing was spent."
)


@dataclass(frozen=True, eq=False)
class Plane:
    """One slice: where its first pixel lies, the step from row to row and from column to column, its thickness."""

    origin: Vector
    row_step: Vector
    column_step: Vector
    thickness: float

    @property
    def normal(self) -> Vector:
        """A unit vector off the plane."""
        found = np.cross(self.column_step, self.row_step)
        return np.asarray(found / np.linalg.norm(found), dtype=np.float64)


def planes_of(frames: Frames) -> list[Plane] | None:
    """The plane of each frame, or None where the file does not say it of all; InvalidData for a contradiction.

    Frames of a file without functional groups may be times, angles or energies: only a single one has a plane.
    """
    root = frames.root
    if not frames.grouped:
        if frames.count > 1:
            return None
        plane = _plane(root, root, root)
        return None if plane is None else [plane]
    found = []
    for frame in range(frames.count):
        position, orientation, measures = (frames.group(frame, f"{kind}Sequence") for kind in _GROUPS)
        plane = _plane(position or root, orientation or root, measures or root)
        if plane is None:
            return None
        found.append(plane)
    return found


_GROUPS = ("PlanePosition", "PlaneOrientation", "PixelMeasures")


def _plane(position: Tags, orientation: Tags, measures: Tags) -> Plane | None:
    origin = position.numbers("ImagePositionPatient", 3)
    along = orientation.numbers("ImageOrientationPatient", 6)
    spacing = measures.numbers("PixelSpacing", 2)
    if origin is None or along is None or spacing is None:
        return None
    row, column = np.asarray(along[:3]), np.asarray(along[3:])
    corners = np.array([row @ row - 1, column @ column - 1, row @ column])
    if np.abs(corners).max() > 20 * _ROUNDING or min(spacing) <= 0:
        what = f"ImageOrientationPatient {along}, PixelSpacing {spacing}"
        raise InvalidData(f"{position.where}: no two axes of a plane: {what}", "Export it again from its source.")
    thickness = measures.number("SliceThickness") or 0.0
    # The first three numbers point along a row, so from column to column; PixelSpacing names that step second.
    return Plane(np.asarray(origin), column * spacing[0], row * spacing[1], thickness if thickness > 0 else 1.0)


def affine_of(planes: Sequence[Plane], names: Sequence[str], where: str, hint: str = ONE_BY_ONE) -> NDArray[np.float64]:
    """4 x 4 of slices that are one stack, in this order; InvalidData, naming the slice, for what is none."""
    first, last = planes[0], planes[-1]
    for plane, name in zip(planes, names, strict=True):
        for mine, theirs, what in (
            (plane.row_step, first.row_step, "rows"),
            (plane.column_step, first.column_step, "columns"),
        ):
            if np.abs(mine - theirs).max() > _ROUNDING * np.linalg.norm(theirs):
                reason = f"{where}: {name} has {what} of another orientation or spacing than {names[0]}"
                raise InvalidData(f"{reason}: slices of several stacks, or a localizer", hint)
    if len(planes) == 1:
        step = first.normal * first.thickness
    else:
        step = (last.origin - first.origin) / (len(planes) - 1)
        _require_even(planes, names, step, where, hint)
    affine = np.eye(4)
    affine[:3] = np.stack([first.row_step, first.column_step, step, first.origin], axis=1)
    affine[:2] *= -1
    return affine


def _require_even(planes: Sequence[Plane], names: Sequence[str], step: Vector, where: str, hint: str) -> None:
    """InvalidData unless slices follow one another along their normal, evenly and on one line."""
    heights = np.asarray([plane.origin @ planes[0].normal for plane in planes])
    # Not of neighbours only: times that follow one another lie at one place after a whole pass.
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    same = np.flatnonzero(gaps <= max(_ROUNDING, gaps.max() / 100))
    if len(same):
        one, other = sorted((int(order[same[0]]), int(order[same[0] + 1])))
        reason = f"{where}: {names[one]} and {names[other]} lie at one place"
        raise InvalidData(f"{reason}: a copy, or slices of several times, echoes or phases", hint)
    rises = np.diff(heights)
    if not ((rises > 0).all() or (rises < 0).all()):
        number = int(np.flatnonzero(rises * rises[0] < 0)[0])
        reason = f"{names[number + 1]} lies before {names[number]}: the order of the slices is not how they lie"
        raise InvalidData(f"{where}: {reason}", hint)
    height = float(abs(step @ planes[0].normal))
    for number, (plane, name) in enumerate(zip(planes, names, strict=True)):
        away = float(np.linalg.norm(plane.origin - planes[0].origin - number * step))
        if away > TOLERANCE * height:
            reason = _gap(np.abs(rises), names) or f"{name} lies {away:.3g} mm off even steps on one line"
            raise InvalidData(f"{where}: {reason} (steps from {gaps.min():.3g} to {gaps.max():.3g} mm)", hint)


def _gap(steps: Vector, names: Sequence[str]) -> str:
    """Between which slices one must be missing, or nothing where all steps are about as large."""
    usual, widest = float(np.sort(steps)[(len(steps) - 1) // 2]), int(steps.argmax())
    return f"a slice is missing between {names[widest]} and {names[widest + 1]}" if steps[widest] > _GAP * usual else ""
