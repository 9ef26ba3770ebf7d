"""FedProx (Li et al., MLSys 2020): FedAvg whose private steps are also drawn towards the round's start."""

from __future__ import annotations

from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.method import Site
from secure_fedhelp.study import methods


class FedProx(Averaging):
    """Adds mu/2 ||w - w_start||^2 to the objective of the private steps.

    Its gradient mu (w - w_start) depends on no record once the noisy steps before it are public, so it is added after
    the noise and neither clipped nor paid for.
    """

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.pull = self.plan.options(methods.FedProx).proximal_weight
