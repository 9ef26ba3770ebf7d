"""Answers for every pixel as fewer values, so that they fit a channel: means over squares, and back by repeating them.

The expansion says nothing that was not sent: pooled again it gives the same values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.sections import DataSection

Values = NDArray[np.float64]


def pooled_shape(data: DataSection, factor: int) -> tuple[int, ...]:
    """Shape of one input's answers after :func:`pool`; InvalidPlan if the factor does not fit the plan's data."""
    classes, *pixels = data.answer_shape
    if factor > 1 and not pixels:
        raise InvalidPlan(f"logit_pool = {factor} is for a segmentation: there are no pixels to pool")
    if any(side % factor for side in pixels):
        raise InvalidPlan(f"logit_pool = {factor} does not divide an image of {pixels[0]} by {pixels[1]} pixels")
    return classes, *(side // factor for side in pixels)


def pool(answers: Values, factor: int) -> Values:
    """Means over squares of ``factor`` pixels a side, of answers [n, classes, height, width]."""
    if factor == 1:
        return answers
    n, classes, height, width = answers.shape
    squares = answers.reshape(n, classes, height // factor, factor, width // factor, factor)
    return np.asarray(squares.mean(axis=(3, 5)))


def expand(pooled: Values, factor: int) -> Values:
    """Each value of [n, classes, height, width] for a square of ``factor`` pixels a side."""
    return pooled if factor == 1 else pooled.repeat(factor, axis=2).repeat(factor, axis=3)
