"""How costs grow: the same settings at several numbers of hospitals and of values.

A size that the machine has not the memory or the patience for is not run: its figures are a straight line through the
two largest measured sizes of the same axis, and marked as extrapolated. All that grows here is linear in the number of
values; so is most of it in the number of hospitals, but the masks' sparse graph begins at 33 (docs/benchmarks.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from secure_fedhelp.research.bench.results import Result
from secure_fedhelp.research.bench.settings import Plan, TooLittleMemory, require_room
from secure_fedhelp.research.bench.suite import Progress, run_suite

HOSPITALS: Final = (2, 5, 10, 20, 50, 100)
VALUES: Final = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)

Axis = str
Run = Callable[[Plan, Progress], list[Result]]


@dataclass(frozen=True)
class SweepPlan:
    """``base`` is the size where both axes meet. A point that would take longer than ``longest_seconds``, judged by
    the one before it, is extrapolated."""

    base: Plan
    hospitals: tuple[int, ...] = HOSPITALS
    values: tuple[int, ...] = VALUES
    longest_seconds: float = 1800.0


def run_sweep(
    plan: SweepPlan,
    progress: Progress = lambda what, done, total: None,
    run: Run = run_suite,
    clock: Callable[[], float] = time.monotonic,
) -> list[Result]:
    """Every point of both axes, each size once; raises as ``run_suite``, but too little memory only extrapolates."""
    found: list[Result] = []
    durations: dict[tuple[int, int], float] = {}
    for axis, sizes in (("hospitals", plan.hospitals), ("values", plan.values)):
        measured: list[Result] = []
        expected, last, stopped = 0.0, 0, False
        for place, size in enumerate(sorted(sizes)):
            point = _at(plan.base, axis, size)
            here = point.values, point.hospitals
            if here not in durations:
                stopped = stopped or not _affordable(point, expected * size / max(last, 1), plan.longest_seconds)
                if stopped:
                    found += extrapolate(measured, axis, size)
                    continue
                start = clock()
                found += run(point, _labelled(progress, f"{axis} {size:,} ({place + 1} of {len(sizes)})"))
                durations[here] = clock() - start
            measured += [r for r in found if (r.values, r.hospitals) == here]
            expected, last = durations[here], size
    return found


def extrapolate(measured: list[Result], axis: Axis, size: int) -> list[Result]:
    """Every setting at ``size``, on the line through its two largest measured sizes; those with fewer are left out."""
    made = []
    # In the order of the largest size, which has every setting.
    for key in dict.fromkeys(_key(r) for r in sorted(measured, key=lambda r: -_size(r, axis))):
        points = sorted((r for r in measured if _key(r) == key), key=lambda r: _size(r, axis))
        if len(points) >= 2:
            made.append(_on_line(points[-2], points[-1], axis, size))
    return made


def _on_line(first: Result, second: Result, axis: Axis, size: int) -> Result:
    x1, x2 = _size(first, axis), _size(second, axis)

    def line(y1: float, y2: float) -> float:
        return max(0.0, y2 + (y2 - y1) * (size - x2) / (x2 - x1))

    values, hospitals = (size, second.hospitals) if axis == "values" else (second.values, size)
    stages = {stage: line(first.seconds.get(stage, 0.0), seconds) for stage, seconds in second.seconds.items()}
    up = line(first.up_bytes_per_value * first.values, second.up_bytes_per_value * second.values)
    down = line(first.down_bytes_per_value * first.values, second.down_bytes_per_value * second.values)
    peaks = first.coordinator_peak_mib, second.coordinator_peak_mib
    total = sum(stages.values())
    return Result.model_validate(
        {
            **second.model_dump(),
            "values": values,
            "hospitals": hospitals,
            "figures": "extrapolated",
            "seconds": stages,
            "critical_path_s": total,
            "critical_path_min_s": total,
            "critical_path_max_s": total,
            "over_no_masks": None,
            "up_bytes_per_value": up / values,
            "down_bytes_per_value": down / values,
            "coordinator_peak_mib": None if peaks[0] is None or peaks[1] is None else line(peaks[0], peaks[1]),
            "coordinator_peaks_mib": {},
            "max_error": None,
            "sanitised_error": None,
            "repeats": 0,
        }
    )


def _at(base: Plan, axis: Axis, size: int) -> Plan:
    if axis == "values":
        return replace(base, values=size)
    # Two hospitals have nothing to hide from each other in a sum of two: masks begin at three.
    masks = base.masks if size > 2 else tuple(m for m in base.masks if m == "none")
    return replace(base, hospitals=size, masks=masks)


def _affordable(point: Plan, expected_seconds: float, longest: float) -> bool:
    try:
        require_room(point)
    except TooLittleMemory:
        return False
    return expected_seconds <= longest


def _key(result: Result) -> tuple[str, str | None, str | None, str]:
    return result.system, result.profile, result.masks, result.transport


def _size(result: Result, axis: Axis) -> int:
    return result.values if axis == "values" else result.hospitals


def _labelled(progress: Progress, words: str) -> Progress:
    return lambda what, done, total: progress(f"{words}: {what}", done, total)
