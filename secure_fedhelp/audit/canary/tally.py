"""Coins, guesses and their count: the part of the game that all audits share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.noise import NoiseSource


@dataclass(frozen=True)
class Scale:
    """How much an audit plays: independent ``trainings``, ``canaries`` in each, and ``guesses`` at those.

    Fixed before anything is trained: a number of guesses chosen after seeing them would void the confidence.
    """

    trainings: int
    canaries: int
    guesses: int

    def __post_init__(self) -> None:
        if self.trainings < 1 or not 1 <= self.guesses <= self.canaries:
            raise InvalidConfiguration(
                f"{self.trainings} trainings, {self.canaries} canaries, {self.guesses} guesses",
                "At least one training, and no more guesses than canaries.",
            )


@dataclass(frozen=True)
class Target:
    """Of a game with one canary: trainings with it, told as such; trainings without it, mistaken for such."""

    included: int
    found: int
    left_out: int
    mistaken: int


@dataclass(frozen=True)
class Tally:
    """What came out: the event that every training reported, and the right guesses of all of them."""

    event: DpSgd
    scale: Scale
    correct: int
    target: Target | None = None


def toss(count: int, noise: NoiseSource) -> NDArray[np.bool_]:
    """Fair coins, cryptographic in deployment: whom they include must not be guessable from anything but training."""
    return noise.poisson_mask(count, 0.5)


def right_guesses_at(scores: NDArray[np.float64], included: NDArray[np.bool_], guesses: int) -> int:
    """The highest scores are guessed to be included, the lowest not, the middle is passed over: how many are right.

    Of an odd number of guesses the odd one is at the top.
    """
    order = np.argsort(scores, kind="stable")
    low = guesses // 2
    high = guesses - low
    return int(included[order[len(order) - high :]].sum() + (~included[order[:low]]).sum())


def same_event(events: list[DpSgd]) -> DpSgd:
    """The one event of all trainings; a trainer that reports different ones is not what is being audited."""
    if len(set(events)) != 1:
        raise InvalidConfiguration("the trainings of one audit executed different events", "Audit one plan at a time.")
    return events[0]
