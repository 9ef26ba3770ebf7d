"""The conjoint prototype-aligned loss of PRR (IEEE TMI 2022), and the two private answers that it is made from.

    p^_y = exp(z_y) / (exp(z_y) + sum over j != y of S_yj exp(z_j))        loss = -gamma_y log p^_y
    S_ij = (n_j / n_i)^0.8 if n_i > n_j, else 1                            n: the cohort's records of each class
    gamma_c = (1 + tau) / (cos(q_c, Q_c) + tau)                            q, Q: the hospital's, the cohort's prototypes

S spares rare classes the push of the many records of frequent ones; gamma weighs classes up whose features here point
elsewhere than the cohort's. Both are constants of a round, so each record has its own loss and can be clipped.

**What is private.** A prototype is a mean of features of private records, and n counts them. Both leave as sums with
Gaussian noise, one record of each patient, so that a patient changes a count by 1 and a sum of features by a vector of
norm C; the division happens after. The hospital's own q is taken from what it *released*, never from its records: the
loss weighs the gradients of DP-SGD, and an exact q would reach the model without noise and unpaid.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from secure_fedhelp.data.records import Labels
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.study.sections import ChannelSection

Array = NDArray[np.float64]


class AlignedLoss:
    """One loss a record, [b], from logits [b, classes] and labels [b]; ``seesaw`` [classes, classes] and ``gamma``
    [classes] are constants that depend on records only through what was released."""

    def __init__(self, seesaw: Array, gamma: Array) -> None:
        self.log_seesaw, self.gamma = torch.from_numpy(np.log(seesaw)).float(), torch.from_numpy(gamma).float()

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        # S_yy is 1, so adding log S_y to the logits makes the softmax's denominator that of p^.
        return self.gamma[labels] * functional.cross_entropy(logits + self.log_seesaw[labels], labels, reduction="none")


def seesaw_weights(counts: Array, power: float) -> Array:
    """S [classes, classes] from positive class counts, or anything in proportion to them."""
    return np.asarray(np.minimum(counts[None, :] / counts[:, None], 1.0) ** power)


def gamma_weights(own: Array, cohort: Array, tau: float) -> Array:
    """gamma [classes] from prototypes [classes, features], or sums in proportion to them (a cosine has no length).

    1 for a class of which one of the two is nothing. With tau > 1, gamma lies between 1 and (tau + 1) / (tau - 1).
    """
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(cohort, axis=1)
    cosines = np.divide((own * cohort).sum(axis=1), lengths, out=np.ones(len(own)), where=lengths > 0)
    return np.asarray((1 + tau) / (cosines + tau))


def noised_counts(labels: Labels, classes: int, channel: ChannelSection, noise: NoiseSource) -> Array:
    """Patients of each class [classes], from one record of each, with the channel's noise."""
    return _noised(np.bincount(labels, minlength=classes).astype(np.float64), channel, noise)


def noised_sums(features: Array, labels: Labels, classes: int, channel: ChannelSection, noise: NoiseSource) -> Array:
    """Sums [classes, features] of one record of each patient, its features cut to the norm of the channel's
    sensitivity, with the channel's noise. A class that nobody has is noise around zero."""
    limit = float(channel.sensitivity or 0.0)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    clipped = features * np.minimum(1.0, limit / np.maximum(lengths, limit))
    sums = np.zeros((classes, features.shape[1]))
    np.add.at(sums, labels, clipped)
    return _noised(sums, channel, noise)


def _noised(answer: Array, channel: ChannelSection, noise: NoiseSource) -> Array:
    deviation = float(channel.noise_multiplier or 0.0) * float(channel.sensitivity or 0.0)
    return answer + noise.normal(answer.shape, deviation)
