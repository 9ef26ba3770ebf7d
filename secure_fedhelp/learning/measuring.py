"""Metrics without a hospital's metrics: counts that can be added up, and what their sum says.

A hospital counts, on private records that nobody trained on, how the study's model does: a confusion matrix, and for
each class a histogram of the model's scores on records of that class and on the others. Counts of all hospitals are
added under encryption, so accuracy, balanced accuracy and an area under the ROC curve come out of the sum and no
hospital's own figure is ever seen. The bins of the histograms are fixed by the plan: an exact area would need scores.
A score is the log-odds of a class, cut to +-10 (a probability of 5 in 100,000): bins of equal width in probability
would put all answers of a confident model into the first and the last.

One record of each patient is counted, drawn afresh with secret coins, so a patient changes one cell of the matrix and
one of each class's histograms by 1, whatever number of records there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secure_fedhelp.data.records import Records
from secure_fedhelp.learning.evaluation import predict
from secure_fedhelp.privacy.noise import NoiseSource
from secure_fedhelp.study.channel import Vector
from secure_fedhelp.study.sections import MetricsSection

#: Log-odds beyond this go into the first and the last bin.
LARGEST_SCORE = 10.0
#: Less than half a record is no record.
_SMALLEST_CLASS = 0.5


@dataclass(frozen=True)
class PooledMetrics:
    """Figures of all hospitals' counts together; None where no record of a needed class was counted.

    With noised counts every figure is noisy, and a small sum can come out as nonsense: ``records`` says how much there
    was. ``auroc`` is exact up to pairs within one bin, which count half; for more than two classes it is the mean of
    one against the rest.
    """

    records: float
    accuracy: float | None
    balanced_accuracy: float | None
    auroc: float | None
    confusion: tuple[tuple[float, ...], ...]

    def as_dict(self) -> dict[str, object]:
        return {
            "records": self.records,
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "auroc": self.auroc,
            "confusion": [list(row) for row in self.confusion],
        }


def one_record_each(records: Records, noise: NoiseSource) -> Records:
    """One record of every patient, drawn with the source's coins."""
    places = noise.uniform(records.n_patients)
    return records.take([group[int(u * len(group))] for group, u in zip(records.by_patient, places, strict=True)])


def count(model: nn.Module, records: Records, metrics: MetricsSection, classes: int) -> Vector:
    """Exact counts [metrics.length(classes)] of the model's answers: confusion matrix (rows are the true class), then
    for each class the histogram of its log-odds on other records, and on its own.

    A patient counts as any other where the model answers NaN or infinity: as if it had said 0 there."""
    logits = predict(model, records.inputs)
    logits = np.where(np.isfinite(logits), logits, 0.0)
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (records.labels, logits.argmax(axis=1)), 1.0)
    histograms = np.zeros((classes, 2, metrics.bins))
    scores = (np.clip(_log_odds(logits), -LARGEST_SCORE, LARGEST_SCORE) / LARGEST_SCORE + 1) / 2
    places = np.minimum((scores * metrics.bins).astype(np.int64), metrics.bins - 1)
    for c in range(classes):
        np.add.at(histograms[c], ((records.labels == c).astype(np.int64), places[:, c]), 1.0)
    return np.concatenate([confusion.ravel(), histograms.ravel()])


def leaving(counts: Vector, metrics: MetricsSection, classes: int, noise: NoiseSource) -> Vector:
    """What goes out of ``counts``: with noise if the plan says so, and divided by its ``divisor``."""
    if metrics.release == "noised":
        deviation = float(metrics.noise_multiplier or 0.0) * metrics.squared_sensitivity(classes) ** 0.5
        counts = counts + noise.normal(counts.shape, deviation)
    return counts / metrics.divisor


def pooled(total: Vector, metrics: MetricsSection, classes: int) -> PooledMetrics:
    """The figures of a sum of what left, [metrics.length(classes)].

    Exact counts are whole: rounding takes the encryption's own noise off. Noised ones stay as they are, below zero too,
    since cutting them would add up to records that nobody has.
    """
    counts = total * metrics.divisor
    if metrics.release == "pooled":
        counts = np.maximum(np.round(counts), 0.0)
    confusion = counts[: classes * classes].reshape(classes, classes)
    histograms = counts[classes * classes :].reshape(classes, 2, metrics.bins)
    whole, hits, rows = float(confusion.sum()), np.diagonal(confusion), confusion.sum(axis=1)
    there = rows >= _SMALLEST_CLASS
    recalls = hits[there] / rows[there]
    judged = [1] if classes == 2 else range(classes)
    areas = [area for c in judged if (area := _area(*histograms[c])) is not None]
    return PooledMetrics(
        records=round(whole, 3),
        accuracy=_share(hits.sum() / whole) if whole >= _SMALLEST_CLASS else None,
        balanced_accuracy=_share(recalls.mean()) if there.any() else None,
        auroc=float(np.mean(areas)) if areas else None,
        confusion=tuple(tuple(round(float(x), 3) for x in row) for row in confusion),
    )


def _log_odds(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """log p_c / (1 - p_c) of each class c, [n, classes], from logits: l_c minus the log-sum-exp of the others'."""
    classes = logits.shape[1]
    rest = np.stack([np.logaddexp.reduce(np.delete(logits, c, axis=1), axis=1) for c in range(classes)], axis=1)
    return np.asarray(logits - rest)


def _area(others: NDArray[np.float64], own: NDArray[np.float64]) -> float | None:
    """The chance that a record of the class has a higher bin than one of the others; in the same bin it is even."""
    if min(others.sum(), own.sum()) < _SMALLEST_CLASS:
        return None
    below = np.concatenate([[0.0], np.cumsum(others)[:-1]])
    return _share((own * (below + others / 2)).sum() / (own.sum() * others.sum()))


def _share(value: float) -> float:
    """Noise can carry a share beyond its ends."""
    return float(min(max(value, 0.0), 1.0))
