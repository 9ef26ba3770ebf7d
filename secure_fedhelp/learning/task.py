"""The task's own loss: cross entropy under a *public* class prior, so that rare classes are not outvoted.

Logit adjustment (Menon and others, ICLR 2021): with pi the class frequencies, the loss is CE(l + log pi, y), so the
bare logits l answer as if all classes were equally frequent. Unlike weighting the classes, it still works where each
gradient is clipped to one norm. The prior is a constant of the plan (of the public set, in the demo); frequencies
counted in private records would be a release.

In a segmentation each record's loss is the mean of that over its pixels plus a soft Dice loss, each record's own, so
that it can be clipped for each patient. FedHelp (KDD 2025) says binary cross entropy and Dice; two channels and their
softmax are the same binary cross entropy, of the difference of the logits, and leave a distribution to distil.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.plan import StudyPlan


@dataclass(frozen=True, eq=False)
class Task:
    """``log_prior`` float32 [classes]; zeros where the plan gives no prior."""

    log_prior: Tensor
    pixelwise: bool = False

    @classmethod
    def of(cls, plan: StudyPlan) -> Task:
        """The plan's task; InvalidPlan if its prior has another number of classes."""
        prior, classes = plan.learning.class_prior, len(plan.data.classes)
        if len(prior) not in (0, classes):
            raise InvalidPlan(f"class_prior has {len(prior)} values for {classes} classes")
        values = torch.tensor(prior or [1.0] * classes, dtype=torch.float64)
        return cls(torch.log(values / values.sum() * classes).float(), plan.data.masked)

    def natural(self, logits: Tensor) -> Tensor:
        """Logits with the prior put back: what a teacher trained without adjustment is compared with."""
        return logits + self.log_prior.view(-1, *[1] * (logits.ndim - 2))

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each record, [b], from logits [b, classes] and labels [b].

        For a segmentation logits are [b, classes, height, width] and labels [b, height, width]. The Dice term is of
        the bare logits, since those are what the model predicts by.
        """
        losses = functional.cross_entropy(self.natural(logits), labels, reduction="none")
        return losses.flatten(1).mean(dim=1) + dice_loss(logits, labels) if self.pixelwise else losses


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the soft Dice coefficient of each record, [b], averaged over the classes but the background.

    With p the softmax and g the mask of a class over a record's pixels: 1 - (2 sum p g + 1) / (sum p + sum g + 1),
    V-Net's loss (Milletari and others, 3DV 2016) with plain sums below the line, as MONAI's ``DiceLoss`` has it. The
    ones keep it defined, and small, where a record has nothing to find and nothing is found.
    """
    probabilities = functional.softmax(logits, dim=1)[:, 1:].flatten(2)
    truth = torch.stack([(labels == c).flatten(1) for c in range(1, logits.shape[1])], dim=1).to(logits.dtype)
    shared, sizes = (probabilities * truth).sum(dim=2), probabilities.sum(dim=2) + truth.sum(dim=2)
    return (1 - (2 * shared + 1) / (sizes + 1)).mean(dim=1)


def class_frequencies(labels: NDArray[np.int64], classes: int) -> tuple[float, ...]:
    """Share of each class among labels [n], or pixels of masks [n, height, width], to three digits.

    One more of each class is counted than there are, since no class may have none (logit adjustment takes logarithms).
    """
    counts = np.bincount(labels.reshape(-1), minlength=classes)
    return tuple(round(float(count), 3) for count in (counts + 1) / (counts.sum() + classes))
