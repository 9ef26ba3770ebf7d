"""FedHelp: large hospitals help small ones (Wang, Yin, You, Lyu, Ma; KDD 2025), behind the one-way valve.

A hospital's round, and what each step costs:

1. Each round starts from the common base. **Public steps** train extractor and public head on the public set, its
   teacher answers and the last ensemble: free. **Private steps** train extractor and private head by DP-SGD on own
   records: one event, paid for by whoever releases the output. A small hospital calls the result its *surrogate*, a
   large one its *proxy*: same shape, same training.
2. It says two things: ``model-update`` (new minus base, all parameters) and ``public-logits`` (the trained model's
   answers on the public set), the second by post-processing of the first's training.
3. Of the cohort's means, the base moves by the mean update, the mean logits are the ensemble.

After the last round a large hospital trains its **large model**: own records without noise, the ranking towards the
shared model, and by ``home_soft_weight`` its whole answers, as every model that stays at home does. The large model is
a *pupil*: it never leaves and never teaches anything that does.

Where this departs from the paper *(ours)*: differential privacy; the proxy learns without the large model (unless
``twin``); the private head starts as a copy of the public one and both heads are uploaded; the exchanged logits; the
ranking reads the shared model instead of the proxy; and every hospital's personal model.

**Twin** (an option): large model and proxy form one module, each patient's gradient of
CE(proxy) + KL(large || proxy) + CE(large) + eta R clipped jointly, one event for both. Only then may the large model
teach the proxy, because only then is it protected itself.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.errors import InvalidPlan
from secure_fedhelp.learning.averaging import Averaging
from secure_fedhelp.learning.distillation import ranking_loss, soft_loss
from secure_fedhelp.learning.evaluation import predict
from secure_fedhelp.learning.method import PUBLIC, Said, Site
from secure_fedhelp.learning.models import TwoHeaded, flatten
from secure_fedhelp.learning.pooling import expand, pool, pooled_shape
from secure_fedhelp.learning.steps import ExtraLoss, taught_by, trained_model, warm_model
from secure_fedhelp.learning.task import Task
from secure_fedhelp.learning.twin import Twin, fresh_twin, of_both
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.training import RecordLoss
from secure_fedhelp.study import methods
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.plan import StudyPlan
from secure_fedhelp.study.sections import Tier


class FedHelp(Averaging):
    """FedHelp at one hospital; its switches are in study/methods.py."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.options = self.plan.options(methods.FedHelp)
        self._ensemble: NDArray[np.float64] | None = None
        #: A twin's large model, which is trained in the rounds, and what it will be once the round's sum is absorbed.
        self.large: NDArray[np.float64] | None = None
        if self.options.twin and site.tier == "large":
            self.large = flatten(warm_model(self.plan, self.plan.model.large, site.public, site.answers))
        self._trained_large: NDArray[np.float64] | None = None

    @classmethod
    def lengths(cls, plan: StudyPlan) -> dict[str, int | tuple[int, ...]]:
        options, classes = plan.options(methods.FedHelp), len(plan.data.classes)
        if (top := options.top(classes)) >= classes:
            raise InvalidPlan(f"ranking_top = {top} leaves none of {classes} classes to be outranked")
        answers = plan.data.public_records * math.prod(pooled_shape(plan.data, options.logit_pool))
        return super().lengths(plan) | ({"public-logits": answers} if options.logits else {})

    @classmethod
    def trained_privately(cls, plan: StudyPlan, tier: Tier) -> nn.Module:
        twin = plan.options(methods.FedHelp).twin and tier == "large"
        return fresh_twin(plan, plan.model.large) if twin else super().trained_privately(plan, tier)

    def train(self, round_number: int) -> Said:
        model = self.start(round_number)
        event = self.private_steps(model, round_number)
        update = flatten(model) - self.base
        answers = pool(predict(model, self.site.public.inputs), self.options.logit_pool).ravel()
        proofs = {
            "model-update": Proof.of("dp-sgd", "event:0", *PUBLIC),
            "public-logits": Proof.of("post-processing", "event:0", *PUBLIC),
        }
        return Said({"model-update": update, "public-logits": answers}, proofs, (event,))

    def ensemble(self) -> tuple[NDArray[np.float64], float] | None:
        if self._ensemble is None:
            return None
        return expand(self._ensemble, self.options.logit_pool), self.options.ensemble_weight

    def private_steps(self, model: TwoHeaded, round_number: int) -> DpSgd:
        if self.large is None:
            return super().private_steps(model, round_number)
        large = self.large_model()
        losses = twin_losses(self.task, self.options, self.plan.learning.temperature)
        event = self.noisy_steps(Twin(model, large), losses)
        self._trained_large = flatten(large)
        return event

    def learn(self, round_number: int, means: dict[str, Vector]) -> None:
        super().learn(round_number, means)
        if "public-logits" in means:
            shape = pooled_shape(self.plan.data, self.options.logit_pool)
            self._ensemble = means["public-logits"].reshape(len(self.site.public), *shape)
        if self._trained_large is not None:
            self.large, self._trained_large = self._trained_large, None

    def large_model(self) -> TwoHeaded:
        """As for all methods; a twin's is trained with its proxy, and this is it as trained so far.

        A process killed between a release and its sum has released the proxy of a round whose large model is lost.
        """
        if self.large is None:
            return super().large_model()
        return trained_model(self.plan, self.plan.model.large, self.large)

    def large_lesson(self, model: TwoHeaded) -> ExtraLoss:
        """Asymmetric distillation, weak to strong: only the order of the shared model's answers is a must."""
        options, confidence = self.options, confidence_of(self.options, self.task)

        def loss(answers: Tensor, logits: Tensor) -> Tensor:
            ranking = ranking_loss(answers, logits, options.top(len(self.plan.data.classes)), confidence=confidence)
            return options.ranking_weight * ranking + self.home_loss(answers, logits)

        return taught_by(self.shared_model(), loss)

    def personalise(self) -> nn.Module:
        """As for all methods, but a twin has had noise: at home it goes on without."""
        if self._personal is None and self.large is not None:
            self._personal = self.trained_at_home(self.large_model())
        return super().personalise()

    def state(self) -> dict[str, NDArray[np.float64]]:
        kept = {"ensemble": self._ensemble, "large": self.large}
        return super().state() | {name: values for name, values in kept.items() if values is not None}

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        super().restore(state)
        self._ensemble, self._trained_large = state.get("ensemble"), None
        self.large = None if self.large is None else state["large"]


def confidence_of(options: methods.FedHelp, task: Task) -> float:
    """The probability from which the weak model's first class is ranked: only pixels are asked for one."""
    return options.pixel_confidence if task.pixelwise else 0.0


def twin_losses(task: Task, options: methods.FedHelp, temperature: float) -> RecordLoss:
    """CE(proxy) + KL(large || proxy) + CE(large) + eta R(proxy, large) of each record of a :class:`Twin`, [b]."""
    sure = confidence_of(options, task)

    def losses(weak: Tensor, strong: Tensor, labels: Tensor) -> Tensor:
        down = soft_loss(strong, weak, temperature, per_record=True)
        up = ranking_loss(weak, strong, options.top(weak.shape[1]), per_record=True, confidence=sure)
        return task.losses(weak, labels) + task.losses(strong, labels) + down + options.ranking_weight * up

    return of_both(losses)
