"""Packing a round's channels into one vector, and taking the sum apart again.

All channels of a round travel as one vector in the plan's order, so that only the last ciphertext carries padding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidContribution
from secure_fedhelp.study.plan import ChannelSection, StudyPlan

Vector = NDArray[np.float64]


def clip_to_bound(values: Vector, bound: float) -> tuple[Vector, int]:
    """Each value cut to [-bound, bound], and how many were cut. NaN and infinity are refused, never clipped."""
    if not np.isfinite(values).all():
        raise InvalidContribution("a contribution holds NaN or infinity")
    return np.clip(values, -bound, bound), int(np.count_nonzero(np.abs(values) > bound))


def check_channel(channel: ChannelSection, values: Vector) -> Vector:
    """``values`` as float64 of the channel's shape and within its bound; InvalidContribution otherwise."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (channel.length,):
        raise InvalidContribution(f"channel {channel.name}: shape {array.shape}, the plan says ({channel.length},)")
    if not np.isfinite(array).all():
        raise InvalidContribution(f"channel {channel.name}: NaN or infinity")
    if float(np.abs(array).max()) > channel.bound:
        raise InvalidContribution(f"channel {channel.name}: a value beyond the bound of {channel.bound:g}")
    return array


def pack_channels(plan: StudyPlan, channels: dict[str, Vector], weight: float) -> Vector:
    """One weighted vector of ``plan.total_length`` values from all channels of the plan, each checked first.

    ``weight`` is the hospital's public weight in (0, 1]; hospitals multiply before they encrypt, so that the
    coordinator only adds.
    """
    if set(channels) != {c.name for c in plan.channels}:
        raise InvalidContribution(f"channels {sorted(channels)}, the plan says {sorted(c.name for c in plan.channels)}")
    checked = [(c, check_channel(c, channels[c.name])) for c in plan.channels]
    return np.concatenate([weight * values if c.weighted else values for c, values in checked])


def unpack_mean(plan: StudyPlan, total: Vector, cohort: tuple[str, ...]) -> dict[str, Vector]:
    """The cohort's weighted mean of each channel from the decrypted sum of contributions; of counts, their sum."""
    if total.shape != (plan.total_length,):
        raise InvalidContribution(f"sum of shape {total.shape}, the plan says ({plan.total_length},)")
    weights = sum(plan.weights[name] for name in cohort)
    parts: dict[str, Vector] = {}
    start = 0
    for channel in plan.channels:
        part = total[start : start + channel.length]
        parts[channel.name] = part / weights if channel.weighted else part.copy()
        start += channel.length
    return parts
