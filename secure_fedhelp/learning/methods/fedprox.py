"""FedProx (Li et al., MLSys 2020): FedAvg whose private steps are also drawn towards the round's start."""

from __future__ import annotations

from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.models import Surrogate, TwoHeaded
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.training import train_private
from secure_fedhelp.study import methods


class FedProx(Averaging):
    """Adds mu/2 ||w - w_start||^2 to the objective of the private steps.

    Its gradient mu (w - w_start) depends on no record once the noisy steps before it are public, so it is added after
    the noise and neither clipped nor paid for.
    """

    def private_steps(self, model: TwoHeaded, round_number: int) -> DpSgd:
        site, options = self.site, self.plan.options(methods.FedProx)
        return train_private(
            Surrogate(model),
            self.task.losses,
            site.records,
            site.privacy,
            site.nominal_patients,
            self.plan.learning.private_learning_rate,
            site.noise,
            pull=options.proximal_weight,
        )
