"""What a canary audit found: one strict model, one JSON form. Nothing here trains, and nothing here needs torch.

The file is a list of results, one for each audit of a run: those of the real code (``planted`` is null) and, after a
self-test, those of code with a mistake planted on purpose, each of which must be caught.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from secure_fedhelp.errors import InvalidConfiguration
from secure_fedhelp.privacy.mechanisms import DpSgd
from secure_fedhelp.privacy.noise import NoiseName
from secure_fedhelp.study.files import write_atomic
from secure_fedhelp.study.plan import explain
from secure_fedhelp.study.reading import STATUS, read_bounded
from secure_fedhelp.study.sections import Sha256, Strict, Tier

#: ``white-box``: canaries of known gradients, the weights are read. ``black-box``: mislabelled records, only outputs of
#: the released model are read. ``game``: one target, present or absent, in many runs.
Kind = Literal["white-box", "black-box", "game"]
#: Mistakes that a self-test plants.
Planted = Literal[
    "noise-halved",
    "clip-skipped",
    "records-not-patients",
    "batch-size-from-private-count",
    "teacher-through-the-valve",
]
Probability = Annotated[float, Field(gt=0, lt=1)]
Epsilon = Annotated[float, Field(ge=0)]


def stands(claimed_epsilon: float, lower_bound: float) -> bool:
    """Whether a bound leaves a claim standing. A bound that equals the claim is that of the refuted claim itself."""
    return lower_bound < claimed_epsilon or lower_bound == 0


class CanaryResult(Strict):
    """One audit: epsilon as claimed, the bound that the canaries give, and what it took."""

    format: Literal[1] = 1
    kind: Kind
    #: None: the real code. Otherwise the mistake that was planted in it, which must be caught.
    planted: Planted | None
    #: What the training code reports to have executed; ``claimed_epsilon`` is its epsilon by the accountant of record.
    event: DpSgd
    delta: Probability
    claimed_epsilon: Epsilon
    #: The epsilon of the least noise that DP-SGD of the event's rate and steps would need to have so few right guesses:
    #: with probability ``confidence``, what was audited is not as private as that (Mahloujifar, Melis, Chaudhuri 2025).
    lower_bound: Epsilon
    #: A bound without any assumption on the shape of the privacy curve, mostly a looser one, which does not decide:
    #: Steinke, Nasr and Jagielski (2023) for canaries, Clopper and Pearson for a game.
    assumption_free_bound: Epsilon
    #: Of each of these two bounds alone, and of the lower bounds on the real code in one run together (union bound).
    confidence: Probability
    joint_confidence: Probability
    #: Whether the claim stands, see :func:`stands`. True says "not refuted", never "proven".
    holds: bool
    #: Independent trainings, canaries in all of them together, how many of those were guessed at, and guesses right.
    trainings: Annotated[int, Field(ge=1)]
    canaries: Annotated[int, Field(ge=1)]
    guesses: Annotated[int, Field(ge=1)]
    correct: Annotated[int, Field(ge=0)]
    #: Where the coins that include canaries, and the noise, came from.
    coins: NoiseName
    #: The plan and tier whose figures were audited; None if they were chosen for the audit.
    plan: Sha256 | None
    tier: Tier | None
    seconds: Annotated[float, Field(ge=0)]
    versions: dict[str, str]
    #: In plain words: what this covers and what it does not.
    statement: Annotated[str, Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> CanaryResult:
        if not self.correct <= self.guesses <= self.canaries:
            raise ValueError("more guesses than canaries, or more right than guessed")
        if self.holds != stands(self.claimed_epsilon, self.lower_bound):
            raise ValueError("'holds' is not what the two epsilons say")
        if self.confidence < self.joint_confidence:
            raise ValueError("one bound cannot be less certain than all of them together")
        return self

    @property
    def as_expected(self) -> bool:
        """The real code's claim stands, or the planted mistake was caught."""
        return self.holds if self.planted is None else not self.holds


_RESULTS: Final = TypeAdapter(list[CanaryResult])


def results_json(results: Sequence[CanaryResult]) -> bytes:
    """The file's bytes: indented, keys in the model's order."""
    return (json.dumps(_RESULTS.dump_python(list(results), mode="json"), indent=1) + "\n").encode()


def write_results(path: Path, results: Sequence[CanaryResult]) -> None:
    """Write the JSON file; StorageError if that fails."""
    write_atomic(path, results_json(results))


def read_results(path: Path) -> list[CanaryResult]:
    """The results of a file; InvalidConfiguration if it cannot be read or is not such a file."""
    hint = "Write it again: secure-fedhelp audit canary --json FILE"
    try:
        return _RESULTS.validate_json(read_bounded(path, STATUS))
    except OSError as error:
        raise InvalidConfiguration(f"cannot read {path}: {error.strerror or error}", hint) from error
    except ValidationError as error:
        raise InvalidConfiguration(f"{path}: {explain(error)}", hint) from error
