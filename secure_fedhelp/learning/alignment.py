"""The conjoint prototype-aligned loss of PRR (IEEE TMI 2022), and the two private answers that it is made from.

    p^_y = exp(z_y) / (exp(z_y) + sum over j != y of S_yj exp(z_j))        loss = -gamma_y log p^_y
    S_ij = (n_j / n_i)^0.8 if n_i > n_j, else 1                            n: the cohort's records of each class
    gamma_c = (1 + tau) / (cos(q_c, Q_c) + tau)                            q, Q: the hospital's, the cohort's prototypes

tau is 3, and 1 for a segmentation, where a cosine of -1 would have no weight: the denominator is at least 0.2 *(ours)*.
S spares rare classes the push of the many records of frequent ones; gamma weighs classes up whose features here point
elsewhere than the cohort's. Both are constants of a round, so each record has its own loss and can be clipped. Of a
segmentation every pixel is a record here: n counts pixels, and a record's loss is the mean over its pixels, plus the
task's Dice loss *(ours)*.

**What is private.** A prototype is a mean of features of private records, and n counts them. Both leave as sums with
Gaussian noise, one record of each patient, so that a patient changes the counts by a vector of norm 1 and the sums by
one of norm C; the division happens after. With a mask, a patient's counts are the shares of its pixels, which add up to
1, and its sums its mean feature of each class *(ours)*: a vessel has few pixels, and in a sum over all pixels it would
be lost in the noise. The hospital's own q is taken from what it *released*, never from its records: the loss weighs the
gradients of DP-SGD, and an exact q would reach the model without noise and unpaid.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from secure_fedhelp.data.records import Labels
from secure_fedhelp.learning.task import dice_loss
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.study.sections import ChannelSection

Array = NDArray[np.float64]
#: Prototypes under noise can point anywhere, so a class must not count for more than ten because they do.
_SMALLEST_DENOMINATOR = 0.2


class AlignedLoss:
    """One loss a record, [b], from logits [b, classes] and labels [b], or of pixels, [b, classes, height, width] and
    [b, height, width].

    ``seesaw`` [classes, classes] and ``gamma`` [classes] are constants that depend on records only through what was
    released.
    """

    def __init__(self, seesaw: Array, gamma: Array) -> None:
        self.log_seesaw, self.gamma = torch.from_numpy(np.log(seesaw)).float(), torch.from_numpy(gamma).float()

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        # S_yy is 1, so adding log S_y to the logits makes the softmax's denominator that of p^.
        spared = logits + self.log_seesaw[labels].movedim(-1, 1)
        losses = self.gamma[labels] * functional.cross_entropy(spared, labels, reduction="none")
        return losses if labels.ndim == 1 else losses.flatten(1).mean(dim=1) + dice_loss(logits, labels)


def seesaw_weights(counts: Array, power: float) -> Array:
    """S [classes, classes] from positive class counts, or anything in proportion to them."""
    return np.asarray(np.minimum(counts[None, :] / counts[:, None], 1.0) ** power)


def gamma_weights(own: Array, cohort: Array, tau: float) -> Array:
    """gamma [classes] from prototypes [classes, features], or sums in proportion to them (a cosine has no length).

    1 for a class of which one of the two is nothing. ``tau`` is 1 or more: gamma is at least 1, and at most
    (tau + 1) / (tau - 1), or (tau + 1) / 0.2 if that is less.
    """
    lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(cohort, axis=1)
    cosines = np.divide((own * cohort).sum(axis=1), lengths, out=np.ones(len(own)), where=lengths > 0)
    return np.asarray((1 + tau) / np.maximum(cosines + tau, _SMALLEST_DENOMINATOR))


def noised_counts(labels: Labels, classes: int, channel: ChannelSection, noise: NoiseSource) -> Array:
    """Patients of each class [classes], from one record of each, with the channel's noise.

    Of masks [n, height, width] the pixels of each class, an image's all together being one: a patient's shares are
    positive and add up to 1, so their norm is at most 1, and 1 where all are of one class.
    """
    found = [(labels == c).reshape(len(labels), -1).mean(axis=1).sum() for c in range(classes)]
    return _noised(np.asarray(found, dtype=np.float64), channel, noise)


def noised_sums(features: Array, labels: Labels, classes: int, channel: ChannelSection, noise: NoiseSource) -> Array:
    """Sums [classes, features] of one record of each patient, with the channel's noise: of its features [n, features],
    cut to the norm C of the channel's sensitivity.

    Of masks, features are [n, features, height, width], and a patient brings its mean feature of each class that it
    has, each cut to C / sqrt(classes), so that all of them together have a norm of at most C. A class that nobody has
    is noise around zero.
    """
    limit, sums = float(channel.sensitivity or 0.0), np.zeros((classes, features.shape[1]))
    if labels.ndim == 1:
        np.add.at(sums, labels, _cut(features, limit))
    else:
        for c in range(classes):
            sums[c] = _cut(_means_over(features, labels == c), limit / classes**0.5).sum(axis=0)
    return _noised(sums, channel, noise)


def _cut(vectors: Array, limit: float) -> Array:
    """Each row [n, features] cut to a norm of at most ``limit``; one that holds NaN or infinity, which no factor cuts,
    is zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors, lengths = np.where(np.isfinite(lengths), vectors, 0.0), np.where(np.isfinite(lengths), lengths, 0.0)
    return np.asarray(vectors * np.minimum(1.0, limit / np.maximum(lengths, limit)))


def _means_over(features: Array, pixels: NDArray[np.bool_]) -> Array:
    """The mean feature [n, features] of each record's ``pixels`` [n, height, width]; zeros where there are none."""
    sums = np.einsum("nfhw,nhw->nf", features, pixels.astype(np.float64))
    return np.asarray(sums / np.maximum(pixels.sum(axis=(1, 2)), 1)[:, None])


def _noised(answer: Array, channel: ChannelSection, noise: NoiseSource) -> Array:
    deviation = float(channel.noise_multiplier or 0.0) * float(channel.sensitivity or 0.0)
    return answer + noise.normal(answer.shape, deviation)
