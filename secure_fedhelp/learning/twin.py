"""Two models as one module for DP-SGD: each patient's gradient is clipped in both *jointly*, one event pays for both.

Only as a twin may the model that stays at home teach the one that leaves: trained without noise it would be a function
of other patients' records, and so would each gradient of its pupil, which clipping bounds for one patient alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from secure_fedhelp.learning.models import Surrogate, TwoHeaded
from secure_fedhelp.learning.steps import fresh_model
from secure_fedhelp.privacy.training import RecordLoss
from secure_fedhelp.study.plan import StudyPlan


class Twin(nn.Module):
    """The private halves (:class:`Surrogate`) of the model that ``leaves`` and of the one that ``stays``.

    Logits [b, 2 * classes, ...]: those of the one that leaves come first. Both are trained in place.
    """

    def __init__(self, leaves: TwoHeaded, stays: TwoHeaded) -> None:
        super().__init__()
        self.leaves, self.stays = Surrogate(leaves), Surrogate(stays)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([self.leaves(inputs), self.stays(inputs)], dim=1)


def fresh_twin(plan: StudyPlan, stays: str) -> Twin:
    """The plan's small network, which leaves, and the network ``stays``, both at their initial weights."""
    return Twin(fresh_model(plan, plan.model.small), fresh_model(plan, stays))


def of_both(losses: Callable[[Tensor, Tensor, Tensor], Tensor]) -> RecordLoss:
    """The loss of a :class:`Twin`'s records, [b], from one of (logits that leave, logits that stay, labels)."""

    def joint(outputs: Tensor, labels: Tensor) -> Tensor:
        leaves, stays = outputs.chunk(2, dim=1)
        return losses(leaves, stays, labels)

    return joint
