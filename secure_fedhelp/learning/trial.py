"""A plan's networks, tried before anybody trains: a study that cannot begin is refused while it is a draft.

Building a network or a method from outside runs its code (``StudyPlan.imported``), so whoever calls this has asked a
site policy first, or runs the code anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from secure_fedhelp.errors import UnsupportedModel
from secure_fedhelp.learning.methods import method_class
from secure_fedhelp.learning.models import trained
from secure_fedhelp.learning.steps import fresh_model
from secure_fedhelp.learning.twin import Twin
from secure_fedhelp.privacy.compatibility import usable_inputs
from secure_fedhelp.privacy.gradients import RecordByRecord
from secure_fedhelp.privacy.training import check_model
from secure_fedhelp.study.plan import StudyPlan


@dataclass(frozen=True)
class Tried:
    """What private training of one tier's hospitals trains, and whether it is the slow way that does it."""

    tier: str
    networks: str
    values: int
    record_by_record: bool

    def __str__(self) -> str:
        way = ", record by record: many times slower than other networks" if self.record_by_record else ""
        return f"{self.tier} hospitals train {self.values:,} values of {self.networks} privately{way}"


def try_networks(plan: StudyPlan) -> list[Tried]:
    """Build and try all networks of ``plan``: one entry for each tier that has hospitals.

    Raises UnsupportedModel, naming the layer, and InvalidPlan if the plan does not fit them.
    """
    method, shape, found = method_class(plan.method), plan.data.input_shape, []
    method.lengths(plan)  # what channels the networks make: not every method can share every network
    for tier in sorted({hospital.tier for hospital in plan.hospitals}):
        module = method.trained_privately(plan, tier)
        way = check_model(module, shape)
        networks = [plan.model.small, *([plan.model.of(tier)] if isinstance(module, Twin) else [])]
        names = " and ".join(dict.fromkeys(networks))
        found.append(Tried(tier, names, sum(p.numel() for p in trained(module)), way is RecordByRecord))
    for name in dict.fromkeys((plan.model.small, plan.model.large)):
        _take_a_step_at_home(fresh_model(plan, name), shape)
    return found


def _take_a_step_at_home(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Forth and back, as steps without noise do; UnsupportedModel if the network cannot."""
    model.train()
    for inputs in usable_inputs(model, shape):
        try:
            torch.autograd.grad(model(inputs).sum(), trained(model), allow_unused=True)
        except RuntimeError as error:
            raise UnsupportedModel(f"no gradient: {str(error).splitlines()[0]}") from error
