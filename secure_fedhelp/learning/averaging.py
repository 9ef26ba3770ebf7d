"""What all methods with one common model share: the base that moves by the mean update, and the models at home.

The base is the plan's initial weights plus every mean update so far, so it follows from plan and sums alone and is the
same at every hospital. Each round starts from it, takes the public steps, and then the private ones.

What stays at home is a *pupil*: it teaches nothing that leaves, so no round waits for it. It is trained once, after the
last round, when the shared model is the best teacher that it will have. Methods whose home models are part of their
rounds (ProxyFL, PRR, twins) say so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secure_fedhelp.learning.distillation import soft_loss
from secure_fedhelp.learning.method import PUBLIC, Method, Said, Site
from secure_fedhelp.learning.models import Surrogate, TwoHeaded, flatten, parameter_count
from secure_fedhelp.learning.steps import (
    ExtraLoss,
    fresh_model,
    home_steps,
    public_steps,
    taught_by,
    trained_model,
    warm_model,
)
from secure_fedhelp.learning.task import Task
from secure_fedhelp.privacy.entries import Proof
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.training import RecordLoss, train_private
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.plan import StudyPlan

_HOME, _PERSONAL = 3, 4


class Averaging(Method):
    """Federated averaging of updates from DP-SGD. Methods override what they do otherwise."""

    #: Whether large hospitals train a network of their own at home.
    has_large = True
    #: How strongly private steps are drawn towards the round's start (privacy/training.py).
    pull = 0.0

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.task = Task.of(site.plan)
        # The plan's initial weights and nothing else: a hospital without a teacher must have the same base as all.
        self.base = flatten(fresh_model(self.plan, self.plan.model.small))
        self._personal: nn.Module | None = None

    @classmethod
    def lengths(cls, plan: StudyPlan) -> dict[str, int | tuple[int, ...]]:
        return {"model-update": parameter_count(plan.model.small, plan.data.input_shape, len(plan.data.classes))}

    def train(self, round_number: int) -> Said:
        model = self.start(round_number)
        event = self.private_steps(model, round_number)
        update = flatten(model) - self.base
        return Said({"model-update": update}, {"model-update": Proof.of("dp-sgd", "event:0", *PUBLIC)}, (event,))

    def start(self, round_number: int) -> TwoHeaded:
        """The round's common start, after the public steps: before the first round those of the warm start too."""
        plan, site = self.plan, self.site
        if round_number == 0:
            model = warm_model(plan, plan.model.small, site.public, site.answers)
        else:
            model = self.shared_model()
        public_steps(model, plan, round_number, site.public, site.answers, self.ensemble())
        return model

    def ensemble(self) -> tuple[NDArray[np.float64], float] | None:
        """Logits [public records, *answer_shape] that the public steps distil beside the teacher's, and a weight."""
        return None

    def private_steps(self, model: TwoHeaded, round_number: int) -> DpSgd:
        """The round's DP-SGD on ``model``, in place."""
        return self.noisy_steps(Surrogate(model), self.task.losses)

    def noisy_steps(self, module: nn.Module, losses: RecordLoss, steps: int | None = None) -> DpSgd:
        """DP-SGD on ``module`` as the plan has it, in place: all steps of a round, or ``steps`` of them."""
        site, rate, pull = self.site, self.plan.learning.private_learning_rate, self.pull
        privacy = site.privacy if steps is None else site.privacy.model_copy(update={"steps": steps})
        return train_private(module, losses, site.records, privacy, site.nominal_patients, rate, site.noise, pull=pull)

    def learn(self, round_number: int, means: dict[str, Vector]) -> None:
        self.base, self._personal = self.base + means["model-update"], None

    def shared_model(self) -> TwoHeaded:
        return trained_model(self.plan, self.plan.model.small, self.base)

    # -- what stays at home --------------------------------------------------------------------------------------------

    def personalise(self) -> nn.Module:
        """What the hospital deploys: a small one goes on from a copy of the shared model, a large one has its own."""
        if self._personal is None:
            large = self.site.tier == "large" and self.has_large
            self._personal = self.large_model() if large else self.trained_at_home(self.shared_model())
        return self._personal

    def large_model(self) -> TwoHeaded:
        """A large hospital's own network: from the public warm start on own labels, and what the shared model teaches.

        All rounds' steps in one go. Dealt out to the rounds, each with an optimizer of its own, they led to less.
        """
        plan, site, learning = self.plan, self.site, self.plan.learning
        model = warm_model(plan, plan.model.large, site.public, site.answers)
        steps, rate = plan.training_rounds * learning.pupil_steps, learning.pupil_learning_rate
        home_steps(model, site.records, steps, rate, plan, site.rng(_HOME, 0), self.large_lesson(model))
        return model

    def large_lesson(self, model: TwoHeaded) -> ExtraLoss:
        """What the shared model teaches a large hospital's own network; as :meth:`lesson`, unless a method differs."""
        return self.lesson(model)

    def lesson(self, model: TwoHeaded) -> ExtraLoss:
        """What the shared model teaches a ``model`` that stays at home: its answers, as much as the plan says."""
        return taught_by(self.shared_model(), self.home_loss)

    def home_loss(self, answers: Tensor, logits: Tensor) -> Tensor:
        """KL(shared || own) of the shared model's ``answers``, as weighty at home as the plan says."""
        learning = self.plan.learning
        return learning.home_soft_weight * soft_loss(answers, logits, learning.temperature)

    def trained_at_home(self, model: TwoHeaded) -> TwoHeaded:
        """``model`` after the plan's personal steps on own records without noise, in place."""
        learning, rng = self.plan.learning, self.site.rng(_PERSONAL, 0)
        steps, rate = learning.personal_steps, learning.personal_learning_rate
        home_steps(model, self.site.records, steps, rate, self.plan, rng, self.lesson(model))
        return model

    def home_share(self, round_number: int) -> tuple[int, float]:
        """Home steps of a round and their rate, for a model that is trained at home from the first round on.

        Over all rounds as many as other methods take: a small hospital's personal steps are dealt out over the rounds.
        """
        learning, rounds = self.plan.learning, self.plan.training_rounds
        if self.site.tier == "large":
            return learning.pupil_steps, learning.pupil_learning_rate
        before, after = (learning.personal_steps * number // rounds for number in (round_number, round_number + 1))
        return after - before, learning.personal_learning_rate

    # -- between rounds ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[np.float64]]:
        return {"base": self.base}

    def restore(self, state: dict[str, NDArray[np.float64]]) -> None:
        self.base, self._personal = state["base"], None
