"""What stored numbers mean: slope and intercept of each frame, and which end is white.

Not applied: windows and other tables for showing (VOI LUT, presentation states), real world values beside the
modality's own, private scales. Padding pixels are pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.dicom_kinds import CT, DOSE, PARAMETRIC_MAP, PET, class_of
from secure_fedhelp.data.dicom_tags import Frames, Tags
from secure_fedhelp.errors import InvalidData

_AGAIN = "Export it again from its source, with one statement of its values. Nothing was spent."
Scale = tuple[float, float]


def scales_of(frames: Frames) -> list[Scale]:
    """Slope and intercept of each frame, (1, 0) where the file says nothing; InvalidData for a contradiction."""
    root = frames.root
    if class_of(root) == DOSE:
        return [_dose(root)] * frames.count
    at_root = _scale(root)
    found = []
    for scale in _own_scales(frames):
        if scale is not None and at_root is not None and scale != at_root:
            reason = f"rescaled by {at_root} at its root, by {scale} in a functional group"
            raise InvalidData(f"{root.where}: {reason}", _AGAIN)
        found.append(scale or at_root or (1.0, 0.0))
    if class_of(root) == PARAMETRIC_MAP:
        _require_own_values(frames)
    return found


def warn_of_units(frames: Frames) -> None:
    """Warns where values of several hospitals may not compare: PET by its unit, CT that says nothing of its own."""
    root, kind = frames.root, class_of(frames.root)
    if kind in PET:
        unit = root.text("Units") or "none named"
        warnings.warn(f"PET values are in the unit of the file ({unit}); no uptake value is computed", stacklevel=2)
    if kind in CT and _scale(root) is None and None in _own_scales(frames):
        warnings.warn("CT without a slope and an intercept: its numbers are taken as they are", stacklevel=2)


def _own_scales(frames: Frames) -> list[Scale | None]:
    groups = frames.groups("PixelValueTransformationSequence")
    return [None if group is None else _scale(group) for group in groups]


def _scale(tags: Tags) -> Scale | None:
    slope, intercept = tags.number("RescaleSlope"), tags.number("RescaleIntercept")
    if slope == 0:
        raise InvalidData(f"{tags.where}: RescaleSlope is 0: all values would be one", _AGAIN)
    if slope is None and intercept is None:
        return None
    return 1.0 if slope is None else slope, intercept or 0.0


def _dose(root: Tags) -> Scale:
    scaling, units = root.number("DoseGridScaling"), root.text("DoseUnits")
    if not scaling or units != "GY":
        reason = f"DoseGridScaling {scaling}, DoseUnits {units or 'absent'}; a dose in gray is read"
        raise InvalidData(f"{root.where}: {reason}", _AGAIN)
    return scaling, 0.0


def _require_own_values(frames: Frames) -> None:
    """InvalidData for a parametric map whose stored numbers are not its values."""
    kind = "RealWorldValueMappingSequence"
    for mapping in (*frames.groups(kind), *frames.root.items(kind)):
        if mapping is None:
            continue
        slope, intercept = mapping.number("RealWorldValueSlope"), mapping.number("RealWorldValueIntercept")
        if (slope, intercept or 0.0) != (1.0, 0.0):
            reason = "a parametric map whose stored numbers are not its values (RealWorldValueMappingSequence)"
            raise InvalidData(f"{frames.root.where}: {reason}", "Export it with its values as floats.")


def values_of(
    stored: Iterable[NDArray[np.generic]],
    scales: list[Scale],
    *,
    inverted: bool,
    intensity: tuple[float, float] | None,
    where: str,
) -> NDArray[np.float32]:
    """float32 [frames, rows, columns]. A negative (MONOCHROME1) is turned about the middle of ``intensity``.

    With no intensity the frames are masks: their numbers are classes, so a scale would make them others (InvalidData).
    """
    if intensity is None and any(scale != (1, 0) for scale in scales):
        hint = "Save the mask without RescaleSlope and RescaleIntercept. Nothing was spent."
        raise InvalidData(f"{where}: a mask's numbers are classes, and a scale ({scales[0]}) would change them", hint)
    found: NDArray[np.float32] | None = None
    for number, frame in enumerate(stored):
        values = _scaled(frame, scales[number])
        if inverted and intensity is not None:
            values = intensity[0] + intensity[1] - values.astype(np.float64)
        if found is None:
            found = np.empty((len(scales), *frame.shape), dtype=np.float32)
        with np.errstate(over="ignore"):  # what no float32 holds is refused below
            found[number] = values
        if not np.isfinite(found[number]).all():
            hint = "Replace them by the value of the background, in every hospital alike. Nothing was spent."
            raise InvalidData(f"{where}: pixels that are NaN or infinite", hint)
    if found is None:
        raise InvalidData(f"{where}: no pixels")
    return found


def _scaled(frame: NDArray[np.generic], scale: Scale) -> NDArray[np.generic]:
    if scale == (1, 0):
        return frame
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(frame.astype(np.float64) * scale[0] + scale[1])
