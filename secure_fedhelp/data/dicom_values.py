"""What stored numbers mean: slope and intercept of each frame, and which end is white.

Not applied: windows and other tables for showing (VOI LUT, presentation states), real world values beside the
modality's own, private scales. Padding pixels are pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.dicom_kinds import CT, DOSE, PARAMETRIC_MAP, PET, class_of
from secure_fedhelp.data.dicom_tags import Frames, Tags
from secure_fedhelp.errors import InvalidData

_AGAIN = "Export it again from its source, with one statement of its values. Nothing was spent."
Scale = tuple[float, float]
#: Slope and intercept of a frame, each as far as the file says it.
Said = tuple[float | None, float | None]


def said_of(frames: Frames) -> list[Said]:
    """What the file says of each frame, at its root or in a functional group; InvalidData for a contradiction."""
    root, found = _said(frames.root), list[Said]()
    for group in frames.groups("PixelValueTransformationSequence"):
        own: Said = (None, None) if group is None else _said(group)
        if any(mine not in (None, theirs) and theirs is not None for mine, theirs in zip(own, root, strict=True)):
            reason = f"rescaled by {root} at its root, by {own} in a functional group"
            raise InvalidData(f"{frames.root.where}: {reason}", _AGAIN)
        found.append((root[0] if own[0] is None else own[0], root[1] if own[1] is None else own[1]))
    return found


def scales_of(frames: Frames) -> list[Scale]:
    """Slope and intercept of each frame, 1 and 0 where the file says nothing; InvalidData for a contradiction."""
    root = frames.root
    if class_of(root) == DOSE:
        return [_dose(root)] * frames.count
    if class_of(root) == PARAMETRIC_MAP:
        _require_own_values(frames)
    found = said_of(frames)
    require_all_said(found, [f"frame {number}" for number in range(1, frames.count + 1)], root.where)
    return [(1.0 if slope is None else slope, intercept or 0.0) for slope, intercept in found]


def require_all_said(found: Sequence[Said], names: Sequence[str], where: str) -> None:
    """InvalidData where one slice of a volume says nothing of a slope or intercept that changes another one.

    An empty tag is an absent one, so such a slice would be off by the others' intercept: 1024 Hounsfield units mostly.
    """
    for part, (keyword, neutral) in enumerate((("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))):
        values = {name: one[part] for name, one in zip(names, found, strict=True)}
        silent = [name for name, value in values.items() if value is None]
        changed = [f"{name} has {value:g}" for name, value in values.items() if value not in (None, neutral)]
        if silent and changed:
            reason = f"{silent[0]} has no {keyword}, {changed[0]}, so their values do not compare"
            raise InvalidData(f"{where}: {reason}", _AGAIN)


def warn_of_units(frames: Frames) -> None:
    """Warns where values of several hospitals may not compare: PET by its unit, CT that says nothing of its own."""
    root, kind = frames.root, class_of(frames.root)
    if kind in PET:
        unit = root.text("Units") or "none named"
        warnings.warn(f"PET values are in the unit of the file ({unit}); no uptake value is computed", stacklevel=2)
    if kind in CT and (said := said_of(frames)) and any(intercept is None for _, intercept in said):
        what = "a slope and an intercept" if (None, None) in said else "an intercept"
        warnings.warn(f"CT without {what}: its numbers are taken as they are", stacklevel=2)


def _said(tags: Tags) -> Said:
    slope, intercept = tags.number("RescaleSlope"), tags.number("RescaleIntercept")
    if slope == 0:
        raise InvalidData(f"{tags.where}: RescaleSlope is 0: all values would be one", _AGAIN)
    return slope, intercept


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
        raise InvalidData(f"{where}: no pixels", _AGAIN)
    return found


def _scaled(frame: NDArray[np.generic], scale: Scale) -> NDArray[np.generic]:
    if scale == (1, 0):
        return frame
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(frame.astype(np.float64) * scale[0] + scale[1])
