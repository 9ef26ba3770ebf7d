"""What a teacher's numbers are: logits, or probabilities that a hospital has declared; anything else is refused.

A student learns softmax(teacher / T). Probabilities taken for logits are nearly the same number for every class, so
such a teacher teaches "nobody knows", without a word. softmax does not see a number added to a whole row, and the
logarithm of softmax(z) is z less such a number: so the lesson is the same whether a server answers logits or
probabilities, once it is known which. That is why each hospital declares it of its own server, in hospital.toml.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
#: What a hospital has said of its server: ``logits``, or ``probabilities`` over all classes, which add up to 1.
Answers = Literal["logits", "probabilities"]

#: How far apart the sums of probabilities may lie: rounded to two decimals, or to the eight bits of BF16. The lesson
#: does not change by it, as by nothing that is the same for a whole row.
_TOLERANCE = 2e-2
#: And those of shares of another sum, relatively.
_SAME_SUM = 4e-3
#: The smallest number above 0 of a datatype: what was rounded to 0 is taken for it.
_SMALLEST: Final = {"FP16": 2.0**-24}
_SMALLEST_OTHERWISE = 2.0**-126
#: Fewer numbers than this may lie between 0 and 1 by chance.
_TELLING = 16
#: Records of each class that a comparison with labels needs, and how much better another order must rank a class.
_COUNTED, _CLEARLY = 30, 0.4

PROBABILITIES_HINT = (
    'Serve the numbers before the softmax, or say answers = "probabilities" of this server in [[foundations]] of '
    "hospital.toml."
)
SIGMOIDS_HINT = (
    "Serve the numbers before the last activation. If these are such numbers, say answers = "
    '"logits" of this server in [[foundations]] of hospital.toml.'
)


class NotLogits(ValueError):
    """The numbers cannot be what the hospital says they are; ``hint`` says what to do."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(why)
        self.hint = hint


def as_logits(values: Logits, answers: Answers | None, datatype: str) -> Logits:
    """float32 [records, classes, ...] logits of what a server answered in ``datatype``; NotLogits names what is wrong.

    Of declared probabilities the logarithm is taken, 0 as the smallest number of the datatype.
    """
    if answers != "probabilities":
        require_logits(values, answers)
        return values
    sums = values.sum(axis=1, dtype=np.float64)
    if (values < 0).any() or (values > 1 + _TOLERANCE).any():
        raise NotLogits("numbers below 0 or above 1, declared probabilities", 'Remove answers = "probabilities".')
    if np.abs(sums - 1).max() > _TOLERANCE:
        raise NotLogits(
            f"declared probabilities that add up to {sums.flat[np.abs(sums - 1).argmax()]:.4g} over the classes",
            "A probability of each class by itself says nothing of the others: serve the numbers before the sigmoid.",
        )
    return np.log(np.maximum(values, _SMALLEST.get(datatype, _SMALLEST_OTHERWISE)), dtype=np.float32)


def require_logits(values: Logits, answers: Answers | None = None) -> None:
    """NotLogits for numbers that must be something else, as far as that can be told from them.

    Not negative, and 1 in sum in each row: probabilities or hard labels. Unless the hospital has stated that they are
    logits, also: another sum that is the same in each row, with numbers near 0 among them: percent or votes; and all
    between 0 and 1: a sigmoid of each class.
    """
    if (values < 0).any() or values.shape[1] < 2:
        return
    sums = values.sum(axis=1, dtype=np.float64)
    if np.abs(sums - 1).max() <= _TOLERANCE:
        raise NotLogits("no number is negative and each row adds up to 1: no logits", PROBABILITIES_HINT)
    if answers is not None or values.size < _TELLING:
        return
    total = float(np.median(sums))
    if total > 0 and np.abs(sums / total - 1).max() <= _SAME_SUM and values.min() < total / values.shape[1] / 10:
        raise NotLogits(f"no number is negative and each row adds up to {total:.6g}: shares, no logits", SIGMOIDS_HINT)
    if (values <= 1).all():
        raise NotLogits("every number is between 0 and 1: a sigmoid of each class, no logits", SIGMOIDS_HINT)


def require_order(logits: Logits, labels: NDArray[np.int64] | None, classes: int) -> None:
    """NotLogits if another order of the classes would rank the public set's labels far better than this one.

    The protocol names no classes, so a server whose classes are in another order than the plan's would teach the
    opposite. Each class is judged by how its number, less the record's mean, ranks the records of that class against
    the others (AUROC): a threshold that is off changes nothing.
    """
    if labels is None or logits.ndim != 2 or labels.ndim != 1:
        return
    counts = np.bincount(labels, minlength=classes)
    if (counts < _COUNTED).any():
        return
    from scipy.optimize import linear_sum_assignment
    from scipy.stats import rankdata

    ranks = rankdata(logits - logits.mean(axis=1, keepdims=True), axis=0)
    auroc = np.empty((classes, classes))
    for number, count in enumerate(counts):
        above = ranks[labels == number].sum(axis=0) - count * (count + 1) / 2
        auroc[number] = above / (count * (len(labels) - count))
    _, best = linear_sum_assignment(-auroc)
    own, other = np.diag(auroc), auroc[np.arange(classes), best]
    worst = int(np.argmax(other - own))
    if other[worst] - own[worst] >= _CLEARLY:
        raise NotLogits(
            "the classes seem to be in another order than the plan's: by the public set's labels, number "
            f"{best[worst]} (from 0) of each answer is about class {worst} (AUROC {other[worst]:.2f}), number {worst} "
            f"is not (AUROC {own[worst]:.2f})",
            "Serve the classes in the order of the plan's [data] classes.",
        )
