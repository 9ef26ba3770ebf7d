"""A game about one patient in many trainings: does the scale of the noise tell how many patients there are?

Canaries of one training share its step's denominator, so they cannot see where it comes from. Here a hospital trains
with n patients or, by a fair coin, with n - 1. The model has a block of weights that no record moves, so what moves
them is noise over the denominator, and with some thousand weights the spread of their movements is known to a fraction
of one part in n. If the denominator is the plan's constant, the spread says nothing; if it is the private number of
patients, it says everything: the mistake of Opacus issues 571 and 819.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from secure_fedhelp.audit.canary.tally import Scale, Tally, Target, same_event, toss
from secure_fedhelp.audit.canary.white_box import Trainer
from secure_fedhelp.data.records import Records
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.study.sections import PrivacySection

#: Patients of the audited hospital, the target included. Few, so that one more makes a difference worth hiding.
_PATIENTS = 10
_LEARNING_RATE = 1.0
#: How many standard errors lie between the threshold and the spread on either side of it.
_SEPARATION = 6.0


def denominator_game(trainer: Trainer, privacy: PrivacySection, trainings: int, noise: NoiseSource) -> Tally:
    """Train ``trainings`` times with or without the target; guess from the spread of what only noise has moved."""
    # A standard error of the spread is 1 / sqrt(2 * weights) of it; the threshold is 1 / (2 n) away.
    weights = math.ceil((2 * _PATIENTS * _SEPARATION) ** 2 / 2)
    drawn = privacy.sampling_rate * (_PATIENTS - 0.5)
    threshold = _LEARNING_RATE * privacy.noise_multiplier * privacy.clipping_norm * math.sqrt(privacy.steps) / drawn
    present = toss(trainings, noise)
    guessed = np.zeros(trainings, dtype=np.bool_)
    events = []
    for number, here in enumerate(present):
        model = SilentBlock(weights)
        records = _silent_records(_PATIENTS if here else _PATIENTS - 1, weights)
        events.append(trainer(model, _no_loss, records, privacy, _PATIENTS, _LEARNING_RATE, noise))
        # The larger denominator, and so the smaller spread, is the one with the target.
        guessed[number] = model.spread() < threshold
    target = Target(
        included=int(present.sum()),
        found=int((guessed & present).sum()),
        left_out=int((~present).sum()),
        mistaken=int((guessed & ~present).sum()),
    )
    correct = target.found + target.left_out - target.mistaken
    return Tally(same_event(events), Scale(trainings, 1, 1), correct, target)


class SilentBlock(nn.Module):
    """Weights that start at zero, and that inputs of zeros leave where they are."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.block = nn.Linear(weights, 1, bias=False)
        nn.init.zeros_(self.block.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        answers: Tensor = self.block(inputs)
        return answers

    def spread(self) -> float:
        """Root mean square of the weights: how far noise has carried them."""
        return float(self.block.weight.detach().double().square().mean().sqrt())


def _no_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs[:, 0] * labels


def _silent_records(patients: int, weights: int) -> Records:
    inputs, labels = np.zeros((patients, weights), dtype=np.float32), np.zeros(patients, dtype=np.int64)
    return Records(inputs, labels, tuple(f"p{i}" for i in range(patients)))
