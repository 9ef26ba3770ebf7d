"""White-box audit: canaries with gradients of their own in the very code that trains a study's models.

The model that is trained is the study's network beside a block of m weights that nothing else reads. Canary patient i
has inputs that are zero but for a one at place i of the block, and a loss that pulls at that weight alone, ten times
harder than the clipping norm allows. So its clipped gradient has the whole allowed norm in one coordinate of its own
(a "Dirac canary", Nasr and others, "Tight auditing of differentially private machine learning", USENIX Security 2023),
where it meets nothing but the noise: the strongest attack that the mechanism's guarantee has to stand. Each canary
patient brings two records, because the guarantee is for a patient, however many records there are.

The training code is called as it is. Its steps are seen through the model, which keeps its block's weights each time
it is asked for an answer: the guarantee covers somebody who sees every step, not only the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from secure_fedhelp.audit.canary.tally import Scale, Tally, right_guesses_at, same_event, toss
from secure_fedhelp.data.records import Records
from secure_fedhelp.learning.models import Surrogate, build
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.privacy.training import RecordLoss
from secure_fedhelp.study.sections import PrivacySection

#: The signature of :func:`secure_fedhelp.privacy.training.train_private`: what is audited is passed in.
Trainer = Callable[[nn.Module, RecordLoss, Records, PrivacySection, int, float, NoiseSource], DpSgd]

#: A label that says "canary"; the study's own are 0 and up.
_CANARY = -1
#: Norm of a canary's gradient before clipping, in clipping norms.
_PULL = 10.0
_RECORDS_OF_A_CANARY = 2


@dataclass(frozen=True)
class Network:
    """The study's network, and what else its training takes from the plan."""

    architecture: str
    input_shape: tuple[int, ...]
    classes: int
    learning_rate: float
    seed: int = 0
    #: Ordinary patients beside the canaries, with random records.
    bystanders: int = 20


def white_box(trainer: Trainer, privacy: PrivacySection, network: Network, scale: Scale, noise: NoiseSource) -> Tally:
    """Train ``scale.trainings`` times and guess each time who was in; ``noise`` also gives the coins."""
    nominal = network.bystanders + scale.canaries // 2
    correct, events = 0, []
    for number in range(scale.trainings):
        included = toss(scale.canaries, noise)
        model = CanaryModel(network, scale.canaries)
        records = _records(network, included, number)
        loss = model.losses(_PULL * privacy.clipping_norm)
        events.append(trainer(model, loss, records, privacy, nominal, network.learning_rate, noise))
        # In clipping norms: the number of times that the canary was drawn in a step, plus noise.
        unit = network.learning_rate * privacy.clipping_norm / (privacy.sampling_rate * nominal)
        scores = likelihood_ratios(model.movements() / unit, privacy)
        correct += right_guesses_at(scores, included, scale.guesses)
    return Tally(same_event(events), scale, correct)


def likelihood_ratios(moved: NDArray[np.float64], privacy: PrivacySection) -> NDArray[np.float64]:
    """Log of how much likelier each canary's movements are with it than without it, if all is as the plan says.

    ``moved`` float64 [steps, canaries]. A step draws an included canary with probability q, so its movement is
    N(1, sigma^2) then and N(0, sigma^2) else. If a step is missing, since nobody was drawn in it, two have become one:
    then the sum of all is taken, which orders canaries a little worse. Any rule makes valid guesses.
    """
    rate, variance = privacy.sampling_rate, privacy.noise_multiplier**2
    if len(moved) != privacy.steps:
        return np.asarray(moved.sum(axis=0))
    drawn = math.log(rate) + (2 * moved - 1) / (2 * variance)
    return np.asarray(np.logaddexp(math.log1p(-rate), drawn).sum(axis=0))


class CanaryModel(nn.Module):
    """The study's network and the block, side by side: inputs [b, features + m] to [b, classes + 1]."""

    def __init__(self, network: Network, canaries: int) -> None:
        super().__init__()
        self.network = Surrogate(build(network.architecture, network.input_shape, network.classes, network.seed))
        self.block = nn.Linear(canaries, 1, bias=False)
        nn.init.zeros_(self.block.weight)
        self._shape, self._features = network.input_shape, math.prod(network.input_shape)
        self._seen: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self._look()
        features = inputs[:, : self._features].reshape(-1, *self._shape)
        return torch.cat([self.network(features), self.block(inputs[:, self._features :])], dim=1)

    def _look(self) -> None:
        weights = self.block.weight.detach()
        if not self._seen or not torch.equal(self._seen[-1], weights):
            self._seen.append(weights.clone())

    def movements(self) -> NDArray[np.float64]:
        """How far each step moved each canary's weight, in the direction of its pull: float64 [steps, canaries]."""
        self._look()
        path = torch.cat(self._seen).double()
        return np.asarray((path[:-1] - path[1:]).numpy())

    @staticmethod
    def losses(pull: float) -> RecordLoss:
        """``pull`` times the block's answer for a canary, the study's cross entropy for everybody else."""

        def losses(outputs: Tensor, labels: Tensor) -> Tensor:
            own = functional.cross_entropy(outputs[:, :-1], labels.clamp(min=0), reduction="none")
            return torch.where(labels == _CANARY, pull * outputs[:, -1], own)

        return losses


def _records(network: Network, included: NDArray[np.bool_], number: int) -> Records:
    """Bystanders and included canaries. The bystanders' records are random and known: the attacker may know them."""
    rng = np.random.default_rng([network.seed, number])
    features, here = math.prod(network.input_shape), np.flatnonzero(included)
    count = network.bystanders + _RECORDS_OF_A_CANARY * len(here)
    inputs = np.zeros((count, features + len(included)), dtype=np.float32)
    inputs[: network.bystanders, :features] = rng.normal(size=(network.bystanders, features))
    places = np.repeat(here, _RECORDS_OF_A_CANARY)
    inputs[np.arange(network.bystanders, count), features + places] = 1.0
    labels = np.full(count, _CANARY, dtype=np.int64)
    labels[: network.bystanders] = rng.integers(network.classes, size=network.bystanders)
    patients = [*(f"bystander-{i}" for i in range(network.bystanders)), *(f"canary-{i}" for i in places)]
    return Records(inputs, labels, tuple(patients))
