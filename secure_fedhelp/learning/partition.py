"""Two partitions of a model's vector that everybody knows: shared and personal layers, and segments of equal values.

:class:`Split` is pFedNet's x = M x + N z (arXiv 2306.14483): some coordinates are shared by all hospitals, the others
are a hospital's own. Segments *(ours)* make the few distinct values of its regulariser worth something under
encryption. A ciphertext is as long whatever it holds, so hospitals must agree beforehand which coordinates are equal:
they read it off the last aggregate that all of them have decrypted, and each uploads one mean a segment. What a mean
leaves out is kept at home and added the next time (*error feedback*: Seide et al., Interspeech 2014; Karimireddy et
al., ICML 2019), so nothing is lost, only late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.channel import Vector, clip_to_bound

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Places in the model's vector (learning/models.flatten), ascending, and the shared layers' sizes in order."""

    shared: Places
    personal: Places
    shared_layers: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, patterns: Sequence[str]) -> Split:
        """Layers whose parameter's name fits one of ``patterns`` (as file names do: ``private_head.*``) are personal.

        InvalidPlan for a pattern that fits nothing, and if nothing is shared or nothing personal.
        """
        sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in sizes):
                raise InvalidPlan(f"method.personal: no layer is called {pattern!r}; there are {', '.join(sizes)}")
        own = [any(fnmatchcase(name, pattern) for pattern in patterns) for name in sizes]
        if all(own) or not any(own):
            raise InvalidPlan(f"method.personal makes {'every' if any(own) else 'no'} layer personal")
        mask = np.repeat(own, list(sizes.values()))
        layers = tuple(size for size, personal in zip(sizes.values(), own, strict=True) if not personal)
        return cls(np.flatnonzero(~mask), np.flatnonzero(mask), layers)

    def joined(self, shared: Vector, personal: Vector) -> Vector:
        """The model's vector from its two parts."""
        vector = np.empty(len(self.shared) + len(self.personal))
        vector[self.shared], vector[self.personal] = shared, personal
        return vector


def segment_starts(values: Vector, most: int) -> Places:
    """Where runs of equal ``values`` begin; at most ``most`` of them, kept by the size of the jump they begin with.

    The smallest jumps are merged away, later ones first where they are equal, so everybody gets the same segments.
    """
    jumps = np.abs(np.diff(values))
    largest = np.argsort(-jumps, kind="stable")[: most - 1]
    return np.sort(np.concatenate([[0], 1 + largest[jumps[largest] > 0]])).astype(np.int64)


def segment_means(values: Vector, starts: Places, count: int) -> Vector:
    """The mean of each segment, and zeros up to ``count`` values, for a channel's length is the plan's."""
    means = np.zeros(count)
    means[: len(starts)] = np.add.reduceat(values, starts) / _sizes(starts, len(values))
    return means


def expand(means: Vector, starts: Places, length: int) -> Vector:
    """The vector of ``length`` values that has each segment's mean everywhere in it."""
    return np.repeat(means[: len(starts)], _sizes(starts, length))


def with_feedback(update: Vector, kept: Vector, starts: Places, count: int, bound: float) -> tuple[Vector, Vector]:
    """What to send of ``update`` and of what was ``kept`` before, [count], and what to keep now, [length].

    Both together are exactly what there was: expand(sent) + keep = update + kept. So after any number of rounds all
    that was sent and what is still kept add up to all updates. A value cut at the channel's ``bound`` is kept too.
    """
    wanted = update + kept
    sent, _ = clip_to_bound(segment_means(wanted, starts, count), bound)
    return sent, wanted - expand(sent, starts, len(update))


def _sizes(starts: Places, length: int) -> Places:
    return np.diff(np.append(starts, length))
