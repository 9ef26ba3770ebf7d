"""Packing a round's channels into one vector, and taking the sum apart again.

All channels of a round travel as one vector in the plan's order, so that only the last ciphertext carries padding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidContribution
from secure_fedhelp.study.plan import StudyPlan

Vector = NDArray[np.float64]


def clip_to_bound(values: Vector, bound: float) -> tuple[Vector, int]:
    """Each value cut to [-bound, bound], and how many were cut. NaN and infinity are refused, never clipped."""
    if not np.isfinite(values).all():
        raise InvalidContribution("a contribution holds NaN or infinity")
    return np.clip(values, -bound, bound), int(np.count_nonzero(np.abs(values) > bound))


def check_channel(name: str, values: Vector, length: int, bound: float) -> Vector:
    """``values`` as float64 of this length and within the channel's bound; InvalidContribution otherwise."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (length,):
        raise InvalidContribution(f"channel {name}: shape {array.shape}, the plan says ({length},)")
    if not np.isfinite(array).all():
        raise InvalidContribution(f"channel {name}: NaN or infinity")
    if float(np.abs(array).max()) > bound:
        raise InvalidContribution(f"channel {name}: a value beyond the bound of {bound:g}")
    return array


def pack_channels(plan: StudyPlan, round_number: int, hospital: str, channels: Mapping[str, Vector]) -> Vector:
    """One vector of ``plan.length_of(round_number)`` values from all channels of the round, each checked first.

    Hospitals multiply by their public factors before they encrypt, so that the coordinator only adds.
    """
    lengths = plan.lengths(round_number)
    if set(channels) != set(lengths):
        raise InvalidContribution(f"channels {sorted(channels)}, the plan says {sorted(lengths)}")
    return np.concatenate(
        [
            plan.factor(name, hospital) * check_channel(name, channels[name], length, plan.channel(name).bound)
            for name, length in lengths.items()
        ]
    )


def split_channels(plan: StudyPlan, round_number: int, total: Vector) -> dict[str, Vector]:
    """The part of each channel in a round's vector; InvalidContribution if it has another length."""
    if total.shape != (length := plan.length_of(round_number),):
        raise InvalidContribution(f"sum of shape {total.shape}, the plan says ({length},)")
    lengths = plan.lengths(round_number)
    ends = np.cumsum(list(lengths.values()))
    return dict(zip(lengths, np.split(total, ends[:-1]), strict=True))


def unpack_mean(plan: StudyPlan, round_number: int, total: Vector, cohort: tuple[str, ...]) -> dict[str, Vector]:
    """Each channel of a round, combined as the plan says, from the decrypted sum of the cohort's contributions."""
    parts = split_channels(plan, round_number, total)
    return {name: part / plan.divisor(name, cohort) for name, part in parts.items()}
