"""The task's own loss: cross entropy under a *public* class prior, so that rare classes are not outvoted.

Logit adjustment (Menon and others, ICLR 2021): with pi the class frequencies, the loss is CE(l + log pi, y), so the
bare logits l answer as if all classes were equally frequent. Unlike weighting the classes, it still works where each
gradient is clipped to one norm. The prior is a constant of the plan (of the public set, in the demo); frequencies
counted in private records would be a release.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.study.plan import StudyPlan


@dataclass(frozen=True, eq=False)
class Task:
    """``log_prior`` float32 [classes]; zeros where the plan gives no prior."""

    log_prior: Tensor

    @classmethod
    def of(cls, plan: StudyPlan) -> Task:
        """The plan's task; InvalidPlan if its prior has another number of classes."""
        prior, classes = plan.learning.class_prior, len(plan.data.classes)
        if len(prior) not in (0, classes):
            raise InvalidPlan(f"class_prior has {len(prior)} values for {classes} classes")
        values = torch.tensor(prior or [1.0] * classes, dtype=torch.float64)
        return cls(torch.log(values / values.sum() * classes).float())

    def natural(self, logits: Tensor) -> Tensor:
        """Logits with the prior put back: what a teacher trained without adjustment is compared with."""
        return logits + self.log_prior

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each record, [b], from logits [b, classes]."""
        return functional.cross_entropy(self.natural(logits), labels, reduction="none")
