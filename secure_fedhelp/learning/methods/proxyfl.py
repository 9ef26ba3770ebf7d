"""ProxyFL: a private model at home, a proxy that is exchanged, and each learns from the other (Kalra, Wen, Cresswell,
Volkovs, Tizhoosh, *Decentralized federated learning through proxy model sharing*, Nature Communications 14, 2023;
arXiv 2111.11343), behind the one-way valve.

With KL(t || s) of teacher t, detached, and student s, the paper's deep mutual learning is

    private model: (1 - alpha) CE + alpha KL(proxy || private)      no noise, never leaves
    proxy:         (1 - beta)  CE + beta  KL(private || proxy)      DP-SGD, exchanged

The private model has the network of the hospital's tier, the proxy the plan's small one.

Where this departs from the paper *(ours)*: proxies are averaged over the cohort, since a server adds ciphertexts, in
place of PushSum over a ring of neighbours; proxies take the plan's public steps as in every method. And the paper's
proxy learns from a model that was trained without noise, by which each of its gradients depends on other patients'
records and the noise no longer covers them. So here the private model is a *pupil*: the proxy learns alone (CE), the
private model from the cohort's proxy after each sum.

**Twin** (an option): both form one module, each patient's gradient of the sum of both losses is clipped jointly, one
event for both (learning/twin.py). Only then may the private model teach the proxy.

**Steps at home** are as many in all as those of the methods that personalise the shared model, so that what is compared
is not how long hospitals trained at home: at a large hospital ``pupil_steps`` a round, at a small one
``personal_steps`` over the whole study, dealt evenly to its rounds. A twin, which has had noise, takes
``personal_steps`` after the last round, as all twins do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.distillation import soft_loss
from secure_fedhelp.learning.method import Site
from secure_fedhelp.learning.models import TwoHeaded, flatten
from secure_fedhelp.learning.moments import Moments
from secure_fedhelp.learning.steps import home_steps, taught_by, trained_model, warm_model
from secure_fedhelp.learning.twin import Twin, fresh_twin, of_both
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.training import RecordLoss
from secure_fedhelp.study import methods
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import Tier

_ROUND, _END = 21, 22


class ProxyFl(Averaging):
    """ProxyFL at one hospital. What it says is FedAvg's ``model-update``: of the proxy, and of nothing else."""

    has_large = False  # every hospital has a private model instead, a large one of the large network

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.options = self.plan.options(methods.ProxyFl)
        self.architecture = self.plan.model.of(site.tier)
        self.private = flatten(warm_model(self.plan, self.architecture, site.public, site.answers))
        self._moments = Moments()
        self._twin_private: NDArray[np.float64] | None = None

    @classmethod
    def trained_privately(cls, plan: StudyPlan, tier: Tier) -> nn.Module:
        twin = plan.options(methods.ProxyFl).twin
        return fresh_twin(plan, plan.model.of(tier)) if twin else super().trained_privately(plan, tier)

    def private_steps(self, model: TwoHeaded, round_number: int) -> DpSgd:
        if not self.options.twin:
            return super().private_steps(model, round_number)
        private = self.private_model()
        losses = mutual_losses(self.task.losses, self.options, self.plan.learning.temperature)
        event = self.noisy_steps(Twin(model, private), losses)
        self._twin_private = flatten(private)
        return event

    def learn(self, round_number: int, means: dict[str, Vector]) -> None:
        super().learn(round_number, means)
        if not self.options.twin:
            model = self.private_model()
            steps, rate = self.home_share(round_number)
            self._at_home(model, steps, rate, self.site.rng(_ROUND, round_number), self._moments)
            self.private = flatten(model)
        elif self._twin_private is not None:
            self.private, self._twin_private = self._twin_private, None

    # -- what stays at home --------------------------------------------------------------------------------------------

    def private_model(self) -> TwoHeaded:
        """The private model as trained so far.

        A process killed between a release and its sum has released the proxy of a round whose twin is lost.
        """
        return trained_model(self.plan, self.architecture, self.private)

    def personalise(self) -> nn.Module:
        """The private model is what is deployed; a twin's goes on without noise first."""
        if self._personal is None:
            self._personal = self.private_model()
            if self.options.twin:
                learning = self.plan.learning
                steps, rate = learning.personal_steps, learning.personal_learning_rate
                self._at_home(self._personal, steps, rate, self.site.rng(_END, 0))
        return self._personal

    def _at_home(
        self, model: TwoHeaded, steps: int, rate: float, rng: np.random.Generator, moments: Moments | None = None
    ) -> None:
        """Steps of (1 - alpha) CE + alpha KL(proxy || private) without noise, in place; the cohort's proxy teaches."""
        share, temperature = self.options.private_share, self.plan.learning.temperature

        lesson = taught_by(self.shared_model(), lambda answers, own: share * soft_loss(answers, own, temperature))

        def losses(logits: Tensor, labels: Tensor) -> Tensor:
            return (1 - share) * self.task.losses(logits, labels)

        home_steps(model, self.site.records, steps, rate, self.plan, rng, lesson, losses, moments)

    # -- between rounds ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[np.float64]]:
        return super().state() | {"private": self.private} | self._moments.state()

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        super().restore(state)
        self.private, self._twin_private = state["private"], None
        self._moments.restore(state)


def mutual_losses(losses: RecordLoss, options: methods.ProxyFl, temperature: float) -> RecordLoss:
    """Both models' losses of each record of a :class:`Twin`, added, [b]; ``losses`` is the task's own."""
    alpha, beta = options.private_share, options.proxy_share

    def mutual(proxy: Tensor, private: Tensor, labels: Tensor) -> Tensor:
        down = soft_loss(private, proxy, temperature, per_record=True)
        up = soft_loss(proxy, private, temperature, per_record=True)
        return (1 - beta) * losses(proxy, labels) + beta * down + (1 - alpha) * losses(private, labels) + alpha * up

    return of_both(mutual)
