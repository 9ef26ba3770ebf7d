"""Deputy-enhanced transfer (PRR, MICCAI 2021 and IEEE TMI 2022): who teaches whom, from how both are doing.

A hospital's deputy D comes back from each aggregation weakened, so the personal model P is protected from it first:

| stage | chosen if | loss of P | loss of D |
| --- | --- | --- | --- |
| recover | the round begins, or s_D < a1 s_P | task | task + KL(p to d) |
| exchange | else, after recover, or if s_D < a2 s_P | task + KL(d to p) | task + KL(p to d) |
| sublimate | else | task + KL(d to p) | task |

The scores s_P and s_D are macro-F1, or Dice for a segmentation. The paper's are of the local training data. Here they
are of the public set *(ours)*: a stage chosen from private scores would be one more answer about the records, and D's
training would depend on it unpaid.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from secure_fedhelp.data.records import Labels
from secure_fedhelp.learning.evaluation import dice_of_each, macro_f1


class Stage(Enum):
    """A row of the table; the value says whether D teaches P, and whether P teaches D."""

    RECOVER = (False, True)
    EXCHANGE = (True, True)
    SUBLIMATE = (True, False)

    @property
    def deputy_teaches(self) -> bool:
        return self.value[0]

    @property
    def personal_teaches(self) -> bool:
        return self.value[1]


def next_stage(before: Stage | None, personal: float, deputy: float, recover: float, exchange: float) -> Stage:
    """The stage of the next local epoch from the one ``before`` (None as a round begins), the scores s_P and s_D, and
    the thresholds a1 (``recover``) and a2 (``exchange``)."""
    if before is None or deputy < recover * personal:
        return Stage.RECOVER
    if before is Stage.RECOVER or deputy < exchange * personal:
        return Stage.EXCHANGE
    return Stage.SUBLIMATE


def epochs(steps: int, count: int) -> Iterator[int]:
    """``steps`` in ``count`` parts as equal as can be; parts without a step are left out."""
    ends = [steps * number // count for number in range(count + 1)]
    return (part for start, end in itertools.pairwise(ends) if (part := end - start))


def stage_score(logits: NDArray[np.float64], labels: Labels) -> float:
    """s of a model: macro-F1 of logits [n, classes] on labels [n], or the mean Dice on masks [n, height, width]."""
    predicted = logits.argmax(axis=1)
    if labels.ndim == 1:
        return macro_f1(predicted, labels)
    return float(np.mean(dice_of_each(predicted, labels, logits.shape[1])))
